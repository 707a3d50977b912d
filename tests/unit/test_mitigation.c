/* Every row of the decision tables, at least one case each. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "cpuid/feature.h"
#include "hosts.h"
#include "msr/decide.h"

#define BHI   SPEC_CTRL_BHI_DIS_S
#define RSB   SPEC_CTRL_RRSBA_DIS_S
#define SSBD  SPEC_CTRL_SSBD
#define STIBP SPEC_CTRL_STIBP
/* never shown to the guest of these cases */
#define DDPD_U SPEC_CTRL_DDPD_U

/* verdicts and back ends, short enough for a table */
#define OK     VERDICT_ALLOW
#define FORCED VERDICT_ALLOW_FORCED
#define WARN   VERDICT_WARN
#define REFUSE VERDICT_REFUSE

/*
 * The input that every case starts from: Sapphire Rapids on stock KVM, default policy, first boot,
 * a guest that sees RRSBA but no control, is offered both virtual bits and has said nothing.
 */
static struct mitigation_input base_input(void)
{
	struct mitigation_input in = {
		.host = host_spr,
		.backend = {.kind = BACKEND_MSR_FILTER, .can_force = CAN_ALL},
		.guest = {.vendor = CPU_VENDOR_INTEL,
			  .leaf7_0_edx = EDX_7_0,
			  .arch_cap = ARCH_CAP_SPR | ARCH_CAP_VIRTUAL_ENUM,
			  .virt_enum = VIRT_ENUM_MITIGATION,
			  .mitigation_enum = MITIGATION_ALL},
	};

	mitigation_policy_default(&in.policy);
	return in;
}

struct edit {
	const struct host_facts *host;
	enum backend_kind backend;
	bool no_backend; /* BACKEND_NONE is 0: say it */
	uint64_t can;	 /* 0: all */
	bool hypervisor, bhi_no;
	bool strict, off, on, cannot, no_force_unaware, bhi_no_not_enough, force_shown, trust;
	bool rrsba_off, rrsba_on, incoming_warn, no_virt, rebuild;
	enum policy_report honour;
	uint64_t raw_mask, raw_value, raw_guest;
	bool whole_contract; /* shown all that Sapphire Rapids has */
	bool no_rrsba;	     /* the host's MSR does not say RRSBA */
	bool hide_rsba, any_rsba;
	bool no_enum, hide_rrsba, shows_bhi, shows_rrsba_ctrl, no_msr, no_msr_exits, nested;
	enum cpu_vendor guest_vendor;
	bool unknown_vendor; /* of the guest: 0 is no vendor given */
	bool aware, enum_read, written;
	uint64_t ctrl;
	bool incoming, weak;
	uint64_t promise_mask, promise_value, shadow;
	unsigned int pool; /* hosts; 0: no pool */
	bool pool_long, pool_cannot, pool_mixed, pool_no_msr_exits;
	enum policy_mixed mixed;
};

static struct mitigation_input edited(const struct edit *e)
{
	struct mitigation_input in = base_input();

	if (e->host) {
		in.host = *e->host;
		in.backend.can_force = spec_ctrl_host_bits(e->host);
		/* the contract is of this host unless it is said to come from another */
		if (!e->incoming)
			in.guest.arch_cap = in.host.kvm_arch_cap | ARCH_CAP_VIRTUAL_ENUM;
		else if (!e->whole_contract)
			in.guest.arch_cap = (ARCH_CAP_SPR & in.host.kvm_arch_cap) | ARCH_CAP_RRSBA |
					    ARCH_CAP_VIRTUAL_ENUM;
	}
	if (e->backend)
		in.backend.kind = e->backend;
	if (e->no_backend)
		in.backend = (struct backend_facts) {.kind = BACKEND_NONE};
	if (e->can)
		in.backend.can_force = e->can;
	in.host.hypervisor = e->hypervisor;
	if (e->bhi_no)
		in.host.kvm_arch_cap |= ARCH_CAP_BHI_NO;
	if (e->no_rrsba)
		in.host.kvm_arch_cap &= ~ARCH_CAP_RRSBA;
	in.policy.strict = e->strict;
	in.policy.bhi = e->on ? POLICY_ON : e->off ? POLICY_OFF : POLICY_AUTO;
	in.policy.rrsba = e->rrsba_on ? POLICY_ON : e->rrsba_off ? POLICY_OFF : POLICY_AUTO;
	in.policy.cannot = e->cannot ? CANNOT_REFUSE : CANNOT_WARN;
	in.policy.incoming_cannot = e->incoming_warn ? CANNOT_WARN : CANNOT_REFUSE;
	in.policy.force_unaware = !e->no_force_unaware;
	in.policy.bhi_no_is_enough = !e->bhi_no_not_enough;
	in.policy.force_when_shown = e->force_shown;
	in.policy.trust_model = e->trust;
	in.policy.rebuild = e->rebuild;
	in.policy.honour_report = e->honour;
	in.policy.raw_mask = e->raw_mask;
	in.policy.raw_value = e->raw_value;
	in.policy.raw_guest = e->raw_guest;
	in.backend.no_msr_exits = e->no_msr_exits;
	in.nested = e->nested;
	in.policy.mixed_pool = e->mixed;
	if (e->no_enum)
		in.guest.mitigation_enum = 0;
	if (e->no_virt) {
		in.guest.arch_cap &= ~ARCH_CAP_VIRTUAL_ENUM;
		in.guest.virt_enum = 0;
		in.guest.mitigation_enum = 0;
	}
	if (e->hide_rrsba)
		in.guest.arch_cap &= ~ARCH_CAP_RRSBA;
	if (e->hide_rsba)
		in.guest.arch_cap &= ~ARCH_CAP_RSBA;
	if (e->shows_bhi)
		in.guest.leaf7_2_edx |= CPUID_BIT(7_2_EDX, bhi_ctrl);
	if (e->shows_rrsba_ctrl)
		in.guest.leaf7_2_edx |= CPUID_BIT(7_2_EDX, rrsba_ctrl);
	if (e->no_msr) /* SPEC_CTRL is not enumerated: 0x48 is a #GP */
		in.guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, spec_ctrl);
	if (e->guest_vendor)
		in.guest.vendor = e->guest_vendor;
	if (e->unknown_vendor)
		in.guest.vendor = CPU_VENDOR_OTHER;
	in.report = (struct vcpu_report) {e->aware, e->enum_read, e->written, e->ctrl};
	in.promise = (struct mitigation_promise) {e->incoming, e->promise_mask, e->promise_value,
						  e->weak};
	in.shadow = e->shadow;
	if (e->pool)
		in.pool = (struct pool_facts) {.n_hosts = e->pool,
					       .any_long_bhb = e->pool_long,
					       .all_atom_or_short = !e->pool_long,
					       .long_can_force_bhi = !e->pool_cannot,
					       .any_rsba = e->any_rsba,
					       .rrsba_can_force = !e->pool_cannot,
					       .mixed = e->pool_mixed,
					       .no_msr_exits = e->pool_no_msr_exits};
	return in;
}

static const struct decision_step *find_step(const struct mitigation_decision *d,
					     enum decision_table table, unsigned int row)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == table && d->step[i].row == row)
			return &d->step[i];
	return NULL;
}

struct a_case {
	const char *name;
	struct edit e;
	unsigned int row; /* of the table under test; it must have fired with @verdict */
	enum verdict verdict;
	uint64_t mask, value;
	enum verdict whole; /* of the decision; 0 (allow): the row's is the whole one's too */
};

static void run_cases(const struct a_case *c, size_t n, enum decision_table table, uint64_t bits)
{
	for (; n--; c++) {
		const struct mitigation_input in = edited(&c->e);
		const enum verdict whole = c->whole ? c->whole : c->verdict;
		const struct decision_step *s;
		struct mitigation_decision d;

		print_message("# %s\n", c->name);
		mitigation_decide(&in, &d);
		s = find_step(&d, table, c->row);
		assert_non_null(s);
		assert_int_equal(s->verdict, c->verdict);
		assert_int_equal(d.mask & bits, c->mask);
		assert_int_equal(d.value & bits, c->value);
		assert_int_equal(d.verdict, whole);
		assert_non_null(s->reason);
		assert_non_null(s->source);
	}
}

#define RUN(cases, table, bits) run_cases(cases, ARRAY_SIZE(cases), table, bits)

