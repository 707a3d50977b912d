#include "vmm/guest/migrate_move.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/description/description.h"
#include "migration/ram/dirty_log.h"
#include "migration/ram/send.h"
#include "migration/state/buf.h"
#include "migration/wire/socket.h"
#include "vmm/guest/migrate_guest.h"
#include "vmm/guest/run.h"
#include "vmm/machine/throttle.h"
#include "vmm/version.h"

/* Pausing, saving, one round trip, loading, resuming: what a pause takes with no page to send. */
#define FIXED_NS 2000000

/*
 * What a destination that gave up may need to end, and to let go of the disks. It gives up when the
 * source does: the connection is closed, or nothing came for as long.
 */
#define LET_GO_MS  5000
#define LET_GO_NAP 10

/* So often a guest that wrote too much in its last moment goes on, then the pause is taken. */
#define PAUSES_TAKEN_BACK 5

/* One migration, for as long as its thread runs. */
struct transfer {
	struct migrate_source *s;
	struct machine *machine;
	struct migrate_guest guest;
	struct ram_send ram;
	struct throttle throttle;
	struct converge converge;
	struct wbuf state;
	struct frame_finish finish;
	uint64_t begin_ns;
	char after[ERR_TEXT_MAX]; /* why it does not go on here, though it should */
	bool told_stuck;	  /* that nothing ends it, once */
	bool forced;		  /* the pause will take longer than allowed, and that is known */
	bool committed;		  /* COMMIT has left, or may have */
	struct err *e;
};

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

/* ---- the handshake ---- */

static int send_hello(struct transfer *t)
{
	struct migrate_source *s = t->s;
	struct frame_hello hello = {
		.version_min = STREAM_VERSION,
		.version_max = STREAM_VERSION,
		.features = FRAME_FEATURES,
		.session = s->session,
		.n_data = (uint16_t)s->n_data,
		.flags = (s->params.dry_run ? FRAME_HELLO_DRY_RUN : 0) |
			 (s->params.local ? FRAME_HELLO_PASS_FD : 0),
	};
	struct wbuf w = {0};

	snprintf(hello.program, sizeof(hello.program), "testudo %s", TESTUDO_VERSION);
	frame_hello_encode(&hello, &w);
	return channel_send_built(&t->s->control, FRAME_HELLO, &w, t->e);
}

static int send_description(struct transfer *t)
{
	struct machine_description *d = description_new();
	void *blob = NULL;
	size_t len = 0;
	int ret = d ? 0 : err_set(t->e, -ENOMEM, "out of memory");

	if (!ret)
		ret = migrate_guest_describe(&t->guest, d, t->e);
	if (!ret)
		ret = description_to_fdt(d, &blob, &len, t->e);
	if (!ret)
		ret = channel_send(&t->s->control, FRAME_DESCRIPTION, blob, (uint32_t)len, t->e);
	free(blob);
	description_free(d);
	return ret;
}

/* The memory itself, for a destination on this host. */
static int pass_memory(struct transfer *t)
{
	const struct frame_memory how = {
		.how = FRAME_MEMORY_PASSED, .n_fds = 1, .size = t->machine->memory.size_bytes};
	struct wbuf w = {0};
	int ret;

	frame_memory_encode(&how, &w);
	if (w.failed)
		ret = err_set(t->e, -ENOMEM, "out of memory");
	else
		ret = channel_send_fds(&t->s->control, FRAME_MEMORY, w.data, (uint32_t)w.len,
				       &t->machine->memory.fd, 1, t->e);
	wbuf_fini(&w);
	return ret;
}

static void note_change(struct migrate_source *s, const char *text)
{
	pthread_mutex_lock(&s->lock);
	snprintf(s->stats.change, sizeof(s->stats.change), "%s", text);
	pthread_mutex_unlock(&s->lock);
}

/* ---- what the destination asks about the clocks ---- */

static int answer_clock(struct transfer *t)
{
	const struct clock_reading *base = &t->s->base;
	struct frame_clock answer = {
		.what = FRAME_CLOCK_ANSWER,
		.mono_ns = monotonic_ns(),
		.tsc_khz = t->machine->tsc_khz,
	};
	struct wbuf w = {0};

	answer.wall_ns = base->wall_ns + (answer.mono_ns - base->mono_ns);
	frame_clock_encode(&answer, &w);
	return channel_send_built(&t->s->control, FRAME_CLOCK, &w, t->e);
}

