#include "vmm/guest/migrate_source.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/guest/migrate_guest.h"
#include "vmm/guest/migrate_move.h"
#include "vmm/guest/migrate_save.h"
#include "vmm/guest/run.h"
#include "vmm/machine/vm_time.h"

/* ---- stats ---- */

void migrate_source_stats(struct migrate_source *s, struct migrate_stats *stats)
{
	pthread_mutex_lock(&s->lock);
	*stats = s->stats;
	stats->into_file = s->saving;
	migrate_progress_show(s->saving ? &s->file.progress : &s->progress,
			      stats->end_ns ? stats->end_ns : monotonic_ns(), stats);
	pthread_mutex_unlock(&s->lock);
}

void migrate_source_begin_round(struct migrate_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->stats.round_ns = monotonic_ns();
	pthread_mutex_unlock(&s->lock);
}

static int emit_status(void *arg)
{
	struct migrate_source *s = arg;

	migrate_tell(&s->run->control, s->stats.status);
	return 0;
}

void migrate_source_set_status(struct migrate_source *s, enum migrate_status status)
{
	pthread_mutex_lock(&s->lock);
	s->stats.status = status;
	pthread_mutex_unlock(&s->lock);
	loop_call(&s->run->calls, emit_status, s);
}

/* ---- the thread and its end ---- */

void migrate_source_close(struct migrate_source *s)
{
	unsigned int i;

	channel_fini(&s->control);
	for (i = 0; i < s->n_data; i++)
		close(s->data_fd[i]);
	s->n_data = 0;
}

static void log_end(const struct migrate_source *s)
{
	const struct migrate_stats *st = &s->stats;
	const bool runs = s->run->control.state == RUN_RUNNING;

	if (st->outcome == OUTCOME_MOVED)
		log_info("the guest is at the destination now; this copy stays paused until quit");
	else if (st->outcome == OUTCOME_UNKNOWN)
		log_err("migration: outcome unknown: %s; look at the destination: if the guest "
			"runs "
			"on it, end the source's copy (testudo stop --force), else let it go on "
			"(testudo "
			"resume)",
			st->error);
	else if (st->code && s->stopping)
		log_warn("migration: %s", st->error);
	else if (st->code)
		log_warn("migration: %s; the guest %s at the source", st->error,
			 runs ? "goes on" : "stays paused");
}

/* Everything of it is gone: whoever hears of the end may begin the next one. */
static int end_on_loop(void *arg)
{
	struct migrate_source *s = arg;
	struct control *c = &s->run->control;

	if (s->stats.outcome == OUTCOME_MOVED)
		control_set_state(c, RUN_POSTMIGRATE);
	else if (s->stats.outcome == OUTCOME_UNKNOWN)
		control_set_state(c, RUN_PAUSED); /* the user may let it go on */
	pthread_mutex_lock(&s->lock);
	s->stats.status = s->end;
	pthread_mutex_unlock(&s->lock);
	__atomic_store_n(&s->busy, false, __ATOMIC_RELEASE);
	log_end(s);
	control_event(&s->run->control, "MIGRATION",
		      json_pack("{ss ss}", "status", migrate_status_name(s->end),
				"x-testudo-outcome", migrate_outcome_name(s->stats.outcome)));
	return 0;
}

static void *migration_thread(void *arg)
{
	struct migrate_source *s = arg;

	pthread_setname_np(pthread_self(), s->saving ? "save" : "migration");
	if (s->saving)
		migrate_save(s);
	else
		migrate_move(s);
	loop_call(&s->run->calls, end_on_loop, s); /* or migrate_source_stop() */
	return NULL;
}

/* ---- for the loop's thread ---- */

int migrate_source_settle(struct migrate_source *s, struct err *e)
{
	int ret = migrate_guest_lock_disks(s, e);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	if (s->stats.outcome == OUTCOME_UNKNOWN)
		s->stats.outcome = OUTCOME_HERE; /* the user has looked */
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int settle(struct control *c, struct err *e)
{
	return migrate_source_settle(&container_of(c, struct run, control)->source, e);
}

int migrate_source_init(struct migrate_source *s, struct run *run, struct err *e)
{
	memset(s, 0, sizeof(*s));
	s->run = run;
	run->control.may_run = settle;
	pthread_mutex_init(&s->lock, NULL);
	channel_zero(&s->control);
	s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->cancel_fd < 0)
		return err_set(e, -errno, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(errno));
	return 0;
}

void migrate_source_fini(struct migrate_source *s)
{
	if (!s->run)
		return;
	if (s->cancel_fd >= 0)
		close(s->cancel_fd);
	pthread_mutex_destroy(&s->lock);
	s->run = NULL;
}

static void join(struct migrate_source *s)
{
	if (s->started)
		pthread_join(s->thread, NULL);
	s->started = false;
}

static int check_start(struct migrate_source *s, struct err *e)
{
	if (__atomic_load_n(&s->busy, __ATOMIC_ACQUIRE))
		return err_set(e, -EBUSY,
			       "the guest is being moved or saved already; wait for the end of "
			       "that, or cancel it");
	if (!s->run->control.machine)
		return err_set(e, -EINVAL, "the guest has not arrived yet");
	if (s->stats.outcome == OUTCOME_MOVED)
		return err_set(
			e, -EINVAL,
			"the guest has left, moved or saved; what is left of it on the source "
			"can only be ended (testudo stop --force)");
	if (s->stats.outcome == OUTCOME_UNKNOWN)
		return err_set(e, -EINVAL,
			       "the last migration's outcome is unknown; look at its destination, "
			       "then end this copy (testudo stop --force) or let it go on (testudo "
			       "resume)");
	return migrate_guest_lock_disks(s, e);
}

