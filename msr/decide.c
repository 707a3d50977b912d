/*
 * The decision: the operator's own bits, the two tables, and last, over whatever they said, what a
 * guest was promised on an earlier host. Where a bit is needed and cannot be had, strict refuses,
 * and otherwise the operator's "cannot" says whether to warn or to refuse.
 */
#include "msr/decide.h"

#include <stddef.h>
#include <string.h>

#include "msr/pool.h"
#include "msr/rules.h"

static enum verdict verdict_of(const struct mitigation_policy *p, enum outcome o)
{
	switch (o) {
	case LEAVE:
		return VERDICT_ALLOW;
	case HOLD:
	case CLEAR:
		return VERDICT_ALLOW_FORCED;
	case CLEAR_WARN:
	case TELL:
		return VERDICT_WARN;
	case UNSURE:
		return p->strict ? VERDICT_REFUSE : VERDICT_WARN;
	case CANNOT:
		return p->strict || p->cannot == CANNOT_REFUSE ? VERDICT_REFUSE : VERDICT_WARN;
	case NEVER:
		break;
	}
	return VERDICT_REFUSE;
}

static void add_step(struct mitigation_decision *d, const struct decision_step *s)
{
	if (s->verdict > d->verdict)
		d->verdict = s->verdict;
	if (d->n_steps < DECISION_STEPS_MAX)
		d->step[d->n_steps++] = *s;
}

/* @at_1: of @bit, those that the row is about holding at 1 */
static void apply(struct mitigation_decision *d, const struct facts *f, enum decision_table table,
		  const struct rule *r, uint64_t bit, uint64_t at_1)
{
	const struct decision_step s = {
		.table = table,
		.row = r->row,
		.bit = bit,
		.at_1 = at_1,
		.verdict = verdict_of(&f->policy, r->then),
		.reason = r->reason,
		.source = r->source,
	};

	if (r->then == HOLD || r->then == CLEAR || r->then == CLEAR_WARN)
		d->mask |= bit;
	if (r->then == HOLD)
		d->value |= bit;
	add_step(d, &s);
}

static void decide_raw(struct mitigation_decision *d, const struct facts *f)
{
	const uint64_t mask = f->policy.raw_mask, value = f->policy.raw_value;
	const uint64_t others = mask & ~(BHI | RRSBA);
	const struct rule malformed = {1, NULL, NEVER,
				       "raw bits are malformed: the value leaves the mask, or the "
				       "mask names reserved bits",
				       SRC_OPERATOR};
	const struct rule impossible = {
		2, NULL, NEVER,
		"raw bits that this host or back end cannot hold as the policy says", SRC_OPERATOR};
	const struct rule hold = {3, NULL, HOLD, "raw bits held at 1 by the policy", SRC_OPERATOR};
	const struct rule clear = {
		4, NULL, CLEAR,
		f->intel
			? "raw bits held at 0 by the policy"
			: "raw bits held at 0 by the policy; a CPU with V_SPEC_CTRL runs the guest "
			  "with the host's own bits, too",
		SRC_OPERATOR};
	const uint64_t wrong = (value & ~mask) | (mask & ~SPEC_CTRL_ALL);
	uint64_t bad = value & others & ~f->can;

	if (wrong) {
		apply(d, f, TABLE_RAW, &malformed, wrong, wrong & value);
		return;
	}
	if (!f->can_clear)
		bad = others;
	if (bad)
		apply(d, f, TABLE_RAW, &impossible, bad, bad & value);
	if (value & others & ~bad)
		apply(d, f, TABLE_RAW, &hold, value & others & ~bad, value & others & ~bad);
	if (others & ~value & ~bad)
		apply(d, f, TABLE_RAW, &clear, others & ~value & ~bad, 0);
}

/* ---- a guest that comes from another host ---- */

enum keep {
	KEPT,	    /* held here too */
	NOT_NEEDED, /* this host, or the guest's word, ends the need */
	OVERRIDDEN, /* by this host's own policy */
	BROKEN,
};

