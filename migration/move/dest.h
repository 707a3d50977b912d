/*
 * The side that a guest comes to: connections, from their heads to the guest's first instruction
 * here. It runs here only after COMMIT.
 */
#ifndef MIGRATION_MOVE_DEST_H
#define MIGRATION_MOVE_DEST_H

#include <stdbool.h>

#include "migration/move/guest.h"
#include "migration/wire/socket.h"

struct err;

#define MIGRATE_HEAD_MS 5000 /* the default of @head_ms */

struct migration_dest {
	struct migration_guest guest;
	struct socket_listener listener; /* or */
	int fd;				 /* a connection; -1: none. Taken by the first run */
	int cancel_fd;			 /* an eventfd, borrowed; readable: give up */
	unsigned int stall_ms;		 /* a source that moves no byte for so long is gone */
	unsigned int head_ms;		 /* so is a connection that does not say what it is */
	bool refuse_clock_difference;	 /* the policy's clock-difference */
	bool stopping;			 /* atomic: this process is to end */
};

/** migration_dest_init - nothing is open, nothing is borrowed; both times are their defaults */
void migration_dest_init(struct migration_dest *d);
/** migration_dest_fini - closes what is still open of the listener and the connection */
void migration_dest_fini(struct migration_dest *d);

/**
 * migration_dest_run - wait for a connection and receive what it brings; on a thread of the
 * caller's
 * Return: 0: the guest is here; 1: it was a dry run, or nobody who means it: wait for another;
 * -EPERM when policy refuses; -ECANCELED; -errno with one line in @e
 */
int migration_dest_run(struct migration_dest *d, struct err *e);

#endif
