#include "migration/move/arrival.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/guest_mem.h"
#include "base/log.h"
#include "migration/move/receive.h"
#include "migration/state/buf.h"

/* How a source learns of a failure in each step, and what happens then. */
static const struct step_row {
	enum { BY_FAIL, BY_VERDICT, BY_NOTHING } told; /* nothing: FAIL says that it does not run */
	bool waits_on; /* for another source, where there may be one */
} steps[] = {
	[DEST_WAITS] = {BY_FAIL, true},	     [DEST_LISTENS] = {BY_VERDICT, true},
	[DEST_JUDGES] = {BY_VERDICT, false}, [DEST_RECEIVES] = {BY_FAIL, false},
	[DEST_STARTS] = {BY_NOTHING, false}, [DEST_HAS] = {BY_NOTHING, false},
};

/* ---- the handshake ---- */

static int hear_hello(struct arrival *a)
{
	struct frame f;
	bool passed;
	int ret = channel_expect(&a->control, FRAME_HELLO, &f, a->e);

	if (ret < 0)
		return ret;
	ret = frame_hello_decode(&f, &a->hello, a->e);
	frame_fini(&f);
	if (ret < 0)
		return ret;
	a->step = DEST_JUDGES;
	passed = a->hello.flags & FRAME_HELLO_PASS_FD;
	if (a->hello.flags & FRAME_HELLO_FILE || passed == (a->hello.n_data > 0))
		if (passed || !(a->hello.flags & FRAME_HELLO_DRY_RUN))
			ret = err_set(a->e, -EPROTO,
				      "frame hello: flags 0x%x and %u data channels; memory comes "
				      "over channels or as a descriptor, one of both",
				      a->hello.flags, a->hello.n_data);
	return ret;
}

static int hear_memory(struct arrival *a)
{
	struct frame_memory m;
	struct frame f;
	int ret;

	if (!(a->hello.flags & FRAME_HELLO_PASS_FD))
		return 0;
	ret = channel_recv_fds(&a->control, FRAME_MEMORY, &f, &a->memory_fd, 1, a->e);
	if (ret < 0)
		return ret;
	ret = frame_memory_decode(&f, &m, a->e);
	frame_fini(&f);
	return ret;
}

static int build(struct arrival *a)
{
	const struct migration_guest *g = &a->d->guest;
	const struct migration_memory memory = {
		.how = a->memory_fd >= 0 ? MEMORY_PASSED : MEMORY_EMPTY, .fd = a->memory_fd};
	const bool dry_run = a->hello.flags & FRAME_HELLO_DRY_RUN;

	if (!dry_run)
		a->memory_fd = -1; /* the guest's from here on */
	return g->ops->build(g->ctx, a->description, a->tsc_khz, dry_run ? NULL : &memory,
			     a->change, a->e);
}

/* Here a value that does not fit means: this run is not made for the guest. */
static enum frame_code code_of(int ret)
{
	return ret == -EINVAL || ret == -ENODEV ? FRAME_CODE_MISMATCH : frame_code_of(ret);
}

static int send_verdict(struct arrival *a, int ret)
{
	struct frame_verdict v = {.code = (uint16_t)(ret ? code_of(ret) : FRAME_CODE_OK),
				  .features = a->hello.features & FRAME_FEATURES};
	struct err *e = a->e, unheard = {0};
	struct wbuf w = {0};
	int sent;

	snprintf(v.text, sizeof(v.text), "%s", ret ? e->text : a->change);
	frame_verdict_encode(&v, &w);
	if (!ret)
		return channel_send_built(&a->control, FRAME_VERDICT, &w, a->e);
	a->e = &unheard; /* the reason is worth more than that nobody hears it */
	sent = channel_send_built(&a->control, FRAME_VERDICT, &w, a->e);
	a->e = e;
	if (sent < 0)
		log_debug("the source does not hear the verdict: %s", unheard.text);
	return ret;
}

static int handshake(struct arrival *a)
{
	int ret = hear_hello(a);

	if (!ret)
		ret = receive_description(&a->control, &a->description, a->e);
	if (!ret)
		ret = hear_memory(a);
	if (!ret)
		ret = dest_accept_data(a);
	if (!ret)
		ret = dest_hear_clocks(a);
	if (!ret)
		ret = build(a);
	a->control.timeout_ms = a->d->stall_ms;
	return send_verdict(a, ret);
}

/* ---- memory, state, and the hand-over ---- */

/*
 * The next frame; as long as memory comes there is no hurry.
 * Return: -ECANCELED without a text when a data channel has failed
 */