/* clang-format off */
static const struct a_case bhi_cases[] = {
	{"1 raw holds it", {.raw_mask = BHI, .raw_value = BHI}, 1, FORCED, BHI, BHI, 0},
	{"1 raw clears it, it was needed", {.raw_mask = BHI}, 1, WARN, BHI, 0, 0},
	{"1 raw clears it, it was needed, strict",
	 {.raw_mask = BHI, .strict = true}, 1, REFUSE, BHI, 0, 0},
	{"1 raw clears it, and the guest believes to own it",
	 {.raw_mask = BHI, .shows_bhi = true}, 1, WARN, BHI, 0, 0},
	{"1 the same, strict",
	 {.raw_mask = BHI, .shows_bhi = true, .strict = true}, 1, REFUSE, BHI, 0, 0},
	{"1 raw clears it where it is not needed", {.raw_mask = BHI, .bhi_no = true}, 1, FORCED, BHI,
	 0, 0},
	{"1 raw clears it where nobody has it",
	 {.host = &host_spr_masked, .raw_mask = BHI}, 1, WARN, BHI, 0, 0},
	{"1 raw clears it on an unknown model, strict",
	 {.host = &host_unknown, .raw_mask = BHI, .strict = true}, 1, REFUSE, BHI, 0, 0},
	{"1 raw on a host without it",
	 {.host = &host_icx, .raw_mask = BHI, .raw_value = BHI}, 1, REFUSE, 0, 0, 0},
	{"1 raw on AMD, whatever the back end says",
	 {.host = &host_amd, .can = CAN_ALL, .raw_mask = BHI, .raw_value = BHI}, 1, REFUSE, 0, 0, 0},
	{"1 raw on a back end without it",
	 {.can = CAN_OLD, .raw_mask = BHI, .raw_value = BHI}, 1, REFUSE, 0, 0, 0},
	{"1 raw with no back end", {.no_backend = true, .raw_mask = BHI}, 1, REFUSE, 0, 0, 0},
	{"1 raw beats bhi=off",
	 {.raw_mask = BHI, .raw_value = BHI, .off = true}, 1, FORCED, BHI, BHI, 0},
	{"1 left to the guest, it was needed", {.raw_guest = BHI}, 1, WARN, 0, 0, 0},
	{"1 left to the guest, it was needed, strict",
	 {.raw_guest = BHI, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"1 left to the guest where nobody has it, strict",
	 {.host = &host_spr_masked, .raw_guest = BHI, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"1 left to the guest, which owns it anyway, strict",
	 {.raw_guest = BHI, .shows_bhi = true, .strict = true}, 1, OK, 0, 0, 0},
	{"1 left to the guest, which owns it anyway",
	 {.raw_guest = BHI, .shows_bhi = true}, 1, OK, 0, 0, 0},
	{"1 left to the guest on Ice Lake", {.host = &host_icx, .raw_guest = BHI}, 1, OK, 0, 0, 0},
	{"1 left to the guest beats bhi=on", {.raw_guest = BHI, .on = true}, 1, WARN, 0, 0, 0},
	{"2 off, would have been held", {.off = true}, 2, WARN, 0, 0, 0},
	{"2 off, no back end anyway", {.off = true, .no_backend = true}, 2, WARN, 0, 0, 0},
	{"2 off, strict", {.off = true, .strict = true}, 2, REFUSE, 0, 0, 0},
	{"2 off, masked Sapphire Rapids", {.off = true, .host = &host_spr_masked}, 2, WARN, 0, 0, 0},
	{"2 off, masked Sapphire Rapids, strict",
	 {.off = true, .host = &host_spr_masked, .strict = true}, 2, REFUSE, 0, 0, 0},
	{"2 off, unknown model, strict",
	 {.off = true, .host = &host_unknown, .strict = true}, 2, REFUSE, 0, 0, 0},
	{"2 off on Ice Lake, strict",
	 {.off = true, .host = &host_icx, .strict = true}, 2, OK, 0, 0, 0},
	{"2 off, the guest declined, strict: its answer does not count",
	 {.off = true, .aware = true, .enum_read = true, .strict = true}, 2, REFUSE, 0, 0, 0},
	{"2 off, the guest owns it, strict",
	 {.off = true, .shows_bhi = true, .strict = true}, 2, OK, 0, 0, 0},
	{"2 off, the guest owns it", {.off = true, .shows_bhi = true}, 2, OK, 0, 0, 0},
	{"2 off on Ice Lake", {.off = true, .host = &host_icx}, 2, OK, 0, 0, 0},
	{"2 off, the guest declined",
	 {.off = true, .aware = true, .enum_read = true}, 2, OK, 0, 0, 0},
	{"3 AMD", {.host = &host_amd, .guest_vendor = CPU_VENDOR_AMD}, 3, OK, 0, 0, 0},
	{"3 AMD, bhi=on", {.host = &host_amd, .on = true}, 3, REFUSE, 0, 0, 0},
	{"3 AMD, strict", {.host = &host_amd, .strict = true}, 3, OK, 0, 0, 0},
	{"3 unknown vendor", {.host = &host_alien}, 3, WARN, 0, 0, 0},
	{"3 unknown vendor, strict", {.host = &host_alien, .strict = true}, 3, REFUSE, 0, 0, 0},
	{"4 on", {.on = true}, 4, FORCED, BHI, BHI, 0},
	{"4 on, even if the guest sees BHI_CTRL",
	 {.on = true, .shows_bhi = true}, 4, FORCED, BHI, BHI, 0},
	{"5 on, Ice Lake", {.on = true, .host = &host_icx}, 5, REFUSE, 0, 0, 0},
	{"5 on, no back end", {.on = true, .no_backend = true}, 5, REFUSE, 0, 0, 0},
	{"5 on, back end without the bit", {.on = true, .can = CAN_OLD}, 5, REFUSE, 0, 0, 0},
	{"6 the guest owns it", {.shows_bhi = true}, 6, OK, 0, 0, 0},
	{"6 shown BHI_CTRL and not SPEC_CTRL, its write is a #GP: row 9",
	 {.shows_bhi = true, .no_msr = true}, 9, FORCED, BHI, BHI, 0},
	{"6 the same, no back end: row 13",
	 {.shows_bhi = true, .no_msr = true, .no_backend = true}, 13, WARN, 0, 0, 0},
	{"6 its report is ignored", {.shows_bhi = true, .ctrl = 1}, 6, OK, 0, 0, 0},
	{"6 unless the policy forces",
	 {.shows_bhi = true, .ctrl = 1, .force_shown = true}, 6, FORCED, BHI, BHI, 0},
	{"6 and cannot",
	 {.shows_bhi = true, .ctrl = 1, .force_shown = true, .no_backend = true}, 6, WARN, 0, 0, 0},
	{"6 and cannot, strict",
	 {.shows_bhi = true, .ctrl = 1, .force_shown = true, .no_backend = true, .strict = true}, 6,
	 REFUSE, 0, 0, 0},
	{"7 BHI_NO", {.bhi_no = true}, 7, OK, 0, 0, 0},
	{"7 BHI_NO is not enough: row 9",
	 {.bhi_no = true, .bhi_no_not_enough = true}, 9, FORCED, BHI, BHI, 0},
	{"8 Sierra Forest alone", {.host = &host_srf}, 8, OK, 0, 0, 0},
	{"8 Sierra Forest among such", {.host = &host_srf, .pool = 3}, 8, OK, 0, 0, 0},
	{"8 Sierra Forest beside Sapphire Rapids: row 9",
	 {.host = &host_srf, .pool = 2, .pool_long = true}, 9, FORCED, BHI, BHI, 0},
	{"8 nested Sierra Forest is not believed: row 9",
	 {.host = &host_srf, .hypervisor = true}, 9, FORCED, BHI, BHI, 0},
	{"9 never read", {.aware = false}, 9, FORCED, BHI, BHI, 0},
	{"9 nothing offered", {.no_virt = true}, 9, FORCED, BHI, BHI, 0},
	{"9 bit not offered, read all the same",
	 {.no_enum = true, .aware = true, .enum_read = true}, 9, FORCED, BHI, BHI, 0},
	{"9 ignored report",
	 {.honour = REPORT_IGNORE, .aware = true, .enum_read = true}, 9, FORCED, BHI, BHI, 0},
	{"9 the policy does not force unasked", {.no_force_unaware = true}, 9, WARN, 0, 0, 0},
	{"9 strict does", {.no_force_unaware = true, .strict = true}, 9, FORCED, BHI, BHI, 0},
	{"10 reported",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 1}, 10, FORCED, BHI, BHI, 0},
	{"10 reported, was not offered (an incoming stream)",
	 {.no_enum = true, .ctrl = 1}, 10, FORCED, BHI, BHI, 0},
	{"10 reported, and only reports force",
	 {.ctrl = 1, .no_force_unaware = true}, 10, FORCED, BHI, BHI, 0},
	{"10 reported, and neither",
	 {.ctrl = 1, .no_force_unaware = true, .honour = REPORT_RELAX}, 10, WARN, 0, 0, 0},
	{"11 declined", {.aware = true, .enum_read = true}, 11, OK, 0, 0, 0},
	{"11 declined, written",
	 {.aware = true, .enum_read = true, .written = true}, 11, OK, 0, 0, 0},
	{"11 declined, strict",
	 {.aware = true, .enum_read = true, .strict = true}, 11, FORCED, BHI, BHI, 0},
	{"11 wrote 0 without reading what it means",
	 {.aware = true, .written = true}, 11, FORCED, BHI, BHI, 0},
	{"11 declined, reports only tighten",
	 {.aware = true, .enum_read = true, .honour = REPORT_TIGHTEN}, 11, FORCED, BHI, BHI, 0},
	{"11 declined, reports only relax",
	 {.aware = true, .enum_read = true, .honour = REPORT_RELAX}, 11, OK, 0, 0, 0},
	{"11 declined, the mask is frozen",
	 {.aware = true, .enum_read = true, .backend = BACKEND_FORCE_SPEC_CTRL}, 11, FORCED, BHI,
	 BHI, 0},
	{"11 declined, a vCPU ioctl can let go",
	 {.aware = true, .enum_read = true, .backend = BACKEND_FORCE_VCPU}, 11, OK, 0, 0, 0},
	{"11 declined for retpolines, and RRSBA_DIS_S cannot be held: in its place",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .hide_rrsba = true, .can = BHI},
	 11, FORCED, BHI, BHI, 0},
	{"11 the same, strict",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .hide_rrsba = true, .can = BHI,
	  .strict = true}, 11, FORCED, BHI, BHI, 0},
	{"11 the same, hold-unaware: off: the report adds it",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .hide_rrsba = true, .can = BHI,
	  .no_force_unaware = true}, 11, FORCED, BHI, BHI, 0},
	{"11 the same, and nothing was read",
	 {.aware = true, .written = true, .ctrl = 2, .hide_rrsba = true, .can = BHI,
	  .no_force_unaware = true}, 11, FORCED, BHI, BHI, 0},
	{"11 declined for retpolines, RRSBA_DIS_S is held",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .hide_rrsba = true}, 11, OK, 0,
	 0, FORCED},
	{"11 declined for retpolines by a guest that sees RRSBA",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .can = BHI}, 11, FORCED, BHI,
	 BHI, 0},
	{"11 the same, and it sees that it can turn RRSBA off: it knows",
	 {.aware = true, .enum_read = true, .written = true, .ctrl = 2, .can = BHI, .shows_rrsba_ctrl =
	 true}, 11, OK, 0, 0, 0},
	{"11 declined both, RRSBA_DIS_S cannot be held: no retpolines",
	 {.aware = true, .enum_read = true, .hide_rrsba = true, .can = BHI}, 11, OK, 0, 0, 0},
	{"11 half an answer, and the policy does not force unasked",
	 {.aware = true, .written = true, .no_force_unaware = true}, 11, WARN, 0, 0, 0},
	{"10 the mask is frozen: what may be reported is held from the start",
	 {.no_force_unaware = true, .backend = BACKEND_FORCE_SPEC_CTRL}, 10, FORCED, BHI, BHI, 0},
	{"9 the mask is frozen, and the VM will be built anew",
	 {.no_force_unaware = true, .rebuild = true, .backend = BACKEND_FORCE_SPEC_CTRL}, 9, WARN,
	 0, 0, 0},
	{"10 so it is, for this report",
	 {.no_force_unaware = true, .rebuild = true, .aware = true, .enum_read = true, .ctrl = 1,
	  .backend = BACKEND_FORCE_SPEC_CTRL}, 10, FORCED, BHI, BHI, 0},
	{"12 found the MSRs, not read yet", {.aware = true}, 12, FORCED, BHI, BHI, 0},
	{"12 and the policy waits", {.aware = true, .no_force_unaware = true}, 12, WARN, 0, 0, 0},
	{"13 no back end", {.no_backend = true}, 13, WARN, 0, 0, 0},
	{"13 no back end, strict", {.no_backend = true, .strict = true}, 13, REFUSE, 0, 0, 0},
	{"13 no back end, cannot=refuse",
	 {.no_backend = true, .cannot = true}, 13, REFUSE, 0, 0, 0},
	{"13 back end without the bit", {.can = CAN_OLD}, 13, WARN, 0, 0, 0},
	{"13 reported, no back end", {.no_backend = true, .ctrl = 1}, 13, WARN, 0, 0, 0},
	{"13 found the MSRs, no back end", {.no_backend = true, .aware = true}, 13, WARN, 0, 0, 0},
	{"14 masked Sapphire Rapids", {.host = &host_spr_masked}, 14, WARN, 0, 0, 0},
	{"14 strict", {.host = &host_spr_masked, .strict = true}, 14, REFUSE, 0, 0, 0},
	{"14 cannot=refuse", {.host = &host_spr_masked, .cannot = true}, 14, REFUSE, 0, 0, 0},
	{"14 reported", {.host = &host_spr_masked, .ctrl = 1}, 14, REFUSE, 0, 0, 0},
	{"14 promised",
	 {.host = &host_spr_masked, .incoming = true, .promise_mask = BHI, .promise_value = BHI},
	 14, REFUSE, 0, 0, 0},
	{"14 declined",
	 {.host = &host_spr_masked, .aware = true, .enum_read = true, .cannot = true}, 14, WARN, 0,
	 0, 0},
	{"14 declined, strict",
	 {.host = &host_spr_masked, .aware = true, .enum_read = true, .strict = true}, 14, REFUSE,
	 0, 0, 0},
	{"15 Ice Lake", {.host = &host_icx}, 15, OK, 0, 0, 0},
	{"15 Ice Lake, reported", {.host = &host_icx, .ctrl = 1}, 15, OK, 0, 0, 0},
	{"15 Ice Lake, strict", {.host = &host_icx, .strict = true}, 15, OK, 0, 0, 0},
	{"15 nested Ice Lake that the operator believes",
	 {.host = &host_icx, .hypervisor = true, .trust = true, .strict = true}, 15, OK, 0, 0, 0},
	{"16 unknown model", {.host = &host_unknown}, 16, WARN, 0, 0, 0},
	{"16 unknown model, strict", {.host = &host_unknown, .strict = true}, 16, REFUSE, 0, 0, 0},
	{"16 nested Ice Lake", {.host = &host_icx, .hypervisor = true}, 16, WARN, 0, 0, 0},
	{"16 nested Ice Lake, strict",
	 {.host = &host_icx, .hypervisor = true, .strict = true}, 16, REFUSE, 0, 0, 0},
};
/* clang-format on */

