/*
 * One migration of a guest of bytes over a wire: what is planned, running it, what came of it, and
 * what must be true whatever happened. For test_move.c; include after cmocka.h.
 */
#ifndef TESTS_UNIT_MOVE_TRIAL_H
#define TESTS_UNIT_MOVE_TRIAL_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "byte_guest.h"
#include "migration/move/dest.h"
#include "migration/move/source.h"
#include "wire.h"

/* A busy machine lets nobody wait for so long, but where a stall is what is tried. */
#define STALL_MS     10000
#define SOON_MS	     60
#define SOON_SEEN_MS 500 /* where it must be that stall and no other */

/* One migration, from what is planned to what came of it. */
struct trial {
	/* what is planned */
	struct wire_plan plan;
	unsigned int n_data;
	bool local, dry_run, paused; /* paused: the guest did not run when it was moved */
	unsigned int writes;
	enum converge_on_timeout on_timeout;
	uint64_t limit_ns, timeout_ns; /* limit: 0: 20 ms */
	bool beside;		       /* it writes all the time, not only between two looks */
	int64_t wall_ns;	       /* by which the source's wall clock is ahead */
	int64_t off_ns;		       /* by which the saved state says another moment */
	bool refuse;		       /* clock-difference: refuse */
	enum byte_call source_fails, dest_fails;
	int fails_with;
	unsigned int
		stall_ms[2]; /* of the source, of the destination; 0: SOON_MS if that is tried */
	unsigned int pause_ms;
	uint64_t seed;

	/* what comes of it */
	struct byte_world world;
	struct byte_guest guest[2];
	struct migration_source source;
	struct migration_dest dest;
	struct wire wire;
	int dest_ret;
	struct err dest_err;
	unsigned int too_late; /* cancels */
	pthread_t writer;
	bool writer_ends; /* atomic */
};

static char socket_path[64];

/* ---- running one ---- */

