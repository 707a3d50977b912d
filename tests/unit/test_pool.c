#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "hosts.h"
#include "msr/arch_caps.h"
#include "msr/pool.h"

#define FILTER(can)                             \
	{                                       \
		BACKEND_MSR_FILTER, can, false, \
		{                               \
			0                       \
		}                               \
	}

/* bits of the facts, for one line a case */
#define ANY_LONG   1u
#define ALL_SHORT  2u
#define BHI_OK	   4u
#define ANY_RRSBA  8u
#define RRSBA_OK   16u
#define MIXED	   32u
#define ONE_VENDOR 64u

struct member {
	const struct host_facts *host;
	uint64_t can;
	bool none, nested, bhi_no;
};

/* clang-format off */
static const struct {
	const char *name;
	struct member m[3];
	bool trust, bhi_no_not_enough;
	unsigned int facts;
	uint32_t edx2;
} pools[] = {
	{"nobody", {{0}}, 0, 0, 0, 0},
	{"Ice Lake",
	 {{&host_icx, CAN_OLD, 0, 0, 0}}, 0, 0, ALL_SHORT | BHI_OK | ANY_RRSBA | ONE_VENDOR, 0},
	{"Broadwell",
	 {{&host_bdw, CAN_OLD, 0, 0, 0}}, 0, 0, ALL_SHORT | BHI_OK | RRSBA_OK | ONE_VENDOR, 0},
	{"Sapphire Rapids",
	 {{&host_spr, CAN_ALL, 0, 0, 0}}, 0, 0, ANY_LONG | BHI_OK | ANY_RRSBA | RRSBA_OK |
	 ONE_VENDOR, EDX_7_2},
	{"Sapphire Rapids without a back end",
	 {{&host_spr, CAN_ALL, true, 0, 0}}, 0, 0, ANY_LONG | ANY_RRSBA | ONE_VENDOR, EDX_7_2},
	{"Sapphire Rapids whose back end lacks the bits",
	 {{&host_spr, CAN_OLD, 0, 0, 0}}, 0, 0, ANY_LONG | ANY_RRSBA | ONE_VENDOR, EDX_7_2},
	{"a back end that claims what the CPU does not have",
	 {{&host_spr_masked, CAN_ALL, 0, 0, 0}}, 0, 0, ANY_LONG | ANY_RRSBA | ONE_VENDOR, 0},
	{"masked, but BHI_NO",
	 {{&host_spr_masked, CAN_OLD, 0, 0, true}}, 0, 0, ANY_LONG | BHI_OK | ANY_RRSBA |
	 ONE_VENDOR, 0},
	{"masked, BHI_NO is not enough",
	 {{&host_spr_masked, CAN_OLD, 0, 0, true}}, 0, true, ANY_LONG | ANY_RRSBA | ONE_VENDOR, 0},
	{"Ice Lake and Sapphire Rapids",
	 {{&host_icx, CAN_OLD, 0, 0, 0}, {&host_spr, CAN_ALL, 0, 0, 0}}, 0, 0, ANY_LONG | BHI_OK |
	 ANY_RRSBA | MIXED | ONE_VENDOR, 0},
	{"Broadwell and Sapphire Rapids",
	 {{&host_bdw, CAN_OLD, 0, 0, 0}, {&host_spr, CAN_ALL, 0, 0, 0}}, 0, 0, ANY_LONG | BHI_OK |
	 ANY_RRSBA | RRSBA_OK | MIXED | ONE_VENDOR, 0},
	{"Ice Lake and Sierra Forest",
	 {{&host_icx, CAN_OLD, 0, 0, 0}, {&host_srf, CAN_ALL, 0, 0, 0}}, 0, 0, ALL_SHORT | BHI_OK |
	 ANY_RRSBA | ONE_VENDOR, 0},
	{"Sapphire Rapids and Sierra Forest, both can",
	 {{&host_spr, CAN_ALL, 0, 0, 0}, {&host_srf, CAN_ALL, 0, 0, 0}}, 0, 0,
	 ANY_LONG | BHI_OK | ANY_RRSBA | RRSBA_OK | MIXED | ONE_VENDOR, EDX_7_2},
	{"Sapphire Rapids and a Sierra Forest that cannot",
	 {{&host_spr, CAN_ALL, 0, 0, 0}, {&host_srf, CAN_OLD, 0, 0, 0}}, 0, 0,
	 ANY_LONG | ANY_RRSBA | MIXED | ONE_VENDOR, EDX_7_2},
	{"three, one of them cannot",
	 {{&host_icx, CAN_OLD, 0, 0, 0}, {&host_spr, CAN_ALL, 0, 0, 0}, {&host_spr_masked, CAN_OLD,
	 0, 0, 0}}, 0, 0, ANY_LONG | ANY_RRSBA | MIXED | ONE_VENDOR, 0},
	{"unknown model counts as long",
	 {{&host_unknown, CAN_OLD, 0, 0, 0}}, 0, 0, ANY_LONG | RRSBA_OK | ONE_VENDOR, 0},
	{"nested Ice Lake is not believed",
	 {{&host_icx, CAN_OLD, 0, true, 0}}, 0, 0, ANY_LONG | ANY_RRSBA | ONE_VENDOR, 0},
	{"nested Ice Lake, believed",
	 {{&host_icx, CAN_OLD, 0, true, 0}}, true, 0, ALL_SHORT | BHI_OK | ANY_RRSBA | ONE_VENDOR,
	 0},
	{"AMD",
	 {{&host_amd, CAN_OLD, 0, true, 0}}, 0, 0, ALL_SHORT | BHI_OK | RRSBA_OK | ONE_VENDOR, 0},
	{"AMD and Intel",
	 {{&host_amd, CAN_OLD, 0, 0, 0}, {&host_icx, CAN_OLD, 0, 0, 0}}, 0, 0, ALL_SHORT | BHI_OK |
	 ANY_RRSBA, 0},
	{"unknown vendor",
	 {{&host_alien, CAN_OLD, 0, 0, 0}}, 0, 0, ANY_LONG | RRSBA_OK | ONE_VENDOR, 0},
};
/* clang-format on */

