/* Who is slowed down, and by how much: shares of what each vCPU writes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "vmm/machine/throttle.h"

#define N 4

static const struct {
	const char *name;
	uint64_t demand[N];
	unsigned int n, percent;
	uint8_t each[N];
} cases[] = {
	{"one vCPU", {1000}, 1, 30, {30}},
	{"nobody is known to write", {0}, 3, 50, {50, 50, 50}},
	{"not slowed down", {10, 20}, 2, 0, {0, 0}},
	{"all alike", {500, 500, 500, 500}, 4, 20, {20, 20, 20, 20}},
	{"one writes", {0, 0, 800, 0}, 4, 75, {0, 0, 75, 0}},
	{"one writes, another a little", {9900, 100}, 2, 50, {51, 0}},
	{"a little above the quota", {300, 100}, 2, 60, {73, 20}},
	{"two write, two do not", {400, 400, 0, 0}, 4, 80, {80, 80, 0, 0}},
	{"each step of a stair", {100, 200, 300, 400}, 4, 30, {0, 0, 33, 50}},
	{"few pages", {1, 0}, 2, 20, {99, 0}},
	{"no more than can be", {5, 0}, 2, 100, {99, 0}},
	{"far more than can be", {5, 5}, 2, 1000, {99, 99}},
	{"much", {1ULL << 55, 0}, 2, 90, {90, 0}},
};

static void test_share(void **state)
{
	size_t i;
	unsigned int v;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t each[N];

		throttle_share(cases[i].demand, cases[i].n, cases[i].percent, each);
		for (v = 0; v < cases[i].n; v++)
			if (each[v] != cases[i].each[v])
				fail_msg("%s: vCPU %u: %u, not %u", cases[i].name, v, each[v],
					 cases[i].each[v]);
	}
}

/* Whoever writes what: in all, what is left is what was asked for, but for whole percents */
static void test_sum(void **state)
{
	uint64_t demand[N];
	unsigned int percent, i, v;

	(void)state;
	for (i = 0; i < 1000; i++) {
		uint64_t sum = 0, left = 0;
		uint8_t each[N];

		percent = 1 + i % 98;
		for (v = 0; v < N; v++) {
			demand[v] = (i * 7919 + v * v * 104729) % 100000 / (v * 50 + 1) * 100;
			sum += demand[v];
		}
		if (!sum)
			continue;
		throttle_share(demand, N, percent, each);
		for (v = 0; v < N; v++)
			left += demand[v] * (100 - each[v]) / 100;
		assert_in_range(left + sum / 50, sum * (100 - percent) / 100,
				sum * (100 - percent) / 100 + sum / 25);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_share),
		cmocka_unit_test(test_sum),
	};

	return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