/* Did the rows of the tables end the need for a bit that was held? */
static enum keep bhi_promise(const struct rule *r)
{
	if (r->then == HOLD)
		return KEPT;
	if (r->row <= 2)
		return OVERRIDDEN;
	if (r->then == LEAVE && (r->row == 7 || r->row == 8 || r->row == 11 || r->row == 15))
		return NOT_NEEDED;
	return BROKEN;
}

static enum keep rsb_promise(const struct rule *r)
{
	if (r->then == HOLD)
		return KEPT;
	if (r->row == 1)
		return OVERRIDDEN;
	if (r->then == LEAVE && (r->row == 3 || r->row == 6))
		return NOT_NEEDED;
	return BROKEN;
}

static enum verdict incoming_verdict(const struct facts *f)
{
	return f->policy.strict || f->policy.incoming_cannot == CANNOT_REFUSE ? VERDICT_REFUSE
									      : VERDICT_WARN;
}

/* @zero: of @bit, those that are to be at 0 */
static void incoming_bits(struct mitigation_decision *d, unsigned int row, uint64_t bit,
			  uint64_t zero, enum verdict verdict, const char *reason,
			  const char *source)
{
	const struct decision_step s = {
		.table = TABLE_MIGRATION,
		.row = row,
		.bit = bit,
		.at_1 = bit & ~zero,
		.verdict = verdict,
		.reason = reason,
		.source = source,
	};

	add_step(d, &s);
}

static void incoming_step(struct mitigation_decision *d, unsigned int row, uint64_t bit,
			  enum verdict verdict, const char *reason, const char *source)
{
	incoming_bits(d, row, bit, 0, verdict, reason, source);
}

static void keep_promise(struct mitigation_decision *d, const struct facts *f, uint64_t bit,
			 enum keep keep)
{
	if (!(f->promised & bit) || keep == KEPT)
		return;
	if (keep == OVERRIDDEN)
		incoming_step(d, 1, bit, f->policy.strict ? VERDICT_REFUSE : VERDICT_WARN,
			      REASON_DROPPED, SRC_OPERATOR);
	else if (keep == NOT_NEEDED && bit == BHI && bhi_no_enough(f) && !f->short_host)
		incoming_step(d, 5, bit, VERDICT_ALLOW,
			      "an earlier host held BHI_DIS_S; the destination has BHI_NO",
			      SRC_INTEL);
	else if (keep == NOT_NEEDED && bit == BHI && f->short_host)
		incoming_step(d, 2, bit, VERDICT_ALLOW,
			      "an earlier host held BHI_DIS_S; the short sequence works on the "
			      "destination, the "
			      "promise stays for the next host",
			      SRC_INTEL);
	else if (keep == BROKEN && (f->can & bit)) {
		d->mask |= bit;
		d->value |= bit;
		incoming_step(d, 1, bit, VERDICT_ALLOW_FORCED,
			      "an earlier host held this bit: it stays held", SRC_CONTRACT);
	} else if (keep == BROKEN && bit == RRSBA)
		incoming_step(d, 6, bit, f->policy.strict ? VERDICT_REFUSE : VERDICT_WARN,
			      "an earlier host held RRSBA_DIS_S and this one cannot", SRC_RFC_RSB);
	else if (keep == BROKEN)
		incoming_step(d, 1, bit, incoming_verdict(f),
			      "an earlier host held BHI_DIS_S and this one cannot", SRC_INTEL);
}

