#include "vmm/guest/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/version.h"
#include "vmm/guest/config.h"
#include "vmm/guest/sandbox.h"
#include "vmm/machine/machine.h"

/* A guest may change its report in a loop: clients hear of it this much later, once for all. */
#define CHANGES_AFTER_MS 20

/* ---- state ---- */

static const char *const state_names[] = {
	[RUN_PRELAUNCH] = "prelaunch",
	[RUN_INMIGRATE] = "inmigrate",
	[RUN_RUNNING] = "running",
	[RUN_PAUSED] = "paused",
	[RUN_FINISH_MIGRATE] = "finish-migrate",
	[RUN_POSTMIGRATE] = "postmigrate",
	[RUN_SHUTDOWN] = "shutdown",
};

const char *run_state_name(enum run_state state)
{
	return state_names[state];
}

void control_set_state(struct control *c, enum run_state state)
{
	c->state = state;
}

void control_pause(struct control *c, enum run_state state)
{
	const bool ran = c->state == RUN_RUNNING;

	machine_pause(c->machine);
	c->state = state;
	if (ran)
		control_event(c, "STOP", NULL);
}

int control_resume(struct control *c, struct err *e)
{
	int ret;

	if (c->state == RUN_RUNNING)
		return 0;
	if (c->state == RUN_PRELAUNCH) {
		ret = machine_start(c->machine, e);
		if (ret < 0)
			return ret;
	} else {
		machine_resume(c->machine);
	}
	c->state = RUN_RUNNING;
	control_event(c, "RESUME", NULL);
	return 0;
}

bool control_begin(struct control *c, struct machine *m)
{
	c->machine = m;
	c->state = c->hold ? RUN_PRELAUNCH : RUN_RUNNING;
	return !c->hold;
}

int control_arrive(struct control *c, struct machine *m, bool running, struct err *e)
{
	int ret = machine_start_restored(m, !running, e);

	if (ret < 0)
		return ret;
	c->machine = m;
	c->state = running ? RUN_RUNNING : RUN_PAUSED;
	if (running)
		control_event(c, "RESUME", NULL);
	return 0;
}

void control_end(struct control *c)
{
	c->hold = c->state == RUN_PAUSED || c->state == RUN_PRELAUNCH;
	c->machine = NULL;
}

/* ---- events ---- */

void control_set_gate(struct control *c, control_gate_fn *fn, void *ctx)
{
	c->may_run = fn;
	c->may_run_ctx = ctx;
}

void control_event(struct control *c, const char *name, json_t *data)
{
	qmp_event(&c->server, name, data);
}

static json_t *cause(bool guest, const char *reason)
{
	return json_pack("{s:b, s:s}", "guest", guest, "reason", reason);
}

void control_tell_reset(struct control *c)
{
	control_event(c, "RESET",
		      c->reset ? cause(false, "host-qmp-system-reset")
			       : cause(true, "guest-reset"));
	c->reset = false;
}

void control_tell_shutdown(struct control *c, enum vm_event event, bool by_signal)
{
	/* QEMU's ShutdownCause */
	static const struct {
		bool guest;
		const char *reason;
	} causes[VM_EVENTS] = {
		[VM_EVENT_NONE] = {false, "host-error"},
		[VM_EVENT_POWEROFF] = {true, "guest-shutdown"},
		[VM_EVENT_RESET] = {true, "guest-reset"},
		[VM_EVENT_PANIC] = {true, "guest-panic"},
		[VM_EVENT_CRASH] = {false, "host-error"},
		[VM_EVENT_QUIT] = {false, "host-ui"},
		[VM_EVENT_REFUSED] = {false, "host-error"},
		[VM_EVENT_FAILED] = {false, "host-error"},
	};
	json_t *data = cause(causes[event].guest, causes[event].reason);

	if (event == VM_EVENT_QUIT && (c->quit || by_signal))
		json_object_set_new(data, "reason",
				    json_string(c->quit ? "host-qmp-quit" : "host-signal"));
	if (event == VM_EVENT_RESET && c->reset) {
		json_decref(data);
		data = cause(false, "host-qmp-system-reset");
	}
	c->state = RUN_SHUTDOWN;
	control_event(c, "SHUTDOWN", data);
}

