/*
 * Both sides of a migration against each other, in one process, on a guest that is an array of
 * bytes: every step of the protocol with every kind of harm, the rows of docs/migration.md's table of
 * failures, and random schedules. Whatever happens, the guest has one owner, and what is told of it
 * is true.
 *
 * TESTUDO_SCHEDULES: how many random ones (default 1000); TESTUDO_SEED: where they begin.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "move_trial.h"

/* ---- when all is well ---- */

static void moved(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_MOVED);
	holds(t, strcmp(t->source.stats.change, "as before") == 0);
	holds(t, t->source.stats.clocks_known);
	holds(t, t->guest[1].adopted == t->local);
}

static void test_moves(void **state)
{
	unsigned int n, local, paused;

	(void)state;
	for (n = 1; n <= WIRE_DATA_MAX; n++)
		for (local = 0; local < 2; local++)
			for (paused = 0; paused < 2; paused++) {
				struct trial t = calm();

				t.n_data = n;
				t.local = local;
				t.paused = paused;
				try(&t, moved);
			}
}

static void could_move(const struct trial *t)
{
	holds(t, t->source.end == MIGRATE_CHECKED && t->source.stats.outcome == OUTCOME_HERE);
	holds(t, t->dest_ret == 1 && !t->guest[1].exists);
}

static void test_dry_run(void **state)
{
	struct trial t = calm();

	(void)state;
	t.dry_run = true;
	t.n_data = 0;
	try(&t, could_move);
}

static void gave_up(const struct trial *t)
{
	holds(t, t->source.stats.code == -ETIMEDOUT && strstr(t->source.stats.error, "faster"));
}

static void was_forced(const struct trial *t)
{
	moved(t);
	holds(t, !t->guest[0].throttles);
}

static void was_slowed(const struct trial *t)
{
	moved(t);
	holds(t, t->guest[0].throttles);
}

static void test_guest_that_writes_all_the_time(void **state)
{
	static void (*const after[])(const struct trial *t) = {
		[ON_TIMEOUT_CANCEL] = gave_up,
		[ON_TIMEOUT_FORCE] = was_forced,
		[ON_TIMEOUT_THROTTLE] = was_slowed,
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(after) / sizeof(*after); i++) {
		struct trial t = calm();

		t.writes = 4000;
		t.limit_ns = 2010000; /* all but nothing, beside what a hand-over costs */
		t.on_timeout = (enum converge_on_timeout)i;
		t.timeout_ns = 1;
		try(&t, after[i]);
	}
}

static void test_guest_that_writes_beside(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 20; i++) {
		struct trial t = calm();

		t.seed = 100 + i;
		t.beside = true;
		t.n_data = 1 + i % WIRE_DATA_MAX;
		t.on_timeout = ON_TIMEOUT_FORCE;
		t.timeout_ns = 1 + i * 1000000;
		try(&t, moved);
	}
}

static void refused_by_clock(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_HERE && t->source.stats.code == -EPERM);
	holds(t, strstr(t->source.stats.error, "clock-difference: refuse"));
	holds(t, t->dest_ret == -EPERM && t->world.disk == 1);
}

static void test_clocks_that_differ(void **state)
{
	const int64_t s = CLOCK_NS_PER_S;
	unsigned int refuse, which;

	(void)state;
	for (refuse = 0; refuse < 2; refuse++)
		for (which = 0; which < 2; which++) {
			struct trial t = calm();

			*(which ? &t.off_ns : &t.wall_ns) = 100 * s;
			t.refuse = refuse;
			try(&t, refuse ? refused_by_clock : moved);
			if (!which)
				assert_in_range(t.source.stats.clocks_apart_ns, 99 * s, 101 * s);
		}
}

/* ---- every step with every harm ---- */

/* What is said in a migration that goes well, by way. */
static void listen_to(struct trial *t, unsigned int n[2], uint16_t seen[2][WIRE_ITEMS_MAX])
{
	unsigned int way;

	run(t);
	check(t);
	for (way = 0; way < 2; way++) {
		n[way] = t->wire.n_items[way];
		assert_true(n[way] <= WIRE_ITEMS_MAX);
		memcpy(seen[way], t->wire.seen[way], sizeof(seen[way]));
	}
	end(t);
}

/* A destination that has the guest does not say FAIL: that would be a lie. */
static bool would_lie(enum wire_harm harm, uint16_t type)
{
	return harm == HARM_FAIL && type == FRAME_ACK;
}

static bool was_harmed(const struct trial *t)
{
	return t->wire.harmed;
}

