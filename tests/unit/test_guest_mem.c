#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/guest_mem.h"

/* Two regions that touch for the guest (but not in this process), and one far above. */
#define A_GPA 0x1000ULL
#define B_GPA 0x2000ULL
#define C_GPA 0xfffffffffffff000ULL
#define LEN   0x1000ULL
#define C_LEN 0xfffULL /* up to the last byte but one of the address space */

static uint8_t a[LEN], b[LEN], c[LEN];

static struct guest_mem make(void)
{
	struct guest_mem gm = {0};

	assert_int_equal(guest_mem_add(&gm, &(struct guest_mem_region) {.gpa = A_GPA, LEN, a, 0}),
			 0);
	assert_int_equal(guest_mem_add(&gm, &(struct guest_mem_region) {.gpa = B_GPA, LEN, b, 0}),
			 0);
	assert_int_equal(guest_mem_add(&gm, &(struct guest_mem_region) {.gpa = C_GPA, C_LEN, c, 0}),
			 0);
	return gm;
}

static const struct {
	const char *name;
	uint64_t gpa, len;
	const uint8_t *hva; /* NULL: refused */
} spans[] = {
	{"whole region", A_GPA, LEN, a},
	{"first byte", A_GPA, 1, a},
	{"last byte", A_GPA + LEN - 1, 1, a + LEN - 1},
	{"second region", B_GPA, LEN, b},
	{"inside", B_GPA + 16, 32, b + 16},
	{"empty inside", A_GPA + 5, 0, a + 5},
	{"highest region", C_GPA, C_LEN, c},
	{"empty outside", 0, 0, NULL},
	{"empty at the end", B_GPA + LEN, 0, NULL},
	{"below", A_GPA - 1, 1, NULL},
	{"starts below, ends inside", A_GPA - 1, 2, NULL},
	{"starts below, ends above", 0, C_GPA, NULL},
	{"one byte too long", B_GPA, LEN + 1, NULL},
	{"last byte and one more", B_GPA + LEN - 1, 2, NULL},
	{"across two regions", A_GPA + LEN - 1, 2, NULL},
	{"in the gap", 0x100000, 1, NULL},
	{"length wraps to below the start", A_GPA + 8, ~0ULL, NULL},
	{"length wraps to the start", A_GPA + 8, ~0ULL - 7, NULL},
	{"sum wraps", C_GPA, LEN + 1, NULL},
	{"last byte of all", ~0ULL, 1, NULL},
	{"all", 0, ~0ULL, NULL},
};

static void test_spans(void **state)
{
	const struct guest_mem gm = make();
	const struct guest_mem none = {0};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(spans); i++) {
		if (gpa_span(&gm, spans[i].gpa, spans[i].len) != spans[i].hva)
			fail_msg("%s", spans[i].name);
		assert_null(gpa_span(&none, spans[i].gpa, spans[i].len));
	}
}

static const struct {
	const char *name;
	uint64_t gpa, len;
	int ret;
} adds[] = {
	{"above", 0x3000, LEN, 0},
	{"empty", 0x3000, 0, -EINVAL},
	{"overlaps the last", 0x2fff, LEN, -EINVAL},
	{"same as the last", B_GPA, LEN, -EINVAL},
	{"below", 0, 0x1000, -EINVAL},
	{"wraps", ~0ULL, 2, -EINVAL},
	{"to the end of the address space", 0x3000, 0 - 0x3000ULL, -EINVAL},
};

static void test_adds(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(adds); i++) {
		struct guest_mem gm = make();
		struct guest_mem_region r = {
			.gpa = adds[i].gpa, .len_bytes = adds[i].len, .hva = a};

		gm.n_regions = 2;
		if (guest_mem_add(&gm, &r) != adds[i].ret)
			fail_msg("%s", adds[i].name);
		assert_int_equal(gm.n_regions, adds[i].ret ? 2 : 3);
	}
}

static void test_full(void **state)
{
	struct guest_mem gm = {0};
	struct guest_mem_region r = {.len_bytes = LEN, .hva = a};
	unsigned int i;

	(void)state;
	for (i = 0; i < GUEST_MEM_MAX_REGIONS; i++, r.gpa += LEN)
		assert_int_equal(guest_mem_add(&gm, &r), 0);
	assert_int_equal(guest_mem_add(&gm, &r), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spans),
		cmocka_unit_test(test_adds),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests_name("guest_mem", tests, NULL, NULL);
}
