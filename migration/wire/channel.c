#include "migration/wire/channel.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "migration/state/buf.h"
#include "migration/wire/stranger.h"

#define FAIL_TIMEOUT_MS	  1000
#define REASON_TIMEOUT_MS 200

void channel_zero(struct channel *ch)
{
	*ch = (struct channel) {.plain.fd = -1, .cancel_fd = -1};
}

void channel_init_transport(struct channel *ch, struct transport *t, enum frame_side peer,
			    int cancel_fd, unsigned int timeout_ms)
{
	channel_zero(ch);
	ch->transport = t;
	ch->peer = peer;
	ch->cancel_fd = cancel_fd;
	ch->timeout_ms = timeout_ms;
}

int channel_init(struct channel *ch, int fd, enum frame_side peer, int cancel_fd,
		 unsigned int timeout_ms)
{
	int ret;

	channel_init_transport(ch, &ch->plain, peer, cancel_fd, timeout_ms);
	ret = transport_plain(&ch->plain, fd);
	if (ret < 0) {
		close(fd);
		channel_zero(ch);
	}
	return ret;
}

void channel_fini(struct channel *ch)
{
	if (ch->transport)
		ch->transport->ops->close(ch->transport);
	channel_zero(ch);
}

static const char *peer_name(const struct channel *ch)
{
	return ch->peer == FRAME_FROM_SOURCE ? "source" : "destination";
}

