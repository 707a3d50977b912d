/* The stop rule against the theory: V(i+1) = min(W, D * V(i) / B), in simulated time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "migration/move/converge.h"

#define MS	   UINT64_C(1000000)
#define S	   (1000 * MS)
#define ROUNDS_MAX 400

struct model {
	const char *name;
	uint64_t ram;	    /* V(0), bytes */
	uint64_t rate;	    /* B, bytes a second */
	uint64_t dirty;	    /* D, bytes a second, unthrottled */
	uint64_t set;	    /* W, bytes */
	unsigned int noise; /* percent, up and down in turn */
	uint64_t fixed_ns;
	struct converge_config config;
	/* expected */
	enum converge_action end; /* CONVERGE_NEXT_ROUND: still going at ROUNDS_MAX */
	bool within;		  /* the pause that follows keeps the limit */
	unsigned int rounds_max;
	unsigned int throttle_min, throttle_max;
};

#define LIMIT(ms)                   \
	{                           \
		.limit_ns = (ms)*MS \
	}
#define TIMEOUT(ms, s, what)                                                 \
	{                                                                    \
		.limit_ns = (ms)*MS, .timeout_ns = (s)*S, .on_timeout = what \
	}

static const struct model models[] = {
	/* idle: one round and one for what came meanwhile */
	{"idle", GiB, 2 * GiB, 4 * MiB, MiB, 0, MS, LIMIT(20), CONVERGE_STOP, true, 3, 0, 0},
	{"nothing dirty at all", GiB, 2 * GiB, 0, 0, 0, MS, LIMIT(20), CONVERGE_STOP, true, 1, 0,
	 0},
	/* a wide limit must not make an idle guest's pause long */
	{"idle, limit 300 ms", GiB, 2 * GiB, 64 * MiB, 256 * MiB, 0, MS, LIMIT(300), CONVERGE_STOP,
	 true, 8, 0, 0},
	{"r = 0.5, wide set", GiB, 2 * GiB, GiB, GiB, 0, 2 * MS, LIMIT(20), CONVERGE_STOP, true, 14,
	 0, 0},
	{"r = 0.8", 4 * GiB, 2 * GiB, GiB * 8 / 5, 4 * GiB, 0, 2 * MS, LIMIT(20), CONVERGE_STOP,
	 true, 45, 0, 0},
	/* r > 1 but what it writes is small: the floor fits */
	{"r = 4, set fits", GiB, GiB, 4 * GiB, 8 * MiB, 0, 2 * MS, LIMIT(20), CONVERGE_STOP, true,
	 4, 0, 0},
	/* r > 1 and the floor does not fit: throttled until it does */
	{"r = 2, throttled", GiB, GiB, 2 * GiB, 512 * MiB, 0, 2 * MS, LIMIT(20), CONVERGE_STOP,
	 true, 60, 60, 80},
	{"r = 2, noisy", GiB, GiB, 2 * GiB, 512 * MiB, 20, 2 * MS, LIMIT(20), CONVERGE_STOP, true,
	 90, 50, 80},
	{"r = 0.5, noisy", GiB, 2 * GiB, GiB, GiB, 20, 2 * MS, LIMIT(20), CONVERGE_STOP, true, 20,
	 0, 20},
	/* too fast even at 80 %: time is up */
	{"r = 20, cancel", GiB, GiB, 20 * GiB, 512 * MiB, 0, 2 * MS,
	 TIMEOUT(20, 30, ON_TIMEOUT_CANCEL), CONVERGE_GIVE_UP, false, 100, 80, 80},
	{"r = 20, force", GiB, GiB, 20 * GiB, 512 * MiB, 0, 2 * MS,
	 TIMEOUT(20, 30, ON_TIMEOUT_FORCE), CONVERGE_STOP, false, 100, 80, 80},
	{"r = 20, throttle", GiB, GiB, 20 * GiB, 512 * MiB, 0, 2 * MS,
	 TIMEOUT(20, 30, ON_TIMEOUT_THROTTLE), CONVERGE_STOP, true, 200, 90, 99},
	{"r = 20, no timeout: goes on", GiB, GiB, 20 * GiB, 512 * MiB, 0, 2 * MS, LIMIT(20),
	 CONVERGE_NEXT_ROUND, false, ROUNDS_MAX, 80, 80},
	/* the limit is below what the pause costs anyway */
	{"limit below the fixed cost, idle", GiB, GiB, MiB, MiB, 0, 5 * MS, LIMIT(2), CONVERGE_STOP,
	 false, 3, 0, 0},
	{"limit below the fixed cost, busy", GiB, GiB, 2 * GiB, 512 * MiB, 0, 5 * MS,
	 TIMEOUT(2, 20, ON_TIMEOUT_CANCEL), CONVERGE_STOP, false, 90, 60, 80},
	{"limit 0, timeout at once",
	 GiB,
	 GiB,
	 2 * GiB,
	 512 * MiB,
	 0,
	 MS,
	 {.timeout_ns = 1},
	 CONVERGE_GIVE_UP,
	 false,
	 1,
	 0,
	 0},
};

