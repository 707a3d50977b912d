#include "migration/move/source.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"

void migration_source_init(struct migration_source *s)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	channel_zero(&s->control);
	s->cancel_fd = -1;
	s->let_go_ms = MIGRATE_LET_GO_MS;
}

void migration_source_close(struct migration_source *s)
{
	unsigned int i;

	channel_fini(&s->control);
	for (i = 0; i < s->n_data; i++)
		close(s->data_fd[i]);
	s->n_data = 0;
}

void migration_source_fini(struct migration_source *s)
{
	migration_source_close(s);
	pthread_mutex_destroy(&s->lock);
}

void migration_source_begin_round(struct migration_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->stats.round_ns = monotonic_ns();
	pthread_mutex_unlock(&s->lock);
}

void migration_source_set_status(struct migration_source *s, enum migrate_status status)
{
	pthread_mutex_lock(&s->lock);
	s->stats.status = status;
	pthread_mutex_unlock(&s->lock);
	s->guest.ops->progress(s->guest.ctx, status);
}
