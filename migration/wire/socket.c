#include "migration/wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

#define SEND_BUFFER (1 << 20) /* one chunk of memory; the kernel may grant less */
#define BACKLOG	    32	      /* as many as there may be channels */

/* ---- addresses as text, for messages ---- */

struct address_text {
	char s[URI_HOST_MAX + 16];
};

static struct address_text address_of(const struct uri *u)
{
	struct address_text t;
	const char *open = strchr(u->host, ':') ? "[" : "", *close = *open ? "]" : "";

	if (u->kind == URI_TCP)
		snprintf(t.s, sizeof(t.s), "tcp:%s%s%s:%u", open, u->host, close, u->port);
	else
		snprintf(t.s, sizeof(t.s), "unix:%.107s", u->path);
	return t;
}

void socket_describe(const struct uri *u, char *buf, size_t size)
{
	snprintf(buf, size, "%s", address_of(u).s);
}

static int unix_address(const struct uri *u, struct sockaddr_un *a, struct err *e)
{
	*a = (struct sockaddr_un) {.sun_family = AF_UNIX};
	if (strlen(u->path) >= sizeof(a->sun_path))
		return err_set(e, -EINVAL,
			       "%s: the path is longer than %zu bytes; use a shorter one",
			       address_of(u).s, sizeof(a->sun_path) - 1);
	memcpy(a->sun_path, u->path, strlen(u->path) + 1);
	return 0;
}

/* Look the name up. Return: 0 with a list that the caller frees */
static int tcp_addresses(const struct uri *u, int flags, struct addrinfo **list, struct err *e)
{
	struct addrinfo hint = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | flags,
	};
	char port[8];
	int ret;

	snprintf(port, sizeof(port), "%u", u->port);
	ret = getaddrinfo(u->host[0] ? u->host : NULL, port, &hint, list);
	if (ret)
		return err_set(e, -EHOSTUNREACH, "%s: %s; give a host that has an address",
			       address_of(u).s,
			       ret == EAI_SYSTEM ? strerror(errno) : gai_strerror(ret));
	return 0;
}

void socket_tune(int fd)
{
	int on = 1, size = SEND_BUFFER;

	/* Each is a wish: a unix socket has no TCP options. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* ---- connecting ---- */

/* Return: a connected descriptor, blocking again, or -errno */
static int connect_to(const struct sockaddr *a, socklen_t len, unsigned int timeout_ms)
{
	AUTO_CLOSE int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int err = 0, ret = -1, n;
	socklen_t size = sizeof(err);

	if (fd < 0)
		return -errno;
	/* A unix socket whose queue is full says EAGAIN and is not waited for. */
	if (connect(fd, a, len) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		do
			n = poll(&p, 1, timeout_ms ? (int)timeout_ms : -1);
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return n ? -errno : -ETIMEDOUT;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0)
			return -errno;
		if (err)
			return -err;
	}
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	socket_tune(fd);
	ret = fd;
	fd = -1;
	return ret;
}

static int connect_error(const struct uri *u, int ret, struct err *e)
{
	const char *cure = "is 'testudo run --incoming' waiting at that address?";

	if (ret == -ETIMEDOUT || ret == -EHOSTUNREACH || ret == -ENETUNREACH)
		cure = "can this host reach it?";
	else if (ret == -EACCES || ret == -EPERM)
		cure = "may this user connect, and is the process outside the sandbox?";
	return err_set(e, ret, "cannot connect to %s: %s; %s", address_of(u).s, strerror(-ret),
		       cure);
}

static int connect_unix(const struct uri *u, unsigned int timeout_ms, struct err *e)
{
	struct sockaddr_un a;
	int ret = unix_address(u, &a, e);

	if (ret < 0)
		return ret;
	ret = connect_to((const struct sockaddr *)&a, sizeof(a), timeout_ms);
	return ret < 0 ? connect_error(u, ret, e) : ret;
}

/* The first address that answers. */
static int connect_tcp(const struct uri *u, const struct addrinfo *list, unsigned int timeout_ms,
		       struct err *e)
{
	const struct addrinfo *a;
	int ret = -EHOSTUNREACH;

	for (a = list; a; a = a->ai_next) {
		ret = connect_to(a->ai_addr, a->ai_addrlen, timeout_ms);
		if (ret >= 0)
			return ret;
	}
	return connect_error(u, ret, e);
}

int socket_connect(const struct uri *u, unsigned int n, unsigned int timeout_ms, int *fds,
		   struct err *e)
{
	struct addrinfo *list = NULL;
	unsigned int i;
	int ret = 0;