static void test_every_step_with_every_harm(void **state)
{
	static const struct {
		const char *name;
		bool local, dry_run;
		unsigned int n_data;
	} kinds[] = {{"over channels", false, false, 2},
		     {"on one host", true, false, 0},
		     {"a dry run", false, true, 0}};
	unsigned int k, way, i, harm, tried = 0;

	(void)state;
	for (k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		uint16_t seen[2][WIRE_ITEMS_MAX];
		unsigned int n[2];
		struct trial well = calm();

		well.local = kinds[k].local;
		well.dry_run = kinds[k].dry_run;
		well.n_data = kinds[k].n_data;
		well.writes = 0; /* so that each has as many rounds */
		listen_to(&well, n, seen);
		for (way = 0; way < 2; way++)
			for (i = 0; i < n[way]; i++)
				for (harm = HARM_CUT; harm < HARM_END; harm++) {
					struct trial t = calm();

					if (would_lie(harm, seen[way][i]))
						continue;
					t.plan = (struct wire_plan) {.harm = harm,
								     .way = way,
								     .item = i,
								     .bit = 7 * i + harm};
					t.local = well.local;
					t.dry_run = well.dry_run;
					t.n_data = well.n_data;
					t.writes = 0;
					t.pause_ms = 5;
					t.seed = 1 + tried;
					try(&t, NULL);
					/* the others wait for little, and may end before */
					assert_true(was_harmed(&t) || stall_of(&t, 0) == SOON_MS);
					tried += was_harmed(&t);
				}
		print_message("# %s: %u items from the source, %u from the destination\n",
			      kinds[k].name, n[0], n[1]);
	}
	print_message("# %u steps harmed\n", tried);
	assert_true(tried > 150);
}

/* ---- every call that fails ---- */

static void refused(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_HERE && t->source.stats.code == -EPERM);
	holds(t, strstr(t->source.stats.error, "the destination refuses: call"));
	holds(t, t->dest_ret == -EPERM);
}

static void not_here(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_HERE && t->source.stats.code);
}

static void test_every_call_that_fails(void **state)
{
	static const struct {
		enum byte_call source, dest;
		int with;
		void (*after)(const struct trial *t);
	} cases[] = {
		{CALL_DESCRIBE, CALL_NONE, -ECANCELED, not_here},
		{CALL_PAUSE, CALL_NONE, -ECANCELED, not_here},
		{CALL_SAVE, CALL_NONE, -ECANCELED, not_here},
		{CALL_SAVE, CALL_NONE, -EIO, not_here},
		{CALL_LOG_START, CALL_NONE, -ENOTSUP, not_here},
		{CALL_NONE, CALL_BUILD, -EPERM, refused},
		{CALL_NONE, CALL_BUILD, -EINVAL, not_here},
		{CALL_NONE, CALL_LOAD, -EPERM, not_here},
		{CALL_NONE, CALL_LOAD, -ENOMEM, not_here},
		{CALL_NONE, CALL_START, -ECANCELED, not_here}, /* FAIL in the place of ACK */
		{CALL_NONE, CALL_START, -EIO, NULL},	       /* nobody knows */
	};
	unsigned int i, local;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		for (local = 0; local < 2; local++) {
			struct trial t = calm();

			t.source_fails = cases[i].source;
			t.dest_fails = cases[i].dest;
			t.fails_with = cases[i].with;
			t.local = local;
			if (local && t.source_fails == CALL_LOG_START)
				continue;
			try(&t, cases[i].after);
		}
}

/* ---- docs/migration.md, "Failure handling", row by row ---- */

/* The number of the frame @type among what goes @way when all is well */
static unsigned int item_of(enum wire_way way, uint16_t type)
{
	uint16_t seen[2][WIRE_ITEMS_MAX];
	unsigned int n[2], i;
	struct trial well = calm();

	well.writes = 0;
	listen_to(&well, n, seen);
	for (i = 0; i < n[way]; i++)
		if (seen[way][i] == type)
			return i;
	fail_msg("no frame %u was sent", type);
	return 0;
}

static struct trial at(enum wire_harm harm, enum wire_way way, uint16_t type)
{
	struct trial t = trial((struct wire_plan) {
		.harm = harm, .way = way, .item = item_of(way, type), .bit = 200});

	t.writes = 0;
	t.stall_ms[0] = t.stall_ms[1] = harm == HARM_STALL ? SOON_SEEN_MS : STALL_MS;
	return t;
}

static void goes_on(const struct trial *t)
{
	holds(t, was_harmed(t));
	holds(t, t->source.stats.outcome == OUTCOME_HERE && t->guest[0].runs);
	holds(t, t->dest_ret < 0);
}

static void nobody_knows(const struct trial *t)
{
	holds(t, was_harmed(t));
	holds(t, t->source.stats.outcome == OUTCOME_UNKNOWN && !t->guest[0].runs);
}

static void nobody_knows_but_it_runs_there(const struct trial *t)
{
	nobody_knows(t);
	holds(t, t->guest[1].runs && t->dest_ret == 0);
}