/* A guest that waits for its first instruction has no state yet; as a paused one it has. */
static int make_paused(struct run *r, struct err *e)
{
	int ret;

	if (r->control.state != RUN_PRELAUNCH)
		return 0;
	machine_pause(&r->machine);
	ret = machine_start(&r->machine, e);
	if (!ret)
		control_set_state(&r->control, RUN_PAUSED);
	return ret;
}

static void begin(struct migrate_source *s, const struct migrate_params *params)
{
	uint64_t drain;

	join(s); /* the last one's thread is at its end */
	if (read(s->cancel_fd, &drain, sizeof(drain)) < 0 && errno != EAGAIN)
		log_debug("eventfd: %s", strerror(errno));
	if (getrandom(&s->session, sizeof(s->session), 0) != sizeof(s->session))
		s->session = monotonic_ns();
	s->params = *params;
	s->base = vm_time_now();
	s->handed_over = false;
	pthread_mutex_lock(&s->lock);
	s->saving = false;
	s->progress = (struct migrate_progress) {0};
	s->stats = (struct migrate_stats) {
		.status = MIGRATE_SETUP,
		.begin_ns = monotonic_ns(),
		.ram_total = s->run->machine.memory.size_bytes,
		.ram_left = s->run->machine.memory.size_bytes,
		.dry_run = params->dry_run,
	};
	pthread_mutex_unlock(&s->lock);
}

static int start_thread(struct migrate_source *s, struct err *e)
{
	int ret;

	__atomic_store_n(&s->busy, true, __ATOMIC_RELEASE);
	migrate_tell(&s->run->control, MIGRATE_SETUP);
	ret = -pthread_create(&s->thread, NULL, migration_thread, s);
	if (!ret) {
		s->started = true;
		return 0;
	}
	__atomic_store_n(&s->busy, false, __ATOMIC_RELEASE);
	migrate_source_close(s);
	pthread_mutex_lock(&s->lock);
	s->stats = (struct migrate_stats) {.status = MIGRATE_NONE};
	pthread_mutex_unlock(&s->lock);
	return err_set(e, ret, "no thread for the migration: %s", strerror(-ret));
}

int migrate_source_start(struct migrate_source *s, const struct migrate_params *params, int control,
			 const int *data, unsigned int n_data, struct err *e)
{
	int ret = check_start(s, e);
	unsigned int i;

	if (!ret)
		ret = make_paused(s->run, e);
	if (!ret)
		begin(s, params);
	if (!ret) {
		ret = channel_init(&s->control, control, FRAME_FROM_DESTINATION, s->cancel_fd,
				   params->stall_ms);
		if (ret < 0)
			err_set(e, ret, "the control channel: %s", strerror(-ret));
	} else {
		close(control);
	}
	if (ret < 0) {
		for (i = 0; i < n_data; i++)
			close(data[i]);
		return ret;
	}
	s->connect = false;
	s->n_data = n_data;
	memcpy(s->data_fd, data, n_data * sizeof(*data));
	return start_thread(s, e);
}

int migrate_source_connect(struct migrate_source *s, const struct migrate_params *params,
			   const struct uri *uri, unsigned int n_data, struct err *e)
{
	int ret = check_start(s, e);

	if (!ret)
		ret = make_paused(s->run, e);
	if (ret < 0)
		return ret;
	begin(s, params);
	s->connect = true;
	s->uri = *uri;
	s->n_wanted = n_data;
	return start_thread(s, e);
}

int migrate_source_save(struct migrate_source *s, const struct migrate_params *params, int fd,
			struct err *e)
{
	int ret = check_start(s, e);

	if (!ret)
		ret = make_paused(s->run, e);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	begin(s, params);
	pthread_mutex_lock(&s->lock);
	s->saving = true;
	s->file = (struct ram_file) {
		.fd = fd, .n_bytes = s->stats.ram_total, .cancel_fd = s->cancel_fd};
	pthread_mutex_unlock(&s->lock);
	ret = start_thread(s, e);
	if (ret < 0)
		close(fd);
	return ret;
}

static void fire_cancel(struct migrate_source *s)
{
	const uint64_t one = 1;

	if (write(s->cancel_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the migration: %s", strerror(errno));
}

int migrate_source_cancel(struct migrate_source *s, struct err *e)
{
	if (!__atomic_load_n(&s->busy, __ATOMIC_ACQUIRE))
		return err_set(e, -ENOENT, "no migration is going on");
	if (__atomic_load_n(&s->handed_over, __ATOMIC_ACQUIRE))
		return err_set(e, -EBUSY,
			       "too late: the guest was handed over; the outcome is told at the "
			       "end of that");
	fire_cancel(s);
	return 0;
}

void migrate_source_stop(struct migrate_source *s)
{
	if (!s->started)
		return;
	__atomic_store_n(&s->stopping, true, __ATOMIC_RELEASE);
	if (__atomic_load_n(&s->busy, __ATOMIC_ACQUIRE))
		fire_cancel(s);
	loop_call_close(&s->run->calls);
	join(s);
	if (__atomic_load_n(&s->busy, __ATOMIC_ACQUIRE))
		end_on_loop(s);
	s->stopping = false;
	loop_call_open(&s->run->calls);
}