	if (u->kind != URI_TCP && u->kind != URI_UNIX)
		return err_set(e, -EINVAL, "%s: is no address to connect to; give tcp: or unix:",
			       uri_kind_name(u->kind));
	if (u->kind == URI_TCP && (!u->host[0] || !u->port))
		return err_set(e, -EINVAL, "%s: %s; give tcp:HOST:PORT", address_of(u).s,
			       u->port ? "the host is missing" : "port 0 cannot be connected to");
	if (u->kind == URI_TCP)
		ret = tcp_addresses(u, 0, &list, e);
	for (i = 0; !ret && i < n; i++) {
		int fd = u->kind == URI_TCP ? connect_tcp(u, list, timeout_ms, e)
					    : connect_unix(u, timeout_ms, e);

		if (fd < 0)
			ret = fd;
		else
			fds[i] = fd;
	}
	if (ret < 0)
		while (i-- > 1) /* the last one failed */
			close(fds[i - 1]);
	if (list)
		freeaddrinfo(list);
	return ret;
}

/* ---- listening ---- */

void socket_listener_zero(struct socket_listener *l)
{
	*l = (struct socket_listener) {.fd = -1, .at.fd = -1};
}

/* The descriptor is the listener's own, the path stays with @l->at. */
static int listen_unix(struct socket_listener *l, const struct uri *u, struct err *e)
{
	int ret = unix_listen(&l->at, "unix:", u->path, 0, BACKLOG, e);

	if (ret < 0)
		return ret;
	l->fd = l->at.fd;
	l->at.fd = -1;
	return 0;
}

static int listen_tcp(struct socket_listener *l, const struct uri *u, struct err *e)
{
	struct sockaddr_storage bound;
	socklen_t size = sizeof(bound);
	struct addrinfo *list = NULL, *a;
	int on = 1, ret = tcp_addresses(u, AI_PASSIVE, &list, e);

	if (ret < 0)
		return ret;
	ret = -EADDRNOTAVAIL;
	for (a = list; a && ret < 0; a = a->ai_next) {
		l->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (l->fd < 0) {
			ret = -errno;
			continue;
		}
		setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		ret = bind(l->fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
		if (ret < 0) {
			close(l->fd);
			l->fd = -1;
		}
	}
	freeaddrinfo(list);
	if (ret < 0)
		return err_set(e, ret,
			       "cannot listen on %s: %s; give an address of this host and "
			       "a free port",
			       address_of(u).s, strerror(-ret));
	if (getsockname(l->fd, (struct sockaddr *)&bound, &size) < 0)
		return err_set(e, -errno, "%s: %s", address_of(u).s, strerror(errno));
	/* NOLINTNEXTLINE(clang-analyzer-core.*): getsockname() filled it */
	l->port = ntohs(bound.ss_family == AF_INET6
				? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
				: ((struct sockaddr_in *)(void *)&bound)->sin_port);
	return 0;
}

int socket_listen(struct socket_listener *l, const struct uri *u, struct err *e)
{
	int ret;

	socket_listener_zero(l);
	if (u->kind == URI_UNIX)
		ret = listen_unix(l, u, e);
	else if (u->kind == URI_TCP)
		ret = listen_tcp(l, u, e);
	else
		ret = err_set(e, -EINVAL, "%s: is no address to listen on; give tcp: or unix:",
			      uri_kind_name(u->kind));
	if (!ret && u->kind == URI_TCP && listen(l->fd, BACKLOG) < 0)
		ret = err_set(e, -errno, "cannot listen on %s: %s; give another address",
			      address_of(u).s, strerror(errno));
	if (ret < 0)
		socket_listener_fini(l);
	return ret;
}

int socket_accept(struct socket_listener *l, unsigned int timeout_ms, int cancel_fd, int *fd,
		  struct err *e)
{
	struct pollfd p[2] = {
		{.fd = cancel_fd, .events = POLLIN},
		{.fd = l->fd, .events = POLLIN},
	};
	int n;

	do {
		do
			n = poll(p, 2, timeout_ms ? (int)timeout_ms : -1);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return err_set(e, -errno, "waiting for a connection: %s", strerror(errno));
		if (p[0].revents)
			return err_set(e, -ECANCELED, "the migration was cancelled");
		if (!n)
			return err_set(e, -ETIMEDOUT,
				       "nobody connected within %u ms; start the migration",
				       timeout_ms);
		*fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
		/* a client that went away in between is nobody's failure */
	} while (*fd < 0 && (errno == ECONNABORTED || errno == EINTR || errno == EAGAIN));
	if (*fd < 0)
		return err_set(e, -errno, "accepting a connection: %s", strerror(errno));
	socket_tune(*fd);
	return 0;
}

void socket_listener_fini(struct socket_listener *l)
{
	if (l->fd >= 0)
		close(l->fd);
	unix_listener_fini(&l->at);
	socket_listener_zero(l);
}
