/*
 * A guest that is an array of bytes and a counter, for migrations without a VMM: the calls of
 * migration/move/guest.h on it, each of which can be told to fail, and what must be true of two such
 * guests at any moment: one of them runs at most, one has the disk.
 */
#ifndef TESTS_UNIT_BYTE_GUEST_H
#define TESTS_UNIT_BYTE_GUEST_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "description_sample.h"
#include "migration/move/guest.h"
#include "migration/ram/dirty_log.h"
#include "migration/state/buf.h"
#include "migration/state/clock.h"

#define BYTE_PAGES 192 /* three words of a dirty log */

/* What the two sides share: the world in which one guest lives. */
struct byte_world {
	int running;  /* atomic: sides on which it runs */
	int twice;    /* atomic: it once ran on two */
	int disk;     /* atomic: the side that has it; 0: none */
	uint64_t rng; /* of the writes of the guest; its side's thread's */
};

enum byte_call {
	CALL_DESCRIBE,
	CALL_PAUSE,
	CALL_SAVE,
	CALL_LOG_START,
	CALL_BUILD,
	CALL_LOAD,
	CALL_START,
	CALL_NONE,
};

struct byte_guest {
	struct byte_world *world;
	int side; /* 1: source, 2: destination */
	bool exists;
	pthread_mutex_t lock; /* of @runs and what it writes */
	bool runs, started;   /* started: a part of it may have run here */
	uint64_t counter;     /* its state */
	unsigned int writes;  /* pages that it writes between two looks */
	uint8_t *map;
	int fd;
	struct guest_mem gm;
	struct dirty_log log;
	uint64_t bits[BYTE_PAGES / 64];
	bool watched;
	unsigned int log_stops, throttles, stays;
	enum migrate_status told[8]; /* the last ones */
	unsigned int n_told;
	int64_t off_ns;	      /* by which its state says another moment */
	enum byte_call fails; /* CALL_NONE: none does */
	int fails_with;
	bool adopted; /* its memory was handed over */
};

static inline uint64_t byte_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* As a vCPU: memory first, then the log, both before anybody looks. */
static inline void byte_guest_write(struct byte_guest *g, unsigned int n)
{
	pthread_mutex_lock(&g->lock);
	while (g->runs && n--) {
		const uint64_t v = byte_random(&g->world->rng), page = v % BYTE_PAGES;

		memset(g->map + page * GUEST_PAGE, v & 0x10 ? (int)(v >> 16 & 0xff) : 0,
		       GUEST_PAGE);
		g->counter++;
		__atomic_fetch_or(&g->bits[page / 64], 1ULL << page % 64, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&g->lock);
}

static inline void byte_guest_run(struct byte_guest *g)
{
	pthread_mutex_lock(&g->lock);
	g->runs = true;
	pthread_mutex_unlock(&g->lock);
	if (__atomic_add_fetch(&g->world->running, 1, __ATOMIC_SEQ_CST) > 1)
		__atomic_store_n(&g->world->twice, 1, __ATOMIC_SEQ_CST);
}

static inline void byte_guest_stop(struct byte_guest *g)
{
	pthread_mutex_lock(&g->lock);
	if (g->runs)
		__atomic_fetch_sub(&g->world->running, 1, __ATOMIC_SEQ_CST);
	g->runs = false;
	pthread_mutex_unlock(&g->lock);
}

static inline int byte_failing(const struct byte_guest *g, enum byte_call call, struct err *e)
{
	return g->fails == call ? err_set(e, g->fails_with, "call %u fails", call) : 0;
}

/* ---- the dirty log ---- */

static inline int byte_watch(void *ctx, uint32_t slot, const struct guest_mem_region *r, bool on)
{
	struct byte_guest *g = ctx;
	unsigned int i;

	(void)slot;
	(void)r;
	g->watched = on;
	for (i = 0; i < BYTE_PAGES / 64; i++)
		__atomic_store_n(&g->bits[i], on ? UINT64_MAX : 0, __ATOMIC_SEQ_CST);
	return 0;
}

static inline int byte_get(void *ctx, uint32_t slot, uint64_t *bits)
{
	struct byte_guest *g = ctx;
	unsigned int i;

	(void)slot;
	byte_guest_write(g, g->writes);
	for (i = 0; i < BYTE_PAGES / 64; i++)
		bits[i] = __atomic_load_n(&g->bits[i], __ATOMIC_SEQ_CST);
	return 0;
}

static inline int byte_clear(void *ctx, uint32_t slot, uint64_t first, uint32_t n,
			     const uint64_t *bits)
{
	struct byte_guest *g = ctx;
	uint32_t i;

	(void)slot;
	for (i = 0; i < (n + 63) / 64; i++)
		__atomic_fetch_and(&g->bits[first / 64 + i], ~bits[i], __ATOMIC_SEQ_CST);
	return 0;
}

static const struct dirty_log_ops byte_log_ops = {
	.watch = byte_watch, .get = byte_get, .clear = byte_clear};

/* ---- memory ---- */

static inline void byte_guest_map(struct byte_guest *g, int fd)
{
	struct guest_mem_region r = {.len_bytes = (uint64_t)BYTE_PAGES * GUEST_PAGE};

	g->fd = fd;
	g->map = mmap(NULL, r.len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (g->map == MAP_FAILED)
		abort();
	r.hva = g->map;
	if (guest_mem_add(&g->gm, &r) < 0 ||
	    dirty_log_init(&g->log, &g->gm, &byte_log_ops, g, NULL) < 0)
		abort();
	g->exists = true;
}

static inline int byte_memfd(void)
{
	const int fd = memfd_create("ram", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)BYTE_PAGES * GUEST_PAGE) < 0)
		abort();
	return fd;
}