static void test_bhi(void **state)
{
	(void)state;
	RUN(bhi_cases, TABLE_BHI, BHI);
}

/* BHI stays out of the way: the guest is shown BHI_CTRL wherever the host has it. */
#define QUIET .shows_bhi = true

/* clang-format off */
static const struct a_case rrsba_cases[] = {
	{"1 raw holds it", {QUIET, .raw_mask = RSB, .raw_value = RSB}, 1, FORCED, RSB, RSB, 0},
	{"1 raw clears it", {QUIET, .raw_mask = RSB}, 1, FORCED, RSB, 0, 0},
	{"1 raw clears it, it may be needed",
	 {QUIET, .raw_mask = RSB, .hide_rrsba = true}, 1, WARN, RSB, 0, 0},
	{"1 raw clears it, it may be needed, strict",
	 {QUIET, .raw_mask = RSB, .hide_rrsba = true, .strict = true}, 1, REFUSE, RSB, 0, 0},
	{"1 raw clears it, and the guest believes to own it",
	 {QUIET, .raw_mask = RSB, .shows_rrsba_ctrl = true}, 1, WARN, RSB, 0, 0},
	{"1 the same, strict",
	 {QUIET, .raw_mask = RSB, .shows_rrsba_ctrl = true, .strict = true}, 1, REFUSE, RSB, 0, 0},
	{"1 raw on Ice Lake",
	 {.host = &host_icx, .raw_mask = RSB, .raw_value = RSB}, 1, REFUSE, 0, 0, 0},
	{"1 off", {QUIET, .rrsba_off = true}, 1, OK, 0, 0, 0},
	{"1 off, reported", {QUIET, .rrsba_off = true, .ctrl = 2}, 1, WARN, 0, 0, 0},
	{"1 off, reported, strict",
	 {QUIET, .rrsba_off = true, .ctrl = 2, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"1 off, RRSBA shown, strict", {QUIET, .rrsba_off = true, .strict = true}, 1, OK, 0, 0, 0},
	{"1 on", {QUIET, .rrsba_on = true}, 1, FORCED, RSB, RSB, 0},
	{"1 on, Ice Lake", {.host = &host_icx, .rrsba_on = true}, 1, REFUSE, 0, 0, 0},
	{"1 on, no back end", {QUIET, .rrsba_on = true, .no_backend = true}, 1, REFUSE, 0, 0, 0},
	{"1 on, AMD", {.host = &host_amd, .rrsba_on = true}, 1, REFUSE, 0, 0, 0},
	{"1 left to the guest", {QUIET, .raw_guest = RSB}, 1, OK, 0, 0, 0},
	{"1 left to the guest, it may be needed",
	 {QUIET, .raw_guest = RSB, .hide_rrsba = true}, 1, WARN, 0, 0, 0},
	{"1 the same, strict",
	 {QUIET, .raw_guest = RSB, .hide_rrsba = true, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"2 AMD", {.host = &host_amd}, 2, OK, 0, 0, 0},
	{"3 Broadwell", {.host = &host_bdw, .ctrl = 2}, 3, OK, 0, 0, 0},
	{"3 Skylake, RSBA shown", {.host = &host_skx, .ctrl = 2}, 3, OK, 0, 0, 0},
	{"3 Skylake, reported, RSBA hidden",
	 {.host = &host_skx, .ctrl = 2, .hide_rsba = true}, 3, WARN, 0, 0, 0},
	{"3 the same, strict",
	 {.host = &host_skx, .ctrl = 2, .hide_rsba = true, .strict = true}, 3, REFUSE, 0, 0, 0},
	{"3 the same, cannot: refuse",
	 {.host = &host_skx, .ctrl = 2, .hide_rsba = true, .cannot = true}, 3, REFUSE, 0, 0, 0},
	{"3 Skylake, unaware, RSBA hidden", {.host = &host_skx, .hide_rsba = true}, 3, WARN, 0, 0, 0},
	{"3 Skylake, declined, RSBA hidden",
	 {.host = &host_skx, .hide_rsba = true, .aware = true, .enum_read = true, .strict = true}, 3,
	 OK, 0, 0, 0},
	{"3 Skylake, declined, but reports only tighten",
	 {.host = &host_skx, .hide_rsba = true, .aware = true, .enum_read = true, .honour =
	 REPORT_TIGHTEN}, 3, WARN, 0, 0, 0},
	{"3 Skylake, old microcode, RSBA hidden: no better",
	 {.host = &host_skx_old, .strict = true}, 3, REFUSE, 0, 0, 0},
	{"3 Skylake, old microcode, reported",
	 {.host = &host_skx_old, .ctrl = 2}, 3, WARN, 0, 0, 0},
	{"3 from Broadwell to Skylake",
	 {.incoming = true, .host = &host_skx, .strict = true}, 3, REFUSE, 0, 0, 0},
	{"3 from Broadwell to Skylake with old microcode: no better",
	 {.incoming = true, .host = &host_skx_old, .strict = true}, 3, REFUSE, 0, 0, 0},
	{"3 from Broadwell to Skylake, reported",
	 {.incoming = true, .host = &host_skx, .ctrl = 2}, 3, WARN, 0, 0, 0},
	{"4 the guest sets it itself",
	 {QUIET, .shows_rrsba_ctrl = true, .ctrl = 2}, 4, OK, 0, 0, 0},
	{"4 shown RRSBA_CTRL and not SPEC_CTRL: row 8",
	 {.no_msr = true, .shows_rrsba_ctrl = true}, 8, OK, 0, 0, FORCED},
	{"4 the control alone is not enough: Linux does not look at it without RRSBA",
	 {QUIET, .shows_rrsba_ctrl = true, .hide_rrsba = true, .ctrl = 2}, 5, FORCED, RSB, RSB, 0},
	{"5 reported", {QUIET, .ctrl = 2, .hide_rrsba = true}, 5, FORCED, RSB, RSB, 0},
	{"5 reported, RRSBA shown", {QUIET, .ctrl = 2}, 5, FORCED, RSB, RSB, 0},
	{"5 the mask is frozen: what may be reported counts",
	 {QUIET, .backend = BACKEND_FORCE_SPEC_CTRL}, 5, FORCED, RSB, RSB, 0},
	{"6 declined",
	 {QUIET, .aware = true, .enum_read = true, .hide_rrsba = true}, 6, OK, 0, 0, 0},
	{"6 declined, but reports only tighten: row 7",
	 {QUIET, .aware = true, .enum_read = true, .hide_rrsba = true, .honour = REPORT_TIGHTEN}, 7,
	 FORCED, RSB, RSB, 0},
	{"6 the bit was not offered: no answer, row 7",
	 {QUIET, .aware = true, .enum_read = true, .hide_rrsba = true, .no_enum = true}, 7, FORCED,
	 RSB, RSB, 0},
	{"7 unaware, RRSBA hidden", {QUIET, .hide_rrsba = true}, 7, FORCED, RSB, RSB, 0},
	{"7 the policy does not force unasked",
	 {QUIET, .hide_rrsba = true, .no_force_unaware = true}, 7, WARN, 0, 0, 0},
	{"7 strict does",
	 {QUIET, .hide_rrsba = true, .no_force_unaware = true, .strict = true}, 7, FORCED, RSB, RSB,
	 0},
	{"7 a report that may not add bits",
	 {QUIET, .hide_rrsba = true, .no_force_unaware = true, .ctrl = 2, .honour = REPORT_RELAX},
	 7, WARN, 0, 0, 0},
	{"8 unaware, RRSBA shown", {QUIET}, 8, OK, 0, 0, 0},
	{"9 Ice Lake, reported, RRSBA hidden",
	 {.host = &host_icx, .ctrl = 2, .hide_rrsba = true}, 9, WARN, 0, 0, 0},
	{"9 strict",
	 {.host = &host_icx, .ctrl = 2, .hide_rrsba = true, .strict = true}, 9, REFUSE, 0, 0, 0},
	{"9 cannot=refuse",
	 {.host = &host_icx, .ctrl = 2, .hide_rrsba = true, .cannot = true}, 9, REFUSE, 0, 0, 0},
	{"9 reported, no back end", {QUIET, .ctrl = 2, .no_backend = true}, 9, WARN, 0, 0, 0},
	{"9 unaware, RRSBA hidden, no back end, strict",
	 {QUIET, .hide_rrsba = true, .no_backend = true, .strict = true}, 9, REFUSE, 0, 0, 0},
	{"9 unaware, RRSBA hidden, no back end",
	 {QUIET, .hide_rrsba = true, .no_backend = true}, 9, WARN, 0, 0, 0},
	{"9 the host does not say RRSBA itself, strict",
	 {QUIET, .hide_rrsba = true, .no_rrsba = true, .can = CAN_OLD, .strict = true},
	 9, REFUSE, 0, 0, 0},
	{"9 the host does not say RRSBA itself: as if it did",
	 {QUIET, .hide_rrsba = true, .no_rrsba = true, .can = CAN_OLD}, 9, WARN, 0, 0, 0},
	{"9 reported, BHI_DIS_S is held in its place",
	 {.ctrl = 2, .aware = true, .enum_read = true, .hide_rrsba = true, .can = BHI, .strict = true}, 9,
	 OK, 0, 0, FORCED},
	{"9 unaware, BHI_DIS_S is held in its place",
	 {.hide_rrsba = true, .can = BHI, .strict = true}, 9, OK, 0, 0, FORCED},
	{"9 reported, the policy gives BHI_DIS_S up", {.ctrl = 2, .hide_rrsba = true, .can = BHI, .off =
	 true}, 9, WARN, 0, 0, 0},
	{"9 reported, the guest owns BHI_DIS_S", {QUIET, .ctrl = 2, .hide_rrsba = true, .can = BHI}, 9,
	 WARN, 0, 0, 0},
	{"10 Ice Lake does not say RRSBA itself: as if it did",
	 {.host = &host_icx, .hide_rrsba = true, .no_rrsba = true}, 10, WARN, 0, 0, 0},
	{"10 the same, strict",
	 {.host = &host_icx, .hide_rrsba = true, .no_rrsba = true, .strict = true}, 10, REFUSE, 0,
	 0, 0},
	{"10 Ice Lake, reported, RRSBA shown", {.host = &host_icx, .ctrl = 2}, 10, OK, 0, 0, 0},
	{"10 Ice Lake, unaware, RRSBA hidden",
	 {.host = &host_icx, .hide_rrsba = true}, 10, WARN, 0, 0, 0},
	{"10 Ice Lake, declined, RRSBA hidden",
	 {.host = &host_icx, .hide_rrsba = true, .aware = true, .enum_read = true}, 10, OK, 0, 0,
	 0},
	{"10 the same, but reports only tighten",
	 {.host = &host_icx, .hide_rrsba = true, .aware = true, .enum_read = true, .honour =
	 REPORT_TIGHTEN}, 10, WARN, 0, 0, 0},
};
/* clang-format on */

static void test_rrsba(void **state)
{
	(void)state;
	RUN(rrsba_cases, TABLE_RRSBA, RSB);
}

/* clang-format off */
static const struct a_case raw_cases[] = {
	{"1 value outside the mask",
	 {QUIET, .raw_mask = SSBD, .raw_value = SSBD | STIBP}, 1, REFUSE, 0, 0, 0},
	{"1 reserved bit 9", {QUIET, .raw_mask = 1 << 9}, 1, REFUSE, 0, 0, 0},
	{"1 reserved bit 63",
	 {QUIET, .raw_mask = 1ULL << 63, .raw_value = 1ULL << 63}, 1, REFUSE, 0, 0, 0},
	{"2 not in the host",
	 {.host = &host_icx, .raw_mask = SPEC_CTRL_PSFD, .raw_value = SPEC_CTRL_PSFD, .can =
	 CAN_ALL}, 2, REFUSE, 0, 0, 0},
	{"2 not in the back end",
	 {QUIET, .raw_mask = SPEC_CTRL_PSFD, .raw_value = SPEC_CTRL_PSFD, .can = CAN_OLD}, 2,
	 REFUSE, 0, 0, 0},
	{"2 nothing to hold it at 0",
	 {QUIET, .no_backend = true, .raw_mask = SSBD}, 2, REFUSE, 0, 0, 0},
	{"2 AMD without a back end",
	 {.host = &host_amd, .no_backend = true, .raw_mask = SSBD, .raw_value = SSBD}, 2, REFUSE, 0,
	 0, 0},
	{"2 AMD, a bit that only Intel has",
	 {.host = &host_amd, .can = CAN_ALL, .raw_mask = SPEC_CTRL_DDPD_U, .raw_value =
	 SPEC_CTRL_DDPD_U}, 2, REFUSE, 0, 0, 0},
	{"3 AMD, what the back end can hold",
	 {.host = &host_amd, .can = CAN_OLD, .raw_mask = SSBD, .raw_value = SSBD}, 3, FORCED, SSBD,
	 SSBD, 0},
	{"4 AMD", {.host = &host_amd, .can = CAN_OLD, .no_msr = true, .raw_mask = SSBD}, 4, FORCED,
	 SSBD, 0, 0},
	{"4 AMD, shown", {.host = &host_amd, .can = CAN_OLD, .raw_mask = SSBD}, 4, WARN, SSBD, 0, 0},
	{"2 one of two",
	 {QUIET, .raw_mask = SSBD | SPEC_CTRL_PSFD, .raw_value = SSBD | SPEC_CTRL_PSFD, .can =
	 CAN_OLD}, 2, REFUSE, SSBD, SSBD, 0},
	{"3 held at 1", {QUIET, .raw_mask = SSBD, .raw_value = SSBD}, 3, FORCED, SSBD, SSBD, 0},
	{"4 held at 0, not shown", {QUIET, .raw_mask = DDPD_U}, 4, FORCED, DDPD_U, 0, 0},
	{"4 held at 0, not shown, strict",
	 {QUIET, .raw_mask = DDPD_U, .strict = true}, 4, FORCED, DDPD_U, 0, 0},
	{"4 held at 0, STIBP, which the guest is shown", {QUIET, .raw_mask = STIBP}, 4, WARN, STIBP, 0,
	 0},
	{"4 SSBD, strict", {QUIET, .raw_mask = SSBD, .strict = true}, 4, REFUSE, SSBD, 0, 0},
	{"4 IBRS, strict", {QUIET, .raw_mask = SPEC_CTRL_IBRS, .strict = true}, 4, REFUSE,
	 SPEC_CTRL_IBRS, 0, 0},
	{"4 without the MSR no control is shown, strict",
	 {.host = &host_icx, .raw_mask = SSBD, .no_msr = true, .strict = true}, 4, FORCED, SSBD, 0, 0},
	{"3 one each way",
	 {QUIET, .raw_mask = SSBD | DDPD_U, .raw_value = SSBD}, 3, FORCED, SSBD | DDPD_U, SSBD, 0},
};
/* clang-format on */

static void test_raw(void **state)
{
	(void)state;
	RUN(raw_cases, TABLE_RAW, ~(BHI | RSB));
}

/* a guest that boots on Ice Lake sees no controls; INCOMING is its arrival somewhere */
#define INCOMING .incoming = true
#define PROMISED INCOMING, .promise_mask = BHI, .promise_value = BHI

/* clang-format off */
static const struct a_case migration_cases[] = {
	{"1 all held", {PROMISED}, 1, OK, BHI, BHI, FORCED},
	{"1 needed here though not there", {INCOMING}, 1, OK, BHI, BHI, FORCED},
	{"1 promised, and this policy would not force unasked: stays held, nothing to warn of",
	 {PROMISED, .no_force_unaware = true}, 1, FORCED, BHI, BHI, 0},
	{"1 promised, and left to the guest here", {PROMISED, .raw_guest = BHI}, 1, WARN, 0, 0, 0},
	{"1 promised, and left to the guest here, strict",
	 {PROMISED, .raw_guest = BHI, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"1 raw SSBD of the source is left to the guest here",
	 {INCOMING, QUIET, .promise_mask = SSBD, .promise_value = SSBD, .raw_guest = SSBD}, 1, WARN,
	 0, 0, 0},
	{"1 raw SSBD of the source is held off here, strict",
	 {INCOMING, QUIET, .promise_mask = SSBD, .promise_value = SSBD, .raw_mask = SSBD, .strict =
	 true}, 1, REFUSE, SSBD, 0, 0},
	{"1 promised though the guest sees BHI_CTRL: stays held",
	 {PROMISED, QUIET}, 1, FORCED, BHI, BHI, 0},
	{"1 promised, and bhi=off here", {PROMISED, .off = true}, 1, WARN, 0, 0, REFUSE},
	{"1 promised, bhi=off here, nothing was offered",
	 {PROMISED, .off = true, .no_virt = true}, 1, WARN, 0, 0, 0},
	{"1 promised, bhi=off here, strict",
	 {PROMISED, .off = true, .no_virt = true, .strict = true}, 1, REFUSE, 0, 0, 0},
	{"1 promised, cannot", {PROMISED, QUIET, .can = CAN_OLD}, 1, REFUSE, 0, 0, 0},
	{"1 promised, cannot, the operator lets it",
	 {PROMISED, QUIET, .can = CAN_OLD, .incoming_warn = true}, 1, WARN, 0, 0, 0},
	{"1 promised, unknown model", {PROMISED, .host = &host_unknown}, 1, REFUSE, 0, 0, 0},
	{"2 promised, Ice Lake", {PROMISED, .host = &host_icx}, 2, OK, 0, 0, 0},
	{"2 promised, reported, Ice Lake",
	 {PROMISED, .host = &host_icx, .ctrl = 1}, 2, OK, 0, 0, 0},
	{"2 promised, Sierra Forest", {PROMISED, .host = &host_srf}, 2, OK, 0, 0, 0},
	{"3 sees BHI_CTRL, Ice Lake", {INCOMING, .host = &host_icx, QUIET}, 3, REFUSE, 0, 0, 0},
	{"3 sees BHI_CTRL, Ice Lake, first boot", {.host = &host_icx, QUIET}, 3, REFUSE, 0, 0, 0},
	{"4 unaware, masked Sapphire Rapids",
	 {INCOMING, .host = &host_spr_masked}, 4, REFUSE, 0, 0, 0},
	{"4 reported, masked Sapphire Rapids",
	 {INCOMING, .host = &host_spr_masked, .ctrl = 1}, 4, REFUSE, 0, 0, 0},
	{"4 unaware, masked Sapphire Rapids, the operator lets it",
	 {INCOMING, .host = &host_spr_masked, .incoming_warn = true}, 4, WARN, 0, 0, 0},
	{"4 declined, masked Sapphire Rapids",
	 {INCOMING, .host = &host_spr_masked, .aware = true, .enum_read = true}, 4, WARN, 0, 0, 0},
	{"4 declined, strict",
	 {INCOMING, .host = &host_spr_masked, .aware = true, .enum_read = true, .strict = true}, 4,
	 REFUSE, 0, 0, 0},
	{"4 declined, but reports only tighten",
	 {INCOMING, .host = &host_spr_masked, .aware = true, .enum_read = true, .honour =
	 REPORT_TIGHTEN}, 4, REFUSE, 0, 0, 0},
	{"4 unaware, masked Sapphire Rapids, as weak where it was",
	 {INCOMING, .weak = true, .host = &host_spr_masked}, 4, WARN, 0, 0, 0},
	{"4 unaware, no back end, as weak where it was",
	 {INCOMING, .weak = true, .no_backend = true, .no_virt = true}, 4, WARN, 0, 0, 0},
	{"4 as weak where it was, strict",
	 {INCOMING, .weak = true, .host = &host_spr_masked, .strict = true}, 4, REFUSE, 0, 0, 0},
	{"4 as weak where it was, but held before that",
	 {PROMISED, .weak = true, .host = &host_spr_masked}, 4, REFUSE, 0, 0, 0},
	{"1 weak where it was, held here", {INCOMING, .weak = true}, 1, OK, BHI, BHI, FORCED},
	{"4 no back end", {INCOMING, .no_backend = true, .no_virt = true}, 4, REFUSE, 0, 0, 0},
	{"5 promised, BHI_NO", {PROMISED, .bhi_no = true}, 5, OK, 0, 0, 0},
	{"5 promised, BHI_NO is not enough: held",
	 {PROMISED, .bhi_no = true, .bhi_no_not_enough = true}, 1, OK, BHI, BHI, FORCED},
	{"6 reported retpolines, RRSBA hidden, Ice Lake",
	 {INCOMING, .host = &host_icx, .ctrl = 2, .hide_rrsba = true}, 6, WARN, 0, 0, 0},
	{"6 strict",
	 {INCOMING, .host = &host_icx, .ctrl = 2, .hide_rrsba = true, .strict = true}, 6, REFUSE, 0,
	 0, 0},
	{"6 promised RRSBA_DIS_S, Ice Lake",
	 {INCOMING, .host = &host_icx, .promise_mask = RSB, .promise_value = RSB}, 6, WARN, 0, 0,
	 0},
	{"7 raw SSBD of the source stays held",
	 {INCOMING, QUIET, .promise_mask = SSBD, .promise_value = SSBD}, 1, FORCED, SSBD, SSBD, 0},
	{"1 raw zero of the source stays held, and the guest is shown the control",
	 {INCOMING, QUIET, .promise_mask = SSBD}, 1, WARN, SSBD, 0, 0},
	{"1 the same, strict",
	 {INCOMING, QUIET, .promise_mask = SSBD, .strict = true}, 1, REFUSE, SSBD, 0, 0},
	{"1 raw zero of the source stays held, the guest is not shown the control",
	 {INCOMING, QUIET, .promise_mask = DDPD_U, .strict = true}, 1, FORCED, DDPD_U, 0, 0},
	{"7 raw PSFD of the source cannot be held",
	 {INCOMING, .host = &host_icx, .promise_mask = SPEC_CTRL_PSFD, .promise_value =
	 SPEC_CTRL_PSFD}, 7, REFUSE, 0, 0, 0},
	{"7 raw zero of the source cannot be held",
	 {INCOMING, QUIET, .no_backend = true, .promise_mask = SSBD}, 7, REFUSE, 0, 0, 0},
	{"8 ARCH_CAPABILITIES claims more",
	 {INCOMING, .host = &host_bdw, .whole_contract = true}, 8, REFUSE, 0, 0, 0},
	{"8 nobody to answer the virtual MSRs",
	 {INCOMING, QUIET, .no_backend = true, .no_msr_exits = true}, 8, REFUSE, 0, 0, 0},
	{"4 a back end that holds nothing answers them: the policy decides",
	 {INCOMING, .no_backend = true, .incoming_warn = true}, 4, WARN, 0, 0, 0},
	{"8 RRSBA_CTRL is shown, the host has none",
	 {INCOMING, .host = &host_icx, .shows_rrsba_ctrl = true}, 8, REFUSE, 0, 0, 0},
	{"8 told that a report is heard, and bhi=off", {INCOMING, .off = true}, 8, REFUSE, 0, 0, 0},
	{"9 AMD", {INCOMING, .host = &host_amd}, 9, REFUSE, 0, 0, 0},
	{"9 AMD, guest's vendor not known, but a promise is",
	 {PROMISED, .host = &host_amd, .guest_vendor = CPU_VENDOR_OTHER}, 9, REFUSE, 0, 0, 0},
	{"9 a guest of an unknown vendor",
	 {INCOMING, .unknown_vendor = true}, 9, REFUSE, BHI, BHI, 0},
	{"9 an AMD guest on Intel",
	 {INCOMING, .guest_vendor = CPU_VENDOR_AMD}, 9, REFUSE, BHI, BHI, 0},
	{"10 its own bits are not there",
	 {INCOMING, .host = &host_icx, .shadow = SPEC_CTRL_IBRS | BHI}, 10, REFUSE, 0, 0, 0},
	{"12 virtual MSRs stay hidden", {INCOMING, .no_virt = true}, 12, OK, BHI, BHI, FORCED},
};
/* clang-format on */

static void test_migration(void **state)
{
	struct edit e = {.shadow = SPEC_CTRL_IBRS | BHI, .incoming = true, .host = &host_icx};
	struct mitigation_input in = edited(&e);
	struct mitigation_decision d;

	(void)state;
	RUN(migration_cases, TABLE_MIGRATION, ~RSB);
	mitigation_decide(&in, &d);
	assert_int_equal(find_step(&d, TABLE_MIGRATION, 10)->bit, BHI); /* names the bit */
}

/* three hops: the promise of the first long host outlives an Ice Lake in between */
static void test_hops(void **state)
{
	struct mitigation_input in = base_input();
	struct mitigation_decision d;

	(void)state;
	in.host = host_icx;
	in.backend.can_force = CAN_OLD;
	in.guest.arch_cap = (ARCH_CAP_SPR & ARCH_CAP_CLX) | ARCH_CAP_RRSBA | ARCH_CAP_VIRTUAL_ENUM;
	mitigation_decide(&in, &d); /* boots on Ice Lake */
	assert_int_equal(d.verdict, VERDICT_ALLOW);
	assert_int_equal(d.value, 0);

	in.promise = (struct mitigation_promise) {true, d.mask, d.value, mitigation_left_weak(&d)};
	in.host = host_spr;
	in.backend.can_force = CAN_ALL;
	mitigation_decide(&in, &d);
	assert_int_equal(d.verdict, VERDICT_ALLOW_FORCED);
	assert_int_equal(d.value, BHI);

	in.promise = (struct mitigation_promise) {true, d.mask, d.value, mitigation_left_weak(&d)};
	in.host = host_icx;
	in.backend.can_force = CAN_OLD;
	mitigation_decide(&in, &d);
	assert_int_equal(d.verdict, VERDICT_ALLOW);
	assert_int_equal(d.value, 0);

	in.host = host_spr_masked; /* the same promise, carried on */
	mitigation_decide(&in, &d);
	assert_int_equal(d.verdict, VERDICT_REFUSE);
}

/* two hosts that can hold nothing: the first says so, by rows 13 and 14, and by no other */
static void test_left_weak(void **state)
{
	static const struct {
		struct edit e;
		bool weak;
	} cases[] = {
		{{.no_backend = true, .no_virt = true}, true},
		{{.host = &host_spr_masked}, true},
		{{.host = &host_spr_masked, .aware = true, .enum_read = true}, true},
		{{.host = &host_icx}, false},
		{{.host = &host_unknown}, false},
		{{.off = true}, false},
		{{.no_force_unaware = true}, false},
		{{0}, false},
	};
	struct mitigation_decision d = {0};
	size_t i;

	(void)state;
	assert_false(mitigation_left_weak(&d));
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct mitigation_input in = edited(&cases[i].e);

		mitigation_decide(&in, &d);
		assert_int_equal(mitigation_left_weak(&d), cases[i].weak);
	}
}

static void test_applied(void **state)
{
	const struct mitigation_input in = base_input();
	struct mitigation_decision d;

	(void)state;
	mitigation_decide(&in, &d);
	assert_int_equal(mitigation_expect(&d, BACKEND_MSR_FILTER, 1), 0x401);
	assert_int_equal(mitigation_expect(&d, BACKEND_FORCE_SPEC_CTRL, 1), 1);
	assert_int_equal(mitigation_expect(&d, BACKEND_FORCE_SPEC_CTRL_VM, 1), 1);
	assert_int_equal(mitigation_expect(&d, BACKEND_FORCE_VCPU, 1), 1);
	assert_int_equal(mitigation_expect(&d, BACKEND_NONE, 1), 1);

	assert_true(mitigation_check_applied(&d, BACKEND_MSR_FILTER, 1, true, 0x401));
	assert_int_equal(d.verdict, VERDICT_ALLOW_FORCED);
	assert_true(mitigation_check_applied(&d, BACKEND_FORCE_SPEC_CTRL, 1, true, 1));
	assert_int_equal(d.verdict, VERDICT_ALLOW_FORCED);

	/* accepts and drops, as seen on a real KVM */
	assert_false(mitigation_check_applied(&d, BACKEND_MSR_FILTER, 1, true, 0));
	assert_int_equal(d.verdict, VERDICT_REFUSE);
	assert_int_equal(find_step(&d, TABLE_MIGRATION, 11)->bit, 0x401);

	mitigation_decide(&in, &d);
	assert_false(mitigation_check_applied(&d, BACKEND_MSR_FILTER, 1, false, 0));
	assert_int_equal(d.verdict, VERDICT_REFUSE);
	assert_int_equal(find_step(&d, TABLE_MIGRATION, 10)->bit, 0x401);
}

/* clang-format off */
static const struct {
	const char *name;
	bool mixed;
	unsigned int n;
	enum policy_mixed policy;
	const struct host_facts *host;
	enum verdict verdict;
} pools[] = {
	{"mixed, levelled", true, 2, MIXED_LEVEL, &host_icx, OK},
	{"mixed, warned", true, 2, MIXED_WARN, &host_icx, WARN},
	{"mixed, refused", true, 2, MIXED_REFUSE, &host_icx, REFUSE},
	{"not mixed", false, 2, MIXED_REFUSE, &host_icx, OK},
	{"no pool", true, 0, MIXED_REFUSE, &host_icx, OK},
	{"AMD", true, 2, MIXED_REFUSE, &host_amd, OK},
};
/* clang-format on */

static void test_mixed_pool(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(pools); i++) {
		const struct edit e = {.host = pools[i].host,
				       .mixed = pools[i].policy,
				       .pool = pools[i].n,
				       .pool_mixed = pools[i].mixed};
		const struct mitigation_input in = edited(&e);
		struct mitigation_decision d;

		print_message("# %s\n", pools[i].name);
		mitigation_decide(&in, &d);
		assert_int_equal(d.verdict, pools[i].verdict);
		assert_int_equal(find_step(&d, TABLE_POOL, 1) != NULL, pools[i].verdict != OK);
	}
}

/* clang-format off */
static const struct {
	const char *name;
	struct edit e;
	bool adequate;
} adequate[] = {
	{"Ice Lake alone", {.host = &host_icx}, true},
	{"Ice Lake in a pool of such", {.host = &host_icx, .pool = 2}, true},
	{"Ice Lake beside hosts that can force",
	 {.host = &host_icx, .pool = 2, .pool_long = true}, true},
	{"Ice Lake beside one that cannot",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .pool_cannot = true}, false},
	{"Ice Lake beside hosts that would, for a guest that reports nothing, not be let to",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .no_force_unaware = true}, false},
	{"the same, and it reports the short sequence",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .no_force_unaware = true, .ctrl = 1},
	 true},
	{"Ice Lake beside hosts where the policy holds it at 0",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .raw_mask = BHI}, false},
	{"Ice Lake beside hosts where the policy leaves it to the guest",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .raw_guest = BHI}, false},
	{"Ice Lake beside hosts where the guest's no counts",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .aware = true, .enum_read = true}, false},
	{"Sapphire Rapids, held", {.host = &host_spr}, true},
	{"Sapphire Rapids, declined", {.aware = true, .enum_read = true}, false},
	{"Sapphire Rapids, no back end", {.no_backend = true}, false},
	{"BHI_CTRL shown", {.shows_bhi = true}, false},
	{"bhi=off", {.host = &host_icx, .off = true}, false},
	{"BHI_NO", {.bhi_no = true}, true},
	{"nested", {.host = &host_icx, .hypervisor = true}, false},
	{"AMD", {.host = &host_amd}, false},
	{"refused for another reason", {.host = &host_icx, .rrsba_on = true}, false},
};
/* clang-format on */