/* Wait for @events of the transport (0: only look whether to give up). */
static int wait_for(struct channel *ch, short events, struct err *e)
{
	struct pollfd p[2] = {
		{.fd = ch->cancel_fd, .events = POLLIN}, /* ignored by poll(2) when -1 */
		{.fd = events ? ch->transport->fd : -1, .events = events},
	};
	uint64_t end = monotonic_ms() + ch->timeout_ms;
	int n;

	if (!events && ch->cancel_fd < 0)
		return 0;
	do {
		uint64_t now = monotonic_ms();
		int ms = -1;

		if (!events)
			ms = 0;
		else if (ch->timeout_ms)
			ms = now < end ? (int)(end - now < INT_MAX ? end - now : INT_MAX) : 0;
		n = poll(p, 2, ms);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set(e, -errno, "waiting for the %s: %s", peer_name(ch), strerror(errno));
	if (p[0].revents)
		return err_set(e, -ECANCELED, "the migration was cancelled");
	if (!n && events)
		return err_set(e, -ETIMEDOUT,
			       "the %s has %s no byte for %u ms; is it stopped, or the network "
			       "down?",
			       peer_name(ch), events == POLLOUT ? "taken" : "sent", ch->timeout_ms);
	return 0;
}

int channel_wait(struct channel *ch, int other_fd, struct err *e)
{
	struct pollfd p[] = {
		{.fd = ch->transport->fd, .events = POLLIN},
		{.fd = ch->cancel_fd, .events = POLLIN},
		{.fd = other_fd, .events = POLLIN},
	};
	int n;

	do
		n = poll(p, 3, ch->timeout_ms ? (int)ch->timeout_ms : -1);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set(e, -errno, "waiting for the %s: %s", peer_name(ch), strerror(errno));
	if (p[1].revents)
		return err_set(e, -ECANCELED, "the migration was cancelled");
	if (p[0].revents)
		return 0;
	return n ? -ECANCELED : -ETIMEDOUT;
}

static int send_error(const struct channel *ch, int ret, struct err *e)
{
	if (ret == -EPIPE || ret == -ECONNRESET)
		return err_set(e, -ECONNRESET, "the other side closed the connection");
	return err_set(e, ret, "sending to the %s: %s", peer_name(ch), strerror(-ret));
}

/* Drop @done bytes from the front of *@iov. */
static void iov_advance(struct iovec **iov, int *n, size_t done)
{
	while (*n && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

/* channel_writev() without looking at what was sent before. */
static int send_rest(struct channel *ch, struct iovec *iov, int n, struct err *e)
{
	short events;
	ssize_t done;
	int ret;

	iov_advance(&iov, &n, 0); /* empty parts */
	while (n) {
		done = ch->transport->ops->writev(ch->transport, iov, n < IOV_MAX ? n : IOV_MAX,
						  &events);
		if (done == -EINTR)
			continue;
		if (done == -EAGAIN) {
			ret = wait_for(ch, events, e);
			if (ret < 0)
				return ret;
			continue;
		}
		if (done < 0)
			return send_error(ch, (int)done, e);
		ch->send_started = ch->send_started || done > 0;
		ch->sent_bytes += (uint64_t)done;
		iov_advance(&iov, &n, (size_t)done);
	}
	return 0;
}

int channel_writev(struct channel *ch, struct iovec *iov, int n, struct err *e)
{
	int ret;

	ch->send_started = false;
	ret = wait_for(ch, 0, e);
	if (!ret)
		ret = send_rest(ch, iov, n, e);
	ch->send_broken = ch->send_broken || (ret < 0 && ch->send_started);
	return ret;
}

int channel_write(struct channel *ch, const void *buf, size_t len, struct err *e)
{
	struct iovec iov = {(void *)buf, len};

	return channel_writev(ch, &iov, 1, e);
}

int channel_read(struct channel *ch, void *buf, size_t len, struct err *e)
{
	size_t at = 0;
	short events;
	ssize_t n;
	int ret = wait_for(ch, 0, e);

	while (!ret && at < len) {
		n = ch->transport->ops->read(ch->transport, (char *)buf + at, len - at, &events);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			ret = wait_for(ch, events, e);
			continue;
		}
		if (!n && !at)
			return err_set(e, -ECONNRESET, "%s", ch->transport->ops->ended);
		if (!n || n == -ECONNRESET)
			return err_set(e, -ECONNRESET, "%s after %zu of %zu bytes",
				       ch->transport->ops->ended, at, len);
		if (n < 0)
			return err_set(e, (int)n, "receiving from the %s: %s", peer_name(ch),
				       strerror((int)-n));
		ch->received_bytes += (uint64_t)n;
		at += (size_t)n;
	}
	return ret;
}

int channel_send_head(struct channel *ch, uint16_t channel, uint64_t session, struct err *e)
{
	uint8_t raw[STREAM_HEAD_SIZE + STREAM_SESSION_SIZE];

	stream_head_encode(channel, raw);
	put_le64(raw + STREAM_HEAD_SIZE, session);
	return channel_write(ch, raw, channel ? sizeof(raw) : STREAM_HEAD_SIZE, e);
}

int channel_recv_head(struct channel *ch, struct stream_head *h, uint64_t *session, struct err *e)
{
	uint8_t raw[STREAM_HEAD_SIZE];
	const uint64_t before = ch->received_bytes;
	char came[STRANGER_MAX];
	struct err why = {0};
	int ret;

	*session = 0;
	ret = channel_read(ch, raw, sizeof(raw), &why);
	if (ret < 0) {
		const size_t n = (size_t)(ch->received_bytes - before);

		if (n && memcmp(raw, STREAM_MAGIC, n < 8 ? n : 8) != 0) {
			stranger_describe(raw, n, came);
			return err_set(e, -EPROTO,
				       "it is no migration stream of testudo: only %s came; let "
				       "testudo migrate connect",
				       came);
		}
		return err_set(e, ret, "%s", why.text);
	}
	ret = stream_head_decode(raw, h, e);
	if (!ret && h->channel) {
		ret = channel_read(ch, raw, STREAM_SESSION_SIZE, e);
		if (!ret)
			*session = get_le64(raw);
	}
	return ret;
}

static int check_length(enum frame_type type, uint32_t len, struct err *e)
{
	const struct frame_kind *k = frame_kind_of((uint16_t)type);

	if (!k || len < k->min_len || len > k->max_len)
		return err_set(e, -EMSGSIZE,
			       "a %s frame of %u bytes cannot be sent; it has %u to %u",
			       frame_type_name((uint16_t)type), len, k ? k->min_len : 0,
			       k ? k->max_len : 0);
	return 0;
}

int channel_send(struct channel *ch, enum frame_type type, const void *payload, uint32_t len,
		 struct err *e)
{
	uint8_t head[FRAME_HEAD_SIZE];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)payload, len}};
	int ret = check_length(type, len, e);

	ch->send_started = false;
	if (ret < 0)
		return ret;
	frame_head_encode(type, payload, len, head);
	return channel_writev(ch, iov, 2, e);
}

