/*
 * The side that has the guest: one move of it to a destination that is connected, or to be
 * connected to. Handshake, copy while the guest runs, hand-over. Until COMMIT has left, every
 * failure ends with the guest as it was.
 */
#ifndef MIGRATION_MOVE_SOURCE_H
#define MIGRATION_MOVE_SOURCE_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/move/guest.h"
#include "migration/ram/file.h"
#include "migration/state/clock.h"
#include "migration/wire/channel.h"
#include "migration/wire/uri.h"

#define MIGRATE_LET_GO_MS 5000 /* the default of @let_go_ms */

struct err;

struct migration_source {
	struct migration_guest guest;
	struct migrate_params params;
	int cancel_fd;		   /* an eventfd, borrowed; readable: give up */
	uint64_t session;	   /* any number; data channels carry it */
	struct clock_reading base; /* the clocks when it began */
	bool stopping;		   /* atomic: the guest is about to go */
	/* what a destination that gave up may need to let go of the disks, beside its stall_ms */
	unsigned int let_go_ms;

	/* connected, or, with @connect, to be connected to @uri */
	struct channel control;
	int data_fd[MIGRATE_MAX_CHANNELS];
	unsigned int n_data;   /* 0 only for a dry run and a local hand-over */
	unsigned int n_wanted; /* with @connect: data channels to make */
	bool connect;
	struct uri uri;

	struct ram_file file; /* of migration_save(): fd, n_bytes and cancel_fd are set */

	pthread_mutex_t lock; /* guards stats */
	struct migrate_stats stats;
	struct migrate_progress progress; /* of the round that goes on */
	bool handed_over;		  /* atomic: COMMIT is on its way, nobody may cancel */
	enum migrate_status end;	  /* how it ended; to be told when all of it is gone */
};

/** migration_source_init - nothing is open: the functions below are safe from here on */
void migration_source_init(struct migration_source *s);
/** migration_source_close - its channels; accepts one that has none */
void migration_source_close(struct migration_source *s);
void migration_source_fini(struct migration_source *s);

/**
 * migration_source_run - move the guest; on a thread of the caller's, which may take long
 * How it ended is in s->stats and s->end; its channels are closed.
 */
void migration_source_run(struct migration_source *s);

/** migration_source_begin_round - progress counts from here on */
void migration_source_begin_round(struct migration_source *s);
/** migration_source_set_status - note how far it is and tell whoever wants to know */
void migration_source_set_status(struct migration_source *s, enum migrate_status status);

#endif