static bool ctrl_idle(const struct pool_host *h, unsigned int n)
{
	while (n--)
		if ((h[n].host.leaf7_2_edx & CPUID_BIT(7_2_EDX, rrsba_ctrl)) &&
		    (h[n].backend.kind == BACKEND_NONE ||
		     !(h[n].backend.can_force & SPEC_CTRL_RRSBA_DIS_S)))
			return true;
	return false;
}

static void test_facts(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(pools); i++) {
		struct mitigation_policy policy;
		struct pool_host h[3];
		struct pool_level l;
		unsigned int n;

		print_message("# %s\n", pools[i].name);
		mitigation_policy_default(&policy);
		policy.trust_model = pools[i].trust;
		policy.bhi_no_is_enough = !pools[i].bhi_no_not_enough;
		for (n = 0; n < 3 && pools[i].m[n].host; n++) {
			const struct member *m = &pools[i].m[n];

			h[n].host = *m->host;
			h[n].host.hypervisor = m->nested;
			if (m->bhi_no)
				h[n].host.kvm_arch_cap |= ARCH_CAP_BHI_NO;
			h[n].backend = (struct backend_facts) {
				m->none ? BACKEND_NONE : BACKEND_MSR_FILTER, m->can, false, {0}};
		}
		pool_level(h, n, &policy, &l);
		assert_int_equal(l.facts.n_hosts, n);
		assert_int_equal(l.facts.any_long_bhb, !!(pools[i].facts & ANY_LONG));
		assert_int_equal(l.facts.all_atom_or_short, !!(pools[i].facts & ALL_SHORT));
		assert_int_equal(l.facts.long_can_force_bhi, !!(pools[i].facts & BHI_OK));
		assert_int_equal(l.facts.any_rrsba, !!(pools[i].facts & ANY_RRSBA));
		assert_int_equal(l.facts.rrsba_can_force, !!(pools[i].facts & RRSBA_OK));
		assert_int_equal(l.facts.rrsba_ctrl_idle, l.facts.n_hosts && ctrl_idle(h, n));
		assert_int_equal(l.facts.mixed, !!(pools[i].facts & MIXED));
		assert_int_equal(l.one_vendor, !!(pools[i].facts & ONE_VENDOR));
		assert_int_equal(l.leaf7_2_edx, pools[i].edx2);
		assert_int_equal(l.leaf7_0_edx,
				 n && pools[i].m[0].host->kvm_leaf7_0_edx &&
						 pools[i].m[n - 1].host->kvm_leaf7_0_edx
					 ? EDX_7_0
					 : 0);
	}
}

