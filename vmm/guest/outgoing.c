#include "vmm/guest/outgoing.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/move/save.h"
#include "vmm/guest/guest.h"

void outgoing_stats(struct outgoing *o, struct migrate_stats *stats)
{
	struct migration_source *s = &o->source;

	pthread_mutex_lock(&s->lock);
	*stats = s->stats;
	stats->into_file = o->saving;
	migrate_progress_show(o->saving ? &s->file.progress : &s->progress,
			      stats->end_ns ? stats->end_ns : monotonic_ns(), stats);
	pthread_mutex_unlock(&s->lock);
}

/* ---- the thread and its end ---- */

static void log_end(const struct outgoing *o)
{
	const struct migrate_stats *st = &o->source.stats;
	const bool runs = o->guest->control.state == RUN_RUNNING;

	if (st->outcome == OUTCOME_MOVED)
		log_info("the guest is at the destination now; this copy stays paused until quit");
	else if (st->outcome == OUTCOME_UNKNOWN)
		log_err("migration: outcome unknown: %s; look at the destination: if the guest "
			"runs on it, end the source's copy (testudo stop --force), else let it go "
			"on (testudo resume)",
			st->error);
	else if (st->code && o->source.stopping)
		log_warn("migration: %s", st->error);
	else if (st->code)
		log_warn("migration: %s; the guest %s at the source", st->error,
			 runs ? "goes on" : "stays paused");
}

static uint32_t writable_disks(const struct guest *g)
{
	unsigned int i;
	uint32_t n = 0;

	for (i = 0; i < g->n_disks; i++)
		n += !g->disk[i].readonly;
	return n;
}

/* Everything of it is gone: whoever hears of the end may begin the next one. */
static int end_on_loop(void *arg)
{
	struct outgoing *o = arg;
	struct migration_source *s = &o->source;
	struct control *c = &o->guest->control;

	if (s->stats.outcome == OUTCOME_MOVED)
		control_set_state(c, RUN_POSTMIGRATE);
	else if (s->stats.outcome == OUTCOME_UNKNOWN)
		control_set_state(c, RUN_PAUSED); /* the user may let it go on */
	pthread_mutex_lock(&s->lock);
	s->stats.status = s->end;
	if (o->saving)
		s->stats.writable_disks = writable_disks(o->guest);
	pthread_mutex_unlock(&s->lock);
	o->busy = false;
	guest_release(o->guest);
	log_end(o);
	guest_tell_migration(o->guest, s->end, &s->stats.outcome);
	return 0;
}

static void *outgoing_thread(void *arg)
{
	struct outgoing *o = arg;

	pthread_setname_np(pthread_self(), o->saving ? "save" : "migration");
	if (o->saving)
		migration_save(&o->source);
	else
		migration_source_run(&o->source);
	loop_call(&o->guest->calls, end_on_loop, o); /* or outgoing_stop() */
	return NULL;
}

/* ---- for the loop's thread ---- */