static void tell(void *ctx, enum wire_harm harm)
{
	struct trial *t = ctx;
	const uint64_t one = 1;
	int nobody = 0, fd = harm == HARM_CANCEL ? t->source.cancel_fd : t->dest.cancel_fd;

	if (harm == HARM_DISK_TAKEN) {
		__atomic_compare_exchange_n(&t->world.disk, &nobody, 3, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
		return;
	}
	if (harm == HARM_CANCEL && __atomic_load_n(&t->source.handed_over, __ATOMIC_ACQUIRE)) {
		t->too_late++; /* as outgoing_cancel() says */
		return;
	}
	if (harm == HARM_STOP)
		__atomic_store_n(&t->dest.stopping, true, __ATOMIC_RELEASE);
	if (write(fd, &one, sizeof(one)) < 0)
		abort();
}

static void *dest_thread(void *arg)
{
	struct trial *t = arg;
	int mine = 2;

	t->dest_ret = migration_dest_run(&t->dest, &t->dest_err);
	socket_listener_fini(&t->dest.listener);
	if (t->dest_ret < 0) /* its process ends */
		__atomic_compare_exchange_n(&t->world.disk, &mine, 0, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
	return NULL;
}

static void *write_beside(void *arg)
{
	struct trial *t = arg;

	while (!__atomic_load_n(&t->writer_ends, __ATOMIC_ACQUIRE))
		byte_guest_write(&t->guest[0], 1);
	return NULL;
}

static void make_guest(struct trial *t)
{
	struct byte_guest *here = &t->guest[0], *there = &t->guest[1];

	byte_world_init(&t->world, t->guest, t->seed);
	here->fails = t->source_fails;
	there->fails = t->dest_fails;
	here->fails_with = there->fails_with = t->fails_with;
	there->off_ns = t->off_ns;
	here->writes = t->writes;
	if (t->paused)
		byte_guest_stop(here);
}

static unsigned int stall_of(const struct trial *t, unsigned int side)
{
	if (t->stall_ms[side])
		return t->stall_ms[side];
	switch (t->plan.harm) {
	case HARM_STALL:
	case HARM_FLIP:	      /* who took a flipped head for something else waits */
	case HARM_DISK_TAKEN: /* the source waits for the disk */
		return SOON_MS;
	default:
		return STALL_MS;
	}
}

static void make_sides(struct trial *t)
{
	struct uri u = {.kind = URI_UNIX};
	struct migration_source *s = &t->source;

	migration_source_init(s);
	s->guest = (struct migration_guest) {
		.ops = &byte_guest_ops, .ctx = &t->guest[0], .host_name = "here"};
	s->params = (struct migrate_params) {
		.limit_ns = t->limit_ns ? t->limit_ns : 20000000,
		.timeout_ns = t->timeout_ns,
		.on_timeout = t->on_timeout,
		.stall_ms = stall_of(t, 0),
		.dry_run = t->dry_run,
		.local = t->local,
	};
	s->let_go_ms = t->plan.harm == HARM_DISK_TAKEN ? 100 : STALL_MS;
	s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->session = t->seed;
	s->base = clock_now();
	s->base.wall_ns += (uint64_t)t->wall_ns;
	s->stats.begin_ns = monotonic_ns();
	s->stats.ram_total = s->stats.ram_left = (uint64_t)BYTE_PAGES * GUEST_PAGE;

	migration_dest_init(&t->dest);
	t->dest.guest = (struct migration_guest) {
		.ops = &byte_guest_ops, .ctx = &t->guest[1], .host_name = "there"};
	t->dest.stall_ms = t->dest.head_ms = stall_of(t, 1);
	t->dest.refuse_clock_difference = t->refuse;
	t->dest.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	snprintf(u.path, sizeof(u.path), "%s", socket_path);
	assert_int_equal(socket_listen(&t->dest.listener, &u, NULL), 0);
}

static void run(struct trial *t)
{
	struct migration_source *s = &t->source;
	int fd[1 + WIRE_DATA_MAX], listener;
	pthread_t dest;

	make_guest(t);
	make_sides(t);
	t->wire = (struct wire) {
		.plan = t->plan,
		.path = socket_path,
		.n_data = t->local ? 0 : t->n_data,
		.tell = tell,
		.ctx = t,
		.pause_ms = t->pause_ms,
	};
	wire_start(&t->wire, fd);
	listener = dup(t->dest.listener.fd);
	assert_int_equal(pthread_create(&dest, NULL, dest_thread, t), 0);
	assert_int_equal(channel_init(&s->control, fd[0], FRAME_FROM_DESTINATION, s->cancel_fd,
				      s->params.stall_ms),
			 0);
	s->n_data = t->wire.n_data;
	memcpy(s->data_fd, fd + 1, s->n_data * sizeof(*fd));
	if (t->beside)
		assert_int_equal(pthread_create(&t->writer, NULL, write_beside, t), 0);
	migration_source_run(s);
	/* one that still waits for somebody to speak to waits for ever */
	shutdown(listener, SHUT_RDWR);
	pthread_join(dest, NULL);
	close(listener);
	__atomic_store_n(&t->writer_ends, true, __ATOMIC_RELEASE);
	if (t->beside)
		pthread_join(t->writer, NULL);
	wire_stop(&t->wire);
}

static void end(struct trial *t)
{
	close(t->source.cancel_fd);
	close(t->dest.cancel_fd);
	migration_source_fini(&t->source);
	migration_dest_fini(&t->dest);
	byte_guest_stop(&t->guest[0]);
	byte_guest_stop(&t->guest[1]);
	byte_guest_fini(&t->guest[0]);
	byte_guest_fini(&t->guest[1]);
}

/* ---- what must be true ---- */

static const char *const harm_names[] = {"nothing", "cut",    "flip", "stall",	   "pause",
					 "FAIL",    "cancel", "stop", "disk taken"};

static const char *words(const struct trial *t)
{
	static char text[4096];
	const struct wire_plan *p = &t->plan;

	snprintf(text, sizeof(text),
		 "seed %llu: %s %s %u%s, data=%u local=%d dry=%d paused=%d writes=%u fails=%u/%u "
		 "with %d; source: outcome %s, code %d (%s), runs %d, disk %d; destination: %d "
		 "(%s), "
		 "started %d, runs %d",
		 (unsigned long long)t->seed, harm_names[p->harm],
		 p->way == WIRE_FROM_SOURCE ? "from the source at" : "from the destination at",
		 p->item, p->data ? " of data" : "", t->n_data, t->local, t->dry_run, t->paused,
		 t->writes, t->source_fails, t->dest_fails, t->fails_with,
		 migrate_outcome_name(t->source.stats.outcome), t->source.stats.code,
		 t->source.stats.error, t->guest[0].runs, t->world.disk, t->dest_ret,
		 t->dest_err.text, t->guest[1].started, t->guest[1].runs);
	return text;
}

#define holds(t, what)                                               \
	do {                                                         \
		if (!(what))                                         \
			fail_msg("not so: %s: %s", #what, words(t)); \
	} while (0)

static void check_same(const struct trial *t)
{
	const struct byte_guest *a = &t->guest[0], *b = &t->guest[1];

	holds(t, a->counter == b->counter);
	holds(t, memcmp(a->map, b->map, (size_t)BYTE_PAGES * GUEST_PAGE) == 0);
}

/* The words of the end are true, whoever they are told to. */
static void check(const struct trial *t)
{
	const struct migrate_stats *st = &t->source.stats;
	const struct byte_guest *here = &t->guest[0], *there = &t->guest[1];
	const bool was_running = !t->paused;

	holds(t, !t->world.twice);
	holds(t, !st->code ==
			 (t->source.end == MIGRATE_COMPLETED || t->source.end == MIGRATE_CHECKED));
	holds(t, !st->code == !st->error[0]);
	holds(t, here->log_stops == 1 && !here->watched);
	holds(t, st->end_ns);
	switch (st->outcome) {
	case OUTCOME_HERE:
		holds(t, !there->started && !there->runs);
		holds(t, st->code || t->dry_run);
		if (t->world.disk == 3) /* it waits for who has taken it, paused */
			holds(t, !here->runs && here->stays == 1);
		else
			holds(t, here->runs == was_running && t->world.disk == 1);
		break;
	case OUTCOME_MOVED:
		holds(t, !st->code && there->started && there->runs == was_running);
		holds(t, !here->runs && t->world.disk == 2 && t->dest_ret == 0);
		holds(t, here->n_told >= 2 &&
				 here->told[(here->n_told - 1) % 8] == MIGRATE_DEVICE &&
				 here->told[(here->n_told - 2) % 8] == MIGRATE_ACTIVE);
		check_same(t);
		break;
	case OUTCOME_UNKNOWN:
		holds(t, st->code && !here->runs && t->world.disk != 1);
		holds(t, t->source.end == MIGRATE_FAILED);
		if (there->runs)
			check_same(t);
		break;
	}
	/* who ends with an error says why, but for the one that was told to */
	holds(t, t->dest_ret >= 0 || t->dest_err.text[0]);
	holds(t, t->dest_ret > 0 || !t->dest_ret == there->started || t->dest_fails == CALL_START);
}

/* ThreadSanitizer opens files of its own when it looks up where a race is that is suppressed. */
#if defined(__SANITIZE_THREAD__)
#define OWN_FILES_ONLY false
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OWN_FILES_ONLY false
#endif
#endif
#ifndef OWN_FILES_ONLY
#define OWN_FILES_ONLY true
#endif

static unsigned int open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* One trial that leaves nothing. @after: more to check, may be NULL */
static void try(struct trial *t, void (*after)(const struct trial *t))
{
	const unsigned int before = open_files();

	if (!t->seed)
		t->seed = 1;
	run(t);
	check(t);
	if (after)
		after(t);
	end(t);
	holds(t, !OWN_FILES_ONLY || open_files() == before);
}

static struct trial trial(struct wire_plan plan)
{
	return (struct trial) {
		.plan = plan,
		.n_data = 2,
		.writes = 3,
		.source_fails = CALL_NONE,
		.dest_fails = CALL_NONE,
		.fails_with = -EIO,
	};
}

static struct trial calm(void)
{
	return trial((struct wire_plan) {.harm = HARM_NONE});
}

#endif
