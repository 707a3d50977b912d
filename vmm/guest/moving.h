/*
 * The guest as the side that gives it away asks it (migration/move/guest.h): the calls are done on
 * the event loop's thread, which owns the machine, while the migration's thread waits.
 */
#ifndef VMM_GUEST_MOVING_H
#define VMM_GUEST_MOVING_H

#include <stdbool.h>

#include "migration/move/guest.h"
#include "vmm/machine/throttle.h"

struct guest;

struct moving {
	struct guest *guest;
	struct throttle throttle; /* between log_start and log_stop */
	/*
	 * of the loop's thread: the disks are locked here no more, the guest may not run as it is
	 */
	bool handed_disks;
};

/* With a struct moving as ctx: describe to log_stop, ram and progress. */
extern const struct migration_guest_ops moving_ops;

/**
 * moving_lock_disks - have the disks back that were unlocked for a destination
 * On the loop's thread. Return: 0; -EBUSY when another process has one
 */
int moving_lock_disks(struct moving *m, struct err *e);

#endif
