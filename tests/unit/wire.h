/*
 * The network between the two sides of a migration: a thread that passes on what they say, frame by
 * frame on the control channel, and does harm at a chosen place.
 */
#ifndef TESTS_UNIT_WIRE_H
#define TESTS_UNIT_WIRE_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "migration/state/buf.h"
#include "migration/wire/frame.h"

#define WIRE_DATA_MAX 4
#define WIRE_ITEM_MAX (1 << 20)

enum wire_harm {
	HARM_NONE,
	HARM_CUT,	 /* the connections are gone, as when one side is killed */
	HARM_FLIP,	 /* a bit is another one */
	HARM_STALL,	 /* from here on nothing goes this way */
	HARM_PAUSE,	 /* nothing goes for a while */
	HARM_FAIL,	 /* the sender gave up, and said so in place of this */
	HARM_CANCEL,	 /* the source is told to cancel at this moment */
	HARM_STOP,	 /* the destination is told to end */
	HARM_DISK_TAKEN, /* another process takes the disk, if it is free */
	HARM_END,
};

enum wire_way { WIRE_FROM_SOURCE, WIRE_FROM_DEST };

/* Where: the @item'th of what goes @way on the control channel (0 is the source's head); or, with
 * @data, after so many bytes of data. */
struct wire_plan {
	enum wire_harm harm;
	enum wire_way way;
	unsigned int item;
	bool data;
	uint64_t data_bytes;
	unsigned int bit; /* to flip, modulo what there is */
};

#define WIRE_ITEMS_MAX 64

struct wire {
	struct wire_plan plan;
	const char *path; /* of the destination's socket */
	unsigned int n_data;
	int source_fd[1 + WIRE_DATA_MAX]; /* our ends; [0] is the control channel */
	int dest_fd[1 + WIRE_DATA_MAX];
	int quit_fd;
	void (*tell)(void *ctx, enum wire_harm harm); /* CANCEL, STOP, DISK_TAKEN */
	void *ctx;
	unsigned int pause_ms;
	pthread_t thread;

	bool stalled[2]; /* by way; data channels too */
	bool harmed;	 /* it was done */
	uint64_t data_bytes;
	/* the control channel's item under way, and what came before */
	uint8_t *item[2];
	size_t have[2];
	int passed_fd; /* beside the item; -1: none */
	unsigned int n_items[2];
	uint16_t seen[2][WIRE_ITEMS_MAX]; /* types of frames; 0: the head */
};

static inline void wire_cut(struct wire *w)
{
	unsigned int i;

	for (i = 0; i <= w->n_data; i++) {
		if (w->source_fd[i] >= 0)
			close(w->source_fd[i]);
		if (w->dest_fd[i] >= 0)
			close(w->dest_fd[i]);
		w->source_fd[i] = w->dest_fd[i] = -1;
	}
}

/* How long the item is that has begun; 0: not known yet */
static inline size_t wire_item_len(const struct wire *w, enum wire_way way)
{
	if (way == WIRE_FROM_SOURCE && !w->n_items[way])
		return STREAM_HEAD_SIZE;
	if (w->have[way] < FRAME_HEAD_SIZE)
		return 0;
	return FRAME_HEAD_SIZE + get_le32(w->item[way] + 4);
}

static inline void wire_send(int fd, const uint8_t *p, size_t len, int pass_fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (pass_fd >= 0) {
		m.msg_control = c.buf;
		m.msg_controllen = sizeof(c.buf);
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.align), &pass_fd, sizeof(int));
	}
	while (iov.iov_len) {
		const ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (n <= 0)
			return; /* its reader will see */
		iov.iov_base = (uint8_t *)iov.iov_base + n;
		iov.iov_len -= (size_t)n;
		m.msg_control = NULL;
		m.msg_controllen = 0;
	}
}

static inline void wire_send_fail(int fd)
{
	const struct frame_fail fail = {.code = FRAME_CODE_FAILED, .text = "it gave up"};
	uint8_t head[FRAME_HEAD_SIZE];
	struct wbuf w = {0};

	frame_fail_encode(&fail, &w);
	frame_head_encode(FRAME_FAIL, w.data, (uint32_t)w.len, head);
	wire_send(fd, head, sizeof(head), -1);
	wire_send(fd, w.data, w.len, -1);
	wbuf_fini(&w);
}

/* Return: false: the connections were cut */
static inline bool wire_do_harm(struct wire *w, enum wire_way way, uint8_t *p, size_t len,
				int to_fd)
{
	w->harmed = true;
	switch (w->plan.harm) {
	case HARM_CUT:
		wire_cut(w);
		return false;
	case HARM_FLIP:
		p[w->plan.bit / 8 % len] ^= (uint8_t)(1u << w->plan.bit % 8);
		return true;
	case HARM_STALL:
		w->stalled[way] = true;
		return true;
	case HARM_PAUSE:
		poll(NULL, 0, (int)w->pause_ms);
		return true;
	case HARM_FAIL:
		if (w->plan.data)
			return true;
		wire_send_fail(to_fd);
		wire_cut(w);
		return false;
	default:
		w->tell(w->ctx, w->plan.harm);
		return true;
	}
}