/* Before the guest goes on here by the user's wish: it is this side's again. */
static int settle(void *ctx, struct err *e)
{
	struct outgoing *o = ctx;
	struct migration_source *s = &o->source;
	int ret = moving_lock_disks(&o->moving, e);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	if (s->stats.outcome == OUTCOME_UNKNOWN)
		s->stats.outcome = OUTCOME_HERE; /* the user has looked */
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int outgoing_init(struct outgoing *o, struct guest *g, struct err *e)
{
	memset(o, 0, sizeof(*o));
	o->guest = o->moving.guest = g;
	migration_source_init(&o->source);
	control_set_gate(&g->control, settle, o);
	o->source.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (o->source.cancel_fd < 0)
		return err_set(e, -errno, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(errno));
	return 0;
}

void outgoing_fini(struct outgoing *o)
{
	if (!o->guest)
		return;
	if (o->source.cancel_fd >= 0)
		close(o->source.cancel_fd);
	migration_source_fini(&o->source);
	o->guest = NULL;
}

static void join(struct outgoing *o)
{
	if (o->started)
		pthread_join(o->thread, NULL);
	o->started = false;
}

static int check_start(struct outgoing *o, struct err *e)
{
	const enum migrate_outcome last = o->source.stats.outcome;

	if (o->busy)
		return err_set(e, -EBUSY,
			       "the guest is being moved or saved already; wait for the end of "
			       "that, or cancel it");
	if (!o->guest->control.machine)
		return err_set(e, -EINVAL, "the guest has not arrived yet");
	if (last == OUTCOME_MOVED)
		return err_set(
			e, -EINVAL,
			"the guest has left, moved or saved; what is left of it on the source "
			"can only be ended (testudo stop --force)");
	if (last == OUTCOME_UNKNOWN)
		return err_set(e, -EINVAL,
			       "the last migration's outcome is unknown; look at its destination, "
			       "then end this copy (testudo stop --force) or let it go on (testudo "
			       "resume)");
	return moving_lock_disks(&o->moving, e);
}

/* A guest that waits for its first instruction has no state yet; as a paused one it has. */
static int make_paused(struct guest *g, struct err *e)
{
	int ret;

	if (g->control.state != RUN_PRELAUNCH)
		return 0;
	machine_pause(&g->machine);
	ret = machine_start(&g->machine, e);
	if (!ret)
		control_set_state(&g->control, RUN_PAUSED);
	return ret;
}

static void drain(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_debug("eventfd: %s", strerror(errno));
}

/* Return: 0: the guest is claimed, all of the source but where it leads is set; -errno */
static int begin(struct outgoing *o, const struct migrate_params *params, bool saving,
		 struct err *e)
{
	struct migration_source *s = &o->source;
	struct guest *g = o->guest;
	int ret = check_start(o, e);

	if (!ret)
		ret = make_paused(g, e);
	if (!ret && guest_claim(g) < 0)
		ret = err_set(e, -EBUSY, "the guest's VM is being rebuilt; try again");
	if (ret < 0)
		return ret;
	join(o); /* the last one's thread is at its end */
	drain(o->source.cancel_fd);
	s->guest = (struct migration_guest) {
		.ops = &moving_ops,
		.ctx = &o->moving,
		.tsc_khz = g->machine.tsc_khz,
		.host_name = g->host_name,
	};
	s->params = *params;
	if (getrandom(&s->session, sizeof(s->session), 0) != sizeof(s->session))
		s->session = monotonic_ns();
	s->base = clock_now();
	s->handed_over = s->connect = false;
	pthread_mutex_lock(&s->lock);
	o->saving = saving;
	s->progress = (struct migrate_progress) {0};
	s->file = (struct ram_file) {.fd = -1};
	s->stats = (struct migrate_stats) {
		.status = MIGRATE_SETUP,
		.begin_ns = monotonic_ns(),
		.ram_total = g->machine.memory.size_bytes,
		.ram_left = g->machine.memory.size_bytes,
		.dry_run = params->dry_run,
	};
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int start_thread(struct outgoing *o, struct err *e)
{
	struct migration_source *s = &o->source;
	int ret;

	o->busy = true;
	guest_tell_migration(o->guest, MIGRATE_SETUP, NULL);
	ret = -pthread_create(&o->thread, NULL, outgoing_thread, o);
	if (!ret) {
		o->started = true;
		return 0;
	}
	o->busy = false;
	guest_release(o->guest);
	migration_source_close(s);
	pthread_mutex_lock(&s->lock);
	s->stats = (struct migrate_stats) {.status = MIGRATE_NONE};
	pthread_mutex_unlock(&s->lock);
	return err_set(e, ret, "no thread for the migration: %s", strerror(-ret));
}

int outgoing_start(struct outgoing *o, const struct migrate_params *params, int control,
		   const int *data, unsigned int n_data, struct err *e)
{
	struct migration_source *s = &o->source;
	int ret = begin(o, params, false, e);
	unsigned int i;

	if (ret < 0) {
		close(control);
	} else {
		ret = channel_init(&s->control, control, FRAME_FROM_DESTINATION, s->cancel_fd,
				   params->stall_ms);
		if (ret < 0) {
			err_set(e, ret, "the control channel: %s", strerror(-ret));
			guest_release(o->guest);
		}
	}
	if (ret < 0) {
		for (i = 0; i < n_data; i++)
			close(data[i]);
		return ret;
	}
	s->n_data = n_data;
	memcpy(s->data_fd, data, n_data * sizeof(*data));
	return start_thread(o, e);
}

int outgoing_connect(struct outgoing *o, const struct migrate_params *params, const struct uri *uri,
		     unsigned int n_data, struct err *e)
{
	int ret = begin(o, params, false, e);

	if (ret < 0)
		return ret;
	o->source.connect = true;
	o->source.uri = *uri;
	o->source.n_wanted = n_data;
	return start_thread(o, e);
}

int outgoing_save(struct outgoing *o, const struct migrate_params *params, int fd, struct err *e)
{
	struct migration_source *s = &o->source;
	int ret = begin(o, params, true, e);

	if (!ret) {
		pthread_mutex_lock(&s->lock);
		s->file = (struct ram_file) {
			.fd = fd, .n_bytes = s->stats.ram_total, .cancel_fd = s->cancel_fd};
		pthread_mutex_unlock(&s->lock);
		ret = start_thread(o, e);
	}
	if (ret < 0)
		close(fd);
	return ret;
}

static void fire_cancel(struct outgoing *o)
{
	const uint64_t one = 1;

	if (write(o->source.cancel_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the migration: %s", strerror(errno));
}

int outgoing_cancel(struct outgoing *o, struct err *e)
{
	if (!o->busy)
		return err_set(e, -ENOENT, "no migration is going on");
	if (__atomic_load_n(&o->source.handed_over, __ATOMIC_ACQUIRE))
		return err_set(e, -EBUSY,
			       "too late: the guest was handed over; the outcome is told at the "
			       "end of that");
	fire_cancel(o);
	return 0;
}

void outgoing_stop(struct outgoing *o)
{
	if (!o->started)
		return;
	__atomic_store_n(&o->source.stopping, true, __ATOMIC_RELEASE);
	if (o->busy)
		fire_cancel(o);
	loop_call_close(&o->guest->calls);
	join(o);
	if (o->busy)
		end_on_loop(o);
	o->source.stopping = false;
	loop_call_open(&o->guest->calls);
}
