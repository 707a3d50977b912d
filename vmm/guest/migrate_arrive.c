#include "vmm/guest/migrate_arrive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/description/description.h"
#include "migration/ram/recv.h"
#include "migration/state/buf.h"
#include "migration/state/clock.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/run.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vm_time.h"

/* a connection that does not say what it is goes away after this */
#define HEAD_MS 5000

#define CLOCK_ASKS 3 /* the quickest answer tells the most */

/* One connection, from its head to the guest's first instruction here, or to a failure. */
struct arrival {
	struct migrate_dest *d;
	struct channel control;
	int data_fd[MIGRATE_MAX_CHANNELS]; /* by channel number - 1; -1: it has not come yet */
	uint64_t data_session[MIGRATE_MAX_CHANNELS];
	unsigned int n_data; /* that came and are of this session */
	struct frame_hello hello;
	bool heard;	   /* HELLO: somebody means it */
	bool verdict_said; /* the reason has gone with it */
	bool source_said;  /* why it stops, or it sent what was not due */
	struct ram_recv ram;
	uint64_t data_pages; /* that came */
	uint32_t rounds;     /* whose end came */
	int memory_fd;	     /* passed by the source; -1: none */
	bool running;	     /* the guest is to run on arrival */
	struct machine_description *description;
	struct clock_link clocks; /* of the source, if it answers questions for them */
	uint32_t tsc_khz;	  /* of the guest; 0: not told */
	uint64_t earliest_ns;	  /* CLOCK_MONOTONIC: the guest was not saved before, */
	uint64_t latest_ns;	  /* and not after */
	char change[ERR_TEXT_MAX];
	struct err *e;
};

static bool has_clocks(const struct arrival *a)
{
	return a->hello.features & FRAME_FEATURE_CLOCK;
}

/* The wall clocks differ: a line, or the end. Return: 0 or -EPERM */
static int judge_clocks(struct arrival *a, int64_t apart_ns, struct err *e)
{
	const struct run *r = a->d->run;
	const char *there = a->description->host_name, *here = r->host_name;
	const bool named = *there && *here && strcmp(there, here) != 0;
	char text[256];

	clock_tell_apart(named ? there : "the source", named ? here : "the destination", apart_ns,
			 text, sizeof(text));
	if (r->policy.refuse_clock_difference)
		return err_set(
			e, -EPERM,
			"%s (policy clock-difference: refuse); let NTP set both, or allow it "
			"by clock-difference: warn",
			text);
	log_warn("%s: the guest's own clocks go on by the time that it stands still; let NTP set "
		 "both",
		 text);
	return 0;
}

/* ---- steps on the loop's thread ---- */

struct on_loop {
	struct arrival *a;
	struct frame *state;
	struct err *e;
};

static int build_on_loop(void *arg)
{
	struct on_loop *c = arg;
	struct run *r = c->a->d->run;
	struct memory passed = {.fd = -1};
	const bool local = c->a->memory_fd >= 0;
	int ret = describe_apply(r, c->a->description, c->e);

	if (!ret)
		ret = vm_time_check_tsc(&r->kvm, c->a->tsc_khz, cpuid_has_invariant_tsc(&r->cpuid),
					c->e);
	if (!ret)
		describe_change(r, c->a->change, sizeof(c->a->change));
	if (ret < 0 || c->a->hello.flags & FRAME_HELLO_DRY_RUN)
		return ret;
	c->a->d->arriving = true;
	migrate_tell(&r->control, MIGRATE_ACTIVE);
	if (local)
		ret = memory_adopt(&passed, c->a->memory_fd, &r->config.machine.memory, c->e);
	c->a->memory_fd = -1; /* the memory's from here on */
	if (!ret)
		ret = run_build_machine(r, local ? &passed : NULL, c->e);
	memory_fini(&passed);
	return ret;
}

/* By what the source answered; of one that does not answer, by the wall clocks if that can be. */
static struct clock_window when_saved(const struct arrival *a)
{
	const struct clock_reading now = vm_time_now();
	const int64_t shift_ns =
		has_clocks(a) ? a->clocks.shift_ns : clock_window_wall(&now).shift_ns;

	return clock_window_between(shift_ns, a->earliest_ns, a->latest_ns);
}