static int hear_next(struct arrival *a, struct frame *f)
{
	const bool memory = a->n_data;
	int ret;

	do {
		ret = memory ? channel_wait(&a->control, a->ram.io.stop_fd, a->e) : 0;
	} while (ret == -ETIMEDOUT && !ram_recv_complete(&a->ram));
	if (ret < 0 && ret != -ETIMEDOUT)
		return ret;
	return channel_recv(&a->control, f, a->e);
}

static int count_round(struct arrival *a, const struct frame *f)
{
	struct frame_round_end end;
	int ret = frame_round_end_decode(f, &end, a->e);

	if (!ret && end.round != a->rounds)
		ret = err_set(a->e, -EPROTO, "round %u ended where %u is due", end.round,
			      a->rounds);
	a->rounds++;
	return ret;
}

/*
 * The marks of the rounds lie before it. They are read while memory comes: any number of them
 * would fill the connection, and the source may say here why it stops.
 * @said: receives whether it did, or sent what was not due
 */
static int hear_state(struct arrival *a, struct frame *state, bool *said)
{
	int ret;

	*said = false;
	for (;;) {
		ret = hear_next(a, state);
		if (ret < 0)
			return ret;
		a->latest_ns = monotonic_ns();
		if (state->type != FRAME_ROUND_END)
			break;
		ret = count_round(a, state);
		frame_fini(state);
		if (ret < 0)
			return ret;
	}
	ret = channel_check_due(&a->control, state, FRAME_STATE, a->e);
	*said = ret < 0;
	if (ret < 0)
		frame_fini(state);
	return ret;
}

static int hear_finish(struct arrival *a)
{
	struct frame_finish finish;
	struct frame f;
	int ret = channel_expect(&a->control, FRAME_FINISH, &f, a->e);

	if (ret < 0)
		return ret;
	ret = frame_finish_decode(&f, &finish, a->e);
	frame_fini(&f);
	if (ret < 0)
		return ret;
	a->running = finish.running;
	if (finish.rounds != a->rounds || finish.data_pages != a->data_pages)
		return err_set(a->e, -EPROTO,
			       "the source has sent %llu pages in %u rounds, %llu in %u came; try "
			       "again",
			       (unsigned long long)finish.data_pages, finish.rounds,
			       (unsigned long long)a->data_pages, a->rounds);
	return 0;
}

static int start_receiving(struct arrival *a)
{
	struct migration_ram memory;
	struct ram_recv_config config = {
		.fds = a->data_fd,
		.n = a->n_data,
		.cancel_fd = a->d->cancel_fd,
		.stall_ms = a->d->stall_ms,
	};

	a->d->guest.ops->ram(a->d->guest.ctx, &memory);
	config.map = memory.map;
	config.fd = memory.no_pages ? -1 : memory.fd;
	config.n_pages = memory.n_bytes / GUEST_PAGE;
	return ram_recv_start(&a->ram, &config, a->e);
}

/* What the source said before it hung up is nearer to the cause than a broken connection. */
static int prefer_reason(struct arrival *a, int ret)
{
	struct frame_fail fail;

	if (ret != -ECONNRESET || !channel_recv_reason(&a->control, &fail))
		return ret;
	*a->e = (struct err) {0};
	return err_set(a->e, -ECONNRESET, "the source gave up: %s", fail.text);
}

/* Memory by its own threads, and the control channel beside them up to STATE. */
static int receive_memory(struct arrival *a, struct frame *state)
{
	struct err said = {0}, *e = a->e;
	bool channel_failed, source_said = false;
	int heard, ret = start_receiving(a);

	if (!ret) {
		a->e = &said;
		heard = hear_state(a, state, &source_said);
		a->e = e;
		channel_failed = ram_recv_failed(&a->ram);
		if (heard < 0)
			ram_recv_stop(&a->ram);
		ret = ram_recv_join(&a->ram, e);
		a->data_pages = a->ram.pages;
		if (heard < 0 && (source_said || !channel_failed)) {
			*e = (struct err) {0};
			ret = err_set(e, heard, "%s", said.text);
		}
	}
	ram_recv_fini(&a->ram);
	if (ret < 0)
		frame_fini(state);
	return prefer_reason(a, ret);
}

static int load(struct arrival *a, const struct frame *state)
{
	const struct migration_guest *g = &a->d->guest;
	const struct clock_window when = dest_when_saved(a);
	struct rbuf in = rbuf_of(state->payload, state->len);
	int64_t off_ns = 0;
	int ret = g->ops->load(g->ctx, &when, &off_ns, &in, a->change, a->e);

	if (!ret && clock_is_apart(off_ns, 0))
		ret = dest_judge_clocks(a, off_ns);
	return ret ? ret : g->ops->take_over(g->ctx, a->e);
}

