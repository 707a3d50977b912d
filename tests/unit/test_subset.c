#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "cpuid/subset.h"

static const struct cpuid_set plain = {
	.n_leaves = 4,
	.leaf =
		{
			{.leaf = 1, .ecx = 1u << 0 | 1u << 26, .edx = 1u << 25},
			{.leaf = 7, .indexed = true, .eax = 2, .ebx = 1u << 5, .edx = 1u << 26},
			{.leaf = 0xd, .indexed = true, .eax = 7},
			{.leaf = 0x80000008, .eax = 46},
		},
};

static struct cpuid_leaf *at(struct cpuid_set *s, uint32_t leaf)
{
	return cpuid_find(s, leaf, 0);
}

static void test_equal_and_more(void **state)
{
	struct cpuid_set guest = plain, host = plain;
	struct err e = {0};

	(void)state;
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0);
	at(&host, 1)->ecx = ~0u;
	at(&host, 7)->ebx = ~0u;
	at(&host, 0xd)->eax = 0xff;
	at(&host, 0x80000008)->eax = 52;
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0);
}

static void test_missing(void **state)
{
	static const struct {
		const char *name;
		uint32_t leaf;
		size_t reg; /* offset in struct cpuid_leaf */
		uint32_t value;
	} cases[] = {
		{"pni", 1, offsetof(struct cpuid_leaf, ecx), 1u << 26},
		{"avx2", 7, offsetof(struct cpuid_leaf, ebx), 0},
		{"spec_ctrl", 7, offsetof(struct cpuid_leaf, edx), 0},
		{"XSAVE states 0x4", 0xd, offsetof(struct cpuid_leaf, eax), 3},
		{"46 bits of physical address (39 here)", 0x80000008,
		 offsetof(struct cpuid_leaf, eax), 39},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cpuid_set guest = plain, host = plain;
		struct err e = {0};

		*(uint32_t *)(void *)((char *)at(&host, cases[i].leaf) + cases[i].reg) =
			cases[i].value;
		assert_int_equal(cpuid_check_subset(&guest, &host, &e), -EINVAL);
		if (!strstr(e.text, cases[i].name))
			fail_msg("'%s' is not in: %s", cases[i].name, e.text);
		assert_non_null(strstr(e.text, "--cpu"));
	}
}

/* A bit that nobody has named yet may still be something that the guest uses. */
static void test_unnamed_bit(void **state)
{
	struct cpuid_set guest = plain, host = plain;
	struct err e = {0};

	(void)state;
	at(&guest, 7)->edx |= 1u << 6;
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), -EINVAL);
	assert_non_null(strstr(e.text, "CPUID.(7,0).EDX[6]"));
}

/* Protection keys as they are on a part without AVX-512 and with: AMD family 19H, 1xH and 0xH */
static void test_xsave_places(void **state)
{
	const struct cpuid_leaf keys = {
		.leaf = 0xd, .subleaf = 9, .indexed = true, .eax = 8, .ebx = 832};
	struct cpuid_set guest = plain, host = plain;
	struct err e = {0};

	(void)state;
	at(&guest, 0xd)->eax = at(&host, 0xd)->eax = 0x207;
	cpuid_add(&guest, &keys);
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0); /* a host from a fact file */
	cpuid_add(&host, &keys);
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0);
	cpuid_find(&host, 0xd, 9)->ebx = 2432;
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), -EINVAL);
	assert_non_null(strstr(e.text, "XSAVE state 9 of 8 bytes at 832 (8 at 2432 here)"));
	at(&guest, 0xd)->eax = 7; /* not shown: no matter where */
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0);
}

/* Those of IA32_XSS are asked for, too. */
static void test_system_states(void **state)
{
	const struct cpuid_leaf cet = {.leaf = 0xd, .subleaf = 1, .indexed = true, .ecx = 0x1800};
	struct cpuid_set guest = plain, host = plain;
	struct err e = {0};

	(void)state;
	cpuid_add(&guest, &cet);
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), -EINVAL);
	assert_non_null(strstr(e.text, "XSAVE states 0x1800"));
	cpuid_add(&host, &cet);
	assert_int_equal(cpuid_check_subset(&guest, &host, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal_and_more), cmocka_unit_test(test_missing),
		cmocka_unit_test(test_unnamed_bit),    cmocka_unit_test(test_xsave_places),
		cmocka_unit_test(test_system_states),
	};

	return cmocka_run_group_tests_name("subset", tests, NULL, NULL);
}