/* A whole item of the control channel. Return: false: cut */
static inline bool wire_pass_item(struct wire *w, enum wire_way way, size_t len)
{
	const int to = way == WIRE_FROM_SOURCE ? w->dest_fd[0] : w->source_fd[0];
	const bool head = way == WIRE_FROM_SOURCE && !w->n_items[way];
	const unsigned int n = w->n_items[way]++;
	bool goes = true;

	if (n < WIRE_ITEMS_MAX)
		w->seen[way][n] = head ? 0 : get_le16(w->item[way]);
	if (!w->plan.data && w->plan.way == way && w->plan.item == n && w->plan.harm != HARM_NONE)
		goes = wire_do_harm(w, way, w->item[way], len, to);
	if (goes && !w->stalled[way])
		wire_send(to, w->item[way], len, w->passed_fd);
	if (w->passed_fd >= 0)
		close(w->passed_fd);
	w->passed_fd = -1;
	w->have[way] = 0;
	return goes;
}

static inline int wire_take_fd(struct msghdr *m)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	int fd = -1;

	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

/* Return: 1; 0: the side has closed; -1: cut */
static inline int wire_control(struct wire *w, enum wire_way way, int from)
{
	size_t want = wire_item_len(w, way);
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct iovec iov;
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = c.buf,
			   .msg_controllen = sizeof(c.buf)};
	ssize_t n;
	int fd;

	iov.iov_base = w->item[way] + w->have[way];
	iov.iov_len = (want ? want : FRAME_HEAD_SIZE) - w->have[way];
	n = recvmsg(from, &m, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return 0;
	fd = wire_take_fd(&m);
	if (fd >= 0)
		w->passed_fd = fd;
	w->have[way] += (size_t)n;
	want = wire_item_len(w, way);
	if (want > WIRE_ITEM_MAX)
		abort();
	return !want || w->have[way] < want || wire_pass_item(w, way, want) ? 1 : -1;
}

static inline int wire_data(struct wire *w, unsigned int i)
{
	static _Thread_local uint8_t buf[65536];
	const ssize_t n = recv(w->source_fd[i], buf, sizeof(buf), 0);
	bool goes = true;

	if (n <= 0)
		return 0;
	w->data_bytes += (uint64_t)n;
	if (w->plan.data && !w->harmed && w->data_bytes > w->plan.data_bytes)
		goes = wire_do_harm(w, WIRE_FROM_SOURCE, buf, (size_t)n, w->dest_fd[i]);
	if (goes && !w->stalled[WIRE_FROM_SOURCE])
		wire_send(w->dest_fd[i], buf, (size_t)n, -1);
	return goes ? 1 : -1;
}

/* One side has closed a channel: the other one sees that. */
static inline void wire_close(struct wire *w, unsigned int i)
{
	close(w->source_fd[i]);
	close(w->dest_fd[i]);
	w->source_fd[i] = w->dest_fd[i] = -1;
}

static inline void *wire_thread(void *arg)
{
	struct wire *w = arg;

	for (;;) {
		struct pollfd p[3 + 2 * WIRE_DATA_MAX];
		unsigned int i, n = 0;

		for (i = 0; i <= w->n_data; i++) {
			p[n++] = (struct pollfd) {.fd = w->source_fd[i], .events = POLLIN};
			p[n++] = (struct pollfd) {.fd = i ? -1 : w->dest_fd[0], .events = POLLIN};
		}
		p[n++] = (struct pollfd) {.fd = w->quit_fd, .events = POLLIN};
		if (poll(p, n, -1) < 0)
			continue;
		if (p[n - 1].revents)
			return NULL;
		for (i = 0; i <= w->n_data; i++) {
			int ret = 1;

			if (w->source_fd[i] < 0)
				continue;

			if (p[2 * i].revents)
				ret = i ? wire_data(w, i)
					: wire_control(w, WIRE_FROM_SOURCE, w->source_fd[0]);
			if (ret > 0 && p[2 * i + 1].revents)
				ret = wire_control(w, WIRE_FROM_DEST, w->dest_fd[0]);
			if (ret < 0)
				break;
			if (!ret)
				wire_close(w, i);
		}
	}
}

static inline int wire_connect(const char *path)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(at.sun_path, path, sizeof(at.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		abort();
	return fd;
}

/* Connects to the destination. @source: receives the source's ends; the control channel's first */
static inline void wire_start(struct wire *w, int *source)
{
	unsigned int i;

	w->passed_fd = -1;
	w->quit_fd = eventfd(0, EFD_CLOEXEC);
	for (i = 0; i < 2; i++)
		w->item[i] = malloc(WIRE_ITEM_MAX);
	for (i = 0; i <= w->n_data; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			abort();
		source[i] = pair[0];
		w->source_fd[i] = pair[1];
		w->dest_fd[i] = wire_connect(w->path);
	}
	if (w->quit_fd < 0 || !w->item[0] || !w->item[1] ||
	    pthread_create(&w->thread, NULL, wire_thread, w))
		abort();
}

static inline void wire_stop(struct wire *w)
{
	const uint64_t one = 1;

	if (write(w->quit_fd, &one, sizeof(one)) < 0)
		abort();
	pthread_join(w->thread, NULL);
	wire_cut(w);
	close(w->quit_fd);
	if (w->passed_fd >= 0)
		close(w->passed_fd);
	free(w->item[0]);
	free(w->item[1]);
}

#endif
