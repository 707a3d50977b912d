#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "migration/move/status.h"

#define MS  UINT64_C(1000000)
#define SEC (1000 * MS)

/* What is shown, from what was known before the round and what was counted in it. */
static const struct {
	const char *name;
	struct migrate_stats before;
	struct migrate_progress progress;
	uint64_t now;
	uint64_t sent, left, rate, time_left_ns;
} rows[] = {
	{"nothing yet", {.ram_left = 1000}, {0, 0}, SEC, 0, 1000, 0, 0},
	{"the first bytes of the first round",
	 {.ram_left = 1000 * MiB, .round_ns = SEC},
	 {10 * MiB, 10 * MiB},
	 SEC + 10 * MS,
	 10 * MiB,
	 990 * MiB,
	 1000 * MiB,
	 990 * MS},
	{"pages that need no bytes count for the time left",
	 {.ram_left = 1000 * MiB, .round_ns = SEC},
	 {MiB, 500 * MiB},
	 2 * SEC,
	 MiB,
	 500 * MiB,
	 MiB,
	 SEC},
	{"between two rounds: the speed of the last one",
	 {.ram_left = 100 * MiB, .sent_bytes = 1000 * MiB, .bytes_per_s = 50 * MiB},
	 {0, 0},
	 9 * SEC,
	 1000 * MiB,
	 100 * MiB,
	 50 * MiB,
	 2 * SEC},
	{"a round that has just begun: the speed of the last one",
	 {.ram_left = 100 * MiB, .bytes_per_s = 50 * MiB, .round_ns = SEC},
	 {MiB, MiB},
	 SEC + MS,
	 MiB,
	 99 * MiB,
	 50 * MiB,
	 99 * SEC / 50},
	{"more than there was", {.ram_left = 5, .round_ns = 1}, {7, 9}, SEC + 1, 7, 0, 7, 0},
	{"a clock that stands", {.ram_left = 5, .round_ns = SEC}, {1, 1}, SEC, 1, 4, 0, 0},
	{"next to nothing: no estimate",
	 {.ram_left = UINT64_MAX, .round_ns = 1},
	 {1, 1},
	 SEC + 1,
	 1,
	 UINT64_MAX - 1,
	 1,
	 0},
};

static void shown_as_it_goes(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct migrate_stats s = rows[i].before;

		print_message("%s\n", rows[i].name);
		migrate_progress_show(&rows[i].progress, rows[i].now, &s);
		assert_int_equal(s.sent_bytes, rows[i].sent);
		assert_int_equal(s.ram_left, rows[i].left);
		assert_int_equal(s.bytes_per_s, rows[i].rate);
		assert_int_equal(s.time_left_ns / 1000, rows[i].time_left_ns / 1000);
	}
}

/* A script that waits for "completed" must not take anything else for a move. */
static void names_differ(void **state)
{
	int a, b;

	(void)state;
	for (a = MIGRATE_NONE; a <= MIGRATE_CHECKED; a++)
		for (b = MIGRATE_NONE; b < a; b++)
			assert_string_not_equal(migrate_status_name((enum migrate_status)a),
						migrate_status_name((enum migrate_status)b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shown_as_it_goes),
		cmocka_unit_test(names_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
