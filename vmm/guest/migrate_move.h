/*
 * One move of the guest to a destination that is connected, or to be connected to: handshake, copy
 * while the guest runs, hand-over. Until COMMIT has left, every failure ends with the guest as it
 * was.
 */
#ifndef VMM_GUEST_MIGRATE_MOVE_H
#define VMM_GUEST_MIGRATE_MOVE_H

struct migrate_source;

/**
 * migrate_move - the work of a thread of @s: move the guest
 * How it ended is in s->stats and s->end; its channels are closed.
 */
void migrate_move(struct migrate_source *s);

#endif
