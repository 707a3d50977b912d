#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "hosts.h"
#include "msr/msr.h"
#include "msr/virt_msr.h"

#define ENUM0 MSR_VIRTUAL_ENUMERATION
#define ENUM1 MSR_VIRTUAL_MITIGATION_ENUM
#define CTRL  MSR_VIRTUAL_MITIGATION_CTRL

enum offer { NONE, BIT63, MITI, BHB, RSB, BOTH, N_OFFERS };

/* what a guest may have been offered, from nothing to both bits */
static struct guest_contract offer(enum offer o)
{
	static const uint64_t bits[N_OFFERS] = {
		[BHB] = MITIGATION_BHB_CLEAR_SEQ_S,
		[RSB] = MITIGATION_RETPOLINE_S,
		[BOTH] = MITIGATION_ALL,
	};
	struct guest_contract g = {.leaf7_0_edx = EDX_7_0};

	g.arch_cap = o == NONE ? 0 : ARCH_CAP_VIRTUAL_ENUM;
	g.virt_enum = o >= MITI ? VIRT_ENUM_MITIGATION : 0;
	g.mitigation_enum = bits[o];
	return g;
}

static const struct {
	const char *name;
	uint32_t msr;
	bool write;
	uint64_t value; /* written, or expected from a read */
	enum msr_result expect[N_OFFERS];
} matrix[] = {
#define OK  MSR_OK
#define CHG MSR_CHANGED
#define GP  MSR_GP
	/*                                        none  63   miti bhb  rsb  both */
	{"read 50000000H", ENUM0, false, 1, {GP, CHG, CHG, CHG, CHG, CHG}},
	{"read 50000001H", ENUM1, false, 0, {GP, GP, CHG, CHG, CHG, CHG}},
	{"read 50000002H", CTRL, false, 0, {GP, GP, OK, OK, OK, OK}},
	{"write 50000000H 0", ENUM0, true, 0, {GP, GP, GP, GP, GP, GP}},
	{"write 50000000H 1", ENUM0, true, 1, {GP, GP, GP, GP, GP, GP}},
	{"write 50000001H 0", ENUM1, true, 0, {GP, GP, GP, GP, GP, GP}},
	{"write 50000001H 3", ENUM1, true, 3, {GP, GP, GP, GP, GP, GP}},
	{"write 50000002H 0", CTRL, true, 0, {GP, GP, CHG, CHG, CHG, CHG}},
	{"write 50000002H 1", CTRL, true, 1, {GP, GP, GP, CHG, GP, CHG}},
	{"write 50000002H 2", CTRL, true, 2, {GP, GP, GP, GP, CHG, CHG}},
	{"write 50000002H 3", CTRL, true, 3, {GP, GP, GP, GP, GP, CHG}},
	{"write 50000002H 4", CTRL, true, 4, {GP, GP, GP, GP, GP, GP}},
	{"write 50000002H bit 63", CTRL, true, 1ULL << 63, {GP, GP, GP, GP, GP, GP}},
	{"write 50000002H bit 32", CTRL, true, 1ULL << 32 | 1, {GP, GP, GP, GP, GP, GP}},
};

static void test_matrix(void **state)
{
	size_t i;
	int o;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(matrix); i++) {
		print_message("# %s\n", matrix[i].name);
		for (o = 0; o < N_OFFERS; o++) {
			const struct guest_contract g = offer((enum offer)o);
			struct vcpu_msrs m = {0};
			const struct vcpu_msrs before = m;
			uint64_t value = 0xdead;
			enum msr_result r;

			r = matrix[i].write
				    ? vcpu_msrs_write(&m, &g, matrix[i].msr, matrix[i].value)
				    : vcpu_msrs_read(&m, &g, matrix[i].msr, &value);
			assert_int_equal(r, matrix[i].expect[o]);
			if (r == MSR_GP) { /* leaves no trace */
				assert_memory_equal(&m, &before, sizeof(m));
				assert_int_equal(value, 0xdead);
			} else if (matrix[i].write) {
				assert_int_equal(m.report.ctrl, matrix[i].value);
				assert_true(m.report.aware && m.report.written);
				assert_false(m.report.enum_read);
			}
		}
	}
}

