#include "migration/wire/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sockets are read without O_NONBLOCK: the flag belongs to whoever else has the descriptor. */
static ssize_t socket_read(struct transport *t, void *buf, size_t len, short *wait)
{
	ssize_t n = recv(t->fd, buf, len, MSG_DONTWAIT);

	*wait = POLLIN;
	return n < 0 ? -errno : n;
}

static ssize_t socket_writev(struct transport *t, const struct iovec *iov, int n, short *wait)
{
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
	ssize_t done = sendmsg(t->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

	*wait = POLLOUT;
	return done < 0 ? -errno : done;
}

static ssize_t file_read_some(struct transport *t, void *buf, size_t len, short *wait)
{
	ssize_t n = read(t->fd, buf, len);

	*wait = POLLIN;
	return n < 0 ? -errno : n;
}

static ssize_t file_writev(struct transport *t, const struct iovec *iov, int n, short *wait)
{
	ssize_t done = writev(t->fd, iov, n);

	*wait = POLLOUT;
	return done < 0 ? -errno : done;
}

static void plain_close(struct transport *t)
{
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

static const struct transport_ops socket_ops = {
	.ended = "the other side closed the connection",
	.read = socket_read,
	.writev = socket_writev,
	.close = plain_close,
};

static const struct transport_ops file_ops = {
	.ended = "the file or pipe ends",
	.read = file_read_some,
	.writev = file_writev,
	.close = plain_close,
};

int transport_plain(struct transport *t, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode) && !S_ISREG(st.st_mode)) {
		int flags = fcntl(fd, F_GETFL);

		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
			return -errno;
	}
	*t = (struct transport) {
		.ops = S_ISSOCK(st.st_mode) ? &socket_ops : &file_ops,
		.fd = fd,
	};
	return 0;
}
