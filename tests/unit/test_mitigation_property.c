/*
 * What must hold for every input, whichever row decides: a walk over the product of the inputs that
 * decide, with the others stepping along at their own pace, against statements that do not know the
 * tables.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "hosts.h"
#include "msr/decide.h"
#include "msr/virt_msr.h"

#define BHI SPEC_CTRL_BHI_DIS_S
#define RSB SPEC_CTRL_RRSBA_DIS_S

enum tag {
	SHORT,	 /* certainly fine with the short sequence */
	LONG,	 /* certainly not */
	UNKNOWN, /* nobody can say */
	OTHER,	 /* not an Intel part */
};

static const struct {
	const char *name;
	const struct host_facts *facts;
	bool nested, bhi_no;
	enum tag tag;
} hosts[] = {
	{"Sapphire Rapids", &host_spr, false, false, LONG},
	{"Sapphire Rapids with BHI_NO", &host_spr, false, true, LONG},
	{"masked Sapphire Rapids", &host_spr_masked, false, false, LONG},
	{"Ice Lake", &host_icx, false, false, SHORT},
	{"Broadwell", &host_bdw, false, false, SHORT},
	{"Skylake", &host_skx, false, false, SHORT},
	{"Sierra Forest", &host_srf, false, false, SHORT},
	{"nested Ice Lake", &host_icx, true, false, UNKNOWN},
	{"unknown model", &host_unknown, false, false, UNKNOWN},
	{"AMD", &host_amd, false, false, OTHER},
	{"unknown vendor", &host_alien, false, false, OTHER},
};

static const struct backend_facts backends[] = {
	{BACKEND_NONE, 0, false, {0}},
	{BACKEND_NONE, CAN_ALL, false, {0}}, /* a broken probe must not matter */
	{BACKEND_MSR_FILTER, CAN_OLD, false, {0}},
	{BACKEND_MSR_FILTER, CAN_ALL, false, {0}},
	{BACKEND_FORCE_SPEC_CTRL, CAN_ALL & ~(SPEC_CTRL_PSFD | SPEC_CTRL_DDPD_U), false, {0}},
	{BACKEND_FORCE_SPEC_CTRL_VM, BHI | RSB, false, {0}},
	{BACKEND_FORCE_VCPU, CAN_ALL, false, {0}},
	/* KVM where the CPU does not enumerate RRSBA */
	{BACKEND_FORCE_VCPU, CAN_ALL & ~RSB, false, {0}},
};

static const struct vcpu_report reports[] = {
	{false, false, false, 0}, {true, false, false, 0}, {true, true, false, 0},
	{true, false, true, 0},	  {true, true, true, 1},   {true, true, true, 2},
	{true, false, true, 3},
};

static const struct mitigation_promise promises[] = {
	{false, BHI, BHI, true}, /* not valid: not to be looked at */
	{true, 0, 0, false},
	{true, 0, 0, true},
	{true, BHI, BHI, false},
	{true, BHI | RSB | SPEC_CTRL_SSBD | SPEC_CTRL_STIBP, RSB | SPEC_CTRL_SSBD, false},
};

static const struct {
	uint64_t mask, value;
} raws[] = {
	{0, 0},
	{BHI, BHI},
	{0, 0},
	{BHI, 0},
	{RSB, RSB},
	{0, 0},
	{SPEC_CTRL_SSBD | SPEC_CTRL_STIBP, SPEC_CTRL_SSBD},
	{0, 0},
	{SPEC_CTRL_SSBD, SPEC_CTRL_STIBP}, /* malformed */
	{1ULL << 9, 1ULL << 9},		   /* reserved */
	{0, 0},
};

static const struct pool_facts pools[] = {
	{0},
	{.n_hosts = 2, .all_atom_or_short = true, .long_can_force_bhi = true},
	{.n_hosts = 2, .any_long_bhb = true, .long_can_force_bhi = true, .mixed = true},
	{.n_hosts = 3, .any_long_bhb = true, .any_rrsba = true},
	{.n_hosts = 3, .any_long_bhb = true, .any_rrsba = true, .rrsba_can_force = true},
};

/* one digit of a mixed-radix counter */
static unsigned int digit(uint32_t *n, unsigned int radix)
{
	const unsigned int d = *n % radix;

	*n /= radix;
	return d;
}

