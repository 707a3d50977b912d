#include "migration/move/arrival.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/*
 * The next connection; one without a head of ours is told nothing and closed.
 * Return: 0; 1: it was a stranger's; -errno
 */
static int accept_channel(struct arrival *a, unsigned int timeout_ms, struct channel *ch,
			  struct stream_head *h, uint64_t *session)
{
	struct migration_dest *d = a->d;
	struct err stray = {0};
	int fd, ret;

	ret = socket_accept(&d->listener, timeout_ms, d->cancel_fd, &fd, a->e);
	if (ret < 0)
		return ret;
	ret = channel_init(ch, fd, FRAME_FROM_SOURCE, d->cancel_fd, d->head_ms);
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
	const bool heard = a->step >= DEST_JUDGES;
	const bool ours = !heard || (session == a->hello.session && i < a->hello.n_data);

	if (i >= MIGRATE_MAX_CHANNELS || !ours || (heard && a->data_fd[i] >= 0)) {
		channel_fini(ch);
		return;
	}
	drop_data(a, i);
	a->data_fd[i] = channel_release(ch);
	a->data_session[i] = session;
	a->n_data += heard;
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

int dest_accept_control(struct arrival *a)
{
	struct migration_dest *d = a->d;
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
		a->control.timeout_ms = d->head_ms;
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

int dest_accept_data(struct arrival *a)
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
			ret = accept_channel(a, a->d->stall_ms, &ch, &h, &session);
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

void dest_close_channels(struct arrival *a)
{
	unsigned int i;

	channel_fini(&a->control);
	for (i = 0; i < MIGRATE_MAX_CHANNELS; i++)
		drop_data(a, i);
}
