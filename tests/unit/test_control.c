#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/loop.h"
#include "vmm/guest/control.h"

/* A control plane without a run directory, and its one client. */
struct rig {
	struct control c;
	struct loop loop;
	int fd;
};

static void turn(struct loop *l)
{
	while (loop_turn(l, 0) > 0)
		;
}

/* All that the server said by now, which is one object. */
static json_t *hear(struct rig *r)
{
	char text[4096];
	ssize_t n;
	json_t *o;

	turn(&r->loop);
	n = recv(r->fd, text, sizeof(text), MSG_DONTWAIT);
	assert_true(n > 0 && n < (ssize_t)sizeof(text));
	o = json_loadb(text, (size_t)n, 0, NULL);
	assert_true(json_is_object(o));
	return o;
}

static int setup(void **state)
{
	static const char negotiate[] = "{\"execute\": \"qmp_capabilities\"}";
	static struct rig r;
	int fd[2];

	control_init(&r.c);
	assert_int_equal(loop_init(&r.loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(qmp_server_open(&r.c.server, &r.loop, -1, control_version(), NULL), 0);
	assert_int_equal(qmp_server_adopt(&r.c.server, fd[0]), 0);
	r.fd = fd[1];
	json_decref(hear(&r)); /* the greeting */
	assert_int_equal(write(r.fd, negotiate, strlen(negotiate)), strlen(negotiate));
	json_decref(hear(&r));
	*state = &r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	close(r->fd);
	control_close(&r->c);
	loop_fini(&r->loop);
	return 0;
}

/* What SHUTDOWN says of @event: is it the guest's doing, and the reason. */
static void tell(struct rig *r, enum vm_event event, bool by_signal, bool *guest, char *reason,
		 size_t size)
{
	const json_t *data, *did;
	json_t *o;

	control_tell_shutdown(&r->c, event, by_signal);
	o = hear(r);
	assert_string_equal(json_string_value(json_object_get(o, "event")), "SHUTDOWN");
	data = json_object_get(o, "data");
	did = json_object_get(data, "guest");
	if (!json_is_boolean(did) || !json_is_string(json_object_get(data, "reason")))
		fail_msg("event %d has no cause", event);
	*guest = json_is_true(did);
	snprintf(reason, size, "%s", json_string_value(json_object_get(data, "reason")));
	json_decref(o);
}

/* QEMU's ShutdownCause: what a client of QMP may know how to read. */
static const char *const causes[] = {"host-error",  "host-qmp-quit", "host-qmp-system-reset",
				     "host-signal", "host-ui",	     "guest-shutdown",
				     "guest-reset", "guest-panic"};

static void test_every_event_has_a_cause(void **state)
{
	struct rig *r = *state;
	char reason[64];
	enum vm_event event;
	bool guest;
	size_t i;

	for (event = VM_EVENT_NONE; event < VM_EVENTS; event++) {
		tell(r, event, false, &guest, reason, sizeof(reason));
		for (i = 0; i < ARRAY_SIZE(causes) && strcmp(reason, causes[i]) != 0; i++)
			;
		assert_true(i < ARRAY_SIZE(causes));
		assert_int_equal(guest, strncmp(reason, "guest-", 6) == 0);
		assert_int_equal(r->c.state, RUN_SHUTDOWN);
	}
}

static const struct {
	enum vm_event event;
	bool quit, reset, by_signal;
	const char *reason;
} asked[] = {
	{VM_EVENT_POWEROFF, false, false, false, "guest-shutdown"},
	{VM_EVENT_PANIC, false, false, false, "guest-panic"},
	{VM_EVENT_REFUSED, false, false, false, "host-error"},
	{VM_EVENT_QUIT, false, false, false, "host-ui"},
	{VM_EVENT_QUIT, true, false, false, "host-qmp-quit"},
	{VM_EVENT_QUIT, false, false, true, "host-signal"},
	{VM_EVENT_RESET, false, false, false, "guest-reset"},
	{VM_EVENT_RESET, false, true, false, "host-qmp-system-reset"},
};

static void test_who_asked(void **state)
{
	struct rig *r = *state;
	char reason[64];
	bool guest;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(asked); i++) {
		r->c.quit = asked[i].quit;
		r->c.reset = asked[i].reset;
		tell(r, asked[i].event, asked[i].by_signal, &guest, reason, sizeof(reason));
		assert_string_equal(reason, asked[i].reason);
		assert_int_equal(guest, strncmp(reason, "guest-", 6) == 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_event_has_a_cause),
		cmocka_unit_test(test_who_asked),
	};

	return cmocka_run_group_tests_name("control", tests, setup, teardown);
}
