#include "vmm/guest/migrate_guest.h"

#include <errno.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/state/buf.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/run.h"
#include "vmm/machine/machine_state.h"

/* ---- on the loop's thread ---- */

struct step {
	struct migrate_guest *g;
	struct machine_description *description;
	struct wbuf *state;
	bool hand_over;
	struct err *e;
};

static int describe(void *arg)
{
	struct step *c = arg;

	return describe_guest(c->g->s->run, c->description, c->e);
}

static int pause_vcpus(void *arg)
{
	struct step *c = arg;
	struct migrate_source *s = c->g->s;

	pthread_mutex_lock(&s->lock);
	s->stats.pause_ns = monotonic_ns();
	pthread_mutex_unlock(&s->lock);
	/* a state that is left alone says how the next life begins */
	if (run_event_waits(s->run))
		return err_set(c->e, -ECANCELED, "%s", MIGRATE_GUEST_ENDED);
	c->g->running = s->run->control.state == RUN_RUNNING;
	control_pause(&s->run->control, RUN_FINISH_MIGRATE);
	c->g->stopped = true;
	if (run_event_waits(s->run))
		return err_set(c->e, -ECANCELED, "%s", MIGRATE_GUEST_ENDED);
	return 0;
}

static int hand_over_disks(struct run *r, struct err *e)
{
	unsigned int i;
	int ret = 0;

	r->source.handed_disks = true;
	for (i = 0; !ret && i < r->n_disks; i++)
		ret = blk_file_hand_over(&r->disk[i], e);
	return ret;
}

static int save(void *arg)
{
	struct step *c = arg;
	struct run *r = c->g->s->run;
	int ret;

	c->state->len = 0;
	ret = machine_save(&r->machine, &c->g->s->base, c->state, c->e);
	if (!ret && c->state->failed)
		ret = err_set(c->e, -ENOMEM, "out of memory");
	if (!ret && c->hand_over)
		ret = hand_over_disks(r, c->e);
	return ret;
}

int migrate_guest_lock_disks(struct migrate_source *s, struct err *e)
{
	struct run *r = s->run;
	unsigned int i;
	int ret = 0;

	for (i = 0; s->handed_disks && !ret && i < r->n_disks; i++)
		ret = blk_file_lock(&r->disk[i], e);
	if (!ret)
		s->handed_disks = false;
	return ret;
}

/* The guest is ours again: locks, then life. */
static int take_back(void *arg)
{
	struct step *c = arg;
	struct control *control = &c->g->s->run->control;
	int ret = migrate_guest_lock_disks(c->g->s, c->e);

	if (ret < 0)
		return ret;
	if (c->g->running)
		ret = control_resume(control, c->e);
	if (ret < 0 || !c->g->running)
		control_set_state(control, RUN_PAUSED);
	if (!ret)
		c->g->stopped = false;
	return ret;
}

static int stay_paused(void *arg)
{
	struct step *c = arg;

	control_set_state(&c->g->s->run->control, RUN_PAUSED);
	return 0;
}

/* ---- from the migration's thread ---- */

static int call(struct step c, int (*fn)(void *))
{
	int ret = loop_call(&c.g->s->run->calls, fn, &c);

	if (ret == -ECANCELED)
		err_set(c.e, ret, "%s", MIGRATE_GUEST_ENDED);
	return ret;
}

int migrate_guest_describe(struct migrate_guest *g, struct machine_description *d, struct err *e)
{
	return call((struct step) {.g = g, .description = d, .e = e}, describe);
}

int migrate_guest_pause(struct migrate_guest *g, struct err *e)
{
	return call((struct step) {.g = g, .e = e}, pause_vcpus);
}

int migrate_guest_save(struct migrate_guest *g, struct wbuf *state, bool hand_over, struct err *e)
{
	return call((struct step) {.g = g, .state = state, .hand_over = hand_over, .e = e}, save);
}

int migrate_guest_take_back(struct migrate_guest *g, struct err *e)
{
	return call((struct step) {.g = g, .e = e}, take_back);
}

int migrate_guest_stay_paused(struct migrate_guest *g, struct err *e)
{
	return call((struct step) {.g = g, .e = e}, stay_paused);
}
