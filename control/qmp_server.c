#include "control/qmp_server.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "control/qmp_conn.h"

#define NEGOTIATE     "qmp_capabilities"
#define FD_NAME_MAX   64
#define CLASS_GENERIC "GenericError"
#define CLASS_UNKNOWN "CommandNotFound"

/* ---- messages ---- */

static json_t *error_reply(const char *class, const char *text)
{
	/* a text may quote what a client sent, which need not be UTF-8 after it was cut */
	json_t *desc = json_string(text);

	return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc",
			 desc ? desc : json_string("error"));
}

static void reply_error(struct qmp_conn *c, const json_t *id, const char *class, const char *text)
{
	json_t *msg = error_reply(class, text);

	if (id)
		json_object_set(msg, "id", (json_t *)id);
	qmp_conn_send(c, c->server->loop, msg);
}

static void reply(struct qmp_conn *c, const json_t *id, json_t *ret)
{
	json_t *msg = json_pack("{s:o}", "return", ret ? ret : json_object());

	if (id)
		json_object_set(msg, "id", (json_t *)id);
	qmp_conn_send(c, c->server->loop, msg);
}

/* ---- the server's own commands ---- */

static const struct qmp_arg fdname_args[] = {{"fdname", QMP_STRING, false}, {0}};
static const struct qmp_arg enable_args[] = {{"enable", QMP_ARRAY, true}, {0}};

static int run_capabilities(struct qmp_call *call)
{
	const struct qmp_server *s = call->ctx;

	if (json_array_size(json_object_get(call->args, "enable")))
		return err_set(call->e, -EINVAL, "Parameter 'enable': no capability was offered");
	s->current->negotiated = true;
	return 0;
}

static int run_query_commands(struct qmp_call *call)
{
	const struct qmp_server *s = call->ctx;
	const struct qmp_table *t;
	size_t i;

	call->ret = json_array();
	for (t = s->tables; t; t = t->next)
		for (i = 0; i < t->n; i++)
			json_array_append_new(call->ret,
					      json_pack("{s:s}", "name", t->commands[i].name));
	return 0;
}

static int run_getfd(struct qmp_call *call)
{
	const struct qmp_server *s = call->ctx;
	const char *name = json_string_value(json_object_get(call->args, "fdname"));
	int err;

	if (!*name || strlen(name) > FD_NAME_MAX || (*name >= '0' && *name <= '9'))
		return err_set(call->e, -EINVAL,
			       "Parameter 'fdname': 1 to %d bytes that do not begin with a digit",
			       FD_NAME_MAX);
	err = qmp_conn_name_fd(s->current, name);
	if (err == -ENOENT)
		return err_set(call->e, err, "No file descriptor supplied via SCM_RIGHTS");
	if (err < 0)
		return err_set(call->e, err, "getfd: %s; a client has room for %d", strerror(-err),
			       QMP_FDS_MAX);
	return 0;
}

static int run_closefd(struct qmp_call *call)
{
	const struct qmp_server *s = call->ctx;
	const char *name = json_string_value(json_object_get(call->args, "fdname"));
	int fd = qmp_conn_take_fd(s->current, name);

	if (fd < 0)
		return err_set(call->e, fd, "File descriptor named %s not found",
			       text_quote(name, strlen(name)).s);
	close(fd);
	return 0;
}

static const struct qmp_command own_commands[] = {
	{NEGOTIATE, enable_args, run_capabilities},
	{"query-commands", NULL, run_query_commands},
	{"getfd", fdname_args, run_getfd},
	{"closefd", fdname_args, run_closefd},
};

/* ---- a client's command ---- */

static const struct qmp_command *find(const struct qmp_server *s, const char *name, void **ctx)
{
	const struct qmp_table *t;
	size_t i;

	for (t = s->tables; t; t = t->next) {
		for (i = 0; i < t->n; i++) {
			if (strcmp(t->commands[i].name, name) != 0)
				continue;
			*ctx = t->ctx;
			return &t->commands[i];
		}
	}
	return NULL;
}