/* The product of these is walked whole. */
#define WALK                                                                                     \
	(ARRAY_SIZE(hosts) * ARRAY_SIZE(backends) * ARRAY_SIZE(reports) * ARRAY_SIZE(promises) * \
	 3 * 3 * 4 * 2 * 2 * 8 * 2)

struct point {
	struct mitigation_input in;
	enum tag tag;
	const char *host;
};

static void make_barriers(uint32_t n, struct mitigation_input *in)
{
	struct barrier_facts *b = &in->backend.barrier;

	in->policy.barrier.on_switch = (enum barrier_switch)digit(&n, 4);
	in->policy.barrier.on_move = digit(&n, 2);
	b->ibpb = (enum host_ibpb)digit(&n, 4);
	b->major = digit(&n, 3) ? 6 : 0;
	b->minor = b->major ? digit(&n, 2) ? 16 : 12 : 0;
	b->driven = b->ibpb > HOST_IBPB_OFF && digit(&n, 2);
	if (b->driven)
		b->nested_exit = (enum nested_exit)digit(&n, 3);
	if (b->major && !digit(&n, 3)) { /* where VMX had it back in one patch level */
		b->minor = 1;
		b->patch = 13 + digit(&n, 2);
	}
}

static void make_point(uint32_t n, struct point *p)
{
	struct mitigation_input *in = &p->in;
	const uint32_t seed = n;
	uint32_t rest = n * 2654435761u >> 4; /* the others: spread, and the same on each run */
	unsigned int h, shows, raw;

	memset(p, 0, sizeof(*p));
	mitigation_policy_default(&in->policy);
	h = digit(&n, ARRAY_SIZE(hosts));
	p->tag = hosts[h].tag;
	p->host = hosts[h].name;
	in->host = *hosts[h].facts;
	in->host.hypervisor = hosts[h].nested;
	if (hosts[h].bhi_no)
		in->host.kvm_arch_cap |= ARCH_CAP_BHI_NO;
	in->backend = backends[digit(&n, ARRAY_SIZE(backends))];
	in->report = reports[digit(&n, ARRAY_SIZE(reports))];
	in->promise = promises[digit(&n, ARRAY_SIZE(promises))];
	in->policy.bhi = (enum policy_switch)digit(&n, 3);
	in->policy.rrsba = (enum policy_switch)digit(&n, 3);
	in->policy.honour_report = (enum policy_report)digit(&n, 4);
	in->policy.strict = digit(&n, 2);
	in->policy.force_unaware = digit(&n, 2);
	shows = digit(&n, 8);
	in->guest.vendor = p->tag == OTHER ? CPU_VENDOR_OTHER : CPU_VENDOR_INTEL;
	in->guest.leaf7_0_edx = EDX_7_0;
	in->guest.leaf7_2_edx = (shows & 1 ? CPUID_BIT(7_2_EDX, bhi_ctrl) : 0) |
				(shows & 2 ? CPUID_BIT(7_2_EDX, rrsba_ctrl) : 0);
	in->guest.arch_cap = (in->host.kvm_arch_cap & ~ARCH_CAP_RRSBA) | ARCH_CAP_VIRTUAL_ENUM |
			     (shows & 4 ? ARCH_CAP_RRSBA : 0);
	in->guest.virt_enum = VIRT_ENUM_MITIGATION;
	in->guest.mitigation_enum = digit(&n, 2) ? MITIGATION_ALL : 0;

	in->policy.cannot = (enum policy_cannot)digit(&rest, 2);
	in->policy.incoming_cannot = (enum policy_cannot)digit(&rest, 2);
	in->policy.force_when_shown = digit(&rest, 2);
	in->policy.bhi_no_is_enough = digit(&rest, 2);
	in->policy.mixed_pool = (enum policy_mixed)digit(&rest, 3);
	raw = digit(&rest, ARRAY_SIZE(raws));
	in->policy.raw_mask = raws[raw].mask;
	in->policy.raw_value = raws[raw].value;
	in->pool = pools[digit(&rest, ARRAY_SIZE(pools))];
	in->policy.rebuild = digit(&rest, 2);
	in->shadow = digit(&rest, 5) ? SPEC_CTRL_IBRS : SPEC_CTRL_IBRS | BHI;
	if (!digit(&rest, 4)) /* what 7.2 enumerates is out of reach then */
		in->guest.leaf7_0_edx &= ~CPUID_BIT(7_0_EDX, spec_ctrl);
	in->nested = !digit(&rest, 3);
	in->policy.raw_guest =
		digit(&rest, 3) ? 0 : (BHI | RSB | SPEC_CTRL_SSBD) & ~in->policy.raw_mask;
	in->backend.no_msr_exits = in->backend.kind == BACKEND_NONE && digit(&rest, 2);
	make_barriers(seed * 2246822519u >> 4, in);
}