/* Raw bits of an earlier host's policy, where this host's own policy is silent. */
static void keep_raw(struct mitigation_decision *d, const struct facts *f)
{
	const uint64_t promised = f->in->promise.mask & ~(BHI | RRSBA);
	const uint64_t mask = promised & ~(f->policy.raw_mask | f->policy.raw_guest);
	const uint64_t value = f->in->promise.value & mask;
	const uint64_t bad = f->can_clear ? value & ~f->can : mask;
	const uint64_t dropped = f->in->promise.value & promised & ~mask & ~f->policy.raw_value;

	if (dropped)
		incoming_step(d, 1, dropped, f->policy.strict ? VERDICT_REFUSE : VERDICT_WARN,
			      REASON_DROPPED, SRC_OPERATOR);
	d->mask |= mask & ~bad;
	d->value |= value & ~bad;
	if (mask & ~bad)
		incoming_bits(d, 1, mask & ~bad, ~value, VERDICT_ALLOW_FORCED,
			      "raw bits of an earlier host's policy stay held", SRC_CONTRACT);
	if (bad)
		incoming_bits(
			d, 7, bad, ~value, VERDICT_REFUSE,
			"raw bits of an earlier host's policy cannot be held on the destination",
			SRC_CONTRACT);
}

static bool contract_lost(const struct facts *f)
{
	const struct guest_contract *g = &f->in->guest;
	const struct host_facts *h = &f->in->host;

	return (g->leaf7_0_edx & SPECULATION_7_0_EDX & ~h->kvm_leaf7_0_edx) ||
	       (g->leaf7_2_edx & SPECULATION_7_2_EDX & ~h->kvm_leaf7_2_edx) ||
	       arch_cap_lost(g->arch_cap, h->kvm_arch_cap) ||
	       ((g->arch_cap & ARCH_CAP_VIRTUAL_ENUM) && f->in->backend.no_msr_exits);
}

/* ENUM bit 0 says that the VMM reacts to a report: not where the operator turned that off */
static bool enum_hollow(const struct facts *f)
{
	const struct guest_contract *g = &f->in->guest;

	return (g->virt_enum & VIRT_ENUM_MITIGATION) &&
	       (g->mitigation_enum & MITIGATION_BHB_CLEAR_SEQ_S) && f->policy.bhi == POLICY_OFF &&
	       !f->sees_bhi_ctrl && !f->short_host && !bhi_no_enough(f);
}

/* BHI rows 13 and 14: the bit is needed, and cannot be had. */
static bool is_weak(unsigned int bhi_row)
{
	return bhi_row == 13 || bhi_row == 14;
}

/* Row 4: what a guest loses by coming here, if anything. */
static void incoming_weak(struct mitigation_decision *d, const struct facts *f)
{
	const bool declined = f->bhi_answered && f->answer_counts;
	const bool no_worse = f->in->promise.weak && !(f->promised & BHI);

	incoming_step(d, 4, BHI,
		      (declined || no_worse) && !f->policy.strict ? VERDICT_WARN
								  : incoming_verdict(f),
		      declined ? "BHI_DIS_S cannot be held on the destination; the guest says that "
				 "it does not "
				 "need it"
		      : no_worse ? "BHI_DIS_S cannot be held on the destination, and could not be "
				   "where the guest "
				   "comes from: it may be vulnerable, as it was"
				 : "the short sequence is too short on the destination, BHI_DIS_S "
				   "cannot be held, "
				   "and the guest may rely on it",
		      SRC_INTEL);
}