static void test_short_adequate(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(adequate); i++) {
		const struct mitigation_input in = edited(&adequate[i].e);
		struct mitigation_decision d;

		print_message("# %s\n", adequate[i].name);
		mitigation_decide(&in, &d);
		assert_int_equal(d.short_adequate, adequate[i].adequate);
	}
}

/* section 4.4 */
/* clang-format off */
static const struct {
	const char *name;
	struct edit e;
	bool no_arch_cap_cpuid, policy_off;
	bool bit63;
	uint64_t offered;
} offers[] = {
	{"Sapphire Rapids", {.host = &host_spr}, 0, 0, true, 3},
	{"CPUID without ARCH_CAPABILITIES", {.host = &host_spr}, true, 0, false, 0},
	{"policy without virtual MSRs", {.host = &host_spr}, 0, true, false, 0},
	{"AMD", {.host = &host_amd}, 0, 0, false, 0},
	{"no back end", {.no_backend = true}, 0, 0, false, 0},
	{"nobody to answer them", {.no_msr_exits = true}, 0, 0, false, 0},
	{"a host of the pool cannot answer them",
	 {.pool = 2, .pool_no_msr_exits = true}, 0, 0, false, 0},
	{"both bits are left to the guest", {.raw_guest = BHI | RSB}, 0, 0, true, 0},
	{"Ice Lake: old hosts too", {.host = &host_icx}, 0, 0, true, 3},
	{"Ice Lake, RRSBA hidden", {.host = &host_icx, .hide_rrsba = true}, 0, 0, true, 1},
	{"Sapphire Rapids, RRSBA hidden", {.hide_rrsba = true}, 0, 0, true, 3},
	{"Broadwell", {.host = &host_bdw}, 0, 0, true, 3},
	{"Broadwell, with Skylake in the pool",
	 {.host = &host_bdw, .pool = 2, .any_rsba = true}, 0, 0, true, 1},
	{"Skylake, RSBA shown", {.host = &host_skx}, 0, 0, true, 3},
	{"Skylake, RSBA hidden", {.host = &host_skx, .hide_rsba = true}, 0, 0, true, 1},
	{"Skylake, old microcode", {.host = &host_skx_old}, 0, 0, true, 1},
	{"masked Sapphire Rapids", {.host = &host_spr_masked}, 0, 0, true, 2},
	{"back end without the bits", {.can = CAN_OLD}, 0, 0, true, 0},
	{"unknown model", {.host = &host_unknown}, 0, 0, true, 2},
	{"nested Ice Lake", {.host = &host_icx, .hypervisor = true}, 0, 0, true, 2},
	{"nested Ice Lake, believed",
	 {.host = &host_icx, .hypervisor = true, .trust = true}, 0, 0, true, 3},
	{"pool with a long host that cannot, RRSBA shown",
	 {.host = &host_icx, .pool = 2, .pool_long = true, .pool_cannot = true}, 0, 0, true, 2},
	{"pool where each long host can",
	 {.host = &host_icx, .pool = 2, .pool_long = true}, 0, 0, true, 3},
	{"Sierra Forest", {.host = &host_srf, .can = CAN_OLD, .pool = 2}, 0, 0, true, 1},
	{"Sierra Forest that cannot, beside long ones",
	 {.host = &host_srf, .can = CAN_OLD, .pool = 2, .pool_long = true}, 0, 0, true, 0},
	{"bhi=off", {.off = true}, 0, 0, true, 2},
	{"rrsba=off", {.rrsba_off = true}, 0, 0, true, 1},
	{"raw bits hold both at 0", {.raw_mask = BHI | RSB}, 0, 0, true, 0},
	{"raw bits hold both at 1", {.raw_mask = BHI | RSB, .raw_value = BHI | RSB}, 0, 0, true, 3},
	{"reports ignored", {.honour = REPORT_IGNORE}, 0, 0, true, 0},
	{"reports only relax", {.honour = REPORT_RELAX}, 0, 0, true, 1},
	{"reports only relax, and nothing is forced unasked",
	 {.honour = REPORT_RELAX, .no_force_unaware = true}, 0, 0, true, 0},
	{"BHI_NO on a masked host", {.host = &host_spr_masked, .bhi_no = true}, 0, 0, true, 3},
};
/* clang-format on */