static bool declined(const struct mitigation_input *in)
{
	const enum policy_report h = in->policy.honour_report;

	return in->report.enum_read && !(in->report.ctrl & 1) && in->guest.mitigation_enum & 1 &&
	       (h == REPORT_BOTH || h == REPORT_RELAX) && !in->policy.strict;
}

static void check_shape(const struct mitigation_decision *d)
{
	uint64_t explained = 0;
	enum verdict worst = VERDICT_ALLOW;
	unsigned int i, bhi = 0, rrsba = 0, weak = 0;

	assert_in_range(d->n_steps, 2, DECISION_STEPS_MAX - 1);
	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];

		assert_true(s->row && s->reason && *s->reason && s->source && *s->source);
		/* a warning or a refusal comes with what to do about it */
		assert_int_equal(s->cure != NULL, s->verdict >= VERDICT_WARN);
		assert_int_equal(s->at_1 & ~s->bit, 0);
		worst = s->verdict > worst ? s->verdict : worst;
		bhi += s->table == TABLE_BHI;
		rrsba += s->table == TABLE_RRSBA;
		weak += s->table == TABLE_MIGRATION && s->row == 4;
		if (s->verdict >= VERDICT_ALLOW_FORCED)
			explained |= s->bit;
	}
	assert_int_equal(d->verdict, worst);
	assert_int_equal(bhi, 1);
	assert_int_equal(rrsba, 1);
	assert_in_range(weak, 0, 1);		   /* its lines exclude each other */
	assert_int_equal(d->mask & ~explained, 0); /* no bit is held without a step that says so */
	assert_int_equal(d->value & ~d->mask, 0);
	assert_int_equal(d->mask & ~SPEC_CTRL_ALL, 0);
	assert_false(d->verdict == VERDICT_ALLOW && d->mask);
	assert_false(d->verdict == VERDICT_ALLOW_FORCED && !d->mask);
}

static void check_ability(const struct point *p, const struct mitigation_decision *d)
{
	const struct mitigation_input *in = &p->in;

	assert_int_equal(d->value & ~in->backend.can_force, 0);
	assert_false((d->value & BHI) && !(in->host.leaf7_2_edx & CPUID_BIT(7_2_EDX, bhi_ctrl)));
	assert_false((d->value & RSB) && !(in->host.leaf7_2_edx & CPUID_BIT(7_2_EDX, rrsba_ctrl)));
	assert_false(in->backend.kind == BACKEND_NONE && d->mask);
	/*
	 * not affected is not safe by forcing: nothing but the operator's own bits, that are there
	 */
	if (p->tag == OTHER) {
		assert_int_equal(d->mask & ~in->policy.raw_mask & ~in->promise.mask, 0);
		assert_int_equal(d->value & ~SPEC_CTRL_COMMON, 0);
	}
	assert_false((in->policy.raw_value & ~in->policy.raw_mask) && d->verdict != VERDICT_REFUSE);
}

/*
 * A guest that may be weaker than it should be is told of, and refused where the policy is strict
 */