/* On a vCPU's thread, or the one that sets up. */
static void mitigation_changed(struct mitigation_listener *l, uint32_t vcpu,
			       enum mitigation_change what)
{
	const struct itimerspec after = {.it_value.tv_nsec = CHANGES_AFTER_MS * 1000000L};
	struct control *c = container_of(l, struct control, listener);

	(void)vcpu;
	if (what == MITIGATION_STARTED)
		return; /* a new machine: clients hear of that by itself */
	if (__atomic_fetch_or(&c->changes, 1u << what, __ATOMIC_ACQ_REL))
		return; /* the timer runs */
	if (timerfd_settime(c->change_fd, 0, &after, NULL) < 0)
		log_err("cannot tell of a changed mitigation: %s", strerror(errno));
}

static void change_ready(struct loop_watch *w)
{
	static const char *const names[] = {
		[MITIGATION_REPORTED] = "reported", [MITIGATION_GUEST] = "guest",
		[MITIGATION_LOST] = "lost",	    [MITIGATION_IBPB_SEEN] = "ibpb-seen",
		[MITIGATION_REBUILT] = "rebuilt",   [MITIGATION_FAILED] = "failed",
	};
	struct control *c = container_of(w, struct control, change);
	json_t *list = json_array();
	unsigned int i, changes;
	uint64_t n;

	if (read(c->change_fd, &n, sizeof(n)) != sizeof(n))
		n = 0;
	changes = __atomic_exchange_n(&c->changes, 0, __ATOMIC_ACQ_REL);
	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (changes & 1u << i && names[i])
			json_array_append_new(list, json_string(names[i]));
	control_event(c, "X_TESTUDO_MITIGATION_CHANGED", json_pack("{s:o}", "changes", list));
}

int control_set_mitigation(struct control *c, struct mitigation *m, const struct isolation *iso,
			   struct err *e)
{
	int ret;

	c->mitigation = m;
	c->isolation = iso;
	if (!c->server.loop) {
		/* said only now, when nothing worse has come up */
		log_warn("%s; going on without a control socket", c->why_not.text);
		return 0;
	}
	c->change_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ret = c->change_fd < 0 ? -errno
			       : loop_add(c->loop, &c->change, c->change_fd, EPOLLIN, change_ready);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	c->listener.changed = mitigation_changed;
	mitigation_listen(m, &c->listener);
	return 0;
}

/* ---- the server ---- */

void control_init(struct control *c)
{
	memset(c, 0, sizeof(*c));
	rundir_init(&c->dir);
	qmp_server_init(&c->server);
	c->change_fd = c->change.fd = -1;
}

json_t *control_version(void)
{
	int major = 0, minor = 0, micro = 0;

	if (sscanf(TESTUDO_VERSION, "%d.%d.%d", &major, &minor, &micro) < 3)
		micro = 0;
	/* clients look for a member of this name; the numbers are ours */
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", major, "minor", minor,
			 "micro", micro, "package", "testudo " TESTUDO_VERSION);
}

void control_add_commands(struct control *c, struct qmp_table *t)
{
	qmp_server_add(&c->server, t);
}

static int serve(struct control *c, const char *name, struct err *e)
{
	int ret = rundir_open(&c->dir, name, SANDBOX_RUNBASE_FD, SANDBOX_RUNDIR_FD, e);

	if (ret < 0)
		return ret;
	ret = rundir_listen(&c->dir, e);
	if (ret < 0)
		return ret;
	return qmp_server_open(&c->server, c->loop, ret, control_version(), e);
}

int control_open(struct control *c, const struct run_config *config, struct loop *loop,
		 struct vm_event_sink *sink, struct err *e)
{
	struct err why = {0};
	char name[32];
	int ret;

	c->config = config;
	c->loop = loop;
	c->sink = sink;
	snprintf(name, sizeof(name), "guest-%d", (int)getpid());
	ret = serve(c, config->name ? config->name : name, &why);
	if (ret < 0) {
		qmp_server_close(&c->server);
		rundir_close(&c->dir);
		if (config->name)
			return err_set(e, ret, "%s", why.text);
		c->why_not = why;
		return 0;
	}
	return 0;
}

void control_close(struct control *c)
{
	if (c->loop)
		loop_del(c->loop, &c->change);
	if (c->change_fd >= 0)
		close(c->change_fd);
	rundir_close(&c->dir); /* a client that sees the end may use the name again at once */
	qmp_server_close(&c->server);
	control_init(c);
}
