/* Time between two hosts: what an answer tells, and how much passed. */
#include "migration/state/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

#define S    ((int64_t)CLOCK_NS_PER_S)
#define MS   (S / 1000)
#define HOUR (3600 * S)
#define DAY  (24 * HOUR)
#define Y    (365 * DAY)

/* ---- a question and its answer ---- */

static void test_link(void **state)
{
	static const struct {
		const char *name;
		uint64_t asked;
		struct clock_reading heard, answer;
		int64_t shift, apart;
		uint64_t error;
	} rows[] = {
		{"one host, one clock",
		 100 * S,
		 {100 * S + 4 * MS, 50 * Y + 4 * MS},
		 {100 * S + MS, 50 * Y + MS},
		 100 * S - 50 * Y,
		 0,
		 0},
		{"one host, its wall clock an hour off for one side",
		 100 * S,
		 {100 * S + 4 * MS, 50 * Y + 4 * MS},
		 {100 * S + MS, 50 * Y + MS + HOUR},
		 100 * S - 50 * Y - HOUR,
		 HOUR,
		 0},
		{"two hosts",
		 100 * S,
		 {100 * S + 4 * MS, 50 * Y + 4 * MS},
		 {9 * S, 50 * Y + 2 * MS},
		 100 * S - 50 * Y,
		 0,
		 2 * MS},
		{"two hosts, an hour ahead",
		 100 * S,
		 {100 * S + 4 * MS, 50 * Y + 4 * MS},
		 {9 * S, 50 * Y + HOUR + 2 * MS},
		 100 * S - 50 * Y - HOUR,
		 HOUR,
		 2 * MS},
		{"two hosts, an hour behind",
		 100 * S,
		 {100 * S + 4 * MS, 50 * Y + 4 * MS},
		 {9 * S, 50 * Y - HOUR + 2 * MS},
		 100 * S - 50 * Y + HOUR,
		 -HOUR,
		 2 * MS},
		{"an odd span", 10, {13, 50 * Y + 3}, {9, 50 * Y + 1}, 10 - 50 * Y, 0, 2},
		{"no span", 10, {10, 50 * Y}, {9, 50 * Y}, 10 - 50 * Y, 0, 0},
		{"no such time of day",
		 10,
		 {10, 50 * Y},
		 {UINT64_MAX, UINT64_MAX},
		 INT64_MIN,
		 INT64_MAX,
		 0},
		{"the beginning of time", 10, {10, 50 * Y}, {0, 0}, 10, -50 * Y, 0},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct clock_link l =
			clock_link_make(rows[i].asked, &rows[i].heard, &rows[i].answer);

		print_message("%s\n", rows[i].name);
		assert_true(l.shift_ns == rows[i].shift);
		assert_true(l.apart_ns == rows[i].apart);
		assert_true(l.error_ns == rows[i].error);
		assert_true(l.asked_ns == rows[i].asked);
	}
}

static void test_stale(void **state)
{
	const struct clock_link far = {.error_ns = 100 * MS, .asked_ns = 5 * S};
	const struct clock_link near = {.error_ns = MS / 10, .asked_ns = 5 * S};
	const struct clock_link same = {.asked_ns = 5 * S};

	(void)state;
	/* 100 ppm: 0.2 ms in 2 s, 200 ms in 2000 s */
	assert_true(clock_link_error(&near, 5 * S) == MS / 10);
	assert_true(clock_link_error(&near, 15 * S) == MS / 10 + MS);
	assert_true(clock_link_error(&same, 50 * (uint64_t)Y) == 0);
	assert_false(clock_link_is_stale(&near, 6 * S));
	assert_true(clock_link_is_stale(&near, 8 * S));
	assert_false(clock_link_is_stale(&far, 1000 * S));
	assert_true(clock_link_is_stale(&far, 3000 * S));
	assert_false(clock_link_is_stale(&same, 50 * (uint64_t)Y));
}

static void test_apart(void **state)
{
	char text[128];

	(void)state;
	assert_false(clock_is_apart(0, 0));
	assert_false(clock_is_apart(S, 0));
	assert_true(clock_is_apart(S + 1, 0));
	assert_true(clock_is_apart(-S - 1, 0));
	assert_false(clock_is_apart(-3 * S, 2 * S));
	assert_true(clock_is_apart(-3 * S - 1, 2 * S));
	assert_true(clock_is_apart(INT64_MIN, S));
	assert_false(clock_is_apart(INT64_MAX, UINT64_MAX));
	clock_tell_apart("a", "b", HOUR + 249 * MS, text, sizeof(text));
	assert_string_equal(text, "the wall clock of a is 3600.2 s ahead of that of b");
	clock_tell_apart("a", "b", -90 * S + 1, text, sizeof(text));
	assert_string_equal(text, "the wall clock of a is 90.0 s behind that of b");
	clock_tell_apart("a", "b", INT64_MIN, text, sizeof(text));
	assert_string_equal(text, "the wall clock of a is 9223372036.9 s behind that of b");
}

/* ---- what passed ---- */