static void check_strength(const struct point *p, const struct mitigation_decision *d)
{
	const struct mitigation_input *in = &p->in;
	const bool raw = (in->policy.raw_mask | in->policy.raw_guest) & BHI;
	const bool shown = spec_ctrl_legal(&in->guest) & BHI;
	const bool immune = in->host.kvm_arch_cap & ARCH_CAP_BHI_NO && in->policy.bhi_no_is_enough;
	const bool held = d->value & BHI;
	const bool exposed = p->tag == LONG && !shown && !immune && !held;

	if (in->policy.bhi == POLICY_ON && !raw)
		assert_true(held || d->verdict == VERDICT_REFUSE);
	if (in->policy.rrsba == POLICY_ON && !((in->policy.raw_mask | in->policy.raw_guest) & RSB))
		assert_true((d->value & RSB) || d->verdict == VERDICT_REFUSE);
	/* whoever gives it up, the operator too */
	if (exposed && in->policy.strict)
		assert_int_equal(d->verdict, VERDICT_REFUSE);
	if (exposed && !declined(in))
		assert_true(d->verdict >= VERDICT_WARN);
	if (p->tag == UNKNOWN && !shown && !immune && !held)
		assert_true(d->verdict >= (in->policy.strict ? VERDICT_REFUSE : VERDICT_WARN));
	if (in->policy.bhi == POLICY_OFF || raw)
		return;
	if (exposed && d->verdict != VERDICT_REFUSE && in->promise.valid &&
	    (in->promise.value & BHI))
		assert_true(declined(in) || in->policy.incoming_cannot == CANNOT_WARN);
	if (d->short_adequate)
		assert_true(!shown && p->tag != OTHER && p->tag != UNKNOWN &&
			    (p->tag == SHORT || held || immune));
}

static void check_same(const struct mitigation_decision *a, const struct mitigation_decision *b)
{
	unsigned int i;

	assert_true(a->mask == b->mask && a->value == b->value && a->verdict == b->verdict &&
		    a->short_adequate == b->short_adequate && a->n_steps == b->n_steps);
	for (i = 0; i < a->n_steps; i++)
		assert_true(a->step[i].table == b->step[i].table &&
			    a->step[i].row == b->step[i].row && a->step[i].bit == b->step[i].bit &&
			    a->step[i].verdict == b->step[i].verdict);
}

/*
 * A guest owns a control that its CPUID enumerates and whose write is no #GP, and no other. Against
 * it a bit is held at 1 by the operator's word or an earlier host's; at 0 not without a word, and
 * never where the policy is strict.
 */
static void check_owned(const struct point *p, const struct mitigation_decision *d)
{
	const struct mitigation_policy *m = &p->in.policy;
	const uint64_t legal = spec_ctrl_legal(&p->in.guest);
	const uint64_t own = spec_ctrl_shown(&p->in.guest);
	const uint64_t promised = p->in.promise.valid ? p->in.promise.value : 0;
	unsigned int i;

	assert_int_equal(own & ~legal, 0);
	if (d->mask & ~d->value & own)
		assert_true(d->verdict >= (m->strict ? VERDICT_REFUSE : VERDICT_WARN));
	if (d->value & own & BHI)
		assert_true(m->bhi == POLICY_ON || m->force_when_shown ||
			    ((m->raw_value | promised) & BHI));
	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];

		if (s->table == TABLE_BHI && s->row == 6)
			assert_true(legal & BHI);
		if (s->table == TABLE_RRSBA && s->row == 4)
			assert_true(legal & RSB);
		if (s->table == TABLE_BHI && s->row > 6)
			assert_false(legal & BHI);
	}
}

/*
 * A report makes no guest weaker than silence, but for a bit that it was offered and left clear
 * after it read what that means, where the policy lets that count. Whose retpolines RRSBA
 * undermines declined for their sake: it gets one of the two bits, where any can be held.
 */
static void check_report(const struct point *p, const struct mitigation_decision *d)
{
	const struct mitigation_input *in = &p->in;
	const struct vcpu_report *r = &in->report;
	const enum policy_report h = in->policy.honour_report;
	const uint64_t declined_bits = r->enum_read && (h == REPORT_BOTH || h == REPORT_RELAX)
					       ? in->guest.mitigation_enum & ~r->ctrl
					       : 0;
	struct mitigation_input silent = *in;
	struct mitigation_decision unsaid;
	uint64_t lost;

	memset(&silent.report, 0, sizeof(silent.report));
	mitigation_decide(&silent, &unsaid);
	lost = unsaid.value & ~d->value;
	assert_int_equal(lost & ~(BHI | RSB), 0);
	if (lost & BHI)
		assert_true((declined_bits & MITIGATION_BHB_CLEAR_SEQ_S) && !in->policy.strict);
	if (lost & RSB)
		assert_true(declined_bits & MITIGATION_RETPOLINE_S);
	if ((lost & BHI) && (r->ctrl & MITIGATION_RETPOLINE_S) &&
	    !(in->guest.arch_cap & ARCH_CAP_RRSBA) && in->policy.rrsba == POLICY_AUTO &&
	    !((in->policy.raw_mask | in->policy.raw_guest) & RSB))
		assert_true(d->value & RSB || h == REPORT_RELAX);
}

