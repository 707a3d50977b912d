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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal_and_more),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_unnamed_bit),
	};

	return cmocka_run_group_tests_name("subset", tests, NULL, NULL);
}