/* The envelope. Return: 0; -EINVAL with what is wrong */
static int check_message(const json_t *msg, struct err *e)
{
	const json_t *args = json_object_get(msg, "arguments");
	void *i;

	for (i = json_object_iter((json_t *)msg); i; i = json_object_iter_next((json_t *)msg, i)) {
		const char *key = json_object_iter_key(i);

		if (strcmp(key, "execute") != 0 && strcmp(key, "arguments") != 0 &&
		    strcmp(key, "id") != 0)
			return err_set(e, -EINVAL, "QMP input member %s is unexpected",
				       text_quote(key, strlen(key)).s);
	}
	if (!json_object_get(msg, "execute"))
		return err_set(e, -EINVAL, "QMP input lacks member 'execute'");
	if (!json_is_string(json_object_get(msg, "execute")))
		return err_set(e, -EINVAL, "QMP input member 'execute' must be a string");
	if (args && !json_is_object(args))
		return err_set(e, -EINVAL, "QMP input member 'arguments' must be an object");
	return 0;
}

static void execute(struct qmp_conn *c, const char *name, json_t *args, const json_t *id)
{
	struct qmp_server *s = c->server;
	const struct qmp_command *cmd;
	struct err e = {0};
	const bool negotiation = strcmp(name, NEGOTIATE) == 0;
	struct qmp_call call = {.args = args, .e = &e};
	int err;

	cmd = find(s, name, &call.ctx);
	if (c->negotiated == negotiation) {
		reply_error(c, id, CLASS_UNKNOWN,
			    negotiation ? "Capabilities negotiation is already complete, command "
					  "ignored"
					: "Expecting capabilities negotiation with "
					  "'" NEGOTIATE "'");
		return;
	}
	if (!cmd) {
		err_set(&e, -ENOENT, "The command %s has not been found",
			text_quote(name, strlen(name)).s);
		reply_error(c, id, CLASS_UNKNOWN, e.text);
		return;
	}
	err = qmp_check_args(cmd, args, &e);
	if (!err)
		err = cmd->run(&call);
	if (err >= 0) {
		reply(c, id, call.ret);
		return;
	}
	json_decref(call.ret);
	reply_error(c, id, CLASS_GENERIC, e.text[0] ? e.text : strerror(-err));
}

static void handle(struct qmp_conn *c, const char *text, size_t len)
{
	json_error_t je;
	json_t *msg = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	struct err e = {0};

	if (!msg) {
		err_set(&e, -EINVAL, "JSON parse error, %s", text_clean(je.text).s);
		reply_error(c, NULL, CLASS_GENERIC, e.text);
		return;
	}
	if (check_message(msg, &e) < 0)
		reply_error(c, json_object_get(msg, "id"), CLASS_GENERIC, e.text);
	else
		execute(c, json_string_value(json_object_get(msg, "execute")),
			json_object_get(msg, "arguments"), json_object_get(msg, "id"));
	json_decref(msg);
}

/* ---- clients ---- */

static void rearm(struct qmp_server *s);

static void drop(struct qmp_server *s, struct qmp_conn *c)
{
	struct qmp_conn **p = &s->conns;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	s->n_conns--;
	qmp_conn_free(c, s->loop);
	rearm(s);
}

/* Everything that is complete in the buffer. */
static void take_commands(struct qmp_conn *c)
{
	enum qmp_scan_result r = QMP_SCAN_MORE;
	size_t n;

	while (!c->dead && (r = qmp_scan_next(&c->scan, c->in, c->in_len)) != QMP_SCAN_MORE) {
		if (r == QMP_SCAN_TOO_DEEP)
			break;
		if (r == QMP_SCAN_OBJECT)
			handle(c, c->in + c->scan.start, c->scan.pos - c->scan.start);
		else
			reply_error(c, NULL, CLASS_GENERIC,
				    "JSON parse error, expected an object; the rest of the line is "
				    "ignored");
	}
	n = qmp_scan_drop(&c->scan);
	memmove(c->in, c->in + n, c->in_len - n);
	c->in_len -= n;
	if (c->dead || (r != QMP_SCAN_TOO_DEEP && c->in_len < sizeof(c->in)))
		return;
	reply_error(c, NULL, CLASS_GENERIC,
		    r == QMP_SCAN_TOO_DEEP
			    ? "JSON parse error, nested too deep; the connection is closed"
			    : "JSON parse error, command too long; the connection is closed");
	c->dead = true;
}

