#include "migration/move/transfer.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/guest_mem.h"
#include "base/log.h"
#include "migration/ram/dirty_log.h"

/* Pausing, saving, one round trip, loading, resuming: what a pause takes with no page to send. */
#define FIXED_NS 2000000

/* So often a guest that wrote too much in its last moment goes on, then the pause is taken. */
#define PAUSES_TAKEN_BACK 5

static void count(struct transfer *t, const struct ram_round *round)
{
	struct migrate_stats *st = &t->s->stats;
	const uint64_t copied = (round->pages + round->zero_pages + round->hole_pages) * GUEST_PAGE;

	pthread_mutex_lock(&t->s->lock);
	st->pages_normal += round->pages;
	st->pages_zero += round->zero_pages + round->hole_pages;
	st->sent_bytes += round->bytes;
	st->ram_left -= copied < st->ram_left ? copied : st->ram_left;
	st->rounds = round->number;
	st->round_ns = 0;
	if (round->ns) /* until converge_round() has made a steady one of it */
		st->bytes_per_s = (uint64_t)((double)round->bytes / (double)round->ns * 1e9);
	t->s->progress = (struct migrate_progress) {0};
	pthread_mutex_unlock(&t->s->lock);
}

static int copy_round(struct transfer *t, unsigned int flags, struct ram_round *round)
{
	int ret;

	migration_source_begin_round(t->s);
	ret = ram_send_round(&t->ram, flags, round, t->e);
	if (!ret)
		ret = source_end_round(t, round);
	if (!ret)
		count(t, round);
	return ret;
}

static void note_step(struct transfer *t, const struct converge_step *step, uint64_t left)
{
	struct migrate_stats *st = &t->s->stats;

	pthread_mutex_lock(&t->s->lock);
	st->ram_left = left;
	st->bytes_per_s = step->rate;
	st->dirty_pages_per_s = step->dirty_rate / GUEST_PAGE;
	st->expected_downtime_ns = step->downtime_ns;
	st->throttle_percent = step->throttle_percent;
	st->stuck = step->stuck;
	pthread_mutex_unlock(&t->s->lock);
}

/* Rounds without end are nothing to be silent about. */
static void tell_stuck(struct transfer *t, const struct converge_step *step)
{
	if (!step->stuck || t->told_stuck)
		return;
	t->told_stuck = true;
	log_warn("migration: the guest writes more than can be sent, also slowed down by %u%%: "
		 "pages_dirtied_per_s=%llu pages_sent_per_s=%llu; rounds go on until it writes "
		 "less, until --timeout or until it is cancelled",
		 step->throttle_percent, (unsigned long long)(step->dirty_rate / GUEST_PAGE),
		 (unsigned long long)(step->rate / GUEST_PAGE));
}

/* What now, after a round? Return: 1: pause; 0: another round; -errno */
static int decide(struct transfer *t, const struct ram_round *round)
{
	struct converge_round r = {
		.sent_bytes = round->bytes,
		.sent_ns = round->ns,
		.fixed_ns = FIXED_NS,
		.elapsed_ns = monotonic_ns() - t->begin_ns,
	};
	struct converge_step step;
	uint64_t pages;
	int ret = dirty_log_harvest(t->log, &pages, t->e);

	if (ret < 0)
		return ret;
	r.dirty_bytes = pages * GUEST_PAGE;
	step = converge_round(&t->converge, &r);
	note_step(t, &step, r.dirty_bytes);
	tell_stuck(t, &step);
	t->forced = !step.fits;
	if (step.action == CONVERGE_GIVE_UP)
		return err_set(t->e, -ETIMEDOUT,
			       "the guest writes faster than it can be copied: %llu MiB are left "
			       "after %u rounds, a pause of %llu ms where %llu are allowed; allow "
			       "more (--downtime-ms), or --on-timeout force or throttle",
			       (unsigned long long)(r.dirty_bytes / MiB), t->finish.rounds,
			       (unsigned long long)(step.downtime_ns / 1000000),
			       (unsigned long long)(t->s->params.limit_ns / 1000000));
	if (step.throttle_percent)
		ret = t->s->guest.ops->throttle(t->s->guest.ctx, step.throttle_percent, t->e);
	if (ret < 0)
		return ret;
	return step.action == CONVERGE_STOP;
}

int source_copy(struct transfer *t)
{
	unsigned int flags = t->finish.rounds ? 0 : RAM_ROUND_FIRST;
	struct ram_round round;
	int ret;

	do {
		ret = copy_round(t, flags, &round);
		flags = 0;
		if (!ret)
			ret = decide(t, &round);
	} while (!ret);
	return ret < 0 ? ret : 0;
}

/* Did the guest write more in its last moment than a pause has room for? Then it goes on. */
int source_paused_too_late(struct transfer *t, unsigned int *taken_back)
{
	const uint64_t limit = t->s->params.limit_ns;
	uint64_t pages, rate = t->converge.rate;
	int ret = dirty_log_harvest(t->log, &pages, t->e);

	if (ret < 0)
		return ret;
	if (t->forced || !rate || *taken_back >= PAUSES_TAKEN_BACK ||
	    pages * GUEST_PAGE < rate / 1000000000.0 * (double)(limit - limit / 8))
		return 0;
	(*taken_back)++;
	return 1;
}

int source_start_copying(struct transfer *t)
{
	const struct migration_guest *g = &t->s->guest;
	struct ram_send_config config = {
		.map = t->memory.map,
		.hole_fd = t->memory.fd,
		.fds = t->s->data_fd,
		.n = t->s->n_data,
		.cancel_fd = t->s->cancel_fd,
		.stall_ms = t->s->params.stall_ms,
		.progress = &t->s->progress,
	};
	const int ret = g->ops->log_start(g->ctx, &t->log, t->e);

	config.log = t->log;
	return ret ? ret : ram_send_init(&t->ram, &config, t->e);
}

int source_copy_last(struct transfer *t)
{
	struct ram_round round;

	return copy_round(t, RAM_ROUND_LAST, &round);
}