/* Nothing is said of a report that was not made, nor that none was made where one was. */
static void check_words(const struct point *p, const struct mitigation_decision *d)
{
	const struct vcpu_report *r = &p->in.report;
	static const struct {
		const char *words;
		uint64_t reported;	  /* bits of CTRL, any of which makes the words true */
		bool answered, may_count; /* so does this: it read, or wrote; nothing was read */
	} claims[] = {
		{"reports the short", MITIGATION_BHB_CLEAR_SEQ_S, false, false},
		{"guest reports retpolines", MITIGATION_RETPOLINE_S, false, false},
		{"read the enumeration and does", 0, true, false},
		{"does not ask", 0, true, false},
		{"says that it", 0, true, false},
		{"not read them yet", 0, false, true},
		{"not reported yet", 0, false, true},
	};
	unsigned int i;
	size_t c;

	for (i = 0; i < d->n_steps; i++)
		for (c = 0; c < ARRAY_SIZE(claims); c++)
			if (strstr(d->step[i].reason, claims[c].words))
				assert_true((r->ctrl & claims[c].reported) ||
					    (claims[c].answered && (r->enum_read || r->written)) ||
					    (claims[c].may_count && !r->enum_read && !r->written));
}

#define CLAIMS 20 /* of these */

/* Nor of what the guest was shown, of the host, or of an earlier one, that is not so. */
static void check_facts_in_words(const struct point *p, const struct mitigation_decision *d,
				 uint32_t *found)
{
	const struct mitigation_input *in = &p->in;
	const struct guest_contract *g = &in->guest;
	const uint64_t shown = spec_ctrl_legal(g);
	const uint64_t promised = in->promise.valid ? in->promise.mask : 0;
	const bool sees_rrsba = g->arch_cap & ARCH_CAP_RRSBA &&
				g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities);
	const struct {
		const char *words;
		bool so;
	} claims[] = {
		{"guest is shown BHI_CTRL", shown & BHI},
		{"does not see BHI_CTRL", !(shown & BHI)},
		{"guest is shown RRSBA and RRSBA_CTRL", sees_rrsba && shown & RSB},
		{"guest sees RRSBA", sees_rrsba},
		{"does not see RRSBA", !sees_rrsba},
		{"not shown RRSBA", !sees_rrsba},
		{"though the guest is shown", shown},
		{"guest is shown VMX or SVM", in->nested},
		{"the host has BHI_NO", in->host.kvm_arch_cap & ARCH_CAP_BHI_NO},
		{"destination has BHI_NO", in->host.kvm_arch_cap & ARCH_CAP_BHI_NO},
		{"host is itself a guest", in->host.hypervisor},
		{"an earlier host", promised},
		{"an earlier host held BHI_DIS_S", promised & in->promise.value & BHI},
		{"an earlier host held RRSBA_DIS_S", promised & in->promise.value & RSB},
		{"cannot hold BHI_DIS_S", !(d->value & BHI)},
		{"BHI_DIS_S is held in its place", d->value & BHI},
		{"bhi is off", in->policy.bhi == POLICY_OFF},
		{"bhi is on", in->policy.bhi == POLICY_ON},
		{"rrsba is off", in->policy.rrsba == POLICY_OFF},
		{"rrsba is on", in->policy.rrsba == POLICY_ON},
	};
	unsigned int i;
	size_t c;

	for (i = 0; i < d->n_steps; i++)
		for (c = 0; c < ARRAY_SIZE(claims); c++) {
			if (!strstr(d->step[i].reason, claims[c].words))
				continue;
			*found |= 1u << c;
			if (!claims[c].so)
				fail_msg("%s: %s row %u says '%s'", p->host,
					 decision_table_name(d->step[i].table), d->step[i].row,
					 claims[c].words);
		}
	assert_int_equal(ARRAY_SIZE(claims), CLAIMS);
}