static void test_advertise(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(offers); i++) {
		struct mitigation_input in = edited(&offers[i].e);

		print_message("# %s\n", offers[i].name);
		in.policy.virtual_msrs = !offers[i].policy_off;
		if (offers[i].no_arch_cap_cpuid)
			in.guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, arch_capabilities);
		in.pool.any_rrsba = in.pool.n_hosts;
		in.guest.mitigation_enum = ~0ULL; /* what is there before does not matter */
		mitigation_advertise(&in.host, &in.backend, &in.policy, &in.pool, &in.guest);
		assert_int_equal(!!(in.guest.arch_cap & ARCH_CAP_VIRTUAL_ENUM), offers[i].bit63);
		assert_int_equal(in.guest.virt_enum, offers[i].bit63 ? 1 : 0);
		assert_int_equal(in.guest.mitigation_enum, offers[i].offered);
		assert_int_equal(in.guest.vendor, cpu_vendor_from_id(in.host.vendor_id));
	}
}

/* Nested guests of one that is not shown SPEC_CTRL: the same check at boot and on arrival. */
static void test_nested(void **state)
{
	static const struct {
		const char *name;
		struct edit e;
		enum verdict verdict; /* of the row; OK: it did not fire */
	} cases[] = {
		{"shown both", {.nested = true}, OK},
		{"not nested", {.no_msr = true}, OK},
		{"boots", {.nested = true, .no_msr = true}, WARN},
		{"boots, cannot=refuse", {.nested = true, .no_msr = true, .cannot = true}, REFUSE},
		{"boots, strict", {.nested = true, .no_msr = true, .strict = true}, REFUSE},
		{"comes: no worse off than it was",
		 {.nested = true, .no_msr = true, .cannot = true, .incoming = true},
		 WARN},
		{"comes, strict",
		 {.nested = true, .no_msr = true, .strict = true, .incoming = true},
		 REFUSE},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct mitigation_input in = edited(&cases[i].e);
		const struct decision_step *s;
		struct mitigation_decision d;

		print_message("# %s\n", cases[i].name);
		mitigation_decide(&in, &d);
		s = find_step(&d, TABLE_NESTED, 1);
		assert_int_equal(s ? s->verdict : OK, cases[i].verdict);
		assert_int_equal(d.verdict == REFUSE, cases[i].verdict == REFUSE);
	}
}