/* The payload of @h, into the heap. */
static int recv_payload(struct channel *ch, const struct frame_head *h, struct frame *f,
			struct err *e)
{
	int ret = 0;

	f->type = h->type;
	f->len = h->len;
	if (h->len) {
		f->payload = malloc(h->len); /* bounded by the table of frames */
		if (!f->payload)
			return err_set(e, -ENOMEM, "no memory for a %s frame of %u bytes",
				       frame_type_name(h->type), h->len);
		ret = channel_read(ch, f->payload, h->len, e);
	}
	return ret < 0 ? ret : frame_check_payload(h, f->payload, e);
}

static int skip_payload(struct channel *ch, const struct frame_head *h, struct err *e)
{
	uint32_t left = h->len, crc = 0;
	uint8_t buf[4096];
	int ret;

	while (left) {
		uint32_t part = left < sizeof(buf) ? left : (uint32_t)sizeof(buf);

		ret = channel_read(ch, buf, part, e);
		if (ret < 0)
			return ret;
		crc = crc32c(crc, buf, part);
		left -= part;
	}
	if (crc != h->payload_crc)
		return err_set(e, -EBADMSG,
			       "a skipped frame of type %u should have checksum %08x, its bytes "
			       "give %08x; the stream was damaged on its way",
			       h->type, h->payload_crc, crc);
	return 0;
}

int channel_send_built(struct channel *ch, enum frame_type type, struct wbuf *w, struct err *e)
{
	int ret =
		w->failed ? err_no_memory(e) : channel_send(ch, type, w->data, (uint32_t)w->len, e);

	wbuf_fini(w);
	return ret;
}

/* What comes first from the destination tells whether it is one. */
static int decode_head(const struct channel *ch, const uint8_t raw[FRAME_HEAD_SIZE],
		       struct frame_head *h, struct err *e)
{
	const bool first =
		ch->peer == FRAME_FROM_DESTINATION && ch->received_bytes == FRAME_HEAD_SIZE;
	char came[STRANGER_MAX];
	int ret = frame_head_decode(raw, ch->peer, h, first ? NULL : e);

	if (ret == -EBADMSG && first && stranger_describe(raw, FRAME_HEAD_SIZE, came))
		return err_set(e, ret,
			       "the other side is no testudo that waits for a guest: it answers "
			       "%s; give the address of testudo run --incoming",
			       came);
	return ret < 0 && first ? frame_head_decode(raw, ch->peer, h, e) : ret;
}

int channel_recv(struct channel *ch, struct frame *f, struct err *e)
{
	uint8_t raw[FRAME_HEAD_SIZE];
	struct frame_head h;
	unsigned int skipped;
	int ret;

	*f = (struct frame) {0};
	for (skipped = 0; skipped <= CHANNEL_SKIP_MAX; skipped++) {
		ret = channel_read(ch, raw, sizeof(raw), e);
		if (!ret)
			ret = decode_head(ch, raw, &h, e);
		if (!ret)
			ret = h.kind ? recv_payload(ch, &h, f, e) : skip_payload(ch, &h, e);
		if (ret < 0)
			frame_fini(f);
		if (ret || h.kind)
			return ret;
	}
	return err_set(e, -EPROTO,
		       "more than %d unknown frames in a row; the other side speaks another "
		       "version",
		       CHANNEL_SKIP_MAX);
}