/* What a printed cure has to do with the policy. Return: was there anything? */
static bool take_advice(const char *cure, bool boots, struct mitigation_policy *policy)
{
	const struct mitigation_policy before = *policy;
	const char *cannot = strstr(cure, "cannot: warn");

	if (strstr(cure, "set bhi: auto"))
		policy->bhi = POLICY_AUTO;
	if (strstr(cure, "set rrsba: auto"))
		policy->rrsba = POLICY_AUTO;
	if (strstr(cure, "set hold-unaware: on"))
		policy->force_unaware = true;
	if (strstr(cure, "honour-report: both"))
		policy->honour_report = REPORT_BOTH;
	if (strstr(cure, "set hold-when-shown: off"))
		policy->force_when_shown = false;
	if (strstr(cure, "set trust-model: true"))
		policy->trust_model = true;
	if (strstr(cure, "mixed-pool: level"))
		policy->mixed_pool = MIXED_LEVEL;
	if (strstr(cure, "strict: off"))
		policy->strict = false;
	if (strstr(cure, "incoming-cannot: warn"))
		policy->incoming_cannot = CANNOT_WARN;
	else if (cannot)
		policy->cannot = CANNOT_WARN;
	if (boots && strstr(cure, "bhi: off gives"))
		policy->bhi = POLICY_OFF;
	if (strstr(cure, "set vcpu-switch-barrier: used"))
		policy->barrier.on_switch = SWITCH_USED;
	if (strstr(cure, "out of spec-ctrl"))
		policy->raw_mask = policy->raw_value = policy->raw_guest = 0;
	if (strstr(cure, "leave the bit to the guest")) {
		policy->raw_mask = policy->raw_value = 0;
		policy->raw_guest = SPEC_CTRL_ALL;
	}
	return memcmp(&before, policy, sizeof(before)) != 0;
}

/* Nothing is advised that is so already. */
static void check_not_followed(const struct point *p, const struct mitigation_decision *d)
{
	const struct mitigation_policy *m = &p->in.policy;
	const struct {
		const char *advice;
		bool followed;
	} settings[] = {
		{"set bhi: auto", m->bhi == POLICY_AUTO},
		{"bhi: off gives", m->bhi == POLICY_OFF},
		{"set rrsba: auto", m->rrsba == POLICY_AUTO},
		{"set hold-unaware: on", m->force_unaware},
		{"honour-report: both", m->honour_report == REPORT_BOTH},
		{"set hold-when-shown: off", !m->force_when_shown},
		{"set trust-model: true", m->trust_model},
		{"set mixed-pool: level", m->mixed_pool == MIXED_LEVEL},
		{"strict: off", !m->strict},
		{"incoming-cannot: warn", m->incoming_cannot == CANNOT_WARN},
		{"; cannot: warn", m->cannot == CANNOT_WARN},
		{"out of spec-ctrl", !(m->raw_mask | m->raw_guest)},
	};
	unsigned int i, k;

	for (i = 0; i < d->n_steps; i++) {
		const char *cure = d->step[i].cure;

		for (k = 0; cure && k < ARRAY_SIZE(settings); k++)
			if (settings[k].followed && strstr(cure, settings[k].advice))
				fail_msg("%s row %u: %s: %s", decision_table_name(d->step[i].table),
					 d->step[i].row, d->step[i].reason, cure);
	}
}

static unsigned int told_barriers(const struct mitigation_decision *d, bool move)
{
	unsigned int i, n = 0;

	for (i = 0; i < d->n_steps; i++)
		n += d->step[i].table == TABLE_BARRIER && (d->step[i].row > 6) == move;
	return n;
}

/* The worst of the table's own: another table's word is no answer. */
static enum verdict barrier_verdict(const struct mitigation_decision *d)
{
	enum verdict worst = VERDICT_ALLOW;
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == TABLE_BARRIER && d->step[i].verdict > worst)
			worst = d->step[i].verdict;
	return worst;
}

/*
 * What the policy asks for of barriers is answered once, what it does not ask for not at all; and
 * no guest gets fewer than asked for without a warning.
 */