static int load_on_loop(void *arg)
{
	struct on_loop *c = arg;
	struct run *r = c->a->d->run;
	struct rbuf in = rbuf_of(c->state->payload, c->state->len);
	const struct clock_window when = when_saved(c->a);
	int64_t off_ns = 0;
	unsigned int i;
	int ret = machine_restore(&r->machine, &when, &off_ns, &in, c->e);

	if (!ret && clock_is_apart(off_ns, 0))
		ret = judge_clocks(c->a, off_ns, c->e);
	c->a->d->locked = !ret;
	for (i = 0; !ret && i < r->n_disks; i++)
		ret = blk_file_take_over(&r->disk[i], c->e);
	if (!ret) /* what the guest reported while it was copied counts */
		describe_change(r, c->a->change, sizeof(c->a->change));
	return ret;
}

static int start_on_loop(void *arg)
{
	struct on_loop *c = arg;
	int ret = run_start_arrived(c->a->d->run, c->a->running, c->e);

	if (!ret)
		migrate_tell(&c->a->d->run->control, MIGRATE_COMPLETED);
	return ret;
}

static int call(struct arrival *a, int (*fn)(void *), struct frame *state)
{
	struct on_loop c = {.a = a, .state = state, .e = a->e};
	int ret = loop_call(&a->d->run->calls, fn, &c);

	if (ret == -ECANCELED)
		err_set(a->e, ret, "testudo was told to end while the guest was on its way");
	return ret;
}

/* ---- connections ---- */

/*
 * The next connection; one without a head of ours is told nothing and closed.
 * Return: 0; 1: it was a stranger's; -errno
 */
static int accept_channel(struct arrival *a, unsigned int timeout_ms, struct channel *ch,
			  struct stream_head *h, uint64_t *session)
{
	struct migrate_dest *d = a->d;
	struct err stray = {0};
	int fd, ret;

	ret = socket_accept(&d->listener, timeout_ms, d->cancel_fd, &fd, a->e);
	if (ret < 0)
		return ret;
	ret = channel_init(ch, fd, FRAME_FROM_SOURCE, d->cancel_fd, HEAD_MS);
	if (!ret)
		ret = channel_recv_head(ch, h, session, &stray);
	if (!ret)
		return 0;
	if (ret == -EPROTONOSUPPORT) /* one of testudo, but another release of it */
		channel_send_fail(ch, FRAME_CODE_PROTOCOL, stray.text);
	channel_fini(ch);
	if (ret == -ECANCELED)
		return err_set(a->e, ret, "%s", stray.text);
	log_warn("incoming migration: a connection is not one of testudo: %s", stray.text);
	return 1;
}

static void drop_data(struct arrival *a, unsigned int i)
{
	if (a->data_fd[i] >= 0)
		close(a->data_fd[i]);
	a->data_fd[i] = -1;
}

/*
 * A data channel has its place by its number, whenever it comes: a network may let it overtake the
 * control channel. One that is no part of this migration goes: of another that has failed, or a
 * second one for a place.
 */
static void place_data(struct arrival *a, struct channel *ch, const struct stream_head *h,
		       uint64_t session)
{
	const unsigned int i = h->channel - 1u;
	const bool ours = !a->heard || (session == a->hello.session && i < a->hello.n_data);

	if (i >= MIGRATE_MAX_CHANNELS || !ours || (a->heard && a->data_fd[i] >= 0)) {
		channel_fini(ch);
		return;
	}
	drop_data(a, i);
	a->data_fd[i] = channel_release(ch);
	a->data_session[i] = session;
	a->n_data += a->heard;
}

/* The session is known now: which of those that came before it are of it? */
static void sort_data(struct arrival *a)
{
	unsigned int i;

	for (i = 0; i < MIGRATE_MAX_CHANNELS; i++) {
		if (i >= a->hello.n_data || a->data_session[i] != a->hello.session)
			drop_data(a, i);
		a->n_data += a->data_fd[i] >= 0;
	}
}