/* FAIL of the other side as an error here. */
static int fail_error(const struct channel *ch, const struct frame *f, struct err *e)
{
	struct frame_fail fail;
	int ret = frame_fail_decode(f, &fail, e);

	if (ret < 0)
		return ret;
	switch (fail.code) {
	case FRAME_CODE_POLICY:
		return err_set(e, -EPERM, "the %s refuses: %s", peer_name(ch), fail.text);
	case FRAME_CODE_MISMATCH:
		return err_set(e, -EREMOTEIO, "the %s refuses: %s", peer_name(ch), fail.text);
	case FRAME_CODE_CANCELLED:
		return err_set(e, -ECANCELED, "the %s cancelled: %s", peer_name(ch), fail.text);
	default:
		return err_set(e, -EREMOTEIO, "the %s failed: %s", peer_name(ch), fail.text);
	}
}

/* Is @f, which was received, the frame that is due? */
int channel_check_due(const struct channel *ch, const struct frame *f, enum frame_type type,
		      struct err *e)
{
	if (f->type == type)
		return 0;
	if (f->type == FRAME_FAIL)
		return fail_error(ch, f, e);
	return err_set(e, -EPROTO, "the %s sent a %s frame where %s is due", peer_name(ch),
		       frame_type_name(f->type), frame_type_name((uint16_t)type));
}

int channel_expect(struct channel *ch, enum frame_type type, struct frame *f, struct err *e)
{
	int ret = channel_recv(ch, f, e);

	if (!ret)
		ret = channel_check_due(ch, f, type, e);
	if (ret < 0)
		frame_fini(f);
	return ret;
}

void channel_send_fail(struct channel *ch, enum frame_code code, const char *text)
{
	struct frame_fail fail = {.code = (uint16_t)code};
	unsigned int timeout_ms = ch->timeout_ms;
	int cancel_fd = ch->cancel_fd;
	struct wbuf w = {0};

	if (!ch->transport || ch->send_broken)
		return;
	memcpy(fail.text, text, strnlen(text, sizeof(fail.text) - 1));
	frame_fail_encode(&fail, &w);
	ch->cancel_fd = -1;
	ch->timeout_ms = FAIL_TIMEOUT_MS;
	if (!w.failed)
		channel_send(ch, FRAME_FAIL, w.data, (uint32_t)w.len, NULL);
	ch->cancel_fd = cancel_fd;
	ch->timeout_ms = timeout_ms;
	wbuf_fini(&w);
}

/* FAIL, or a VERDICT that is a no: it is on its way while the source still sends. */
static bool is_reason(const struct frame *f, struct frame_fail *fail)
{
	struct frame_verdict v;

	if (f->type == FRAME_FAIL)
		return frame_fail_decode(f, fail, NULL) == 0;
	if (f->type != FRAME_VERDICT || frame_verdict_decode(f, &v, NULL) < 0 ||
	    v.code == FRAME_CODE_OK)
		return false;
	fail->code = v.code;
	memcpy(fail->text, v.text, sizeof(fail->text));
	return true;
}

bool channel_recv_reason(struct channel *ch, struct frame_fail *fail)
{
	unsigned int timeout_ms = ch->timeout_ms, i;
	int cancel_fd = ch->cancel_fd;
	bool found = false;
	struct frame f;

	ch->cancel_fd = -1;
	ch->timeout_ms = REASON_TIMEOUT_MS;
	for (i = 0; i < CHANNEL_SKIP_MAX && !found; i++) {
		if (channel_recv(ch, &f, NULL) < 0)
			break;
		found = is_reason(&f, fail);
		frame_fini(&f);
	}
	ch->cancel_fd = cancel_fd;
	ch->timeout_ms = timeout_ms;
	return found;
}

/* ---- descriptors: they travel with the first byte of the head ---- */