static int receive(struct arrival *a)
{
	const uint64_t begin = monotonic_ns();
	struct frame_ready ready;
	struct frame state = {0};
	struct wbuf w = {0};
	bool said;
	int ret = a->n_data ? receive_memory(a, &state) : hear_state(a, &state, &said);

	if (!ret)
		ret = hear_finish(a);
	if (!ret)
		ret = dest_ask_clock_again(a);
	if (!ret)
		ret = load(a, &state);
	frame_fini(&state);
	if (ret < 0)
		return ret;
	ready.load_ns = monotonic_ns() - begin;
	snprintf(ready.change, sizeof(ready.change), "%s", a->change);
	frame_ready_encode(&ready, &w);
	return channel_send_built(&a->control, FRAME_READY, &w, a->e);
}

static int hear_commit(struct arrival *a)
{
	struct frame_commit c;
	struct frame f;
	int ret = channel_expect(&a->control, FRAME_COMMIT, &f, a->e);

	if (ret < 0)
		return ret;
	ret = frame_commit_decode(&f, &c, a->e);
	frame_fini(&f);
	if (!ret && c.session != a->hello.session)
		ret = err_set(a->e, -EPROTO, "COMMIT is for another migration");
	return ret;
}

/* From here on the guest is ours, and nobody's if we lose it. */
static int take_over(struct arrival *a)
{
	const struct migration_guest *g = &a->d->guest;
	const uint64_t begin = monotonic_ns();
	struct frame_ack ack = {0};
	struct wbuf w = {0};
	int ret;

	a->step = DEST_STARTS;
	ret = g->ops->start(g->ctx, a->running, a->e);
	if (ret == -ECANCELED) /* it did not even begin */
		a->step = DEST_RECEIVES;
	if (ret < 0)
		return ret;
	a->step = DEST_HAS;
	ack.resume_ns = a->running ? monotonic_ns() - begin : 0;
	if (a->change[0])
		log_info("mitigations of the guest that came: %s", a->change);
	frame_ack_encode(&ack, &w);
	if (channel_send_built(&a->control, FRAME_ACK, &w, a->e) < 0)
		log_warn("the guest runs at the destination, but the source could not be told: %s",
			 a->e->text);
	*a->e = (struct err) {0};
	return 0;
}

static int receive_guest(struct arrival *a)
{
	int ret;

	a->step = DEST_RECEIVES;
	ret = receive(a);
	if (!ret)
		ret = hear_commit(a);
	return ret ? ret : take_over(a);
}

/* ---- one connection ---- */

static int arrive(struct arrival *a)
{
	int ret = dest_accept_control(a);

	if (ret < 0)
		return ret;
	a->step = DEST_LISTENS;
	ret = handshake(a);
	if (ret < 0 || a->hello.flags & FRAME_HELLO_DRY_RUN)
		return ret;
	return receive_guest(a);
}

static void close_arrival(struct arrival *a)
{
	dest_close_channels(a);
	if (a->memory_fd >= 0)
		close(a->memory_fd);
	description_free(a->description);
}

int migration_dest_run(struct migration_dest *d, struct err *e)
{
	struct arrival a = {.d = d, .memory_fd = -1, .e = e};
	bool dry_run, waits_on;
	int ret;

	channel_zero(&a.control);
	memset(a.data_fd, -1, sizeof(a.data_fd));
	ret = arrive(&a);
	dry_run = a.step >= DEST_JUDGES && a.hello.flags & FRAME_HELLO_DRY_RUN;
	waits_on = (dry_run || steps[a.step].waits_on) && d->listener.fd >= 0;
	if (ret < 0 && steps[a.step].told == BY_FAIL && ret != -ECONNRESET)
		channel_send_fail(&a.control, code_of(ret), e->text);
	close_arrival(&a);
	/* the source's wish to stop is none of ours */
	if (ret == -ECANCELED && !__atomic_load_n(&d->stopping, __ATOMIC_ACQUIRE))
		ret = e->code = -ECONNRESET;
	if (ret < 0 && ret != -ECANCELED && waits_on) {
		log_warn("incoming migration: %s; still waiting", e->text);
		*e = (struct err) {0};
		return 1;
	}
	if (!ret && dry_run) {
		log_info("incoming migration: a dry run went well; still waiting");
		return 1;
	}
	return ret;
}
