#include "migration/move/transfer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/version.h"
#include "migration/description/description.h"
#include "migration/ram/frame.h"

/* ---- the handshake ---- */

static int send_hello(struct transfer *t)
{
	struct migration_source *s = t->s;
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
	int ret = d ? 0 : err_no_memory(t->e);

	if (!ret)
		ret = t->s->guest.ops->describe(t->s->guest.ctx, d, t->e);
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
		.how = FRAME_MEMORY_PASSED, .n_fds = 1, .size = t->memory.n_bytes};
	struct wbuf w = {0};
	int ret;

	frame_memory_encode(&how, &w);
	if (w.failed)
		ret = err_no_memory(t->e);
	else
		ret = channel_send_fds(&t->s->control, FRAME_MEMORY, w.data, (uint32_t)w.len,
				       &t->memory.fd, 1, t->e);
	wbuf_fini(&w);
	return ret;
}

static void note_change(struct migration_source *s, const char *text)
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
		.tsc_khz = t->s->guest.tsc_khz,
	};
	struct wbuf w = {0};

	answer.wall_ns = base->wall_ns + (answer.mono_ns - base->mono_ns);
	frame_clock_encode(&answer, &w);
	return channel_send_built(&t->s->control, FRAME_CLOCK, &w, t->e);
}

static int hear_clock(struct transfer *t, const struct frame *f)
{
	struct migration_source *s = t->s;
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

/* ---- up to VERDICT ---- */

/* Return: 0; -EPERM when the destination's policy refuses, -EREMOTEIO for its other reasons */
static int hear_verdict(struct transfer *t)
{
	struct migration_source *s = t->s;
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
	struct migration_source *s = t->s;
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

int source_greet(struct transfer *t)
{
	struct migration_source *s = t->s;
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

/* ---- from the first round to the end ---- */

int source_end_round(struct transfer *t, const struct ram_round *round)
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

int source_finish(struct transfer *t)
{
	struct frame_ready ready;
	struct wbuf w = {0};
	struct frame f;
	int ret;

	t->finish.running = t->pause.ran;
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
int source_commit(struct transfer *t)
{
	const struct frame_commit c = {.session = t->s->session};
	struct channel *ch = &t->s->control;
	struct wbuf w = {0};
	struct frame f;
	int ret;

	frame_commit_encode(&c, &w);
	source_enter(t, SOURCE_COMMITS);
	ch->cancel_fd = -1;	  /* what the wait ends with is the peer's doing */
	ch->send_started = false; /* of the frame before */
	ret = channel_send_built(ch, FRAME_COMMIT, &w, t->e);
	if (ret < 0 && !ch->send_started) {
		source_enter(t, SOURCE_HANDS_OVER);
		return ret;
	}
	if (!ret)
		ret = channel_expect(ch, FRAME_ACK, &f, t->e);
	if (!ret)
		frame_fini(&f);
	/* FAIL in the place of ACK: the destination does not run the guest, and says so */
	if (ret == -EREMOTEIO || ret == -ECANCELED)
		source_enter(t, SOURCE_HANDS_OVER);
	return ret;
}