static void test_values(void **state)
{
	const struct guest_contract g = offer(BOTH), only63 = offer(BIT63);
	struct vcpu_msrs m = {0};
	uint64_t v;

	(void)state;
	vcpu_msrs_read(&m, &only63, ENUM0, &v);
	assert_int_equal(v, 0);
	vcpu_msrs_read(&m, &g, ENUM0, &v);
	assert_int_equal(v, 1);
	vcpu_msrs_read(&m, &g, ENUM1, &v);
	assert_int_equal(v, 3);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 2), MSR_CHANGED);
	vcpu_msrs_read(&m, &g, CTRL, &v);
	assert_int_equal(v, 2);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 4), MSR_GP);
	vcpu_msrs_read(&m, &g, CTRL, &v);
	assert_int_equal(v, 2);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 0), MSR_CHANGED);
	vcpu_msrs_read(&m, &g, CTRL, &v);
	assert_int_equal(v, 0);
	assert_int_equal(vcpu_msrs_read(&m, &g, 0x50000003, &v), MSR_UNKNOWN);
	assert_int_equal(vcpu_msrs_write(&m, &g, 0x4fffffff, 0), MSR_UNKNOWN);
	assert_int_equal(vcpu_msrs_read(&m, &g, 0x10a, &v), MSR_UNKNOWN);
}

/* the first look is news, the second is not; each later step of attention is news again */
static void test_awareness(void **state)
{
	const struct guest_contract g = offer(BOTH);
	struct vcpu_msrs m = {0};
	uint64_t v;

	(void)state;
	assert_int_equal(vcpu_msrs_read(&m, &g, CTRL, &v), MSR_OK);
	assert_false(m.report.aware);
	assert_int_equal(vcpu_msrs_read(&m, &g, ENUM0, &v), MSR_CHANGED);
	assert_true(m.report.aware && !m.report.enum_read && !m.report.written);
	assert_int_equal(vcpu_msrs_read(&m, &g, ENUM0, &v), MSR_OK);
	assert_int_equal(vcpu_msrs_read(&m, &g, ENUM1, &v), MSR_CHANGED);
	assert_true(m.report.enum_read);
	assert_int_equal(vcpu_msrs_read(&m, &g, ENUM1, &v), MSR_OK);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 0), MSR_CHANGED);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 0), MSR_OK);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 1), MSR_CHANGED);
	assert_int_equal(vcpu_msrs_write(&m, &g, CTRL, 1), MSR_OK);
}

static void test_reset_and_init(void **state)
{
	const struct guest_contract g = offer(BOTH);
	struct vcpu_msrs m = {0};
	const struct vcpu_msrs zero = {0};
	uint64_t v;

	(void)state;
	vcpu_msrs_read(&m, &g, ENUM1, &v);
	vcpu_msrs_write(&m, &g, CTRL, 3);
	vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, 1);
	vcpu_msrs_init(&m);
	assert_int_equal(m.spec_ctrl, 0);
	/* the report stays, that the enumeration was read does not */
	assert_true(m.report.aware && m.report.written && !m.report.enum_read);
	assert_int_equal(m.report.ctrl, 3);
	assert_int_equal(vcpu_msrs_read(&m, &g, ENUM1, &v), MSR_CHANGED);
	vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, 1);
	vcpu_msrs_starts(&m); /* whether it came from INIT is not known: 0x48 is as it is */
	assert_int_equal(m.spec_ctrl, 1);
	assert_true(m.report.aware && m.report.written && !m.report.enum_read);
	vcpu_msrs_reset(&m);
	assert_memory_equal(&m, &zero, sizeof(m));
}

static const struct {
	const char *name;
	uint32_t edx0, edx2, amd;
	uint64_t legal;
} cpus[] = {
	{"no MSR at all", 0, 0, 0, 0},
	{"controls without the MSR", 0, EDX_7_2, 0, 0},
	{"STIBP and SSBD without the MSR", 1u << 27 | 1u << 31, 0, 0, 0},
	{"IBRS alone, STIBP tolerated", 1u << 26, 0, 0, 0x3},
	{"IBRS, STIBP", 3u << 26, 0, 0, 0x3},
	{"IBRS, SSBD", 1u << 26 | 1u << 31, 0, 0, 0x7},
	{"PSFD", 1u << 26, 1u << 0, 0, 0x83},
	{"IPRED_CTRL", 1u << 26, 1u << 1, 0, 0x1b},
	{"RRSBA_CTRL", 1u << 26, 1u << 2, 0, 0x63},
	{"DDPD_U", 1u << 26, 1u << 3, 0, 0x103},
	{"BHI_CTRL", 1u << 26, 1u << 4, 0, 0x403},
	{"MCDT_NO enumerates nothing", 1u << 26, 1u << 5, 0, 0x3},
	{"everything", EDX_7_0, EDX_7_2, 0, 0x5ff},
	{"AMD IBRS", 0, 0, 1u << 14, 0x1},
	{"AMD STIBP", 0, 0, 1u << 15, 0x2},
	{"AMD SSBD", 0, 0, 1u << 24, 0x4},
	{"AMD PSFD alone is no MSR", 0, 0, 1u << 28, 0},
	{"AMD all", 0, 0, 1u << 14 | 1u << 15 | 1u << 24 | 1u << 28, 0x87},
};