static void decide_incoming(struct mitigation_decision *d, const struct facts *f,
			    const struct rule *bhi, const struct rule *rsb)
{
	const struct guest_contract *g = &f->in->guest;
	const uint64_t extra = f->in->shadow & ~spec_ctrl_host_bits(&f->in->host);

	if (g->vendor != f->host.vendor || (!f->intel && (f->promised & (BHI | RRSBA)))) {
		incoming_step(
			d, 9, 0, VERDICT_REFUSE,
			g->vendor == CPU_VENDOR_OTHER
				? "the guest's CPU is of an unknown vendor, not of the "
				  "destination's"
				: "the guest runs as another vendor's CPU than the destination's",
			SRC_CONTRACT);
		return;
	}
	keep_promise(d, f, BHI, bhi_promise(bhi));
	keep_promise(d, f, RRSBA, rsb_promise(rsb));
	keep_raw(d, f);
	if (is_weak(bhi->row))
		incoming_weak(d, f);
	if (rsb->row == 9 && f->rsb_used && !f->sees_rrsba)
		incoming_step(d, 6, RRSBA, f->policy.strict ? VERDICT_REFUSE : VERDICT_WARN,
			      "the guest reports retpolines, was not shown RRSBA, and RRSBA_DIS_S "
			      "cannot be held on the destination",
			      SRC_RFC_RSB);
	if (enum_hollow(f))
		incoming_step(d, 8, 0, VERDICT_REFUSE, REASON_HOLLOW, SRC_CONTRACT);
	if (contract_lost(f))
		incoming_step(d, 8, 0, VERDICT_REFUSE,
			      "what the guest was shown (CPUID, ARCH_CAPABILITIES or the virtual "
			      "MSRs) cannot be shown or honoured on the destination",
			      SRC_CONTRACT);
	if (f->intel && extra)
		incoming_step(d, 10, extra, VERDICT_REFUSE,
			      "the guest has bits set in SPEC_CTRL that the destination's CPU does "
			      "not have",
			      SRC_CONTRACT);
	if (f->intel && f->policy.virtual_msrs &&
	    (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
	    !(g->arch_cap & ARCH_CAP_VIRTUAL_ENUM))
		incoming_step(d, 12, 0, VERDICT_ALLOW,
			      "the guest was not offered the virtual MSRs: they stay hidden until "
			      "it boots again",
			      SRC_RFC_BHI);
	if (d->verdict <= VERDICT_ALLOW_FORCED && d->value)
		incoming_step(
			d, 1, d->value, VERDICT_ALLOW,
			"all bits that the guest needs or was promised are held on the destination",
			SRC_CONTRACT);
}

/* ---- the whole ---- */

/* A row of the tables is about holding its bit at 1, unless it is the operator's to clear it. */
static uint64_t wanted_at_1(const struct facts *f, const struct rule *r, uint64_t bit)
{
	const bool cleared = r->row == 1 && (f->policy.raw_mask & bit);

	return cleared ? f->policy.raw_value & bit : bit;
}

/* Does every host where the guest may come to run make the short sequence enough? */
static bool pool_makes_short_adequate(const struct mitigation_input *in)
{
	const struct pool_facts *pool = &in->pool;

	return pool->n_hosts <= 1 || pool->all_atom_or_short ||
	       (pool->long_can_force_bhi && bhi_held_elsewhere(in));
}

/*
 * The policy does not force for this guest, but an earlier host did and the bit stays held: nothing
 * to warn of.
 */
static const struct rule *kept_by_promise(const struct facts *f, const struct rule *r, uint64_t bit,
					  enum keep keep, struct rule *kept)
{
	if (r->then != TELL || keep != BROKEN || !(f->promised & f->can & bit))
		return r;
	*kept = *r;
	kept->then = LEAVE;
	kept->reason = "the policy does not hold the bit for this guest; an earlier host did";
	return kept;
}

/*
 * KVM puts a barrier between a guest and its own guests only for one that is shown IBRS. What the
 * guest is shown is the same on every host: one that comes is no worse off here.
 */
static void decide_nested(struct mitigation_decision *d, const struct facts *f)
{
	const struct rule gap = {
		1, NULL, f->incoming ? UNSURE : CANNOT,
		"the guest is shown VMX or SVM but not SPEC_CTRL: KVM then puts no "
		"branch predictor barrier between it and its own guests",
		SRC_NESTED};

	if (f->in->nested && !(f->in->guest.leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl)))
		apply(d, f, TABLE_NESTED, &gap, 0, 0);
}

static void note_settings(struct mitigation_decision *d, const struct mitigation_policy *p)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++) {
		struct decision_step *s = &d->step[i];

		s->set = (p->strict ? STEP_STRICT : 0) |
			 (p->cannot == CANNOT_REFUSE ? STEP_CANNOT : 0) |
			 (p->incoming_cannot == CANNOT_REFUSE ? STEP_INCOMING_CANNOT : 0) |
			 ((p->raw_mask | p->raw_guest) & s->bit ? STEP_RAW : 0) |
			 (p->bhi == POLICY_ON ? STEP_BHI_ON : 0);
	}
}

