#include "vmm/guest/moving.h"

#include <errno.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/state/buf.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/guest.h"
#include "vmm/machine/machine_state.h"

/* ---- on the loop's thread ---- */

struct step {
	struct moving *m;
	union {
		struct machine_description *description;
		struct migration_pause *pause;
		enum migrate_status status;
		struct {
			const struct clock_reading *base;
			struct wbuf *state;
			bool hand_over;
		};
	};
	struct err *e;
};

static int describe_on_loop(void *arg)
{
	struct step *c = arg;

	return describe_guest(c->m->guest, c->description, c->e);
}

static int pause_on_loop(void *arg)
{
	struct step *c = arg;
	struct guest *g = c->m->guest;

	c->pause->at_ns = monotonic_ns();
	/* a state that is left alone says how the next life begins */
	if (guest_event_waits(g))
		return err_set(c->e, -ECANCELED, "%s", MIGRATION_GUEST_ENDED);
	c->pause->ran = g->control.state == RUN_RUNNING;
	control_pause(&g->control, RUN_FINISH_MIGRATE);
	c->pause->stopped = true;
	if (guest_event_waits(g))
		return err_set(c->e, -ECANCELED, "%s", MIGRATION_GUEST_ENDED);
	return 0;
}

static int save_on_loop(void *arg)
{
	struct step *c = arg;
	struct guest *g = c->m->guest;
	int ret;

	c->state->len = 0;
	ret = machine_save(&g->machine, c->base, c->state, c->e);
	if (!ret && c->state->failed)
		ret = err_no_memory(c->e);
	if (!ret && c->hand_over) {
		c->m->handed_disks = true;
		ret = guest_hand_over_disks(g, c->e);
	}
	return ret;
}

int moving_lock_disks(struct moving *m, struct err *e)
{
	int ret = m->handed_disks ? guest_lock_disks(m->guest, e) : 0;

	if (!ret)
		m->handed_disks = false;
	return ret;
}

/* The guest is ours again: locks, then life. */
static int take_back_on_loop(void *arg)
{
	struct step *c = arg;
	struct control *control = &c->m->guest->control;
	int ret = moving_lock_disks(c->m, c->e);

	if (ret < 0)
		return ret;
	if (c->pause->ran)
		ret = control_resume(control, c->e);
	if (ret < 0 || !c->pause->ran)
		control_set_state(control, RUN_PAUSED);
	if (!ret)
		c->pause->stopped = false;
	return ret;
}

static int stay_paused_on_loop(void *arg)
{
	struct step *c = arg;

	control_set_state(&c->m->guest->control, RUN_PAUSED);
	return 0;
}

static int tell_on_loop(void *arg)
{
	struct step *c = arg;

	guest_tell_migration(c->m->guest, c->status, NULL);
	return 0;
}

/* ---- from the migration's thread ---- */

static int call(struct step c, int (*fn)(void *))
{
	int ret = loop_call(&c.m->guest->calls, fn, &c);

	if (ret == -ECANCELED)
		err_set(c.e, ret, "%s", MIGRATION_GUEST_ENDED);
	return ret;
}

static int describe(void *ctx, struct machine_description *d, struct err *e)
{
	return call((struct step) {.m = ctx, .description = d, .e = e}, describe_on_loop);
}

static int pause_guest(void *ctx, struct migration_pause *p, struct err *e)
{
	return call((struct step) {.m = ctx, .pause = p, .e = e}, pause_on_loop);
}

static int save(void *ctx, const struct clock_reading *base, bool hand_over, struct wbuf *state,
		struct err *e)
{
	return call(
		(struct step) {
			.m = ctx, .base = base, .state = state, .hand_over = hand_over, .e = e},
		save_on_loop);
}

/* The guest stands: nobody writes. */
static int flush(void *ctx, struct err *e)
{
	struct moving *m = ctx;

	return guest_flush_disks(m->guest, e);
}

static int take_back(void *ctx, struct migration_pause *p, struct err *e)
{
	return call((struct step) {.m = ctx, .pause = p, .e = e}, take_back_on_loop);
}

static int stay_paused(void *ctx, struct err *e)
{
	return call((struct step) {.m = ctx, .e = e}, stay_paused_on_loop);
}

static int throttle(void *ctx, unsigned int percent, struct err *e)
{
	struct moving *m = ctx;

	return throttle_set(&m->throttle, percent, e);
}

static int log_start(void *ctx, struct dirty_log **log, struct err *e)
{
	struct moving *m = ctx;
	struct machine *machine = &m->guest->machine;
	int ret = 0;

	/* from here on who writes is known to it */
	throttle_init(&m->throttle, machine->vcpus, m->guest->config.machine.n_vcpus,
		      &machine->dirty_ring);
	*log = &machine->dirty_log;
	if (!machine->dirty_log.ops) /* kept as long as the VM */
		ret = machine_init_dirty_log(machine, e);
	return ret ? ret : dirty_log_start(&machine->dirty_log, e);
}

static void log_stop(void *ctx)
{
	struct moving *m = ctx;

	throttle_fini(&m->throttle);
	dirty_log_stop(&m->guest->machine.dirty_log);
}

static void ram(void *ctx, struct migration_ram *ram)
{
	const struct moving *m = ctx;

	guest_ram(m->guest, ram);
}

static void progress(void *ctx, enum migrate_status status)
{
	struct moving *m = ctx;
	struct step c = {.m = m, .status = status};

	loop_call(&m->guest->calls, tell_on_loop, &c);
}

const struct migration_guest_ops moving_ops = {
	.describe = describe,
	.pause = pause_guest,
	.save = save,
	.flush = flush,
	.take_back = take_back,
	.stay_paused = stay_paused,
	.throttle = throttle,
	.log_start = log_start,
	.log_stop = log_stop,
	.ram = ram,
	.progress = progress,
};