/* clang-format off */
static const struct {
	const char *name;
	uint64_t a, b, level;
} caps[] = {
	{"the same", ARCH_CAP_SPR, ARCH_CAP_SPR, ARCH_CAP_SPR & ~(1ULL << 25)},
	{"immunity only where both have it",
	 ARCH_CAP_BHI_NO | ARCH_CAP_RDCL_NO, ARCH_CAP_RDCL_NO, ARCH_CAP_RDCL_NO},
	{"ITS_NO by AND", ARCH_CAP_ITS_NO, 0, 0},
	{"RSBA by OR", ARCH_CAP_RSBA, 0, ARCH_CAP_RSBA},
	{"RRSBA by OR", 0, ARCH_CAP_RRSBA, ARCH_CAP_RRSBA},
	{"FB_CLEAR and RFDS_CLEAR by OR", 1ULL << 17, 1ULL << 28, 1ULL << 17 | 1ULL << 28},
	{"VIRTUAL_ENUM is not the hosts' to say", ARCH_CAP_VIRTUAL_ENUM, ARCH_CAP_VIRTUAL_ENUM, 0},
	{"controls that no guest gets", 1ULL << 18 | 1ULL << 21, 1ULL << 18 | 1ULL << 21, 0},
	{"a bit that nobody knows", 1ULL << 40, 1ULL << 40, 0},
	{"Cascade Lake and Sapphire Rapids",
	 ARCH_CAP_CLX, ARCH_CAP_SPR, (ARCH_CAP_CLX & ARCH_CAP_SPR) | ((ARCH_CAP_CLX | ARCH_CAP_SPR)
	 & (1ULL << 17 | 1ULL << 19))},
};
/* clang-format on */

static void test_arch_cap(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(caps); i++) {
		print_message("# %s\n", caps[i].name);
		assert_int_equal(arch_cap_merge(caps[i].a, caps[i].b), caps[i].level);
		assert_int_equal(arch_cap_merge(caps[i].b, caps[i].a), caps[i].level);
	}
	assert_int_equal(arch_cap_lost(ARCH_CAP_BHI_NO, 0), ARCH_CAP_BHI_NO);
	assert_int_equal(arch_cap_lost(ARCH_CAP_BHI_NO, ARCH_CAP_BHI_NO), 0);
	assert_int_equal(arch_cap_lost(ARCH_CAP_RRSBA | ARCH_CAP_VIRTUAL_ENUM, 0), 0);
	assert_int_equal(arch_cap_lost(1ULL << 40, 0), 1ULL << 40); /* unknown: not a pass */
}

static uint64_t bit_called(const char *name)
{
	unsigned int n, i;
	const struct arch_cap_bit *b = arch_cap_bits(&n);

	for (i = 0; i < n; i++)
		if (!strcmp(b[i].name, name))
			return 1ULL << b[i].bit;
	return 0;
}

