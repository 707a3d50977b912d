/*
 * What a migration or a saving does to the guest itself: describe it, pause it, save its state, let
 * it go on. All of that belongs to the event loop's thread: each function here but the last has it
 * done there, and waits.
 */
#ifndef VMM_GUEST_MIGRATE_GUEST_H
#define VMM_GUEST_MIGRATE_GUEST_H

#include <stdbool.h>

struct err;
struct machine_description;
struct migrate_source;
struct wbuf;

/* How the guest was found, so that it can be left so. */
struct migrate_guest {
	struct migrate_source *s;
	bool running; /* when it was paused */
	bool stopped; /* we paused it */
};

#define MIGRATE_GUEST_ENDED "the guest or its process ended, or it reset, meanwhile"

/*
 * Each returns 0; -ECANCELED with MIGRATE_GUEST_ENDED when there is no guest any more to do that
 * with; -errno with one line in @e.
 */

/** migrate_guest_describe - fill @d with what the guest is made of (describe_guest()) */
int migrate_guest_describe(struct migrate_guest *g, struct machine_description *d, struct err *e);
/** migrate_guest_pause - stop its vCPUs; s->stats.pause_ns says when */
int migrate_guest_pause(struct migrate_guest *g, struct err *e);
/**
 * migrate_guest_save - the state of the paused machine into @state, from its beginning
 * @hand_over: also write its disks back and unlock them, for a destination
 */
int migrate_guest_save(struct migrate_guest *g, struct wbuf *state, bool hand_over, struct err *e);
/**
 * migrate_guest_take_back - lock the disks again, then let it go on if it ran when it was paused
 * Return: also -EBUSY while another process still has a disk; the guest stays stopped
 */
int migrate_guest_take_back(struct migrate_guest *g, struct err *e);
/** migrate_guest_stay_paused - it does not go on; from here on it is the user's to resume */
int migrate_guest_stay_paused(struct migrate_guest *g, struct err *e);

/**
 * migrate_guest_lock_disks - have the disks back that were unlocked for a destination
 * On the loop's thread. Return: 0; -EBUSY when another process has one
 */
int migrate_guest_lock_disks(struct migrate_source *s, struct err *e);

#endif