static void check_barriers(const struct point *p, const struct mitigation_decision *d)
{
	const struct barrier_policy *asked = &p->in.policy.barrier;
	struct barrier_plan got;
	bool fewer;

	barrier_plan(&p->in.backend.barrier, cpu_vendor_from_id(p->in.host.vendor_id), asked, &got);
	assert_int_equal(told_barriers(d, false), asked->on_switch != SWITCH_DEFAULT);
	assert_int_equal(told_barriers(d, true), asked->on_move);
	fewer = (asked->on_switch == SWITCH_ALWAYS && got.on_switch != BARRIER_EACH) ||
		(asked->on_switch == SWITCH_USED && got.on_switch < BARRIER_USED) ||
		(asked->on_move && got.on_move < BARRIER_USED);
	if (fewer)
		assert_true(barrier_verdict(d) >= VERDICT_WARN);
	if (fewer && p->in.policy.strict)
		assert_int_equal(barrier_verdict(d), VERDICT_REFUSE);
	if (got.drive)
		assert_true(p->in.backend.barrier.driven && got.args < 8 && (got.args & 3) != 3);
}

/*
 * A guest that is shown VMX or SVM hears of it wherever nothing says that there is a barrier between
 * it and its own guests; and where something does, it does not.
 */
static void check_nested(const struct point *p, const struct mitigation_decision *d)
{
	const struct barrier_facts *b = &p->in.backend.barrier;
	const bool svm = strcmp(p->in.host.vendor_id, "AuthenticAMD") == 0;
	const bool version =
		b->major == 6 && (b->minor == 16 || (!svm && (b->minor == 12 || b->patch == 14)));
	const bool executed = b->ibpb != HOST_IBPB_OFF || b->minor == 16;
	const bool there = b->nested_exit == NESTED_EXIT_UNSAID
				   ? version && executed
				   : b->nested_exit == NESTED_EXIT_BARRIER;
	unsigned int i, n = 0;

	for (i = 0; i < d->n_steps; i++)
		n += d->step[i].table == TABLE_NESTED;
	if (!p->in.nested)
		assert_int_equal(n, 0);
	else if (!(p->in.guest.leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl)))
		assert_true(n >= 1); /* of row 1, whatever the host is */
	else
		assert_int_equal(n, !there);
	if (n)
		assert_true(d->verdict >= VERDICT_WARN);
}

/* Who takes a printed advice is not told the same again. */
static void check_cures(const struct point *p, const struct mitigation_decision *d)
{
	unsigned int i, k;

	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];
		const char *cure = s->cure;
		struct mitigation_input in = p->in;
		struct mitigation_decision cured;

		if (!cure || !take_advice(cure, !in.promise.valid, &in.policy))
			continue;
		mitigation_decide(&in, &cured);
		for (k = 0; k < cured.n_steps; k++)
			if (cured.step[k].table == s->table && cured.step[k].row == s->row &&
			    cured.step[k].verdict >= s->verdict &&
			    cured.step[k].reason == s->reason)
				fail_msg("%s: %s row %u, %s, and still after '%s'", p->host,
					 decision_table_name(s->table), s->row, s->reason, cure);
	}
}

/* A host that tells less of itself is not judged better. */
static void check_less_known(const struct point *p, const struct mitigation_decision *d)
{
	static const uint64_t silent[] = {ARCH_CAP_RRSBA, ARCH_CAP_IBRS_ALL,
					  ARCH_CAP_RRSBA | ARCH_CAP_IBRS_ALL};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(silent); i++) {
		struct mitigation_input in = p->in;
		struct mitigation_decision less;

		in.host.kvm_arch_cap &= ~silent[i];
		mitigation_decide(&in, &less);
		if (less.verdict < d->verdict)
			fail_msg("%s: %s, and %s where it says less (%#llx)", p->host,
				 verdict_name(d->verdict), verdict_name(less.verdict),
				 (unsigned long long)silent[i]);
	}
}