/* The two sides of a world in which the source has a guest that runs and has written. */
static inline void byte_world_init(struct byte_world *w, struct byte_guest guest[2], uint64_t seed)
{
	unsigned int i;

	*w = (struct byte_world) {.rng = seed | 1, .disk = 1};
	for (i = 0; i < 2; i++)
		guest[i] = (struct byte_guest) {.world = w,
						.lock = PTHREAD_MUTEX_INITIALIZER,
						.side = (int)i + 1,
						.fd = -1,
						.fails = CALL_NONE};
	byte_guest_map(&guest[0], byte_memfd());
	byte_guest_run(&guest[0]);
	byte_guest_write(&guest[0], 40);
}

static inline void byte_guest_fini(struct byte_guest *g)
{
	if (!g->exists)
		return;
	dirty_log_fini(&g->log);
	munmap(g->map, (size_t)BYTE_PAGES * GUEST_PAGE);
	close(g->fd);
	g->exists = false;
}

/* ---- the calls ---- */

static inline int byte_describe(void *ctx, struct machine_description *d, struct err *e)
{
	struct machine_description *sample, mine;
	const int ret = byte_failing(ctx, CALL_DESCRIBE, e);

	if (ret < 0)
		return ret;
	sample = description_sample(2);
	mine = *d;
	*d = *sample;
	*sample = mine;
	description_free(sample);
	d->n_regions = 1;
	d->region[0].size = (uint64_t)BYTE_PAGES * GUEST_PAGE;
	return 0;
}

static inline int byte_pause(void *ctx, struct migration_pause *p, struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_failing(g, CALL_PAUSE, e);

	p->at_ns = monotonic_ns();
	if (ret < 0)
		return ret;
	byte_guest_write(g, g->writes / 2); /* its last moment */
	p->ran = g->runs;
	byte_guest_stop(g);
	p->stopped = true;
	return 0;
}

static inline int byte_save(void *ctx, const struct clock_reading *base, bool hand_over,
			    struct wbuf *state, struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_failing(g, CALL_SAVE, e);

	(void)base;
	if (g->runs)
		return err_set(e, -EINVAL, "saved while it runs");
	state->len = 0;
	wbuf_u64(state, g->counter);
	if (hand_over)
		__atomic_store_n(&g->world->disk, 0, __ATOMIC_SEQ_CST);
	return ret;
}

static inline int byte_lock(struct byte_guest *g, struct err *e)
{
	int nobody = 0;

	if (__atomic_compare_exchange_n(&g->world->disk, &nobody, g->side, false, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST) ||
	    nobody == g->side)
		return 0;
	return err_set(e, -EBUSY, "another process has the disk");
}

