/* A guest out of a file that testudo save wrote (save.h), running before its RAM is read. */
#ifndef MIGRATION_MOVE_RESTORE_H
#define MIGRATION_MOVE_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/move/guest.h"
#include "migration/ram/file.h"

struct err;

struct migration_restore {
	struct migration_guest guest;
	int fd;			      /* of migration_restore_open(); taken by the first run */
	int cancel_fd;		      /* an eventfd, borrowed; readable: give up */
	const char *path;	      /* for messages; outlives the guest */
	bool verify;		      /* --verify-snapshot: compare RAM with its checksums first */
	bool clock_realtime;	      /* the time in the file counts for the guest */
	bool refuse_clock_difference; /* the policy's clock-difference */

	struct ram_file ram; /* the thread's own, but for how far it is */
	uint64_t check_ns;   /* atomic: when reading all of it began; 0: it does not go on */
	uint64_t told_ns;    /* the thread's: when the log was told */
};

/**
 * migration_restore_open - a file to restore from, before the process is locked in
 * Return: a descriptor; -errno with the cause in @e
 */
int migration_restore_open(const char *path, struct err *e);

/**
 * migration_restore - read the file, build the guest, let it go on; on a thread of the caller's
 * Nothing in the file is trusted. RAM is mapped, and read when it is touched.
 * Return: 0; -EPERM when policy refuses; -ECANCELED; -errno with one line in @e
 */
int migration_restore(struct migration_restore *r, struct err *e);

/** migration_restore_stats - how far the check of RAM is, MIGRATE_NONE if none goes on. Any thread */
void migration_restore_stats(struct migration_restore *r, struct migrate_stats *stats);

#endif