void mitigation_decide(const struct mitigation_input *in, struct mitigation_decision *out)
{
	static const struct decision_step mixed_warn = {
		.table = TABLE_POOL,
		.row = 1,
		.verdict = VERDICT_WARN,
		.reason = "the pool mixes short and long branch history buffers",
		.source = SRC_OPERATOR,
	};
	const struct rule *bhi, *rsb;
	struct rule kept;
	struct facts f;

	memset(out, 0, sizeof(*out));
	facts_init(&f, in);
	decide_raw(out, &f);
	bhi = rules_bhi(&f);
	apply(out, &f, TABLE_BHI, kept_by_promise(&f, bhi, BHI, bhi_promise(bhi), &kept), BHI,
	      wanted_at_1(&f, bhi, BHI));
	rsb = rules_rrsba(&f);
	apply(out, &f, TABLE_RRSBA, kept_by_promise(&f, rsb, RRSBA, rsb_promise(rsb), &kept), RRSBA,
	      wanted_at_1(&f, rsb, RRSBA));
	decide_nested(out, &f);

	/* CPUID that promises a control which this CPU lacks is a #GP in the guest's next write */
	if (f.intel && f.sees_bhi_ctrl && !f.host.bhi_ctrl)
		incoming_step(out, 3, BHI, VERDICT_REFUSE,
			      "the guest is shown BHI_CTRL and this CPU does not have it",
			      SRC_CONTRACT);
	if (f.incoming)
		decide_incoming(out, &f, bhi, rsb);
	if (f.intel && in->pool.n_hosts > 1 && in->pool.mixed &&
	    f.policy.mixed_pool != MIXED_LEVEL) {
		struct decision_step s = mixed_warn;

		if (f.policy.mixed_pool == MIXED_REFUSE)
			s.verdict = VERDICT_REFUSE;
		add_step(out, &s);
	}

	note_settings(out, &f.policy);
	out->short_adequate = f.intel && !f.sees_bhi_ctrl && f.policy.bhi != POLICY_OFF &&
			      out->verdict != VERDICT_REFUSE &&
			      (f.short_enough || bhi->row == 7 || (out->value & BHI)) &&
			      pool_makes_short_adequate(in);
}

bool mitigation_left_weak(const struct mitigation_decision *d)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == TABLE_BHI && is_weak(d->step[i].row))
			return true;
	return false;
}

static bool raw_forbids(const struct mitigation_policy *p, uint64_t bit)
{
	return (p->raw_guest & bit) || ((p->raw_mask & bit) && !(p->raw_value & bit));
}

void mitigation_advertise(const struct host_facts *host, const struct backend_facts *backend,
			  const struct mitigation_policy *policy, const struct pool_facts *pool,
			  struct guest_contract *guest)
{
	const struct mitigation_input in = {
		.host = *host, .backend = *backend, .policy = *policy, .pool = *pool};
	struct facts f;
	bool bhi_here, bhi_pool, rsb_here, rsb_pool, rsba_told;

	facts_init(&f, &in);
	guest->vendor = f.host.vendor;
	guest->arch_cap &= ~ARCH_CAP_VIRTUAL_ENUM;
	guest->virt_enum = 0;
	guest->mitigation_enum = 0;
	if (!policy->virtual_msrs || !f.intel || backend->kind == BACKEND_NONE ||
	    backend->no_msr_exits || pool->no_msr_exits ||
	    !(guest->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)))
		return;
	guest->arch_cap |= ARCH_CAP_VIRTUAL_ENUM;
	guest->virt_enum = VIRT_ENUM_MITIGATION;

	/* A bit is offered when a guest that reports it is protected wherever it may run. */
	bhi_here = f.short_enough || bhi_no_enough(&f) || (f.can & BHI);
	bhi_pool = !pool->n_hosts || !pool->any_long_bhb || pool->long_can_force_bhi;
	if (policy->bhi != POLICY_OFF && !raw_forbids(policy, BHI) &&
	    (f.adds || (policy->honour_report == REPORT_RELAX && f.unasked)) && bhi_here &&
	    bhi_pool)
		guest->mitigation_enum |= MITIGATION_BHB_CLEAR_SEQ_S;

	/* Where there is no control, a guest that sees it does not rely on retpolines alone. */
	rsb_here = !f.rrsba_part || (f.can & RRSBA) ||
		   (!f.host.rrsba_ctrl && (guest->arch_cap & ARCH_CAP_RRSBA));
	rsb_pool = !pool->n_hosts || !pool->any_rrsba || pool->rrsba_can_force ||
		   (!pool->rrsba_ctrl_idle && (guest->arch_cap & ARCH_CAP_RRSBA));
	rsba_told = (!f.host.rsba && !pool->any_rsba) || (guest->arch_cap & ARCH_CAP_RSBA);
	if (policy->rrsba != POLICY_OFF && !raw_forbids(policy, RRSBA) && f.adds && rsb_here &&
	    rsb_pool && rsba_told)
		guest->mitigation_enum |= MITIGATION_RETPOLINE_S;
}

