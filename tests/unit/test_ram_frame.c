/* Frames of guest RAM: what is written is read back, and no hostile head or table gets through. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "migration/ram/frame.h"

#define RAM_PAGES_N 1000 /* not a multiple of 64 */

static const struct ram_head good = {
	.kind = RAM_PAGES,
	.round = 3,
	.n_runs = 2,
	.n_pages = 5,
	.table_crc = 0x11223344,
	.pages_crc = 0x55667788,
};

static void test_head_round_trip(void **state)
{
	uint8_t raw[RAM_HEAD_BYTES];
	struct err e = {0};
	struct ram_head h;

	(void)state;
	ram_head_put(raw, &good);
	assert_int_equal(ram_head_get(&h, raw, 3, &e), 0);
	assert_memory_equal(&h, &good, sizeof(h));
}

static void test_head_flips(void **state)
{
	uint8_t raw[RAM_HEAD_BYTES];
	struct ram_head h;
	unsigned int bit;

	(void)state;
	for (bit = 0; bit < RAM_HEAD_BYTES * 8; bit++) {
		struct err e = {0};

		ram_head_put(raw, &good);
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(ram_head_get(&h, raw, 3, &e), 0);
		assert_string_not_equal(e.text, "");
	}
}

static void test_hostile_heads(void **state)
{
	const struct {
		const char *name;
		struct ram_head h;
	} cases[] = {
		{"kind 0", {.kind = 0, .round = 3, .n_runs = 1}},
		{"kind 4", {.kind = 4, .round = 3, .n_runs = 1}},
		{"old round", {.kind = RAM_PAGES, .round = 2, .n_runs = 1}},
		{"next round", {.kind = RAM_PAGES, .round = 4, .n_runs = 1}},
		{"no runs", {.kind = RAM_PAGES, .round = 3}},
		{"too many runs", {.kind = RAM_PAGES, .round = 3, .n_runs = RAM_FRAME_RUNS + 1}},
		{"too many pages",
		 {.kind = RAM_PAGES, .round = 3, .n_runs = 1, .n_pages = RAM_FRAME_PAGES + 1}},
		{"most pages", {.kind = RAM_PAGES, .round = 3, .n_runs = 1, .n_pages = UINT32_MAX}},
		{"end with pages", {.kind = RAM_ROUND_END, .round = 3, .n_pages = 1}},
		{"last with runs", {.kind = RAM_LAST_END, .round = 3, .n_runs = 1}},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t raw[RAM_HEAD_BYTES];
		struct err e = {0};
		struct ram_head h;

		ram_head_put(raw, &cases[i].h);
		if (ram_head_get(&h, raw, 3, &e) != -EPROTO)
			fail_msg("%s was taken", cases[i].name);
		assert_string_not_equal(e.text, "");
	}
}

static void test_tables(void **state)
{
	const struct {
		const char *name;
		struct ram_run run;
		unsigned int n_pages;
		int ret;
	} cases[] = {
		{"all of a run", {64, UINT64_MAX, 0}, 64, 0},
		{"data and zeros", {64, 5, 2}, 2, 0},
		{"the last page", {960, 1ULL << 39, 0}, 1, 0},
		{"one behind the end", {960, 1ULL << 40, 0}, 1, -ERANGE},
		{"a zero behind the end", {960, 0, 1ULL << 63}, 0, -ERANGE},
		{"behind the end", {1024, 1, 0}, 1, -ERANGE},
		{"far behind the end", {UINT64_MAX - 63, 1, 0}, 1, -ERANGE},
		{"not aligned", {1, 1, 0}, 1, -EPROTO},
		{"data and zero at once", {0, 3, 2}, 2, -EPROTO},
		{"fewer pages than said", {0, 1, 0}, 2, -EPROTO},
		{"more pages than said", {0, 7, 0}, 2, -EPROTO},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t raw[RAM_RUN_BYTES];
		struct ram_head h = {.kind = RAM_PAGES, .n_runs = 1, .n_pages = cases[i].n_pages};
		struct ram_run got;
		struct err e = {0};

		h.table_crc = ram_table_put(raw, &cases[i].run, 1);
		if (ram_table_get(&got, raw, &h, RAM_PAGES_N, &e) != cases[i].ret)
			fail_msg("%s: not %d: %s", cases[i].name, cases[i].ret, e.text);
		raw[7] ^= 1;
		e = (struct err) {0};
		assert_int_equal(ram_table_get(&got, raw, &h, RAM_PAGES_N, &e), -EILSEQ);
	}
}

static void test_bits(void **state)
{
	const struct {
		uint64_t bits;
		unsigned int at, n;
		uint64_t rest;
	} cases[] = {
		{1, 0, 1, 0},		{UINT64_MAX, 0, 64, 0}, {UINT64_MAX << 1, 1, 63, 0},
		{1ULL << 63, 63, 1, 0}, {0x70e, 1, 3, 0x700},	{UINT64_MAX >> 1, 0, 63, 0},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t bits = cases[i].bits;
		unsigned int at;

		assert_int_equal(ram_bits_next(&bits, &at), cases[i].n);
		assert_int_equal(at, cases[i].at);
		assert_int_equal(bits, cases[i].rest);
	}
}

static void test_zero_page(void **state)
{
	static _Alignas(64) uint8_t page[GUEST_PAGE];
	unsigned int i;

	(void)state;
	assert_true(ram_page_is_zero(page));
	for (i = 0; i < GUEST_PAGE; i++) {
		page[i] = 0x80;
		assert_false(ram_page_is_zero(page));
		page[i] = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_head_round_trip),
		cmocka_unit_test(test_head_flips),
		cmocka_unit_test(test_hostile_heads),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_zero_page),
	};

	return cmocka_run_group_tests_name("ram_frame", tests, NULL, NULL);
}