#define ON	HOST_IBPB_CONDITIONAL
#define OFF	HOST_IBPB_OFF
#define UNSAID	NESTED_EXIT_UNSAID
#define BARE	NESTED_EXIT_BARE
#define BARRIER NESTED_EXIT_BARRIER

/* the verdicts by default, with cannot: refuse and with strict: on */
#define NOTHING OK, OK, OK
#define CANNOTS WARN, REFUSE, REFUSE
#define UNSURES WARN, WARN, REFUSE

/* the host, and which bit of IBRS the guest has */
#define ON_VMX	   false, false
#define ON_SVM	   true, false
#define ON_VMX_BIT false, true
#define ON_SVM_BIT true, true

/* Nested guests of one that is shown SPEC_CTRL: the host's kernel decides, or what KVM says. */
static void test_nested_kernel(void **state)
{
	static const struct {
		const char *name;
		bool amd, amd_bit;
		struct barrier_facts k;
		unsigned int row; /* 0: none fires */
		enum verdict plain, cannot, strict;
	} cases[] = {
		{"AMD 6.1", ON_SVM, {false, ON, 6, 1, 0, UNSAID}, 2, CANNOTS},
		{"AMD 6.15", ON_SVM, {false, ON, 6, 15, 9, UNSAID}, 2, CANNOTS},
		{"AMD 6.12, AMD's bit", ON_SVM_BIT, {false, ON, 6, 12, 0, UNSAID}, 2, CANNOTS},
		{"AMD 5.7", ON_SVM, {false, ON, 5, 7, 0, UNSAID}, 2, CANNOTS},
		{"AMD 6.16", ON_SVM, {false, ON, 6, 16, 0, UNSAID}, 0, NOTHING},
		{"AMD 6.16, AMD's bit", ON_SVM_BIT, {false, ON, 6, 16, 0, UNSAID}, 0, NOTHING},
		{"AMD 7.0", ON_SVM, {false, ON, 7, 0, 0, UNSAID}, 0, NOTHING},
		{"AMD, kernel unknown", ON_SVM, {0}, 4, UNSURES},
		{"AMD 6.12, IBPB off", ON_SVM, {false, OFF, 6, 12, 0, UNSAID}, 2, CANNOTS},
		{"AMD 6.16, IBPB off", ON_SVM, {false, OFF, 6, 16, 0, UNSAID}, 0, NOTHING},
		{"AMD 6.12 says it has", ON_SVM, {true, ON, 6, 12, 1, BARRIER}, 0, NOTHING},
		{"AMD 6.16 says it has none", ON_SVM, {true, ON, 6, 16, 0, BARE}, 6, CANNOTS},
		{"Intel 5.7, before it was lost", ON_VMX, {false, ON, 5, 7, 0, UNSAID}, 0, NOTHING},
		{"Intel 4.17", ON_VMX, {false, ON, 4, 17, 0, UNSAID}, 0, NOTHING},
		{"Intel 4.18, a vendor's", ON_VMX, {false, ON, 4, 18, 0, UNSAID}, 3, UNSURES},
		{"Intel 4.19", ON_VMX, {false, ON, 4, 19, 0, UNSAID}, 0, NOTHING},
		{"Intel 5.3, a vendor's", ON_VMX, {false, ON, 5, 3, 18, UNSAID}, 3, UNSURES},
		{"Intel 5.8", ON_VMX, {false, ON, 5, 8, 18, UNSAID}, 3, UNSURES},
		{"Intel 5.14", ON_VMX, {false, ON, 5, 14, 0, UNSAID}, 3, UNSURES},
		{"Intel 6.0", ON_VMX, {false, ON, 6, 0, 0, UNSAID}, 3, UNSURES},
		{"Intel 5.4", ON_VMX, {false, ON, 5, 4, 0, UNSAID}, 3, UNSURES},
		{"Intel 5.4.46, or a vendor's", ON_VMX, {false, ON, 5, 4, 46, UNSAID}, 3, UNSURES},
		{"Intel 5.4.47", ON_VMX, {false, ON, 5, 4, 47, UNSAID}, 3, UNSURES},
		{"Intel 5.4.232", ON_VMX, {false, ON, 5, 4, 232, UNSAID}, 3, UNSURES},
		{"Intel 5.4.233", ON_VMX, {false, ON, 5, 4, 233, UNSAID}, 0, NOTHING},
		{"Intel 5.10", ON_VMX, {false, ON, 5, 10, 0, UNSAID}, 3, UNSURES},
		{"Intel 5.10.169", ON_VMX, {false, ON, 5, 10, 169, UNSAID}, 3, UNSURES},
		{"Intel 5.10.170", ON_VMX, {false, ON, 5, 10, 170, UNSAID}, 0, NOTHING},
		{"Intel 5.15", ON_VMX, {false, ON, 5, 15, 0, UNSAID}, 3, UNSURES},
		{"Intel 5.15.95", ON_VMX, {false, ON, 5, 15, 95, UNSAID}, 3, UNSURES},
		{"Intel 5.15.96", ON_VMX, {false, ON, 5, 15, 96, UNSAID}, 0, NOTHING},
		{"Intel 6.1", ON_VMX, {false, ON, 6, 1, 0, UNSAID}, 3, UNSURES},
		{"Intel 6.1.13", ON_VMX, {false, ON, 6, 1, 13, UNSAID}, 3, UNSURES},
		{"Intel 6.1.14", ON_VMX, {false, ON, 6, 1, 14, UNSAID}, 0, NOTHING},
		{"Intel 6.2", ON_VMX, {false, ON, 6, 2, 0, UNSAID}, 0, NOTHING},
		{"Intel, kernel unknown", ON_VMX, {0}, 4, UNSURES},
		{"Intel, kernel unknown, IBPB off",
		 ON_VMX,
		 {false, OFF, 0, 0, 0, UNSAID},
		 4,
		 UNSURES},
		{"Intel 6.1.192, IBPB off", ON_VMX, {false, OFF, 6, 1, 192, UNSAID}, 5, CANNOTS},
		{"Intel 6.1.13, IBPB off", ON_VMX, {false, OFF, 6, 1, 13, UNSAID}, 5, CANNOTS},
		{"Intel 6.14, IBPB off", ON_VMX, {false, OFF, 6, 14, 0, UNSAID}, 5, CANNOTS},
		{"Intel 6.15, IBPB off", ON_VMX, {false, OFF, 6, 15, 0, UNSAID}, 0, NOTHING},
		{"Intel 6.1.13 says it has", ON_VMX, {true, ON, 6, 1, 13, BARRIER}, 0, NOTHING},
		{"Intel 6.1.192 says it has none", ON_VMX, {true, ON, 6, 1, 192, BARE}, 6, CANNOTS},
		{"it says nothing", ON_VMX, {true, ON, 6, 1, 13, UNSAID}, 3, UNSURES},
		{"Intel, AMD's bit is none there",
		 ON_VMX_BIT,
		 {false, ON, 6, 12, 0, UNSAID},
		 1,
		 CANNOTS},
		{"that, and it has none", ON_VMX_BIT, {true, ON, 6, 12, 1, BARE}, 1, CANNOTS},
	};
	size_t i, how;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		for (how = 0; how < 3; how++) {
			const enum verdict want = how == 0   ? cases[i].plain
						  : how == 1 ? cases[i].cannot
							     : cases[i].strict;
			const struct edit e = {.host = cases[i].amd ? &host_amd : NULL,
					       .nested = true,
					       .cannot = how == 1,
					       .strict = how == 2};
			struct mitigation_input in = edited(&e);
			struct mitigation_decision d;
			unsigned int row, n = 0;

			print_message("# %s %zu\n", cases[i].name, how);
			in.backend.barrier = cases[i].k;
			if (cases[i].amd_bit) {
				in.guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, spec_ctrl);
				in.guest.leaf80000008_ebx = CPUID_BIT(80000008_0_EBX, ibrs);
			}
			mitigation_decide(&in, &d);
			for (row = 1; row <= 6; row++)
				if (find_step(&d, TABLE_NESTED, row)) {
					assert_int_equal(row, cases[i].row);
					assert_int_equal(find_step(&d, TABLE_NESTED, row)->verdict,
							 want);
					n++;
				}
			assert_int_equal(n, cases[i].row != 0);
			if (want == REFUSE)
				assert_int_equal(d.verdict, REFUSE);

			in.nested = false; /* nothing of it where there are no nested guests */
			mitigation_decide(&in, &d);
			for (row = 1; row <= 6; row++)
				assert_null(find_step(&d, TABLE_NESTED, row));
		}
}

