/* What a migration and a saved guest begin with, at the side that reads it. */
#ifndef MIGRATION_MOVE_RECEIVE_H
#define MIGRATION_MOVE_RECEIVE_H

struct channel;
struct err;
struct machine_description;

/**
 * receive_description - the next frame of @ch, which is to be the description of a guest
 * @d: receives it; for description_free(), also on failure
 * Return: 0 or -errno
 */
int receive_description(struct channel *ch, struct machine_description **d, struct err *e);

#endif
