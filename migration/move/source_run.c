#include "migration/move/transfer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/wire/socket.h"

#define LET_GO_NAP 10 /* ms between two looks at whether the destination has let go of the disks */

/* Who has the guest if it ends here, and what clients are told while it goes on. */
static const struct step_row {
	enum migrate_status status;
	enum migrate_outcome broken; /* where the guest is if this step fails */
	bool handed_over;	     /* nobody may cancel any more */
} steps[] = {
	[SOURCE_CONNECTS] = {MIGRATE_SETUP, OUTCOME_HERE, false},
	[SOURCE_GREETS] = {MIGRATE_SETUP, OUTCOME_HERE, false},
	[SOURCE_COPIES] = {MIGRATE_ACTIVE, OUTCOME_HERE, false},
	[SOURCE_HANDS_OVER] = {MIGRATE_DEVICE, OUTCOME_HERE, false},
	[SOURCE_COMMITS] = {MIGRATE_DEVICE, OUTCOME_UNKNOWN, true},
	[SOURCE_GAVE] = {MIGRATE_DEVICE, OUTCOME_MOVED, true},
};

void source_enter(struct transfer *t, enum source_step step)
{
	const enum migrate_status before = steps[t->step].status;

	t->step = step;
	__atomic_store_n(&t->s->handed_over, steps[step].handed_over, __ATOMIC_RELEASE);
	if (steps[step].status != before)
		migration_source_set_status(t->s, steps[step].status);
}

/* ---- the hand-over ---- */