static void test_arch_cap_table(void **state)
{
	static const struct {
		const char *name;
		uint64_t bit;
	} named[] = {
		{"RDCL_NO", ARCH_CAP_RDCL_NO},
		{"IBRS_ALL", ARCH_CAP_IBRS_ALL},
		{"RSBA", ARCH_CAP_RSBA},
		{"RRSBA", ARCH_CAP_RRSBA},
		{"BHI_NO", ARCH_CAP_BHI_NO},
		{"ITS_NO", ARCH_CAP_ITS_NO},
		{"VIRTUAL_ENUM", ARCH_CAP_VIRTUAL_ENUM},
	};
	unsigned int n, i;
	const struct arch_cap_bit *b = arch_cap_bits(&n);
	uint64_t seen = 0;

	(void)state;
	for (i = 0; i < n; i++) {
		assert_in_range(b[i].bit, 0, 63);
		assert_false(seen & 1ULL << b[i].bit);
		seen |= 1ULL << b[i].bit;
		assert_true(strlen(b[i].name) && strlen(b[i].why) > 5 && strlen(b[i].source) > 5);
	}
	/* the bits that have a name in the code, too */
	for (i = 0; i < ARRAY_SIZE(named); i++)
		assert_int_equal(bit_called(named[i].name), named[i].bit);
	/* Xen's rule, and nothing else is levelled by OR */
	for (i = 0; i < n; i++)
		assert_int_equal(b[i].merge == MERGE_OR, b[i].bit == 2 || b[i].bit == 17 ||
								 b[i].bit == 19 || b[i].bit == 28);
}

/* old microcode that does not say RRSBA does not hide it from the pool */
static void test_rrsba_by_model(void **state)
{
	struct pool_host h[2] = {{host_icx, FILTER(CAN_OLD)}, {host_bdw, FILTER(CAN_OLD)}};
	struct mitigation_policy policy;
	struct pool_level l;

	(void)state;
	mitigation_policy_default(&policy);
	h[0].host.kvm_arch_cap &= ~ARCH_CAP_RRSBA;
	pool_level(h, 2, &policy, &l);
	assert_int_equal(l.arch_cap, ARCH_CAP_RRSBA | 1ULL << 17); /* and FB_CLEAR */
	assert_int_equal(l.vendor, CPU_VENDOR_INTEL);
	assert_false(l.facts.any_rsba);

	h[0].host = host_skx_old;
	pool_level(h, 2, &policy, &l);
	assert_int_equal(l.arch_cap, ARCH_CAP_RSBA);
	assert_true(l.facts.any_rsba);
}

/* old microcode, which does not say RRSBA; and a KVM that takes SPEC_CTRL away, leaving 7.2 */
static const struct host_facts host_icx_silent =
	INTEL_HOST(6, 0x6a, 6, 0, ARCH_CAP_CLX & ~ARCH_CAP_RRSBA);
static const struct host_facts host_spr_silent =
	INTEL_HOST(6, 0x8f, 8, EDX_7_2, ARCH_CAP_SPR & ~ARCH_CAP_RRSBA);
static const struct host_facts host_no_msr = {
	.vendor_id = "GenuineIntel",
	.family = 6,
	.model = 0x8f,
	.stepping = 8,
	.leaf7_0_edx = EDX_7_0,
	.kvm_leaf7_0_edx = EDX_7_0 & ~CPUID_BIT(7_0_EDX, spec_ctrl),
	.leaf7_2_edx = EDX_7_2,
	.kvm_leaf7_2_edx = EDX_7_2,
	.kvm_arch_cap = ARCH_CAP_SPR,
};

