/* One connection at the side that a guest comes to: from its head to the guest's first instruction.
 */
#ifndef VMM_GUEST_MIGRATE_ARRIVE_H
#define VMM_GUEST_MIGRATE_ARRIVE_H

struct err;
struct migrate_dest;

/**
 * migrate_arrive - the work of the thread of @d: wait for a connection and receive what it brings
 * Return: 0: the guest is here; 1: it was a dry run, or nobody who means it: wait for another;
 * -EPERM when policy refuses; -errno with one line in @e
 */
int migrate_arrive(struct migrate_dest *d, struct err *e);

#endif