union fd_room {
	struct cmsghdr head;
	char room[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
};

int channel_send_fds(struct channel *ch, enum frame_type type, const void *payload, uint32_t len,
		     const int *fds, unsigned int n, struct err *e)
{
	uint8_t head[FRAME_HEAD_SIZE];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)payload, len}}, *rest = iov;
	union fd_room control = {0};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = &control};
	struct cmsghdr *c;
	ssize_t done;
	int ret = check_length(type, len, e), n_iov = 2;

	ch->send_started = false;
	if (ret < 0)
		return ret;
	if (!n || n > CHANNEL_FDS_MAX)
		return err_set(e, -EINVAL, "%u descriptors in one frame; 1 to %d can be passed", n,
			       CHANNEL_FDS_MAX);
	frame_head_encode(type, payload, len, head);
	m.msg_controllen = CMSG_SPACE(n * sizeof(int));
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	ret = wait_for(ch, 0, e);
	do {
		done = ret < 0 ? 0 : sendmsg(ch->transport->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (done < 0 && errno == EAGAIN)
			ret = wait_for(ch, POLLOUT, e);
	} while (!ret && done < 0 && (errno == EAGAIN || errno == EINTR));
	if (ret < 0)
		return ret;
	if (done < 0)
		return send_error(ch, -errno, e);
	ch->send_started = true;
	ch->sent_bytes += (uint64_t)done;
	iov_advance(&rest, &n_iov, (size_t)done);
	ret = send_rest(ch, rest, n_iov, e);
	ch->send_broken = ch->send_broken || ret < 0;
	return ret;
}

/* The first bytes of a head with what comes beside them. */
static int recv_with_fds(struct channel *ch, uint8_t *buf, size_t len, int *fds, unsigned int *n,
			 bool *too_many, struct err *e)
{
	struct iovec iov = {buf, len};
	union fd_room control;
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	ssize_t got;
	int ret = wait_for(ch, 0, e);

	*n = 0;
	do {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		got = ret < 0 ? 0 : recvmsg(ch->transport->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got < 0 && errno == EAGAIN)
			ret = wait_for(ch, POLLIN, e);
	} while (!ret && got < 0 && (errno == EAGAIN || errno == EINTR));
	if (ret < 0)
		return ret;
	if (got < 0)
		return err_set(e, -errno, "receiving descriptors from the %s: %s", peer_name(ch),
			       strerror(errno));
	*too_many = m.msg_flags & MSG_CTRUNC;
	for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*n = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), *n * sizeof(int));
	}
	if (!got)
		return err_set(e, -ECONNRESET, "%s", ch->transport->ops->ended);
	ch->received_bytes += (uint64_t)got;
	return (int)got;
}

int channel_recv_fds(struct channel *ch, enum frame_type type, struct frame *f, int *fds,
		     unsigned int n, struct err *e)
{
	int came[CHANNEL_FDS_MAX +
		 1]; /* the control buffer's alignment may leave room for one more */
	uint8_t raw[FRAME_HEAD_SIZE];
	unsigned int n_came, i;
	struct frame_head h;
	bool too_many = false;
	int ret;

	*f = (struct frame) {0};
	ret = recv_with_fds(ch, raw, sizeof(raw), came, &n_came, &too_many, e);
	if (ret > 0)
		ret = channel_read(ch, raw + ret, sizeof(raw) - (size_t)ret, e);
	if (!ret)
		ret = frame_head_decode(raw, ch->peer, &h, e);
	if (!ret && !h.kind)
		ret = err_set(e, -EPROTO, "the %s sent a frame of unknown type %u where %s is due",
			      peer_name(ch), h.type, frame_type_name((uint16_t)type));
	if (!ret)
		ret = recv_payload(ch, &h, f, e);
	if (!ret)
		ret = channel_check_due(ch, f, type, e);
	if (!ret && (too_many || n_came != n))
		ret = err_set(e, -EPROTO, "frame %s came with %u%s descriptors; %u belong to it",
			      frame_type_name(f->type), n_came, too_many ? " or more" : "", n);
	if (!ret) {
		memcpy(fds, came, n * sizeof(int));
		return 0;
	}
	for (i = 0; i < n_came; i++)
		close(came[i]);
	frame_fini(f);
	return ret;
}

int channel_release(struct channel *ch)
{
	const int fd = ch->plain.fd;

	ch->plain.fd = -1;
	channel_fini(ch);
	return fd;
}