/* clang-format off */
static const struct {
	const char *name;
	const struct host_facts *member[3];
	struct guest_contract offered, levelled; /* leaf7_0_edx, leaf7_2_edx, arch_cap */
} shown[] = {
	{"one host: nothing changes",
	 {&host_spr}, {.leaf7_0_edx = ~0u, .leaf7_2_edx = 0x3f, .arch_cap = ARCH_CAP_SPR},
	 {.leaf7_0_edx = ~0u, .leaf7_2_edx = 0x3f, .arch_cap = ARCH_CAP_SPR}},
	{"one host that has RRSBA, cannot turn it off and does not say so: the guest is told",
	 {&host_icx_silent},
	 {.leaf7_0_edx = EDX_7_0, .arch_cap = ARCH_CAP_CLX & ~ARCH_CAP_RRSBA},
	 {.leaf7_0_edx = EDX_7_0, .arch_cap = ARCH_CAP_CLX}},
	{"the same, to a guest without ARCH_CAPABILITIES",
	 {&host_icx_silent}, {.leaf7_0_edx = 0, .arch_cap = 0}, {.leaf7_0_edx = 0, .arch_cap = 0}},
	{"one that can turn it off: nothing changes, the bit is held",
	 {&host_spr_silent},
	 {.leaf7_0_edx = EDX_7_0, .arch_cap = ARCH_CAP_SPR & ~ARCH_CAP_RRSBA},
	 {.leaf7_0_edx = EDX_7_0, .arch_cap = ARCH_CAP_SPR & ~ARCH_CAP_RRSBA}},
	{"a host whose KVM hides SPEC_CTRL: what the MSR is for goes with it",
	 {&host_spr, &host_no_msr},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0x3f, .arch_cap = 0},
	 {.leaf7_0_edx = CPUID_BIT(7_0_EDX, arch_capabilities), .leaf7_2_edx = 0x20, .arch_cap = ARCH_CAP_RRSBA}},
	{"no host: the same",
	 {0}, {.leaf7_0_edx = ~0u, .leaf7_2_edx = 0x3f, .arch_cap = 1ULL << 40},
	 {.leaf7_0_edx = ~0u, .leaf7_2_edx = 0x3f, .arch_cap = 1ULL << 40}},
	{"two alike: only what is not the host's to tell goes",
	 {&host_spr, &host_spr},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = EDX_7_2, .arch_cap = ARCH_CAP_SPR},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = EDX_7_2, .arch_cap = ARCH_CAP_SPR & ~(1ULL << 25)}},
	{"mixed, started on the newer: no control that the older lacks; MCDT_NO is not levelled",
	 {&host_spr, &host_icx},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0x3f, .arch_cap = ARCH_CAP_BHI_NO | ARCH_CAP_IBRS_ALL},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0x20, .arch_cap = ARCH_CAP_IBRS_ALL | ARCH_CAP_RRSBA
	  | 1ULL << 17}},
	{"mixed, started on the older: warned of the newer's RRSBA",
	 {&host_bdw, &host_spr},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0, .arch_cap = 0},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0, .arch_cap = ARCH_CAP_RRSBA}},
	{"started before RSBA: warned of Skylake's",
	 {&host_bdw, &host_skx},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0, .arch_cap = 0},
	 {.leaf7_0_edx = EDX_7_0, .leaf7_2_edx = 0, .arch_cap = ARCH_CAP_RSBA}},
	{"not shown ARCH_CAPABILITIES: not warned either",
	 {&host_icx, &host_spr},
	 {.leaf7_0_edx = 0, .leaf7_2_edx = 0, .arch_cap = 0},
	 {.leaf7_0_edx = 0, .leaf7_2_edx = 0, .arch_cap = 0}},
	{"a host without any of it: none is left, other bits of the leaf stay",
	 {&host_spr, &host_amd},
	 {.leaf7_0_edx = ~0u, .leaf7_2_edx = 0x1f, .arch_cap = ARCH_CAP_SPR},
	 {.leaf7_0_edx = ~EDX_7_0, .leaf7_2_edx = 0, .arch_cap = 0}},
};
/* clang-format on */

static unsigned int fill(struct pool_host *h, const struct host_facts *const *member,
			 unsigned int max)
{
	unsigned int n;

	for (n = 0; n < max && member[n]; n++)
		h[n] = (struct pool_host) {*member[n], FILTER(CAN_ALL)};
	return n;
}