static void test_connection_breaks(void **state)
{
	static const enum wire_harm breaks[] = {HARM_CUT, HARM_STALL};
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct trial before = at(breaks[i], WIRE_FROM_DEST, FRAME_READY);
		struct trial commit = at(breaks[i], WIRE_FROM_SOURCE, FRAME_COMMIT);
		struct trial after = at(breaks[i], WIRE_FROM_DEST, FRAME_ACK);

		/* a destination that can still be heard says that no COMMIT came */
		commit.stall_ms[0] = STALL_MS;
		try(&before, goes_on);
		try(&commit, breaks[i] == HARM_CUT ? nobody_knows : goes_on);
		try(&after, nobody_knows_but_it_runs_there);
	}
}

static void moved_late(const struct trial *t)
{
	moved(t);
	holds(t, was_harmed(t));
}

static void test_source_stands_still_while_it_sends_memory(void **state)
{
	struct trial t = trial((
		struct wire_plan) {.harm = HARM_PAUSE, .data = true, .data_bytes = 4 * GUEST_PAGE});

	(void)state;
	t.stall_ms[0] = STALL_MS;
	t.stall_ms[1] = SOON_SEEN_MS;
	t.pause_ms = 2 * SOON_SEEN_MS;
	try(&t, moved_late);
}

static void fail_in_place_of_ack(const struct trial *t)
{
	not_here(t);
	holds(t, t->guest[0].runs && !t->guest[1].started);
}

static void test_destination_says_fail_in_the_place_of_ack(void **state)
{
	struct trial t = calm();

	(void)state;
	t.dest_fails = CALL_START;
	t.fails_with = -ECANCELED;
	try(&t, fail_in_place_of_ack);
}

static void stays_paused(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_HERE && !t->guest[0].runs);
	holds(t, strstr(t->source.stats.error, "it cannot go on at the source"));
	holds(t, t->world.disk == 3);
}

static void test_another_process_takes_the_disk(void **state)
{
	struct trial t = at(HARM_DISK_TAKEN, WIRE_FROM_SOURCE, FRAME_FINISH);

	(void)state;
	t.stall_ms[0] = SOON_SEEN_MS;
	try(&t, stays_paused);
}

static void waits_on(const struct trial *t)
{
	holds(t, t->source.stats.outcome == OUTCOME_HERE && t->guest[0].runs);
	holds(t, t->dest_ret == 1);
}

static void test_nonsense_before_hello(void **state)
{
	struct trial t = at(HARM_FLIP, WIRE_FROM_SOURCE, FRAME_HELLO);

	(void)state;
	try(&t, waits_on);
}

static void test_flipped_bit(void **state)
{
	static const uint16_t types[] = {FRAME_DESCRIPTION, FRAME_STATE, FRAME_FINISH,
					 FRAME_COMMIT};
	struct trial data = trial((struct wire_plan) {
		.harm = HARM_FLIP, .data = true, .data_bytes = 4 * GUEST_PAGE, .bit = 4711});
	unsigned int i;

	(void)state;
	data.stall_ms[0] = data.stall_ms[1] = STALL_MS;
	for (i = 0; i < sizeof(types) / sizeof(*types); i++) {
		struct trial t = at(HARM_FLIP, WIRE_FROM_SOURCE, types[i]);

		try(&t, goes_on);
	}
	try(&data, goes_on);
}

static void ended(const struct trial *t)
{
	goes_on(t);
	holds(t, t->dest_ret == -ECANCELED);
}

static void test_destination_is_told_to_end(void **state)
{
	struct trial t = at(HARM_STOP, WIRE_FROM_SOURCE, FRAME_ROUND_END);

	(void)state;
	try(&t, ended);
}

static void cancelled(const struct trial *t)
{
	goes_on(t);
	holds(t, t->source.end == MIGRATE_CANCELLED && t->source.stats.code == -ECANCELED);
}

static void moved_too_late(const struct trial *t)
{
	moved(t);
	holds(t, t->too_late == 1);
}

static void test_cancelled(void **state)
{
	struct trial t = at(HARM_CANCEL, WIRE_FROM_DEST, FRAME_VERDICT);
	struct trial late = at(HARM_CANCEL, WIRE_FROM_DEST, FRAME_ACK);

	(void)state;
	try(&t, cancelled);
	try(&late, moved_too_late);
}

static void test_lost_ready(void **state)
{
	struct trial cut = at(HARM_CUT, WIRE_FROM_DEST, FRAME_READY);
	struct trial flip = at(HARM_FLIP, WIRE_FROM_DEST, FRAME_READY);

	(void)state;
	try(&cut, goes_on);
	try(&flip, goes_on);
}

/* ---- random schedules ---- */

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