static int pause_guest(struct transfer *t)
{
	struct migration_source *s = t->s;
	int ret;

	source_enter(t, SOURCE_HANDS_OVER);
	ret = s->guest.ops->pause(s->guest.ctx, &t->pause, t->e);
	pthread_mutex_lock(&s->lock);
	s->stats.pause_ns = t->pause.at_ns;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* Paused, with as little left to send as the limit allows. */
static int pause_in_time(struct transfer *t)
{
	const struct migration_guest *g = &t->s->guest;
	unsigned int taken_back = 0;
	int ret;

	for (;;) {
		ret = pause_guest(t);
		if (ret < 0 || t->s->params.local)
			return ret;
		ret = source_paused_too_late(t, &taken_back);
		if (ret <= 0)
			return ret;
		ret = g->ops->take_back(g->ctx, &t->pause, t->e);
		if (!ret) {
			source_enter(t, SOURCE_COPIES);
			ret = source_copy(t);
		}
		if (ret < 0)
			return ret;
	}
}

static int send_state(struct transfer *t)
{
	const struct migration_guest *g = &t->s->guest;
	int ret = g->ops->save(g->ctx, &t->s->base, true, &t->state, t->e);

	if (!ret)
		ret = channel_send(&t->s->control, FRAME_STATE, t->state.data,
				   (uint32_t)t->state.len, t->e);
	return ret;
}

static int hand_over(struct transfer *t)
{
	int ret = pause_in_time(t);

	if (!ret && !t->s->params.local)
		ret = source_copy_last(t);
	if (!ret)
		ret = send_state(t);
	if (!ret)
		ret = source_finish(t);
	if (!ret)
		ret = source_commit(t);
	if (!ret)
		source_enter(t, SOURCE_GAVE);
	return ret;
}

/* For who does not lock the process in; a locked one is given connections. */
static int connect_channels(struct transfer *t)
{
	struct migration_source *s = t->s;
	const unsigned int n = s->n_wanted;
	int fd[1 + MIGRATE_MAX_CHANNELS], ret;

	ret = socket_connect(&s->uri, 1 + n, s->params.stall_ms, fd, t->e);
	if (ret == -EACCES) {
		*t->e = (struct err) {0};
		return err_set(t->e, ret,
			       "this guest's process is locked in and may not connect; pass a "
			       "connected socket by getfd and give fd:NAME, as testudo migrate "
			       "does, or start the guest with --no-sandbox");
	}
	if (ret < 0)
		return ret;
	memcpy(s->data_fd, fd + 1, n * sizeof(*fd));
	s->n_data = n;
	ret = channel_init(&s->control, fd[0], FRAME_FROM_DESTINATION, s->cancel_fd,
			   s->params.stall_ms);
	return ret < 0 ? err_set(t->e, ret, "the control channel: %s", strerror(-ret)) : 0;
}

static int move(struct transfer *t)
{
	struct migration_source *s = t->s;
	const struct converge_config config = {
		.limit_ns = s->params.limit_ns,
		.timeout_ns = s->params.timeout_ns,
		.on_timeout = s->params.on_timeout,
	};
	int ret = s->connect ? connect_channels(t) : 0;

	if (!ret) {
		source_enter(t, SOURCE_GREETS);
		ret = source_greet(t);
	}
	if (ret < 0 || s->params.dry_run)
		return ret;
	source_enter(t, SOURCE_COPIES);
	if (!s->params.local) {
		converge_init(&t->converge, &config);
		ret = source_start_copying(t);
		if (!ret)
			ret = source_copy(t);
	}
	return ret ? ret : hand_over(t);
}

/* ---- the end ---- */

/* What the destination said before it hung up is nearer to the cause than "connection reset". */
static int prefer_reason(struct transfer *t, int ret)
{
	struct frame_fail fail;

	if (ret != -ECONNRESET && ret != -EPIPE)
		return ret;
	if (!channel_recv_reason(&t->s->control, &fail))
		return ret;
	*t->e = (struct err) {0};
	return err_set(t->e, fail.code == FRAME_CODE_POLICY ? -EPERM : -EREMOTEIO,
		       "the destination gave up: %s", fail.text);
}

static void tell_destination(struct transfer *t, int ret)
{
	struct channel *ch = &t->s->control;

	if (ret != -EREMOTEIO && ret != -ECONNRESET)
		channel_send_fail(ch, frame_code_of(ret), t->e->text);
}

/*
 * The destination may hold the disks until it has heard that it will not get the guest. It gives up
 * when the source does: the connection is closed, or nothing came for as long.
 */
static void take_back(struct transfer *t)
{
	const struct migration_guest *g = &t->s->guest;
	const uint64_t end =
		monotonic_ns() + (t->s->params.stall_ms + t->s->let_go_ms) * UINT64_C(1000000);
	struct err again;
	int ret;

	for (;;) {
		again = (struct err) {0};
		ret = g->ops->take_back(g->ctx, &t->pause, &again);
		if (ret != -EBUSY || monotonic_ns() >= end)
			break;
		poll(NULL, 0, LET_GO_NAP);
	}
	if (ret < 0 && ret != -ECANCELED) {
		g->ops->stay_paused(g->ctx, NULL);
		snprintf(t->after, sizeof(t->after), "%s", again.text);
	}
}

/* The guest goes on here. */
static int fail_here(struct transfer *t, int ret)
{
	ret = prefer_reason(t, ret);
	if (ret == -ECANCELED && __atomic_load_n(&t->s->stopping, __ATOMIC_ACQUIRE)) {
		*t->e = (struct err) {0};
		err_set(t->e, ret, "%s", MIGRATION_GUEST_ENDED);
	}
	tell_destination(t, ret);
	migration_source_close(t->s); /* so that it lets go */
	if (t->pause.stopped)
		take_back(t);
	return ret;
}

static enum migrate_status end_of(const struct transfer *t, int ret)
{
	if (!ret)
		return t->s->params.dry_run ? MIGRATE_CHECKED : MIGRATE_COMPLETED;
	return ret == -ECANCELED && steps[t->step].broken == OUTCOME_HERE ? MIGRATE_CANCELLED
									  : MIGRATE_FAILED;
}

static void note_end(struct transfer *t, int ret)
{
	struct migration_source *s = t->s;
	struct migrate_stats *st = &s->stats;

	pthread_mutex_lock(&s->lock);
	st->end_ns = monotonic_ns();
	if (st->pause_ns && !ret)
		st->downtime_ns = st->end_ns - st->pause_ns;
	st->outcome = steps[t->step].broken;
	st->code = ret;
	st->throttle_percent = 0;
	st->stuck = false;
	if (t->after[0])
		snprintf(st->error, sizeof(st->error),
			 "%.480s; it cannot go on at the source: %.480s", t->e->text, t->after);
	else
		snprintf(st->error, sizeof(st->error), "%s", ret ? t->e->text : "");
	pthread_mutex_unlock(&s->lock);
	s->end = end_of(t, ret);
}

void migration_source_run(struct migration_source *s)
{
	struct err e = {0};
	struct transfer t = {.s = s, .begin_ns = s->stats.begin_ns, .e = &e};
	int ret;

	s->guest.ops->ram(s->guest.ctx, &t.memory);
	ret = move(&t);
	if (ret < 0 && steps[t.step].broken == OUTCOME_HERE)
		ret = fail_here(&t, ret);
	note_end(&t, ret);
	ram_send_fini(&t.ram);
	s->guest.ops->log_stop(s->guest.ctx);
	wbuf_fini(&t.state);
	migration_source_close(s);
}
