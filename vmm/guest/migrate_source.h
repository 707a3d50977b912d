/*
 * The side that has the guest and gives it away. One migration at a time, in a thread of its own;
 * whatever belongs to the machine as a whole (pausing, saving, locks of disks) it has done on the
 * event loop's thread. Until COMMIT has left, every failure ends with the guest as it was.
 */
#ifndef VMM_GUEST_MIGRATE_SOURCE_H
#define VMM_GUEST_MIGRATE_SOURCE_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/move/status.h"
#include "migration/ram/file.h"
#include "migration/state/clock.h"
#include "migration/wire/channel.h"
#include "migration/wire/uri.h"

struct err;
struct run;

struct migrate_source {
	struct run *run;
	pthread_mutex_t lock; /* guards stats */
	struct migrate_stats stats;
	struct migrate_params params;

	pthread_t thread;
	bool started;	  /* the thread is to be joined */
	bool busy;	  /* atomic: a migration goes on */
	bool handed_over; /* atomic: COMMIT is on its way */
	bool stopping;	  /* atomic: the machine is about to go */
	int cancel_fd;
	struct uri uri; /* to connect to, if @connect */
	unsigned int n_wanted;
	bool connect;
	/* of the loop's thread: the disks are locked here no more, the guest may not run as it is
	 */
	bool handed_disks;
	bool saving;			  /* into a file: migrate_save.h does the work */
	struct ram_file file;		  /* its own, but for how far it is */
	struct migrate_progress progress; /* of the round that goes on */

	/* the thread's own */
	struct channel control;
	int data_fd[MIGRATE_MAX_CHANNELS];
	unsigned int n_data;
	uint64_t session;
	struct clock_reading base; /* the clocks when it began */
	enum migrate_status end;   /* how it ended, to be told on the loop's thread */
};

/** migrate_source_init - nothing goes on */
int migrate_source_init(struct migrate_source *s, struct run *run, struct err *e);
void migrate_source_fini(struct migrate_source *s);

/**
 * migrate_source_start - begin to move the guest; returns at once
 * @control, @data: connected stream sockets; theirs from here on, also on error
 * @n_data: data channels; 0 only for a local hand-over
 * On the loop's thread. Return: 0; -EBUSY while one goes on, -EINVAL when there is no guest to move
 */
int migrate_source_start(struct migrate_source *s, const struct migrate_params *params, int control,
			 const int *data, unsigned int n_data, struct err *e);

/**
 * migrate_source_connect - the same, connecting by itself
 * Where this process may: the sandbox does not let it.
 */
int migrate_source_connect(struct migrate_source *s, const struct migrate_params *params,
			   const struct uri *uri, unsigned int n_data, struct err *e);

/**
 * migrate_source_save - begin to write the guest into a file; returns at once
 * @fd: an empty regular file (migrate_save_check()); taken over, also on error
 * Return: as migrate_source_start()
 */
int migrate_source_save(struct migrate_source *s, const struct migrate_params *params, int fd,
			struct err *e);

/** migrate_source_close - its channels; for the thread, or when there is none */
void migrate_source_close(struct migrate_source *s);

/** migrate_source_begin_round - for the thread: progress counts from here on */
void migrate_source_begin_round(struct migrate_source *s);

/** migrate_source_set_status - for the thread: note how far it is and tell clients */
void migrate_source_set_status(struct migrate_source *s, enum migrate_status status);

/**
 * migrate_source_cancel - as soon as possible; the outcome is in the stats
 * Return: 0; -ENOENT when none goes on, -EBUSY when the guest was handed over already
 */
int migrate_source_cancel(struct migrate_source *s, struct err *e);

/**
 * migrate_source_stop - cancel and wait until its thread is gone
 * On the loop's thread, before the machine is taken apart.
 */
void migrate_source_stop(struct migrate_source *s);

/**
 * migrate_source_settle - before the guest goes on here by the user's wish: it is this side's again
 * After an unknown outcome, or when the disks could not be had back. On the loop's thread.
 * Return: 0; -EBUSY when another process has a disk, and the guest must stay as it is
 */
int migrate_source_settle(struct migrate_source *s, struct err *e);

/** migrate_source_stats - a copy of how far it is; any thread */
void migrate_source_stats(struct migrate_source *s, struct migrate_stats *stats);

#endif