static void test_walk(void **state)
{
	uint64_t rows_seen = 0;
	uint32_t n, i, words_found = 0;

	(void)state;
	for (n = 0; n < WALK; n++) {
		struct mitigation_decision d, strict;
		struct point p;

		make_point(n, &p);
		mitigation_decide(&p.in, &d);
		check_shape(&d);
		check_ability(&p, &d);
		check_strength(&p, &d);
		check_owned(&p, &d);
		if (n % 17 == 0) { /* a prime that is no radix, so that it meets every digit */
			check_words(&p, &d);
			check_facts_in_words(&p, &d, &words_found);
			check_report(&p, &d);
			check_not_followed(&p, &d);
			check_cures(&p, &d);
			check_barriers(&p, &d);
			check_nested(&p, &d);
			check_less_known(&p, &d);
		}
		for (i = 0; i < d.n_steps; i++)
			if (d.step[i].table == TABLE_BHI)
				rows_seen |= 1ULL << d.step[i].row;
			else if (d.step[i].table == TABLE_RRSBA)
				rows_seen |= 1ULL << (d.step[i].row + 32);
		if (n % 67 == 0) {
			memset(&strict, 0xff, sizeof(strict));
			mitigation_decide(&p.in, &strict);
			check_same(&d, &strict);
			/* that it was weak elsewhere only ever lets a guest come */
			p.in.promise.weak = true;
			mitigation_decide(&p.in, &strict);
			assert_true(d.mask == strict.mask && d.value == strict.value);
			p.in.promise.weak = false;
			mitigation_decide(&p.in, &d);
			assert_true(strict.verdict <= d.verdict && d.mask == strict.mask);
			assert_true(strict.verdict == d.verdict ||
				    (strict.verdict == VERDICT_WARN && !p.in.policy.strict &&
				     !(p.in.promise.value & BHI)));
			p.in.policy.strict = true; /* strict holds at least as much */
			mitigation_decide(&p.in, &strict);
			assert_int_equal(d.value & ~strict.value, 0);
		}
	}
	/* the walk reached every row of both tables */
	assert_int_equal(rows_seen & 0xffffffff, 0x1fffe);
	assert_int_equal(rows_seen >> 32, 0x7fe);
	assert_int_equal(words_found, (1u << CLAIMS) - 1); /* and each claim that is checked */
}

/* What is offered is honoured: a guest that takes the offer up is protected on this host. */
static void test_offers_are_honoured(void **state)
{
	uint32_t n;

	(void)state;
	for (n = 0; n < WALK; n += 29) {
		struct mitigation_decision d;
		struct guest_contract *g;
		struct point p;
		unsigned int i;

		make_point(n, &p);
		g = &p.in.guest;
		p.in.promise.valid = false;
		p.in.policy.virtual_msrs = n & 1;
		mitigation_advertise(&p.in.host, &p.in.backend, &p.in.policy, &p.in.pool, g);
		assert_true(!!(g->arch_cap & ARCH_CAP_VIRTUAL_ENUM) == !!g->virt_enum);
		assert_false(!g->virt_enum && g->mitigation_enum);
		assert_int_equal(g->mitigation_enum & ~MITIGATION_ALL, 0);
		if (!p.in.policy.virtual_msrs || p.tag == OTHER ||
		    p.in.backend.kind == BACKEND_NONE)
			assert_int_equal(g->virt_enum, 0);
		if (!g->mitigation_enum)
			continue;
		p.in.report = (struct vcpu_report) {true, true, true, g->mitigation_enum};
		mitigation_decide(&p.in, &d);
		for (i = 0; i < d.n_steps; i++) {
			const struct decision_step *s = &d.step[i];
			const bool bhi = s->table == TABLE_BHI, rsb = s->table == TABLE_RRSBA;

			if ((bhi && (g->mitigation_enum & MITIGATION_BHB_CLEAR_SEQ_S) &&
			     p.in.policy.bhi == POLICY_AUTO && !p.in.policy.force_when_shown) ||
			    (rsb && (g->mitigation_enum & MITIGATION_RETPOLINE_S) &&
			     p.in.policy.rrsba == POLICY_AUTO))
				assert_true(s->verdict <= VERDICT_ALLOW_FORCED ||
					    (p.in.policy.raw_mask & (bhi ? BHI : RSB)));
		}
		if ((g->mitigation_enum & MITIGATION_BHB_CLEAR_SEQ_S) && p.tag == LONG &&
		    p.in.policy.bhi == POLICY_AUTO &&
		    !(g->leaf7_2_edx & CPUID_BIT(7_2_EDX, bhi_ctrl)) &&
		    !((p.in.host.kvm_arch_cap & ARCH_CAP_BHI_NO) && p.in.policy.bhi_no_is_enough))
			assert_true(d.value & BHI);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_offers_are_honoured),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