/* Run @m to its end. */
static struct converge_step simulate(const struct model *m, unsigned int *rounds)
{
	struct converge_step s = {.action = CONVERGE_NEXT_ROUND};
	uint64_t v = m->ram, elapsed = 0;
	struct converge c;

	converge_init(&c, &m->config);
	for (*rounds = 0; *rounds < ROUNDS_MAX;) {
		unsigned int jitter = *rounds % 2 ? 100 + m->noise : 100 - m->noise;
		uint64_t ns = (uint64_t)((double)v * 1e9 / (double)m->rate * 100 / jitter);
		double writes =
			(double)m->dirty * (100 - s.throttle_percent) / 100 * (double)ns / 1e9;
		struct converge_round r = {.sent_bytes = v, .sent_ns = ns, .fixed_ns = m->fixed_ns};

		writes = writes * jitter / 100;
		v = writes > (double)m->set ? m->set : (uint64_t)writes;
		v &= ~UINT64_C(4095);
		elapsed += ns;
		r.dirty_bytes = v;
		r.elapsed_ns = elapsed;
		s = converge_round(&c, &r);
		(*rounds)++;
		assert_true(s.throttle_percent <= CONVERGE_THROTTLE_MAX);
		assert_true(!s.stuck || s.throttle_percent >= CONVERGE_THROTTLE_AUTO_MAX);
		if (s.action == CONVERGE_STOP || s.action == CONVERGE_GIVE_UP)
			break;
		assert_true(v > 0); /* never one more round for nothing */
	}
	return s;
}

static void models_end_as_the_theory_says(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(models); i++) {
		const struct model *m = &models[i];
		unsigned int rounds;
		struct converge_step s = simulate(m, &rounds);

		print_message(
			"%s: action %u after %u rounds, throttle %u, downtime %.2f ms, rate %llu "
			"MiB/s\n",
			m->name, s.action, rounds, s.throttle_percent, (double)s.downtime_ns / 1e6,
			(unsigned long long)(s.rate / MiB));
		assert_int_equal(s.action, m->end);
		assert_int_equal(s.stuck, m->end == CONVERGE_NEXT_ROUND);
		assert_int_equal(s.fits, m->within);
		assert_int_equal(s.below_fixed, m->fixed_ns > m->config.limit_ns);
		assert_true(rounds <= m->rounds_max);
		assert_in_range(s.throttle_percent, m->throttle_min, m->throttle_max);
	}
}

/* A guest that is nearly idle pauses about as short as the fixed cost allows, at any limit. */
static void idle_pause_is_short(void **state)
{
	unsigned int i, rounds;

	(void)state;
	for (i = 0; i < 3; i++)
		assert_true(simulate(&models[i], &rounds).downtime_ns <
			    models[i].fixed_ns + 500 * MS / 1000);
}

/* One short round at an absurd speed (a socket's buffer took it) does not move the estimate. */
static void short_rounds_weigh_little(void **state)
{
	struct converge_config config = LIMIT(20);
	struct converge_round r = {
		.sent_bytes = GiB, .sent_ns = S, .dirty_bytes = 64 * MiB, .fixed_ns = MS};
	struct converge_step s;
	struct converge c;

	(void)state;
	converge_init(&c, &config);
	s = converge_round(&c, &r);
	assert_int_equal(s.rate, GiB);
	assert_int_equal(s.dirty_rate, 64 * MiB);
	r.sent_bytes = 64 * 1024;
	r.sent_ns = 1000; /* 61 GiB/s for a microsecond */
	s = converge_round(&c, &r);
	assert_true(s.rate < GiB + GiB / 100);
	r.sent_bytes = GiB / 2;
	r.sent_ns = S;
	s = converge_round(&c, &r);
	assert_in_range(s.rate, GiB * 7 / 10, GiB * 8 / 10);
}

/* Extreme numbers neither overflow nor divide by zero. */
static void extremes(void **state)
{
	static const uint64_t values[] = {0, 1, 4096, UINT64_MAX / 2, UINT64_MAX};
	struct converge_config config = LIMIT(20);
	unsigned int i, rounds;

	(void)state;
	for (i = 0; i < 5 * 5 * 5 * 5; i++) {
		struct converge_round r = {
			.sent_bytes = values[i % 5],
			.sent_ns = values[i / 5 % 5],
			.dirty_bytes = values[i / 25 % 5],
			.fixed_ns = values[i / 125],
		};
		struct converge_step s;
		struct converge c;

		converge_init(&c, &config);
		for (rounds = 0; rounds < 3; rounds++)
			s = converge_round(&c, &r);
		assert_true(r.dirty_bytes > 0 || s.action == CONVERGE_STOP);
		assert_true(s.downtime_ns >= r.fixed_ns);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(models_end_as_the_theory_says),
		cmocka_unit_test(idle_pause_is_short),
		cmocka_unit_test(short_rounds_weigh_little),
		cmocka_unit_test(extremes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