static void test_passed(void **state)
{
	/*
	 * of a source an hour ahead whose handshake was at 100 s here, and its state here at 140 s
	 */
	const struct clock_window ahead =
		clock_window_between(100 * S - 50 * Y - HOUR, 100 * S, 140 * S);
	const struct clock_reading now = {500 * S, 50 * Y};
	const struct {
		const char *name;
		struct clock_window w;
		uint64_t saved, now;
		uint64_t passed;
		int64_t off;
	} rows[] = {
		{"a file", clock_window_still(), 40 * Y, 500 * S, 0, 0},
		{"a file from the future", clock_window_still(), UINT64_MAX, 500 * S, 0, 0},
		{"this process", clock_window_here(), 499 * S, 500 * S, S, 0},
		{"this process, at once", clock_window_here(), 500 * S, 500 * S, 0, 0},
		{"this process, never backwards", clock_window_here(), 501 * S, 500 * S, 0, 0},
		{"a pause of 50 ms", ahead, 50 * Y + HOUR + 39 * S + 990 * MS, 140 * S + 40 * MS,
		 50 * MS, 0},
		{"saved at the first moment", ahead, 50 * Y + HOUR, 141 * S, 41 * S, 0},
		{"just before it: lied to", ahead, 50 * Y + HOUR - 1, 141 * S, S, -1},
		{"saved as late as can be", ahead, 50 * Y + HOUR + 40 * S, 141 * S, S, 0},
		{"after it: only what was measured here", ahead, 50 * Y + 2 * HOUR, 141 * S, S,
		 HOUR - 40 * S},
		{"a day before it", ahead, 50 * Y + HOUR - DAY, 141 * S, S, -DAY},
		{"no time of day", ahead, UINT64_MAX, 141 * S, S,
		 INT64_MAX - (50 * Y + HOUR - 100 * S) - 140 * S},
		{"the beginning of time", ahead, 0, 141 * S, S, 100 * S - 50 * Y - HOUR - 100 * S},
		{"the wall clock: an hour in a file", clock_window_wall(&now), 50 * Y - HOUR,
		 500 * S, HOUR, 0},
		{"the wall clock: longer than the host runs", clock_window_wall(&now), 49 * Y,
		 501 * S, Y + S, 0},
		{"the wall clock: stepped back by an hour", clock_window_wall(&now), 50 * Y + HOUR,
		 501 * S, S, HOUR},
		{"the wall clock: since the beginning of time", clock_window_wall(&now), 0, 500 * S,
		 50 * Y, 0},
		{"a source without a sane moment", clock_window_between(INT64_MIN, 0, UINT64_MAX),
		 0, 500 * S, 0, INT64_MIN},
		{"all of time",
		 {.shift_ns = INT64_MIN, .earliest_ns = INT64_MIN, .latest_ns = INT64_MAX},
		 0,
		 UINT64_MAX,
		 INT64_MAX,
		 0},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		int64_t off = 42;
		const uint64_t passed = clock_passed(&rows[i].w, rows[i].saved, rows[i].now, &off);

		print_message("%s: %lld %lld\n", rows[i].name, (long long)passed, (long long)off);
		assert_true(passed == rows[i].passed);
		assert_true(off == rows[i].off);
	}
}

/* Whatever the other side says, what passes is no more than this host has measured. */
static void test_passed_is_bounded(void **state)
{
	static const int64_t shifts[] = {INT64_MIN, -50 * Y, -HOUR, 0, HOUR, 50 * Y, INT64_MAX};
	static const uint64_t saved[] = {0, 1, HOUR, 50 * Y, INT64_MAX, UINT64_MAX};
	unsigned int i, k;
	int64_t off;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shifts); i++)
		for (k = 0; k < ARRAY_SIZE(saved); k++) {
			const struct clock_window w = clock_window_between(shifts[i], 7 * S, 8 * S);

			assert_in_range(clock_passed(&w, saved[k], 9 * S, &off), S, 2 * S);
		}
}

/* ---- ticks ---- */

static void test_ticks(void **state)
{
	static const struct {
		uint64_t ns;
		uint32_t khz;
		uint64_t ticks;
	} rows[] = {
		{0, 2000000, 0},
		{1, 2000000, 2},
		{999999, 2000000, 1999998},
		{S, 2000000, 2000000000},
		{S + 1, 3000001, 3000001003},
		{HOUR, 2893437, 2893437000ull * 3600},
		{50 * Y, 2000000, 3153600000000000000},
		{INT64_MAX, 2000000, 18446744073709551614ull},
		{INT64_MAX, 2000001, UINT64_MAX},
		{UINT64_MAX, 100000000, UINT64_MAX},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		print_message("%llu ns at %u kHz\n", (unsigned long long)rows[i].ns, rows[i].khz);
		assert_true(clock_ticks(rows[i].ns, rows[i].khz) == rows[i].ticks);
	}
}

static void test_frequency(void **state)
{
	static const struct {
		uint32_t khz, here;
		bool same;
	} rows[] = {
		{2000000, 2000000, true},
		{2000500, 2000000, true},
		{2000501, 2000000, false},
		{1999500, 2000000, true},
		{1999499, 2000000, false},
		{1000, 2000000, false},
		{3000000, 2000000, false},
		{2000000, 0, false},
		{1, 1, true},
		{UINT32_MAX, UINT32_MAX, true},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		print_message("%u kHz on %u kHz\n", rows[i].khz, rows[i].here);
		assert_true(clock_same_frequency(rows[i].khz, rows[i].here) == rows[i].same);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_link),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_apart),
		cmocka_unit_test(test_passed),
		cmocka_unit_test(test_passed_is_bounded),
		cmocka_unit_test(test_ticks),
		cmocka_unit_test(test_frequency),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