static int hear_clock(struct transfer *t, const struct frame *f)
{
	struct migrate_source *s = t->s;
	struct frame_clock c;
	int ret = frame_clock_decode(f, &c, t->e);

	if (ret < 0)
		return ret;
	if (c.what == FRAME_CLOCK_ASK)
		return answer_clock(t);
	if (c.what != FRAME_CLOCK_APART)
		return err_set(t->e, -EPROTO,
			       "frame clock: an answer of the destination's, which was asked "
			       "nothing; the other side speaks another version");
	pthread_mutex_lock(&s->lock);
	s->stats.clocks_known = true;
	s->stats.clocks_apart_ns = c.apart_ns;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* channel_expect(), with questions before it answered */
static int hear(struct transfer *t, enum frame_type type, struct frame *f)
{
	unsigned int i;
	int ret;

	for (i = 0; i < CHANNEL_SKIP_MAX; i++) {
		ret = channel_recv(&t->s->control, f, t->e);
		if (!ret && f->type != FRAME_CLOCK)
			ret = channel_check_due(&t->s->control, f, type, t->e);
		else if (!ret)
			ret = hear_clock(t, f);
		if (ret < 0 || f->type != FRAME_CLOCK)
			break;
		frame_fini(f);
	}
	if (i == CHANNEL_SKIP_MAX)
		return err_set(t->e, -EPROTO,
			       "%u frames about clocks in a row; the destination is not testudo",
			       i);
	if (ret < 0)
		frame_fini(f);
	return ret;
}

/* Return: 0; -EPERM when the destination's policy refuses, -EREMOTEIO for its other reasons */
static int hear_verdict(struct transfer *t)
{
	struct migrate_source *s = t->s;
	struct frame_verdict v;
	struct frame f;
	int ret = hear(t, FRAME_VERDICT, &f);

	if (ret < 0)
		return ret;
	ret = frame_verdict_decode(&f, &v, t->e);
	if (!ret && v.code != FRAME_CODE_OK)
		ret = err_set(t->e, v.code == FRAME_CODE_POLICY ? -EPERM : -EREMOTEIO,
			      "the destination refuses: %s", v.text);
	if (!ret)
		note_change(s, v.text);
	frame_fini(&f);
	return ret;
}

static int send_heads(struct transfer *t)
{
	struct migrate_source *s = t->s;
	const struct ram_io io = {
		.cancel_fd = s->cancel_fd,
		.stop_fd = -1,
		.stall_ms = s->params.stall_ms,
		.peer = "destination",
	};
	unsigned int i;
	int ret = channel_send_head(&s->control, 0, 0, t->e);

	for (i = 0; !ret && i < s->n_data; i++) {
		uint8_t head[STREAM_HEAD_SIZE + STREAM_SESSION_SIZE];
		struct iovec iov = {.iov_base = head, .iov_len = sizeof(head)};

		stream_head_encode((uint16_t)(i + 1), head);
		put_le64(head + STREAM_HEAD_SIZE, s->session);
		ret = ram_io_send(&io, s->data_fd[i], &iov, 1, t->e);
	}
	return ret;
}

static int handshake(struct transfer *t)
{
	struct migrate_source *s = t->s;
	int ret = send_heads(t);

	if (!ret)
		ret = send_hello(t);
	if (!ret)
		ret = send_description(t);
	if (!ret && s->params.local)
		ret = pass_memory(t);
	if (!ret)
		ret = hear_verdict(t);
	pthread_mutex_lock(&s->lock);
	s->stats.setup_ns = monotonic_ns() - t->begin_ns;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* ---- memory, while the guest runs ---- */

static int end_round(struct transfer *t, const struct ram_round *round)
{
	struct frame_round_end end = {
		.round = t->finish.rounds,
		.data_pages = round->pages,
		.zero_pages = round->zero_pages,
	};
	struct wbuf w = {0};

	t->finish.rounds++;
	t->finish.data_pages += round->pages;
	t->finish.zero_pages += round->zero_pages;
	frame_round_end_encode(&end, &w);
	return channel_send_built(&t->s->control, FRAME_ROUND_END, &w, t->e);
}

static int copy_round(struct transfer *t, unsigned int flags, struct ram_round *round)
{
	int ret;

	migrate_source_begin_round(t->s);
	ret = ram_send_round(&t->ram, flags, round, t->e);
	if (!ret)
		ret = end_round(t, round);
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
	int ret = dirty_log_harvest(&t->machine->dirty_log, &pages, t->e);

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
		ret = throttle_set(&t->throttle, step.throttle_percent, t->e);
	if (ret < 0)
		return ret;
	return step.action == CONVERGE_STOP;
}

static int copy_live(struct transfer *t)
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

/* ---- the hand-over ---- */

static int send_state(struct transfer *t)
{
	int ret = migrate_guest_save(&t->guest, &t->state, true, t->e);

	if (!ret)
		ret = channel_send(&t->s->control, FRAME_STATE, t->state.data,
				   (uint32_t)t->state.len, t->e);
	return ret;
}

static int finish(struct transfer *t)
{
	struct frame_ready ready;
	struct wbuf w = {0};
	struct frame f;
	int ret;

	t->finish.running = t->guest.running;
	frame_finish_encode(&t->finish, &w);
	ret = channel_send_built(&t->s->control, FRAME_FINISH, &w, t->e);
	if (!ret)
		ret = hear(t, FRAME_READY, &f);
	if (ret < 0)
		return ret;
	ret = frame_ready_decode(&f, &ready, t->e);
	frame_fini(&f);
	if (!ret)
		note_change(t->s, ready.change);
	return ret;
}

/* From the first byte of COMMIT on the guest may be the destination's. */
static int commit(struct transfer *t)
{
	const struct frame_commit c = {.session = t->s->session};
	struct channel *ch = &t->s->control;
	struct wbuf w = {0};
	struct frame f;
	int ret;

	frame_commit_encode(&c, &w);
	/* nobody may cancel any more; what the wait ends with is the peer's doing */
	__atomic_store_n(&t->s->handed_over, true, __ATOMIC_RELEASE);
	ch->cancel_fd = -1;
	ch->send_started = false; /* of the frame before */
	ret = channel_send_built(&t->s->control, FRAME_COMMIT, &w, t->e);
	if (ret < 0 && !ch->send_started) {
		__atomic_store_n(&t->s->handed_over, false, __ATOMIC_RELEASE);
		return ret;
	}
	t->committed = true;
	if (!ret)
		ret = channel_expect(ch, FRAME_ACK, &f, t->e);
	if (!ret)
		frame_fini(&f);
	/* FAIL in the place of ACK: the destination does not run the guest, and says so */
	if (ret == -EREMOTEIO || ret == -ECANCELED) {
		t->committed = false;
		__atomic_store_n(&t->s->handed_over, false, __ATOMIC_RELEASE);
	}
	return ret;
}

/* Did the guest write more in its last moment than a pause has room for? Then it goes on. */
static int pause_was_too_late(struct transfer *t, unsigned int *taken_back)
{
	const uint64_t limit = t->s->params.limit_ns;
	uint64_t pages, rate = t->converge.rate;
	int ret = dirty_log_harvest(&t->machine->dirty_log, &pages, t->e);

	if (ret < 0)
		return ret;
	if (t->forced || !rate || *taken_back >= PAUSES_TAKEN_BACK ||
	    pages * GUEST_PAGE < rate / 1000000000.0 * (double)(limit - limit / 8))
		return 0;
	(*taken_back)++;
	return 1;
}

static int switch_over(struct transfer *t)
{
	unsigned int taken_back = 0;
	struct ram_round round;
	int ret;

	for (;;) {
		migrate_source_set_status(t->s, MIGRATE_DEVICE);
		ret = migrate_guest_pause(&t->guest, t->e);
		if (ret < 0 || t->s->params.local)
			break;
		ret = pause_was_too_late(t, &taken_back);
		if (ret <= 0)
			break;
		ret = migrate_guest_take_back(&t->guest, t->e);
		if (!ret) {
			migrate_source_set_status(t->s, MIGRATE_ACTIVE);
			ret = copy_live(t);
		}
		if (ret < 0)
			return ret;
	}
	if (!ret && !t->s->params.local)
		ret = copy_round(t, RAM_ROUND_LAST, &round);
	if (!ret)
		ret = send_state(t);
	if (!ret)
		ret = finish(t);
	if (!ret)
		ret = commit(t);
	return ret;
}

static int start_copying(struct transfer *t)
{
	const struct memory *mem = &t->machine->memory;
	const struct ram_send_config config = {
		.map = mem->map,
		.hole_fd = mem->fd,
		.log = &t->machine->dirty_log,
		.fds = t->s->data_fd,
		.n = t->s->n_data,
		.cancel_fd = t->s->cancel_fd,
		.stall_ms = t->s->params.stall_ms,
		.progress = &t->s->progress,
	};
	int ret = 0;

	if (!config.log->ops) /* kept as long as the VM */
		ret = machine_init_dirty_log(t->machine, t->e);
	if (!ret)
		ret = dirty_log_start(config.log, t->e);
	return ret ? ret : ram_send_init(&t->ram, &config, t->e);
}

static int move(struct transfer *t)
{
	struct migrate_source *s = t->s;
	const struct converge_config config = {
		.limit_ns = s->params.limit_ns,
		.timeout_ns = s->params.timeout_ns,
		.on_timeout = s->params.on_timeout,
	};
	int ret = handshake(t);

	if (ret < 0 || s->params.dry_run)
		return ret;
	migrate_source_set_status(s, MIGRATE_ACTIVE);
	if (!s->params.local) {
		converge_init(&t->converge, &config);
		ret = start_copying(t);
		if (!ret)
			ret = copy_live(t);
	}
	if (!ret)
		ret = switch_over(t);
	return ret;
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

/* The destination may hold the disks until it has heard that it will not get the guest. */
static void take_back(struct transfer *t)
{
	const uint64_t end =
		monotonic_ns() + (t->s->params.stall_ms + LET_GO_MS) * UINT64_C(1000000);
	struct err again;
	int ret;

	for (;;) {
		again = (struct err) {0};
		ret = migrate_guest_take_back(&t->guest, &again);
		if (ret != -EBUSY || monotonic_ns() >= end)
			break;
		poll(NULL, 0, LET_GO_NAP);
	}
	if (ret < 0 && ret != -ECANCELED) {
		migrate_guest_stay_paused(&t->guest, NULL);
		snprintf(t->after, sizeof(t->after), "%s", again.text);
	}
}

/* Before COMMIT: the guest goes on here. */
static int fail_here(struct transfer *t, int ret)
{
	ret = prefer_reason(t, ret);
	if (ret == -ECANCELED && __atomic_load_n(&t->s->stopping, __ATOMIC_ACQUIRE)) {
		*t->e = (struct err) {0};
		err_set(t->e, ret, "%s", MIGRATE_GUEST_ENDED);
	}
	tell_destination(t, ret);
	migrate_source_close(t->s); /* so that it lets go */
	if (t->guest.stopped)
		take_back(t);
	return ret;
}

static void note_end(struct transfer *t, int ret)
{
	struct migrate_source *s = t->s;
	struct migrate_stats *st = &s->stats;

	pthread_mutex_lock(&s->lock);
	st->end_ns = monotonic_ns();
	if (st->pause_ns && !ret)
		st->downtime_ns = st->end_ns - st->pause_ns;
	st->outcome = !t->committed ? OUTCOME_HERE : ret ? OUTCOME_UNKNOWN : OUTCOME_MOVED;
	st->code = ret;
	st->throttle_percent = 0;
	st->stuck = false;
	if (t->after[0])
		snprintf(st->error, sizeof(st->error),
			 "%.480s; it cannot go on at the source: %.480s", t->e->text, t->after);
	else
		snprintf(st->error, sizeof(st->error), "%s", ret ? t->e->text : "");
	pthread_mutex_unlock(&s->lock);
	if (!ret)
		s->end = s->params.dry_run ? MIGRATE_CHECKED : MIGRATE_COMPLETED;
	else if (ret == -ECANCELED && !t->committed)
		s->end = MIGRATE_CANCELLED;
	else
		s->end = MIGRATE_FAILED;
}

/* For who does not lock the process in; a locked one is given connections. */
static int connect_channels(struct transfer *t)
{
	struct migrate_source *s = t->s;
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

void migrate_move(struct migrate_source *s)
{
	struct err e = {0};
	struct transfer t = {
		.s = s,
		.machine = &s->run->machine,
		.guest = {.s = s},
		.begin_ns = s->stats.begin_ns,
		.e = &e,
	};
	int ret;

	throttle_init(&t.throttle, s->run->machine.vcpus, s->run->config.machine.n_vcpus,
		      &s->run->machine.dirty_ring);
	ret = s->connect ? connect_channels(&t) : 0;
	if (!ret)
		ret = move(&t);
	if (ret < 0 && !t.committed)
		ret = fail_here(&t, ret);
	note_end(&t, ret);
	ram_send_fini(&t.ram);
	throttle_fini(&t.throttle);
	dirty_log_stop(&t.machine->dirty_log);
	wbuf_fini(&t.state);
	migrate_source_close(s);
}
