#include "migration/move/dest.h"

#include <string.h>
#include <unistd.h>

void migration_dest_init(struct migration_dest *d)
{
	memset(d, 0, sizeof(*d));
	d->fd = d->cancel_fd = -1;
	d->stall_ms = MIGRATE_STALL_MS;
	d->head_ms = MIGRATE_HEAD_MS;
	socket_listener_zero(&d->listener);
}

void migration_dest_fini(struct migration_dest *d)
{
	socket_listener_fini(&d->listener);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}
