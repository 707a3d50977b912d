/*
 * How a guest leaves: moved to another process or saved into a file, one at a time, in a thread of
 * its own (migration/move/source.h, save.h).
 */
#ifndef VMM_GUEST_OUTGOING_H
#define VMM_GUEST_OUTGOING_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/move/source.h"
#include "vmm/guest/moving.h"

struct err;
struct guest;

struct outgoing {
	struct guest *guest; /* NULL: not initialized */
	struct moving moving;
	struct migration_source source;
	bool saving; /* into a file, by migration_save(); guarded by source.lock */
	pthread_t thread;
	bool started; /* the thread is to be joined */
	bool busy;    /* a migration goes on; the loop's thread */
};

/** outgoing_init - nothing goes on. Return: 0 or -errno; outgoing_fini() is safe on a zeroed one */
int outgoing_init(struct outgoing *o, struct guest *g, struct err *e);
void outgoing_fini(struct outgoing *o);

/**
 * outgoing_start - begin to move the guest; returns at once
 * @control, @data: connected stream sockets; theirs from here on, also on error
 * @n_data: data channels; 0 only for a local hand-over
 * On the loop's thread. Return: 0; -EBUSY while one goes on, -EINVAL when there is no guest to move
 */
int outgoing_start(struct outgoing *o, const struct migrate_params *params, int control,
		   const int *data, unsigned int n_data, struct err *e);

/**
 * outgoing_connect - the same, connecting by itself
 * Where this process may: the sandbox does not let it.
 */
int outgoing_connect(struct outgoing *o, const struct migrate_params *params, const struct uri *uri,
		     unsigned int n_data, struct err *e);

/**
 * outgoing_save - begin to write the guest into a file; returns at once
 * @fd: an empty regular file (migration_save_check()); taken over, also on error
 * Return: as outgoing_start()
 */
int outgoing_save(struct outgoing *o, const struct migrate_params *params, int fd, struct err *e);

/**
 * outgoing_cancel - as soon as possible; the outcome is in the stats
 * Return: 0; -ENOENT when none goes on, -EBUSY when the guest was handed over already
 */
int outgoing_cancel(struct outgoing *o, struct err *e);

/**
 * outgoing_stop - cancel and wait until its thread is gone
 * On the loop's thread, before the machine is taken apart.
 */
void outgoing_stop(struct outgoing *o);

/** outgoing_stats - a copy of how far it is; any thread */
void outgoing_stats(struct outgoing *o, struct migrate_stats *stats);

#endif
