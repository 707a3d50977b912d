#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "cpuid/cpuid.h"

/* a cut-down Intel set with leaf 1FH, as KVM_GET_SUPPORTED_CPUID orders it */
static const struct cpuid_set intel = {
	.n_leaves = 6,
	.leaf =
		{
			{.leaf = 0,
			 .eax = 0x20,
			 .ebx = 0x756e6547,
			 .edx = 0x49656e69,
			 .ecx = 0x6c65746e},
			{.leaf = 1,
			 .eax = 0x806f8,
			 .ebx = 0x03400800,
			 .ecx = 0x8,
			 .edx = 0x0fabfbff},
			{.leaf = 4, .subleaf = 0, .indexed = true, .eax = 0xfc004121},
			{.leaf = 4, .subleaf = 3, .indexed = true, .eax = 0xfc1fc163},
			{.leaf = 0x1f, .subleaf = 0, .indexed = true, .eax = 1, .ebx = 2},
			{.leaf = 0x80000008, .eax = 0x302e},
		},
};

static const struct cpuid_set amd = {
	.n_leaves = 6,
	.leaf =
		{
			{.leaf = 0,
			 .eax = 0x7,
			 .ebx = 0x68747541,
			 .edx = 0x69746e65,
			 .ecx = 0x444d4163},
			{.leaf = 1, .eax = 0x830f10},
			{.leaf = 0x80000001},
			{.leaf = 0x80000008, .eax = 0x3030, .ecx = 0xf0ff},
			{.leaf = 0x8000001d, .subleaf = 3, .indexed = true, .eax = 0x1c163},
			{.leaf = 0x8000001e, .eax = 0xff, .ebx = 0xffff, .ecx = 0x7ff},
		},
};

static const struct {
	const char *name;
	uint32_t n_vcpus, apic_id;
	uint32_t count1; /* leaf 1 EBX[23:16] */
	uint32_t shift;	 /* core level EAX */
	uint32_t cores4; /* leaf 4 EAX[31:26] */
} shapes[] = {
	{"one", 1, 0, 1, 0, 0},	       {"two", 2, 1, 2, 1, 1},	  {"three", 3, 2, 4, 2, 3},
	{"four", 4, 3, 4, 2, 3},       {"64", 64, 63, 64, 6, 63}, {"65", 65, 64, 128, 7, 63},
	{"255", 255, 254, 255, 8, 63}, /* 256 IDs do not fit in the eight bits of leaf 1 */
};

static void test_topology_intel(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct cpuid_set set = intel;
		const uint32_t n = shapes[i].n_vcpus, id = shapes[i].apic_id;
		uint32_t leaf;

		print_message("# %s\n", shapes[i].name);
		assert_int_equal(cpuid_set_topology(&set, id, n), 0);
		assert_int_equal(cpuid_find(&set, 1, 0)->ebx >> 24, id);
		assert_int_equal(cpuid_find(&set, 1, 0)->ebx >> 16 & 0xff, shapes[i].count1);
		assert_int_equal(cpuid_find(&set, 1, 0)->ebx & 0xffff, 0x0800);
		assert_int_equal(cpuid_find(&set, 1, 0)->edx >> 28 & 1, n > 1);
		assert_int_equal(cpuid_find(&set, 4, 0)->eax >> 26, shapes[i].cores4);
		assert_int_equal(cpuid_find(&set, 4, 0)->eax >> 14 & 0xfff, 0);
		assert_int_equal(cpuid_find(&set, 4, 3)->eax >> 14 & 0xfff, n - 1);
		for (leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
			assert_int_equal(cpuid_find(&set, leaf, 0)->ebx, 1);
			assert_int_equal(cpuid_find(&set, leaf, 0)->ecx, 0x100);
			assert_int_equal(cpuid_find(&set, leaf, 1)->eax, shapes[i].shift);
			assert_int_equal(cpuid_find(&set, leaf, 1)->ebx, n);
			assert_int_equal(cpuid_find(&set, leaf, 1)->ecx, 0x201);
			assert_int_equal(cpuid_find(&set, leaf, 1)->edx, id);
			assert_int_equal(cpuid_find(&set, leaf, 2)->ecx, 2);
		}
	}
}

static void test_topology_amd(void **state)
{
	struct cpuid_set set = amd;

	(void)state;
	assert_int_equal(cpuid_set_topology(&set, 2, 6), 0);
	assert_int_equal(cpuid_find(&set, 0, 0)->eax, 0xb);
	assert_null(cpuid_find(&set, 0x1f, 0));
	assert_int_equal(cpuid_find(&set, 0xb, 1)->eax, 3);
	assert_int_equal(cpuid_find(&set, 0x80000001, 0)->ecx, 2);
	assert_int_equal(cpuid_find(&set, 0x80000008, 0)->ecx, 0x3005);
	assert_int_equal(cpuid_find(&set, 0x8000001d, 3)->eax >> 14 & 0xfff, 5);
	assert_int_equal(cpuid_find(&set, 0x8000001e, 0)->eax, 2);
	assert_int_equal(cpuid_find(&set, 0x8000001e, 0)->ebx, 2);
	assert_int_equal(cpuid_find(&set, 0x8000001e, 0)->ecx, 0);

	set = amd; /* one vCPU on a host that had more */
	assert_int_equal(cpuid_set_topology(&set, 0, 1), 0);
	assert_int_equal(cpuid_find(&set, 0x80000001, 0)->ecx, 0);
	assert_int_equal(cpuid_find(&set, 0x80000008, 0)->ecx, 0x0000);

	set = intel; /* no AMD leaf is touched on Intel */
	assert_int_equal(cpuid_set_topology(&set, 2, 6), 0);
	assert_int_equal(cpuid_find(&set, 0x80000008, 0)->ecx, 0);
}

static void test_full_set(void **state)
{
	struct cpuid_set set = {0};
	struct cpuid_leaf l = {.indexed = true, .leaf = 0x12345};

	(void)state;
	for (l.subleaf = 0; l.subleaf < CPUID_SET_MAX; l.subleaf++)
		assert_int_equal(cpuid_add(&set, &l), 0);
	assert_int_equal(cpuid_add(&set, &l), -ENOSPC);
	assert_int_equal(cpuid_set_topology(&set, 0, 1), -ENOSPC);
	l.subleaf = 7;
	l.eax = 9;
	assert_int_equal(cpuid_add(&set, &l), 0); /* replaces */
	assert_int_equal(cpuid_find(&set, 0x12345, 7)->eax, 9);
	cpuid_remove(&set, 0x12345);
	assert_int_equal(set.n_leaves, 0);
}

static void test_vmm_bits(void **state)
{
	struct cpuid_set set = intel;

	(void)state;
	cpuid_set_vmm_bits(&set, true);
	assert_int_equal(cpuid_find(&set, 1, 0)->ecx, 1u << 31 | 1u << 24 | 1u << 21);
	set = intel;
	cpuid_set_vmm_bits(&set, false);
	assert_int_equal(cpuid_find(&set, 1, 0)->ecx, 1u << 31 | 1u << 21);
}

static void test_phys_bits(void **state)
{
	struct cpuid_set set = intel, none = {0};

	(void)state;
	assert_int_equal(cpuid_phys_bits(&set), 46);
	assert_int_equal(cpuid_phys_bits(&none), 36);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_topology_intel), cmocka_unit_test(test_topology_amd),
		cmocka_unit_test(test_full_set),       cmocka_unit_test(test_vmm_bits),
		cmocka_unit_test(test_phys_bits),
	};

	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