static void test_spec_ctrl(void **state)
{
	size_t i;
	int bit;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cpus); i++) {
		const struct guest_contract g = {.leaf7_0_edx = cpus[i].edx0,
						 .leaf7_2_edx = cpus[i].edx2,
						 .leaf80000008_ebx = cpus[i].amd};
		struct vcpu_msrs m = {0};
		uint64_t v = 0;

		print_message("# %s\n", cpus[i].name);
		assert_int_equal(spec_ctrl_legal(&g), cpus[i].legal);
		if (!cpus[i].legal) {
			assert_int_equal(vcpu_msrs_read(&m, &g, MSR_IA32_SPEC_CTRL, &v), MSR_GP);
			assert_int_equal(vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, 0), MSR_GP);
		}
		for (bit = 0; bit < 64 && cpus[i].legal; bit++) {
			const uint64_t data = 1ULL << bit;
			const bool ok = data & cpus[i].legal;

			m.spec_ctrl = 0;
			assert_int_equal(vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, data),
					 ok ? MSR_CHANGED : MSR_GP);
			assert_int_equal(vcpu_msrs_read(&m, &g, MSR_IA32_SPEC_CTRL, &v), MSR_OK);
			assert_int_equal(v, ok ? data : 0);
		}
	}
}

static void test_spec_ctrl_again(void **state)
{
	const struct guest_contract g = offer(NONE);
	struct vcpu_msrs m = {.spec_ctrl = SPEC_CTRL_BHI_DIS_S | 1};

	(void)state;
	/* the same value again must be applied again: an INIT may have gone unseen */
	assert_int_equal(vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, m.spec_ctrl), MSR_CHANGED);
	/* a bit from a laxer VMM may stay and may go, but not come back */
	assert_int_equal(vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, 1), MSR_CHANGED);
	assert_int_equal(vcpu_msrs_write(&m, &g, MSR_IA32_SPEC_CTRL, SPEC_CTRL_BHI_DIS_S), MSR_GP);
	assert_int_equal(m.spec_ctrl, 1);
}

static void test_pred_cmd(void **state)
{
	static const struct {
		uint32_t edx0, amd;
		bool sbpb;
		uint64_t legal;
	} guests[] = {
		{0, 0, false, 0},
		{CPUID_BIT(7_0_EDX, spec_ctrl), 0, false, 1},
		{CPUID_BIT(7_0_EDX, stibp), CPUID_BIT(80000008_0_EBX, ibrs), false, 0},
		{0, CPUID_BIT(80000008_0_EBX, ibpb), false, 1},
		{0, CPUID_BIT(80000008_0_EBX, ibpb), true, 0x81},
		{0, 0, true, 0x80},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(guests); i++) {
		const struct guest_contract g = {.leaf7_0_edx = guests[i].edx0,
						 .leaf80000008_ebx = guests[i].amd};

		assert_int_equal(pred_cmd_legal(&g, guests[i].sbpb), guests[i].legal);
	}
}

static void test_names(void **state)
{
	/* the masks by which hosts are compared enumerate all that has a name */
	const struct guest_contract intel = {.leaf7_0_edx = SPECULATION_7_0_EDX,
					     .leaf7_2_edx = SPECULATION_7_2_EDX};
	const struct guest_contract amd = {.leaf80000008_ebx = UINT32_MAX};
	uint64_t known = 0;
	int bit;

	(void)state;
	for (bit = 0; bit < 64; bit++)
		if (spec_ctrl_bit_name(1ULL << bit))
			known |= 1ULL << bit;
	assert_int_equal(known, SPEC_CTRL_ALL);
	assert_int_equal(spec_ctrl_legal(&intel), SPEC_CTRL_ALL);
	assert_int_equal(spec_ctrl_legal(&amd), SPEC_CTRL_COMMON);
	assert_string_equal(spec_ctrl_bit_name(1 << 10), "BHI_DIS_S");
	assert_null(spec_ctrl_bit_name(0x401));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matrix),	  cmocka_unit_test(test_values),
		cmocka_unit_test(test_awareness), cmocka_unit_test(test_reset_and_init),
		cmocka_unit_test(test_spec_ctrl), cmocka_unit_test(test_spec_ctrl_again),
		cmocka_unit_test(test_pred_cmd),  cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
