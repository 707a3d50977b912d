/*
 * Any bytes on a control socket: the server neither falls over nor leaks, and each thing that it
 * says is a JSON object. The first byte cuts the rest into pieces.
 */
#include <jansson.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "control/qmp_scan.h"
#include "control/qmp_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct qmp_arg some_args[] = {
	{"s", QMP_STRING, false}, {"i", QMP_INT, true},	  {"b", QMP_BOOL, true},
	{"o", QMP_OBJECT, true},  {"a", QMP_ARRAY, true}, {0},
};

static int run_echo(struct qmp_call *call)
{
	struct qmp_server *s = call->ctx;
	const char *name = json_string_value(json_object_get(call->args, "s"));
	int fd = qmp_take_fd(s, name);

	if (fd >= 0)
		close(fd);
	qmp_event(s, "ECHO", json_deep_copy(call->args));
	if (!*name)
		return err_set(call->e, -22, "no text");
	call->ret = json_deep_copy(call->args);
	return 0;
}

static const struct qmp_command commands[] = {{"echo", some_args, run_echo}};

static void turn(struct loop *l)
{
	while (loop_turn(l, 0) > 0)
		;
}

/* What came back: objects and nothing else. */
static void check_answers(int fd)
{
	static char buf[1 << 20];
	struct qmp_scan s = {0};
	enum qmp_scan_result r;
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(buf) && (n = recv(fd, buf + len, sizeof(buf) - len, MSG_DONTWAIT)) > 0)
		len += (size_t)n;
	while ((r = qmp_scan_next(&s, buf, len)) == QMP_SCAN_OBJECT) {
		json_t *o = json_loadb(buf + s.start, s.pos - s.start, 0, NULL);

		if (!json_is_object(o))
			abort();
		json_decref(o);
	}
	if (r != QMP_SCAN_MORE)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp_server s;
	struct qmp_table t = {commands, ARRAY_SIZE(commands), &s, NULL};
	struct loop l;
	size_t piece, at;
	int fd[2];

	if (!size)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	piece = data[0] ? data[0] : size;
	if (loop_init(&l) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
		abort();
	qmp_server_init(&s);
	if (qmp_server_open(&s, &l, -1, json_object(), NULL) < 0)
		abort();
	qmp_server_add(&s, &t);
	qmp_server_adopt(&s, fd[0]);
	for (at = 1; at < size; at += piece) {
		if (write(fd[1], data + at, size - at < piece ? size - at : piece) < 0)
			break;
		turn(&l);
	}
	turn(&l);
	check_answers(fd[1]);
	close(fd[1]);
	turn(&l);
	if (s.conns)
		abort();
	qmp_server_close(&s);
	loop_fini(&l);
	return 0;
}