uint64_t mitigation_expect(const struct mitigation_decision *d, enum backend_kind kind,
			   uint64_t shadow)
{
	return kind == BACKEND_MSR_FILTER ? (shadow & ~d->mask) | d->value : shadow;
}

bool mitigation_check_applied(struct mitigation_decision *d, enum backend_kind kind,
			      uint64_t shadow, bool accepted, uint64_t read_back)
{
	const uint64_t expected = mitigation_expect(d, kind, shadow);

	if (!accepted)
		incoming_step(
			d, 10, expected, VERDICT_REFUSE,
			"KVM does not take this value of SPEC_CTRL: the CPU does not have all "
			"of its bits",
			SRC_CONTRACT);
	else if (read_back != expected)
		incoming_bits(d, 11, read_back ^ expected, ~expected, VERDICT_REFUSE,
			      "SPEC_CTRL does not read back as it was set: the back end does not "
			      "hold these bits",
			      "measured: a KVM that accepts the value and drops it");
	return accepted && read_back == expected;
}

void mitigation_add_cpu(struct mitigation_decision *d, const char *missing)
{
	incoming_step(d, 13, 0, VERDICT_REFUSE, missing, SRC_CONTRACT);
	d->short_adequate = false;
}

void mitigation_policy_default(struct mitigation_policy *p)
{
	*p = (struct mitigation_policy) {
		.bhi = POLICY_AUTO,
		.rrsba = POLICY_AUTO,
		.honour_report = REPORT_BOTH,
		.bhi_no_is_enough = true,
		.virtual_msrs = true,
		.cannot = CANNOT_WARN,
		.incoming_cannot = CANNOT_REFUSE,
		.force_unaware = true,
		.mixed_pool = MIXED_LEVEL,
	};
}

const char *backend_name(enum backend_kind kind)
{
	switch (kind) {
	case BACKEND_MSR_FILTER:
		return "msr-filter";
	case BACKEND_FORCE_SPEC_CTRL:
		return "force-spec-ctrl";
	case BACKEND_FORCE_SPEC_CTRL_VM:
		return "force-spec-ctrl, virtual MSRs in KVM";
	case BACKEND_FORCE_VCPU:
		return "force-spec-ctrl per vCPU";
	case BACKEND_NONE:
		break;
	}
	return "none";
}

const char *verdict_name(enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_ALLOW:
		return "allow";
	case VERDICT_ALLOW_FORCED:
		return "allow, with held bits";
	case VERDICT_WARN:
		return "warn";
	case VERDICT_REFUSE:
		break;
	}
	return "refuse";
}

const char *decision_table_name(enum decision_table table)
{
	switch (table) {
	case TABLE_BHI:
		return "bhi";
	case TABLE_RRSBA:
		return "rrsba";
	case TABLE_RAW:
		return "raw";
	case TABLE_MIGRATION:
		return "migration";
	case TABLE_POOL:
		return "pool";
	case TABLE_NESTED:
		break;
	}
	return "nested";
}