static int accept_control(struct arrival *a)
{
	struct migrate_dest *d = a->d;
	struct stream_head h;
	uint64_t session;
	int ret;

	if (d->fd >= 0) { /* --incoming fd:N, connected */
		const int fd = d->fd;

		d->fd = -1;
		ret = channel_init(&a->control, fd, FRAME_FROM_SOURCE, d->cancel_fd, 0);
		if (ret < 0)
			return err_set(a->e, ret, "--incoming: %s", strerror(-ret));
		ret = channel_recv_head(&a->control, &h, &session, a->e);
		a->control.timeout_ms = HEAD_MS;
		if (!ret && h.channel)
			ret = err_set(a->e, -EPROTO,
				      "--incoming: a control channel is due, channel %u came",
				      h.channel);
		return ret;
	}
	for (;;) {
		ret = accept_channel(a, 0, &a->control, &h, &session);
		if (ret < 0 || (!ret && h.channel == 0))
			return ret;
		if (!ret)
			place_data(a, &a->control, &h, session);
	}
}

/* The next one of a source that has nothing to say before all are there, but that it gives up */
static int await_connection(struct arrival *a)
{
	struct frame f;
	int ret = channel_wait(&a->control, a->d->listener.fd, a->e);

	if (ret == -ETIMEDOUT)
		return err_set(a->e, ret,
			       "only %u of the source's %u data channels came within %u s; has it "
			       "ended?",
			       a->n_data, a->hello.n_data, a->control.timeout_ms / 1000);
	if (!ret) {
		ret = channel_recv(&a->control, &f, a->e);
		if (!ret)
			ret = channel_check_due(&a->control, &f, FRAME_STATE, a->e);
		frame_fini(&f);
		return ret ? ret : err_set(a->e, -EPROTO, "state came before memory");
	}
	return ret == -ECANCELED && !a->e->code ? 0 : ret;
}

static int accept_data(struct arrival *a)
{
	int ret;

	sort_data(a);
	while (a->n_data < a->hello.n_data) {
		struct stream_head h;
		struct channel ch;
		uint64_t session;

		if (a->d->listener.fd < 0)
			return err_set(a->e, -EINVAL,
				       "data channels need an address to connect to; --incoming "
				       "fd:N with one connection serves local hand-overs only");
		ret = await_connection(a);
		if (!ret)
			ret = accept_channel(a, MIGRATE_STALL_MS, &ch, &h, &session);
		if (ret < 0)
			return ret;
		if (ret)
			continue;
		if (h.channel)
			place_data(a, &ch, &h, session);
		else
			channel_fini(&ch); /* another migration, while this one is under way */
	}
	return 0;
}

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
	a->heard = true;
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

/* ---- clocks ---- */

static int send_clock(struct arrival *a, const struct frame_clock *c)
{
	struct wbuf w = {0};

	frame_clock_encode(c, &w);
	return channel_send_built(&a->control, FRAME_CLOCK, &w, a->e);
}

/* Return: 0 or -errno; the answer is kept if it tells more than the last one did */
static int ask_clock(struct arrival *a, bool first)
{
	const uint64_t asked_ns = monotonic_ns();
	struct clock_reading heard, said;
	struct frame_clock answer;
	struct clock_link link;
	struct frame f;
	int ret = send_clock(a, &(struct frame_clock) {.what = FRAME_CLOCK_ASK});

	if (!ret)
		ret = channel_expect(&a->control, FRAME_CLOCK, &f, a->e);
	if (ret < 0)
		return ret;
	heard = vm_time_now();
	ret = frame_clock_decode(&f, &answer, a->e);
	frame_fini(&f);
	if (!ret && answer.what != FRAME_CLOCK_ANSWER)
		ret = err_set(a->e, -EPROTO,
			      "frame clock: kind %u where an answer is due; the other side speaks "
			      "another version",
			      answer.what);
	if (ret < 0)
		return ret;
	said = (struct clock_reading) {.mono_ns = answer.mono_ns, .wall_ns = answer.wall_ns};
	link = clock_link_make(asked_ns, &heard, &said);
	if (first || link.error_ns < clock_link_error(&a->clocks, heard.mono_ns))
		a->clocks = link;
	a->tsc_khz = answer.tsc_khz;
	return 0;
}