/* The words: of a report only where there was one. */
static void test_words(void **state)
{
	static const struct {
		const char *name;
		struct edit e;
		bool bhi, rsb; /* may a row say "the guest reports"? */
	} cases[] = {
		{"frozen, nothing said",
		 {.backend = BACKEND_FORCE_SPEC_CTRL, .hide_rrsba = true, .no_force_unaware = true},
		 false,
		 false},
		{"frozen, declined",
		 {.backend = BACKEND_FORCE_SPEC_CTRL,
		  .hide_rrsba = true,
		  .aware = true,
		  .enum_read = true},
		 false,
		 false},
		{"frozen, shown, nothing said",
		 {.backend = BACKEND_FORCE_SPEC_CTRL, .shows_bhi = true, .force_shown = true},
		 false,
		 false},
		{"frozen, both reported",
		 {.backend = BACKEND_FORCE_SPEC_CTRL,
		  .hide_rrsba = true,
		  .aware = true,
		  .enum_read = true,
		  .written = true,
		  .ctrl = 3},
		 true,
		 true},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct mitigation_input in = edited(&cases[i].e);
		struct mitigation_decision d;
		unsigned int n;

		print_message("# %s\n", cases[i].name);
		mitigation_decide(&in, &d);
		assert_int_equal(d.value & RSB, RSB);
		assert_int_equal(d.value & BHI, BHI);
		for (n = 0; n < d.n_steps; n++) {
			const bool says = strstr(d.step[n].reason, "guest reports retpolines") ||
					  strstr(d.step[n].reason, "reports the short");

			if (d.step[n].table == TABLE_BHI)
				assert_int_equal(says, cases[i].bhi);
			if (d.step[n].table == TABLE_RRSBA)
				assert_int_equal(says, cases[i].rsb);
		}
	}
}

