#include "control/qmp_conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* little at a time: other clients, and the guest's devices, share the loop */
#define READ_CHUNK 4096

struct qmp_conn *qmp_conn_new(struct qmp_server *s, int fd)
{
	struct qmp_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return NULL;
	}
	c->server = s;
	c->watch.fd = fd;
	return c;
}

void qmp_conn_free(struct qmp_conn *c, struct loop *l)
{
	const int fd = c->watch.fd;
	unsigned int i;

	loop_del(l, &c->watch);
	close(fd);
	for (i = 0; i < c->n_passed; i++)
		close(c->passed[i]);
	for (i = 0; i < c->n_named; i++) {
		close(c->named[i].fd);
		free(c->named[i].name);
	}
	free(c->out);
	free(c);
}

static void keep_fds(struct qmp_conn *c, struct msghdr *msg)
{
	struct cmsghdr *h;

	for (h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		size_t i, n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
			if (c->n_passed < QMP_FDS_MAX)
				c->passed[c->n_passed++] = fd;
			else
				close(fd);
		}
	}
}

bool qmp_conn_read(struct qmp_conn *c)
{
	const size_t room = sizeof(c->in) - c->in_len;
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(QMP_FDS_MAX * sizeof(int))];
	struct iovec iov = {.iov_base = c->in + c->in_len,
			    .iov_len = room < READ_CHUNK ? room : READ_CHUNK};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(c->watch.fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		c->dead = true;
		return false;
	}
	keep_fds(c, &msg);
	c->in_len += (size_t)n;
	return true;
}

/* Write as much as the socket takes; watch for room if something is left. */
void qmp_conn_write(struct qmp_conn *c, struct loop *l)
{
	size_t done = 0;

	while (done < c->out_len) {
		/* write and not send: SIGPIPE is ignored, and the sandbox knows it already */
		ssize_t n = write(c->watch.fd, c->out + done, c->out_len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			c->dead = errno != EAGAIN;
			break;
		}
		done += (size_t)n;
	}
	memmove(c->out, c->out + done, c->out_len - done);
	c->out_len -= done;
	if (!c->out_len) {
		free(c->out);
		c->out = NULL;
		c->out_size = 0;
	}
	if (!c->dead && loop_mod(l, &c->watch, c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN) < 0)
		c->dead = true;
}

static int queue(struct qmp_conn *c, const char *text, size_t len)
{
	if (c->out_size - c->out_len < len) {
		const size_t size = c->out_len + len + c->out_size / 2;
		char *more = realloc(c->out, size);

		if (!more)
			return -ENOMEM;
		c->out = more;
		c->out_size = size;
	}
	memcpy(c->out + c->out_len, text, len);
	c->out_len += len;
	return 0;
}

void qmp_conn_send(struct qmp_conn *c, struct loop *l, json_t *msg)
{
	char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;

	json_decref(msg);
	/* the bound is on what waits already: one message may be large */
	if (!text || c->out_len > QMP_OUTPUT_MAX || queue(c, text, strlen(text)) < 0 ||
	    queue(c, "\r\n", 2) < 0)
		c->dead = true;
	free(text);
	if (!c->dead)
		qmp_conn_write(c, l);
}

int qmp_conn_name_fd(struct qmp_conn *c, const char *name)
{
	int old = qmp_conn_take_fd(c, name);
	char *copy;

	if (old >= 0)
		close(old);
	if (!c->n_passed)
		return -ENOENT;
	if (c->n_named == QMP_FDS_MAX)
		return -ENOSPC;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	c->named[c->n_named++] = (struct qmp_named_fd) {copy, c->passed[0]};
	c->n_passed--;
	memmove(c->passed, c->passed + 1, c->n_passed * sizeof(c->passed[0]));
	return 0;
}

int qmp_conn_take_fd(struct qmp_conn *c, const char *name)
{
	unsigned int i;
	int fd;

	for (i = 0; i < c->n_named; i++)
		if (strcmp(c->named[i].name, name) == 0)
			break;
	if (i == c->n_named)
		return -ENOENT;
	fd = c->named[i].fd;
	free(c->named[i].name);
	c->named[i] = c->named[--c->n_named];
	return fd;
}