static void test_what_a_guest_is_shown(void **state)
{
	struct mitigation_policy policy;
	size_t i;

	(void)state;
	mitigation_policy_default(&policy);
	for (i = 0; i < ARRAY_SIZE(shown); i++) {
		struct guest_contract g = shown[i].offered;
		struct pool_host h[3];
		struct pool_level l;

		print_message("# %s\n", shown[i].name);
		pool_level(h, fill(h, shown[i].member, 3), &policy, &l);
		pool_level_guest(&l, &g);
		assert_int_equal(g.leaf7_0_edx, shown[i].levelled.leaf7_0_edx);
		assert_int_equal(g.leaf7_2_edx, shown[i].levelled.leaf7_2_edx);
		assert_int_equal(g.arch_cap, shown[i].levelled.arch_cap);
	}
}

/* What levelling is for: started on any host of the pool, the guest may run on every other one. */
static void test_a_levelled_guest_may_move(void **state)
{
	static const struct host_facts *const pool[] = {&host_bdw, &host_clx, &host_icx, &host_spr,
							&host_srf};
	enum { N = ARRAY_SIZE(pool) };
	struct mitigation_policy policy;
	struct pool_host h[N];
	struct pool_level l;
	unsigned int from, to;

	(void)state;
	mitigation_policy_default(&policy);
	fill(h, pool, N);
	pool_level(h, N, &policy, &l);
	for (from = 0; from < N; from++) {
		struct guest_contract g = {
			.leaf7_0_edx = pool[from]->kvm_leaf7_0_edx,
			.leaf7_2_edx = pool[from]->kvm_leaf7_2_edx,
			.arch_cap = pool[from]->kvm_arch_cap,
		};

		pool_level_guest(&l, &g);
		mitigation_advertise(pool[from], &h[from].backend, &policy, &l.facts, &g);
		assert_true(g.virt_enum);
		for (to = 0; to < N; to++) {
			struct mitigation_input in = {.host = *pool[to],
						      .backend = h[to].backend,
						      .guest = g,
						      .policy = policy,
						      .pool = l.facts};
			struct mitigation_decision first, d;
			unsigned int i;

			in.host = *pool[from];
			mitigation_decide(&in, &first);
			in.host = *pool[to];
			in.promise =
				(struct mitigation_promise) {true, first.mask, first.value, false};
			mitigation_decide(&in, &d);
			for (i = 0; i < d.n_steps; i++)
				if (d.step[i].verdict == VERDICT_REFUSE)
					fail_msg("%u to %u: %s", from, to, d.step[i].reason);
			assert_int_equal(!!(d.value & SPEC_CTRL_BHI_DIS_S),
					 pool[to]->leaf7_2_edx != 0);
		}
	}
}

/* The facts are ANDs and ORs: a host that is listed twice only counts twice. */
static void test_a_host_listed_twice(void **state)
{
	struct pool_host h[3] = {{host_icx, FILTER(CAN_OLD)},
				 {host_spr, FILTER(CAN_ALL)},
				 {host_spr, FILTER(CAN_ALL)}};
	struct mitigation_policy policy;
	struct pool_level once, twice;

	(void)state;
	mitigation_policy_default(&policy);
	pool_level(h, 2, &policy, &once);
	pool_level(h, 3, &policy, &twice);
	assert_int_equal(twice.facts.n_hosts, 3);
	twice.facts.n_hosts = 2;
	assert_memory_equal(&once, &twice, sizeof(once));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_facts),
		cmocka_unit_test(test_arch_cap),
		cmocka_unit_test(test_arch_cap_table),
		cmocka_unit_test(test_rrsba_by_model),
		cmocka_unit_test(test_what_a_guest_is_shown),
		cmocka_unit_test(test_a_levelled_guest_may_move),
		cmocka_unit_test(test_a_host_listed_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