static void test_contract(void **state)
{
	static const struct cpuid_leaf leaves[] = {
		{.leaf = 0, .eax = 7},
		{.leaf = 1, .ecx = 1u << 5},
		{.leaf = 7, .indexed = true, .eax = 2, .edx = EDX_7_0},
		{.leaf = 7, .subleaf = 2, .indexed = true, .edx = EDX_7_2},
		{.leaf = 0x80000000, .eax = 0x80000008},
		{.leaf = 0x80000008, .ebx = CPUID_BIT(80000008_0_EBX, ibrs)},
	};
	struct guest_contract g;
	struct cpuid_set set = {0};
	bool nested;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		assert_int_equal(cpuid_add(&set, &leaves[i]), 0);
	contract_read_cpuid(&g, &nested, &set);
	assert_true(nested);
	assert_int_equal(g.leaf7_0_edx, EDX_7_0);
	assert_int_equal(g.leaf7_2_edx, EDX_7_2);
	assert_int_equal(g.leaf80000008_ebx, CPUID_BIT(80000008_0_EBX, ibrs));

	set.leaf[2].eax = 1; /* the sub-leaf is there and cannot be reached */
	contract_read_cpuid(&g, &nested, &set);
	assert_int_equal(g.leaf7_0_edx, EDX_7_0);
	assert_int_equal(g.leaf7_2_edx, 0);

	set.leaf[2].eax = 2;
	set.leaf[0].eax = 6; /* nor can the leaf */
	set.leaf[4].eax = 0x80000007;
	contract_read_cpuid(&g, &nested, &set);
	assert_int_equal(g.leaf7_0_edx | g.leaf7_2_edx | g.leaf80000008_ebx, 0);
}

/* A guest goes by its own CPUID: what that keeps out of reach is not shown, whatever is in the leaf. */
static void test_reach(void **state)
{
	enum { BASIC, LEAF7, LEAF7_2, EXTENDED, SVM, IBRS, SBPB };
	static const struct cpuid_leaf whole[] = {
		[BASIC] = {.leaf = 0, .eax = 0x1f},
		[LEAF7] = {.leaf = 7, .indexed = true, .eax = 2, .edx = EDX_7_0},
		[LEAF7_2] = {.leaf = 7, .subleaf = 2, .indexed = true, .edx = EDX_7_2},
		[EXTENDED] = {.leaf = 0x80000000, .eax = 0x80000021},
		[SVM] = {.leaf = 0x80000001, .ecx = CPUID_BIT(80000001_0_ECX, svm)},
		[IBRS] = {.leaf = 0x80000008, .ebx = CPUID_BIT(80000008_0_EBX, ibrs)},
		[SBPB] = {.leaf = 0x80000021, .eax = CPUID_BIT(80000021_0_EAX, sbpb)},
	};
	static const struct {
		const char *name;
		unsigned int leaf;
		uint32_t eax;
		uint32_t edx0, edx2;
		bool svm, ibrs, sbpb;
		unsigned int bhi_row; /* on Sapphire Rapids: the guest's own, or held */
		bool held;
	} cases[] = {
		{"all", BASIC, 0x1f, EDX_7_0, EDX_7_2, true, true, true, 6, false},
		{"leaf 7 is the last", BASIC, 7, EDX_7_0, EDX_7_2, true, true, true, 6, false},
		{"up to leaf 6", BASIC, 6, 0, 0, true, true, true, 9, true},
		{"no leaf but 0", BASIC, 0, 0, 0, true, true, true, 9, true},
		{"up to 7.1", LEAF7, 1, EDX_7_0, 0, true, true, true, 9, true},
		{"up to 7.0", LEAF7, 0, EDX_7_0, 0, true, true, true, 9, true},
		{"SBPB hidden", EXTENDED, 0x80000020, EDX_7_0, EDX_7_2, true, true, false, 6,
		 false},
		{"AMD's IBRS is the last", EXTENDED, 0x80000008, EDX_7_0, EDX_7_2, true, true,
		 false, 6, false},
		{"AMD's IBRS hidden", EXTENDED, 0x80000007, EDX_7_0, EDX_7_2, true, false, false, 6,
		 false},
		{"SVM hidden", EXTENDED, 0x80000000, EDX_7_0, EDX_7_2, false, false, false, 6,
		 false},
		{"no extended leaf", EXTENDED, 0, EDX_7_0, EDX_7_2, false, false, false, 6, false},
	};
	size_t i, l;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct mitigation_input in = base_input();
		struct mitigation_decision d;
		struct cpuid_set set = {0};

		print_message("# %s\n", cases[i].name);
		for (l = 0; l < ARRAY_SIZE(whole); l++)
			assert_int_equal(cpuid_add(&set, &whole[l]), 0);
		set.leaf[cases[i].leaf].eax = cases[i].eax;
		contract_read_cpuid(&in.guest, &in.nested, &set);
		assert_int_equal(in.guest.leaf7_0_edx, cases[i].edx0);
		assert_int_equal(in.guest.leaf7_2_edx, cases[i].edx2);
		assert_int_equal(in.nested, cases[i].svm);
		assert_int_equal(in.guest.leaf80000008_ebx != 0, cases[i].ibrs);
		assert_int_equal(cpu_feature_shown(&set, cpu_feature(FEATURE_sbpb)), cases[i].sbpb);
		assert_true(cpu_feature_has(&set, cpu_feature(FEATURE_sbpb)));

		/* what is not shown is held for it */
		in.guest.mitigation_enum = 0;
		mitigation_decide(&in, &d);
		assert_non_null(find_step(&d, TABLE_BHI, cases[i].bhi_row));
		assert_int_equal(d.value & BHI, cases[i].held ? BHI : 0);
	}
}

/* ARCH_CAPABILITIES is an MSR that a guest reads only where 7.0 EDX says that there is one. */
static void test_reach_of_arch_cap(void **state)
{
	struct mitigation_input in = base_input();
	struct mitigation_decision d;

	(void)state;
	in.guest.leaf7_2_edx = CPUID_BIT(7_2_EDX, rrsba_ctrl);
	mitigation_decide(&in, &d);
	assert_non_null(find_step(&d, TABLE_RRSBA, 4));
	in.guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, arch_capabilities);
	mitigation_decide(&in, &d);
	assert_non_null(find_step(&d, TABLE_RRSBA, 7));
	assert_true(d.value & RSB);

	mitigation_advertise(&in.host, &in.backend, &in.policy, &in.pool, &in.guest);
	assert_false(in.guest.arch_cap & ARCH_CAP_VIRTUAL_ENUM);
	assert_int_equal(in.guest.virt_enum | in.guest.mitigation_enum, 0);

	in = base_input(); /* the same of RSBA, on a part that has that */
	in.host = host_skx;
	in.guest.arch_cap = ARCH_CAP_SKX | ARCH_CAP_RSBA;
	mitigation_decide(&in, &d);
	assert_int_equal(find_step(&d, TABLE_RRSBA, 3)->verdict, OK);
	in.guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, arch_capabilities);
	mitigation_decide(&in, &d);
	assert_int_equal(find_step(&d, TABLE_RRSBA, 3)->verdict, WARN);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(backend_name(BACKEND_NONE), "none");
	assert_string_equal(backend_name(BACKEND_MSR_FILTER), "msr-filter");
	assert_string_equal(backend_name(BACKEND_FORCE_SPEC_CTRL), "force-spec-ctrl");
	assert_string_equal(verdict_name(VERDICT_REFUSE), "refuse");
	assert_string_equal(decision_table_name(TABLE_MIGRATION), "migration");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bhi),
		cmocka_unit_test(test_rrsba),
		cmocka_unit_test(test_raw),
		cmocka_unit_test(test_migration),
		cmocka_unit_test(test_hops),
		cmocka_unit_test(test_left_weak),
		cmocka_unit_test(test_applied),
		cmocka_unit_test(test_mixed_pool),
		cmocka_unit_test(test_short_adequate),
		cmocka_unit_test(test_advertise),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_nested_kernel),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_contract),
		cmocka_unit_test(test_reach),
		cmocka_unit_test(test_reach_of_arch_cap),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