/* While the guest still runs; and tell the source, for those who ask it. */
static int hear_clocks(struct arrival *a)
{
	struct frame_clock apart = {.what = FRAME_CLOCK_APART};
	unsigned int i;
	int ret = 0;

	a->earliest_ns = monotonic_ns();
	if (!has_clocks(a))
		return 0;
	for (i = 0; !ret && i < CLOCK_ASKS; i++)
		ret = ask_clock(a, i == 0);
	apart.apart_ns = a->clocks.apart_ns;
	if (!ret)
		ret = send_clock(a, &apart);
	if (!ret && clock_is_apart(a->clocks.apart_ns, a->clocks.error_ns))
		ret = judge_clocks(a, a->clocks.apart_ns, a->e);
	return ret;
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

	a->verdict_said = true;
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
		ret = describe_receive(&a->control, &a->description, a->e);
	if (!ret)
		ret = hear_memory(a);
	if (!ret)
		ret = accept_data(a);
	if (!ret)
		ret = hear_clocks(a);
	if (!ret)
		ret = call(a, build_on_loop, NULL);
	a->control.timeout_ms = MIGRATE_STALL_MS;
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
 */
static int hear_state(struct arrival *a, struct frame *state)
{
	int ret;

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
	if (ret < 0) {
		a->source_said = true;
		frame_fini(state);
	}
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
	const struct memory *mem = &a->d->run->machine.memory;
	const struct ram_recv_config config = {
		.map = mem->map,
		.fd = mem->hugepages ? -1 : mem->fd,
		.n_pages = mem->size_bytes / GUEST_PAGE,
		.fds = a->data_fd,
		.n = a->n_data,
		.cancel_fd = a->d->cancel_fd,
		.stall_ms = MIGRATE_STALL_MS,
	};

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
	bool channel_failed;
	int heard, ret = start_receiving(a);

	if (!ret) {
		a->e = &said;
		heard = hear_state(a, state);
		a->e = e;
		channel_failed = ram_recv_failed(&a->ram);
		if (heard < 0)
			ram_recv_stop(&a->ram);
		ret = ram_recv_join(&a->ram, e);
		a->data_pages = a->ram.pages;
		if (heard < 0 && (a->source_said || !channel_failed)) {
			*e = (struct err) {0};
			ret = err_set(e, heard, "%s", said.text);
		}
	}
	ram_recv_fini(&a->ram);
	if (ret < 0)
		frame_fini(state);
	return prefer_reason(a, ret);
}

static int receive(struct arrival *a)
{
	const uint64_t begin = monotonic_ns();
	struct frame_ready ready;
	struct frame state = {0};
	struct wbuf w = {0};
	int ret = a->n_data ? receive_memory(a, &state) : hear_state(a, &state);

	if (!ret)
		ret = hear_finish(a);
	if (!ret && has_clocks(a) && clock_link_is_stale(&a->clocks, monotonic_ns()))
		ret = ask_clock(a, false);
	if (!ret)
		ret = call(a, load_on_loop, &state);
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
	const uint64_t begin = monotonic_ns();
	struct frame_ack ack = {0};
	struct wbuf w = {0};
	int ret;

	ret = call(a, start_on_loop, NULL);
	if (ret < 0 && ret != -ECANCELED)
		a->verdict_said = true; /* a part of it may have run: FAIL would be a lie */
	if (ret < 0)
		return ret;
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
	int ret = receive(a);

	if (!ret)
		ret = hear_commit(a);
	return ret ? ret : take_over(a);
}

static void close_arrival(struct arrival *a)
{
	unsigned int i;

	channel_fini(&a->control);
	for (i = 0; i < MIGRATE_MAX_CHANNELS; i++)
		drop_data(a, i);
	if (a->memory_fd >= 0)
		close(a->memory_fd);
	description_free(a->description);
}

int migrate_arrive(struct migrate_dest *d, struct err *e)
{
	struct arrival a = {.d = d, .memory_fd = -1, .e = e};
	bool dry_run;
	int ret;

	channel_zero(&a.control);
	memset(a.data_fd, -1, sizeof(a.data_fd));
	ret = accept_control(&a);
	if (!ret)
		ret = handshake(&a);
	dry_run = a.heard && a.hello.flags & FRAME_HELLO_DRY_RUN;
	if (!ret && !dry_run) {
		a.verdict_said = false;
		ret = receive_guest(&a);
	}
	if (ret < 0 && !a.verdict_said && ret != -ECONNRESET)
		channel_send_fail(&a.control, code_of(ret), e->text);
	close_arrival(&a);
	/* the source's wish to stop is none of ours */
	if (ret == -ECANCELED && !__atomic_load_n(&d->stopping, __ATOMIC_ACQUIRE))
		ret = e->code = -ECONNRESET;
	if (ret < 0 && ret != -ECANCELED && (dry_run || !a.heard) && d->listener.fd >= 0) {
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