static struct trial random_trial(uint64_t seed)
{
	static const int codes[] = {-EIO, -EPERM, -ENOMEM, -ECANCELED, -EINVAL};
	uint64_t r = seed * 0x9e3779b97f4a7c15u + 1;
	struct trial t = calm();
	unsigned int i;

	for (i = 0; i < 4; i++)
		byte_random(&r);
	t.seed = seed;
	t.n_data = 1 + (unsigned int)(byte_random(&r) % WIRE_DATA_MAX);
	t.writes = byte_random(&r) % 3 ? (unsigned int)(byte_random(&r) % 60) : 0;
	t.local = byte_random(&r) % 5 == 0;
	t.dry_run = byte_random(&r) % 11 == 0;
	t.paused = byte_random(&r) % 7 == 0;
	t.pause_ms = 3;
	t.on_timeout = (enum converge_on_timeout)(byte_random(&r) % 3);
	t.timeout_ns = 1 + byte_random(&r) % 4 * 1000000;
	if (byte_random(&r) % 6 == 0)
		t.source_fails = (enum byte_call)(byte_random(&r) % CALL_BUILD);
	else if (byte_random(&r) % 6 == 0)
		t.dest_fails = (enum byte_call)(CALL_BUILD + byte_random(&r) % 3);
	t.fails_with = codes[byte_random(&r) % 5];
	t.plan = (struct wire_plan) {
		.harm = (enum wire_harm)(byte_random(&r) % HARM_END),
		.way = (enum wire_way)(byte_random(&r) % 2),
		.item = (unsigned int)(byte_random(&r) % 14),
		.data = byte_random(&r) % 4 == 0,
		.data_bytes = byte_random(&r) % (BYTE_PAGES * GUEST_PAGE / 4),
		.bit = (unsigned int)byte_random(&r),
	};
	if (t.plan.harm == HARM_STALL && byte_random(&r) % 4)
		t.plan.harm = HARM_CUT; /* each waits for its end */
	/* a FAIL in the place of ACK would be a lie, and which item that is depends on the rounds */
	if (t.plan.harm == HARM_FAIL && t.plan.way == WIRE_FROM_DEST && t.plan.item >= 5)
		t.plan.item = 5 - t.plan.item % 5;
	return t;
}

static void test_random_schedules(void **state)
{
	const uint64_t n = number("TESTUDO_SCHEDULES", 1000), from = number("TESTUDO_SEED", 1);
	unsigned int harmed = 0, outcome[3] = {0};
	uint64_t i;

	(void)state;
	for (i = 0; i < n; i++) {
		struct trial t = random_trial(from + i);

		try(&t, NULL);
		harmed += was_harmed(&t);
		outcome[t.source.stats.outcome]++;
	}
	print_message("# %llu schedules from seed %llu: %u harmed; here %u, moved %u, unknown %u\n",
		      (unsigned long long)n, (unsigned long long)from, harmed,
		      outcome[OUTCOME_HERE], outcome[OUTCOME_MOVED], outcome[OUTCOME_UNKNOWN]);
	/* the test is one only while it reaches all ends */
	if (n >= 500)
		assert_true(harmed > n / 4 && outcome[OUTCOME_HERE] && outcome[OUTCOME_MOVED] &&
			    outcome[OUTCOME_UNKNOWN]);
}

static int make_folder(void **state)
{
	static char folder[32] = "/tmp/testudo-move-XXXXXX";

	if (!mkdtemp(folder))
		return -1;
	*state = folder;
	snprintf(socket_path, sizeof(socket_path), "%s/dest", folder);
	log_set_level(LOG_ERR);
	return 0;
}

static int remove_folder(void **state)
{
	return rmdir(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves),
		cmocka_unit_test(test_dry_run),
		cmocka_unit_test(test_guest_that_writes_all_the_time),
		cmocka_unit_test(test_guest_that_writes_beside),
		cmocka_unit_test(test_clocks_that_differ),
		cmocka_unit_test(test_every_step_with_every_harm),
		cmocka_unit_test(test_every_call_that_fails),
		cmocka_unit_test(test_connection_breaks),
		cmocka_unit_test(test_source_stands_still_while_it_sends_memory),
		cmocka_unit_test(test_destination_says_fail_in_the_place_of_ack),
		cmocka_unit_test(test_another_process_takes_the_disk),
		cmocka_unit_test(test_nonsense_before_hello),
		cmocka_unit_test(test_flipped_bit),
		cmocka_unit_test(test_destination_is_told_to_end),
		cmocka_unit_test(test_cancelled),
		cmocka_unit_test(test_lost_ready),
		cmocka_unit_test(test_random_schedules),
	};

	return cmocka_run_group_tests_name("move", tests, make_folder, remove_folder);
}
