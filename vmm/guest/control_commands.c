#include "vmm/guest/control_commands.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/guest/config.h"
#include "vmm/guest/control.h"
#include "vmm/guest/mitigation_report.h"
#include "vmm/machine/machine.h"

static json_t *counter(const uint64_t *value)
{
	return json_integer((json_int_t)__atomic_load_n(value, __ATOMIC_RELAXED));
}

static int query_status(struct qmp_call *call)
{
	const struct control *c = call->ctx;

	call->ret = json_pack("{s:b, s:b, s:s}", "running", c->state == RUN_RUNNING, "singlestep",
			      0, "status", run_state_name(c->state));
	return 0;
}

static int query_name(struct qmp_call *call)
{
	const struct control *c = call->ctx;

	call->ret = json_pack("{s:s}", "name", c->dir.name);
	return 0;
}

static int query_version(struct qmp_call *call)
{
	call->ret = control_version();
	return 0;
}

/* Return: 0; -EAGAIN between two lives and before the first */
static int need_machine(const struct control *c, struct err *e)
{
	return c->machine ? 0 : err_set(e, -EAGAIN, "the guest has not arrived yet");
}

static int query_memory(struct qmp_call *call)
{
	const struct control *c = call->ctx;

	/* of a guest that arrives: it brings its size */
	if (!c->config->memory_given && need_machine(c, call->e) < 0)
		return -EAGAIN;
	call->ret =
		json_pack("{s:I}", "base-memory", (json_int_t)c->config->machine.memory.size_bytes);
	return 0;
}

static int query_cpus(struct qmp_call *call)
{
	const struct control *c = call->ctx;
	uint32_t i;

	if (need_machine(c, call->e) < 0)
		return -EAGAIN;
	call->ret = json_array();
	for (i = 0; i < c->machine->host->config->n_vcpus; i++) {
		json_t *path = json_sprintf("/machine/cpu[%u]", i);
		/* one socket, a core for each: as cpuid_set_topology() tells the guest */
		json_t *props = json_pack("{s:i, s:i, s:i}", "socket-id", 0, "core-id", (int)i,
					  "thread-id", 0);
		const int tid = __atomic_load_n(&c->machine->vcpus[i].tid, __ATOMIC_RELAXED);

		json_array_append_new(call->ret,
				      json_pack("{s:i, s:o, s:i, s:o, s:s}", "cpu-index", (int)i,
						"qom-path", path, "thread-id", tid, "props", props,
						"target", "x86_64"));
	}
	return 0;
}

static int query_exits(struct qmp_call *call)
{
	const struct control *c = call->ctx;
	uint32_t i;

	if (need_machine(c, call->e) < 0)
		return -EAGAIN;
	call->ret = json_array();
	for (i = 0; i < c->machine->host->config->n_vcpus; i++) {
		const struct vcpu *v = &c->machine->vcpus[i];
		const struct mitigation_vcpu *m = &c->mitigation->vcpu[i];

		json_array_append_new(
			call->ret,
			json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "cpu-index",
				  (int)i, "total", counter(&v->exits), "io", counter(&v->exits_io),
				  "mmio", counter(&v->exits_mmio), "msr", counter(&v->exits_msr),
				  "dirty-ring-full", counter(&v->exits_dirty_ring), "spec-ctrl",
				  counter(&m->exits_spec_ctrl), "virtual-msr",
				  counter(&m->exits_virtual), "efer", counter(&m->exits_efer),
				  "pred-cmd", counter(&m->exits_pred_cmd)));
	}
	return 0;
}

static int query_mitigation(struct qmp_call *call)
{
	const struct control *c = call->ctx;

	if (need_machine(c, call->e) < 0)
		return -EAGAIN;
	call->ret = mitigation_report(c->mitigation, c->isolation, "running", NULL);
	return call->ret ? 0 : -ENOMEM;
}

/* Return: 0 if a client may touch the machine now; -EBUSY with the reason */
static int may_act(const struct control *c, struct err *e)
{
	switch (c->state) {
	case RUN_FINISH_MIGRATE:
		return err_set(e, -EBUSY,
			       "the guest stands still to be moved or saved; wait for the end of "
			       "that, or cancel it");
	case RUN_POSTMIGRATE:
		return err_set(
			e, -EBUSY,
			"the guest has left, moved or saved, and must not run twice; what "
			"is left of it on the source can only be ended (testudo stop --force)");
	default:
		return need_machine(c, e);
	}
}

static int stop(struct qmp_call *call)
{
	struct control *c = call->ctx;
	int err = may_act(c, call->e);

	if (!err && c->state == RUN_RUNNING)
		control_pause(c, RUN_PAUSED);
	return err;
}

static int cont(struct qmp_call *call)
{
	struct control *c = call->ctx;
	int err = may_act(c, call->e);

	if (!err && c->state != RUN_RUNNING && c->may_run)
		err = c->may_run(c->may_run_ctx, call->e);
	return err ? err : control_resume(c, call->e);
}

static int system_powerdown(struct qmp_call *call)
{
	struct control *c = call->ctx;
	int err = may_act(c, call->e);

	if (err)
		return err;
	/* a paused guest finds the interrupt when it goes on */
	power_press_button(&c->machine->power);
	control_event(c, "POWERDOWN", NULL);
	return 0;
}

static int system_reset(struct qmp_call *call)
{
	struct control *c = call->ctx;
	int err = may_act(c, call->e);

	if (!err && c->may_run)
		err = c->may_run(c->may_run_ctx, call->e);
	if (err)
		return err;
	c->reset = true;
	c->sink->raise(c->sink, VM_EVENT_RESET);
	return 0;
}

static int quit(struct qmp_call *call)
{
	struct control *c = call->ctx;

	c->quit = true;
	c->sink->raise(c->sink, VM_EVENT_QUIT);
	return 0;
}

static const struct qmp_command commands[] = {
	{"query-status", NULL, query_status},
	{"query-name", NULL, query_name},
	{"query-version", NULL, query_version},
	{"query-memory-size-summary", NULL, query_memory},
	{"query-cpus-fast", NULL, query_cpus},
	{"x-testudo-query-exits", NULL, query_exits},
	{"x-testudo-query-mitigation", NULL, query_mitigation},
	{"stop", NULL, stop},
	{"cont", NULL, cont},
	{"system_powerdown", NULL, system_powerdown},
	{"system_reset", NULL, system_reset},
	{"quit", NULL, quit},
};

void control_commands_add(struct control *c)
{
	c->table = (struct qmp_table) {commands, ARRAY_SIZE(commands), c, NULL};
	control_add_commands(c, &c->table);
}