static inline int byte_flush(void *ctx, struct err *e)
{
	(void)ctx;
	(void)e;
	return 0;
}

static inline int byte_take_back(void *ctx, struct migration_pause *p, struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_lock(g, e);

	if (ret < 0)
		return ret;
	p->stopped = false;
	if (p->ran)
		byte_guest_run(g);
	return 0;
}

static inline int byte_stay_paused(void *ctx, struct err *e)
{
	struct byte_guest *g = ctx;

	(void)e;
	g->stays++;
	return 0;
}

static inline int byte_throttle(void *ctx, unsigned int percent, struct err *e)
{
	struct byte_guest *g = ctx;

	(void)e;
	g->throttles++;
	g->writes = g->writes * (100 - percent) / 100;
	return 0;
}

static inline int byte_log_start(void *ctx, struct dirty_log **log, struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_failing(g, CALL_LOG_START, e);

	*log = &g->log;
	return ret ? ret : dirty_log_start(&g->log, e);
}

static inline void byte_log_stop(void *ctx)
{
	struct byte_guest *g = ctx;

	g->log_stops++;
	dirty_log_stop(&g->log);
}

static inline int byte_build(void *ctx, const struct machine_description *d, uint32_t tsc_khz,
			     const struct migration_memory *memory, char change[MIGRATE_TEXT_MAX],
			     struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_failing(g, CALL_BUILD, e);

	(void)tsc_khz;
	if (ret < 0 || !memory || strcmp(d->guest_name, "web-1") != 0) {
		if (memory && memory->how == MEMORY_PASSED)
			close(memory->fd);
		return ret	? ret
		       : memory ? err_set(e, -EINVAL, "described as %s", d->guest_name)
				: 0;
	}
	strcpy(change, "as before");
	g->adopted = memory->how == MEMORY_PASSED;
	byte_guest_map(g, g->adopted ? memory->fd : byte_memfd());
	if (memory->how == MEMORY_FILE && pread(memory->fd, g->map, (size_t)BYTE_PAGES * GUEST_PAGE,
						(off_t)memory->offset) != BYTE_PAGES * GUEST_PAGE)
		return err_set(e, -EINVAL, "the file ends too early");
	return 0;
}

static inline int byte_load(void *ctx, const struct clock_window *when, int64_t *off_ns,
			    struct rbuf *state, char change[MIGRATE_TEXT_MAX], struct err *e)
{
	struct byte_guest *g = ctx;
	int ret = byte_failing(g, CALL_LOAD, e);

	(void)when;
	(void)change;
	*off_ns = g->off_ns;
	g->counter = rbuf_u64(state);
	return ret;
}

static inline int byte_take_over(void *ctx, struct err *e)
{
	return byte_lock(ctx, e);
}

static inline int byte_start(void *ctx, bool run, struct err *e)
{
	struct byte_guest *g = ctx;
	const int ret = byte_failing(g, CALL_START, e);

	g->started = ret != -ECANCELED;
	if (ret < 0)
		return ret;
	if (run)
		byte_guest_run(g);
	return 0;
}

static inline void byte_ram(void *ctx, struct migration_ram *ram)
{
	const struct byte_guest *g = ctx;

	*ram = (struct migration_ram) {
		.map = g->map, .n_bytes = (uint64_t)BYTE_PAGES * GUEST_PAGE, .fd = g->fd};
}

static inline void byte_progress(void *ctx, enum migrate_status status)
{
	struct byte_guest *g = ctx;

	g->told[g->n_told++ % 8] = status;
}

static const struct migration_guest_ops byte_guest_ops = {
	.describe = byte_describe,
	.pause = byte_pause,
	.save = byte_save,
	.flush = byte_flush,
	.take_back = byte_take_back,
	.stay_paused = byte_stay_paused,
	.throttle = byte_throttle,
	.log_start = byte_log_start,
	.log_stop = byte_log_stop,
	.build = byte_build,
	.load = byte_load,
	.take_over = byte_take_over,
	.start = byte_start,
	.ram = byte_ram,
	.progress = byte_progress,
};

#endif