static void conn_ready(struct loop_watch *w)
{
	struct qmp_conn *c = container_of(w, struct qmp_conn, watch);
	struct qmp_server *s = c->server;

	s->current = c;
	if (w->events & EPOLLOUT)
		qmp_conn_write(c, s->loop);
	if (!c->dead && w->events & (EPOLLIN | EPOLLHUP | EPOLLERR) && qmp_conn_read(c))
		take_commands(c);
	s->current = NULL;
	if (c->dead)
		drop(s, c);
}

int qmp_server_adopt(struct qmp_server *s, int fd)
{
	struct qmp_conn *c = qmp_conn_new(s, fd);
	int ret;

	if (!c)
		return -ENOMEM;
	ret = loop_add(s->loop, &c->watch, fd, EPOLLIN, conn_ready);
	if (ret < 0) {
		c->watch.fd = fd; /* which loop_add() took out: still to be closed */
		qmp_conn_free(c, s->loop);
		return ret;
	}
	c->next = s->conns;
	s->conns = c;
	s->n_conns++;
	qmp_conn_send(c, s->loop,
		      json_pack("{s:{s:O, s:[]}}", "QMP", "version", s->version, "capabilities"));
	if (c->dead)
		drop(s, c);
	return 0;
}

static bool may_enter(struct qmp_server *s, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == s->owner || peer.uid == 0)
		return true;
	if (!s->refused_one)
		log_warn("control socket: refused a client of user %u; only %u and root may enter",
			 peer.uid, s->owner);
	s->refused_one = true;
	return false;
}

static void listener_ready(struct loop_watch *w)
{
	struct qmp_server *s = container_of(w, struct qmp_server, listener);
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0 && may_enter(s, fd))
		qmp_server_adopt(s, fd);
	else if (fd >= 0)
		close(fd);
	/* no descriptor is free, or no room: those who knock wait until a client leaves */
	if (s->n_conns >= QMP_CLIENTS_MAX || (fd < 0 && (errno == EMFILE || errno == ENFILE))) {
		loop_del(s->loop, &s->listener);
		s->accepting = false;
	}
}

static void rearm(struct qmp_server *s)
{
	if (!s->accepting && s->listen_fd >= 0 && s->n_conns < QMP_CLIENTS_MAX)
		s->accepting =
			loop_add(s->loop, &s->listener, s->listen_fd, EPOLLIN, listener_ready) == 0;
}

void qmp_server_init(struct qmp_server *s)
{
	memset(s, 0, sizeof(*s));
	s->listen_fd = s->listener.fd = -1;
}

int qmp_server_open(struct qmp_server *s, struct loop *l, int listen_fd, json_t *version,
		    struct err *e)
{
	s->loop = l;
	s->listen_fd = listen_fd;
	s->version = version;
	s->owner = geteuid();
	s->own = (struct qmp_table) {own_commands, ARRAY_SIZE(own_commands), s, NULL};
	qmp_server_add(s, &s->own);
	rearm(s);
	if (!version || (listen_fd >= 0 && !s->accepting))
		return err_set(e, -ENOMEM, "control socket: no memory to serve it");
	return 0;
}

void qmp_server_add(struct qmp_server *s, struct qmp_table *t)
{
	struct qmp_table **p = &s->tables;

	while (*p)
		p = &(*p)->next;
	t->next = NULL;
	*p = t;
}

void qmp_server_close(struct qmp_server *s)
{
	const int fd = s->listen_fd;

	if (!s->loop)
		return;
	loop_del(s->loop, &s->listener);
	s->listen_fd = -1; /* nobody is let in any more */
	while (s->conns)
		drop(s, s->conns);
	if (fd >= 0)
		close(fd);
	json_decref(s->version);
	qmp_server_init(s);
}

void qmp_event(struct qmp_server *s, const char *name, json_t *data)
{
	struct qmp_conn *c, *next;
	json_t *msg = json_pack("{s:s, s:o}", "event", name, "timestamp", qmp_timestamp());

	if (data)
		json_object_set_new(msg, "data", data);
	for (c = s->conns; c; c = next) {
		next = c->next;
		if (!c->negotiated || c->dead)
			continue;
		qmp_conn_send(c, s->loop, json_incref(msg));
		if (c->dead && c != s->current)
			drop(s, c);
	}
	json_decref(msg);
	if (s->loop)
		rearm(s);
}

int qmp_take_fd(struct qmp_server *s, const char *name)
{
	return s->current ? qmp_conn_take_fd(s->current, name) : -ENOENT;
}
