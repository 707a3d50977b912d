#include "control/qmp_client.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "control/process.h"

#define READ_CHUNK  65536
#define MESSAGE_MAX (16u << 20)
#define FDS_MAX	    16

static int no_answer(const struct qmp_client *c, int code, struct err *e)
{
	if (code == -ETIMEDOUT && process_check(c->name, c->pid, e) < 0)
		return -EHOSTDOWN;
	if (code == -ETIMEDOUT)
		return err_set(e, code,
			       "guest '%s': process %d does not answer within %u s, though it is "
			       "not stopped: the host may be busy, or it hangs; try again, or end "
			       "it with testudo stop --force %s",
			       c->name, (int)c->pid, c->timeout_ms / 1000, c->name);
	if (code == -ECONNRESET)
		return err_set(e, code, "guest '%s' ended", c->name);
	return err_set(e, code, "guest '%s': control socket: %s", c->name, strerror(-code));
}

/* Wait for bytes and take them. Return: 0; -ETIMEDOUT; -ECONNRESET; -errno */
static int receive(struct qmp_client *c, uint64_t deadline)
{
	const uint64_t now = monotonic_ms();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	int ready = poll(&p, 1, deadline > now ? (int)(deadline - now) : 0);
	ssize_t n;

	if (ready <= 0)
		return !ready ? -ETIMEDOUT : errno == EINTR ? 0 : -errno;
	if (c->in_size - c->in_len < READ_CHUNK) {
		const size_t size = 2 * c->in_size + READ_CHUNK;
		char *more = size > MESSAGE_MAX ? NULL : realloc(c->in, size);

		if (!more)
			return -ENOMEM;
		c->in = more;
		c->in_size = size;
	}
	n = recv(c->fd, c->in + c->in_len, c->in_size - c->in_len, 0);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECONNRESET;
	c->in_len += (size_t)n;
	return 0;
}

/* All of it may be printed: it comes from another process, which may be a guest's prey. */
static void make_printable(json_t *v)
{
	AUTO_FREE char *text = json_is_string(v) ? strdup(json_string_value(v)) : NULL;
	const char *key;
	json_t *part;
	size_t i;

	if (text) {
		text_printable(text);
		json_string_set(v, text);
	}
	json_object_foreach(v, key, part) make_printable(part);
	json_array_foreach(v, i, part) make_printable(part);
}

/* The next message of any kind. Return: 0, with a new reference in *@msg; as receive(); -EPROTO */
static int next_message(struct qmp_client *c, uint64_t deadline, json_t **msg)
{
	enum qmp_scan_result r;
	size_t n;
	int ret;

	while ((r = qmp_scan_next(&c->scan, c->in, c->in_len)) == QMP_SCAN_MORE) {
		ret = receive(c, deadline);
		if (ret < 0)
			return ret;
	}
	*msg = r != QMP_SCAN_OBJECT
		       ? NULL
		       : json_loadb(c->in + c->scan.start, c->scan.pos - c->scan.start, 0, NULL);
	n = qmp_scan_drop(&c->scan);
	memmove(c->in, c->in + n, c->in_len - n);
	c->in_len -= n;
	make_printable(*msg);
	return *msg ? 0 : -EPROTO;
}

int qmp_client_connect(struct qmp_client *c, const char *name, unsigned int timeout_ms,
		       struct err *e)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->timeout_ms = timeout_ms;
	c->events = json_array();
	c->fd = rundir_connect(name, timeout_ms, e);
	if (c->fd < 0)
		return c->fd;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_set(e, -errno, "SO_PEERCRED: %s", strerror(errno));
	c->pid = peer.pid;
	return 0;
}

int qmp_client_negotiate(struct qmp_client *c, struct err *e)
{
	json_t *greeting;
	int ret = process_check(c->name, c->pid, e);

	if (ret < 0) /* it greets nobody: no need to wait */
		return ret;
	ret = next_message(c, monotonic_ms() + c->timeout_ms, &greeting);
	if (ret < 0)
		return no_answer(c, ret, e);
	json_decref(greeting);
	return qmp_client_execute(c, "qmp_capabilities", NULL, NULL, 0, NULL, e);
}

int qmp_client_open(struct qmp_client *c, const char *name, unsigned int timeout_ms, struct err *e)
{
	int ret = qmp_client_connect(c, name, timeout_ms, e);

	return ret < 0 ? ret : qmp_client_negotiate(c, e);
}

void qmp_client_close(struct qmp_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(c->in);
	c->in = NULL;
	json_decref(c->events);
	c->events = NULL;
}

/* The descriptors travel with the first byte. Return: 0 or -errno */
static int send_all(const struct qmp_client *c, const char *text, const int *fds, size_t n_fds)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(FDS_MAX * sizeof(int))] = {0};
	size_t len = strlen(text);

	if (n_fds > FDS_MAX)
		return -E2BIG;
	while (len) {
		struct iovec iov = {.iov_base = (char *)text, .iov_len = len};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (n_fds) {
			struct cmsghdr *h;

			msg.msg_control = control;
			msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
			h = CMSG_FIRSTHDR(&msg);
			h->cmsg_level = SOL_SOCKET;
			h->cmsg_type = SCM_RIGHTS;
			h->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
			memcpy(CMSG_DATA(h), fds, n_fds * sizeof(int));
		}
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : errno == EPIPE ? -ECONNRESET : -errno;
		n_fds = 0;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

static int take_answer(const struct qmp_client *c, const char *command, json_t *msg, json_t **ret,
		       struct err *e)
{
	json_t *value = json_object_get(msg, "return");
	const char *desc;

	if (value && ret)
		*ret = json_incref(value);
	if (value)
		return 0;
	desc = json_string_value(json_object_get(json_object_get(msg, "error"), "desc"));
	/* the command's name is QMP's, and its user's command was another */
	if (desc)
		return err_set(e, -EREMOTEIO, "guest '%s': %s", c->name, desc);
	return err_set(e, -EREMOTEIO, "guest '%s': %s: neither an answer nor an error", c->name,
		       command);
}

int qmp_client_execute(struct qmp_client *c, const char *command, json_t *args, const int *fds,
		       size_t n_fds, json_t **ret, struct err *e)
{
	const uint64_t deadline = monotonic_ms() + c->timeout_ms;
	json_t *cmd = json_pack("{s:s, s:o*}", "execute", command, "arguments", args);
	AUTO_FREE char *text = json_dumps(cmd, JSON_COMPACT);
	int err = text ? send_all(c, text, fds, n_fds) : -ENOMEM;

	json_decref(cmd);
	while (!err) {
		json_t *msg;

		err = next_message(c, deadline, &msg);
		if (err < 0)
			break;
		if (!json_object_get(msg, "event")) {
			err = take_answer(c, command, msg, ret, e);
			json_decref(msg);
			return err;
		}
		json_array_append_new(c->events, msg);
	}
	return no_answer(c, err, e);
}

int qmp_client_event(struct qmp_client *c, unsigned int timeout_ms, json_t **event, struct err *e)
{
	const uint64_t deadline = monotonic_ms() + timeout_ms;
	int ret;

	if (json_array_size(c->events)) {
		*event = json_incref(json_array_get(c->events, 0));
		json_array_remove(c->events, 0);
		return 1;
	}
	do {
		ret = next_message(c, deadline, event);
		if (!ret && json_object_get(*event, "event"))
			return 1;
		if (!ret)
			json_decref(*event); /* the answer to a command that was given up */
	} while (!ret);
	if (ret == -ETIMEDOUT)
		return 0;
	return ret == -ECONNRESET ? ret : no_answer(c, ret, e);
}
