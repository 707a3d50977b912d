/*
 * The decision's two tables of rows tried from the top: a condition, what follows, why, and who
 * says so. The row numbers are those of docs/mitigation.md; a row that ends in different verdicts
 * has one line for each. Conditions look only at struct facts, which is worked out once.
 */
#include "msr/rules.h"

#include <stddef.h>
#include <string.h>

#include "msr/virt_msr.h"

/* ---- what the facts are ---- */

static void facts_of_host(struct facts *f)
{
	const struct mitigation_input *in = f->in;
	const bool trusted = !f->host.model_may_lie || f->policy.trust_model;
	const struct pool_facts *pool = &in->pool;

	f->intel = f->host.vendor == CPU_VENDOR_INTEL;
	f->short_host = f->host.bhb == BHB_SHORT && trusted;
	f->exempt = f->host.atom_only && trusted && (!pool->n_hosts || pool->all_atom_or_short);
	f->short_enough = f->short_host && (!f->host.bhi_ctrl || f->exempt);
	f->rrsba_part = f->host.rrsba || f->host.eibrs;
	if (in->backend.kind == BACKEND_NONE)
		return;
	f->can = in->backend.can_force &
		 (f->intel ? spec_ctrl_host_bits(&in->host) : SPEC_CTRL_COMMON);
	f->can_clear = true;
}

static void facts_of_guest(struct facts *f)
{
	const struct mitigation_input *in = f->in;
	const struct guest_contract *g = &in->guest;
	const struct vcpu_report *r = &in->report;
	const bool heard = f->policy.honour_report != REPORT_IGNORE;
	const bool looked = r->enum_read || r->written;
	const uint64_t offered = g->virt_enum & VIRT_ENUM_MITIGATION ? g->mitigation_enum : 0;
	const bool told_bhi = offered & MITIGATION_BHB_CLEAR_SEQ_S;
	const bool told_rsb = offered & MITIGATION_RETPOLINE_S;

	/* what is not enumerated, or enumerated without the MSR, is not the guest's to set or read
	 */
	f->sees_bhi_ctrl = spec_ctrl_legal(g) & BHI;
	f->sees_rrsba_ctrl = spec_ctrl_legal(g) & RRSBA;
	f->sees_rrsba = (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
			(g->arch_cap & ARCH_CAP_RRSBA);
	f->sees_rsba = (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
		       (g->arch_cap & ARCH_CAP_RSBA);

	f->bhi_used = f->bhi_said = heard && (r->ctrl & MITIGATION_BHB_CLEAR_SEQ_S);
	f->rsb_used = f->rsb_said = heard && (r->ctrl & MITIGATION_RETPOLINE_S);
	f->bhi_aware = f->bhi_used || (heard && told_bhi && (r->aware || looked));
	/* without having read what 0 means, a 0 is no answer */
	f->bhi_answered = f->bhi_aware && !f->bhi_used && r->enum_read;
	f->bhi_early = f->bhi_aware && !f->bhi_used && !looked;
	f->rsb_answered = heard && told_rsb && !f->rsb_used && r->enum_read;

	/*
	 * The VM-wide mask is frozen before the guest can say anything: it covers what may come,
	 * unless the operator would rather have the VM built anew then.
	 */
	if (in->backend.kind == BACKEND_FORCE_SPEC_CTRL && f->adds && !f->policy.rebuild) {
		const bool by_report =
			!f->unasked || (f->sees_bhi_ctrl && f->policy.force_when_shown);

		f->bhi_used |= told_bhi && by_report && (f->can & BHI);
		f->bhi_aware |= f->bhi_used;
		f->rsb_used |= told_rsb && (f->can & RRSBA);
	}
}

/* ---- 1. the operator's own bits ---- */

static bool raw_covers(const struct facts *f, uint64_t bit)
{
	return f->policy.raw_mask & bit;
}

static bool raw_impossible(const struct facts *f, uint64_t bit)
{
	if (!raw_covers(f, bit))
		return false;
	return f->policy.raw_value & bit ? !(f->can & bit) : !f->can_clear;
}

static bool raw_left(const struct facts *f, uint64_t bit)
{
	return f->policy.raw_guest & bit;
}

/* ---- 2. BHI_DIS_S ---- */

static bool bhi_raw_impossible(const struct facts *f)
{
	return raw_impossible(f, BHI);
}

static bool bhi_raw_hold(const struct facts *f)
{
	return raw_covers(f, BHI) && (f->policy.raw_value & BHI);
}

static bool bhi_raw_clear_needed(const struct facts *f)
{
	return raw_covers(f, BHI) && f->bhi_wanted;
}

static bool bhi_raw_clear(const struct facts *f)
{
	return raw_covers(f, BHI);
}

static bool bhi_raw_left_needed(const struct facts *f)
{
	return raw_left(f, BHI) && f->bhi_wanted;
}

static bool bhi_raw_left(const struct facts *f)
{
	return raw_left(f, BHI);
}

static bool bhi_off_needed(const struct facts *f)
{
	return f->policy.bhi == POLICY_OFF && f->bhi_wanted;
}

static bool bhi_off(const struct facts *f)
{
	return f->policy.bhi == POLICY_OFF;
}

static bool bhi_on_not_intel(const struct facts *f)
{
	return !f->intel && f->policy.bhi == POLICY_ON;
}

static bool vendor_unknown(const struct facts *f)
{
	return f->host.vendor == CPU_VENDOR_OTHER;
}

static bool not_intel(const struct facts *f)
{
	return !f->intel;
}

static bool bhi_on(const struct facts *f)
{
	return f->policy.bhi == POLICY_ON && (f->can & BHI);
}

static bool bhi_on_impossible(const struct facts *f)
{
	return f->policy.bhi == POLICY_ON;
}

static bool bhi_shown_in_advance(const struct facts *f)
{
	return f->sees_bhi_ctrl && f->policy.force_when_shown && f->bhi_used && !f->bhi_said &&
	       f->adds && (f->can & BHI);
}

static bool bhi_shown_reported(const struct facts *f)
{
	return f->sees_bhi_ctrl && f->policy.force_when_shown && f->bhi_used && f->adds &&
	       (f->can & BHI);
}

static bool bhi_shown_reported_impossible(const struct facts *f)
{
	return f->sees_bhi_ctrl && f->policy.force_when_shown && f->bhi_used && f->adds;
}

static bool bhi_shown(const struct facts *f)
{
	return f->sees_bhi_ctrl;
}

bool bhi_no_enough(const struct facts *f)
{
	return f->host.bhi_no && f->policy.bhi_no_is_enough;
}

static bool bhi_exempt(const struct facts *f)
{
	return f->host.bhi_ctrl && f->exempt;
}

static bool bhi_unaware(const struct facts *f)
{
	return f->host.bhi_ctrl && !f->bhi_aware && f->unasked && (f->can & BHI);
}

static bool bhi_unaware_left(const struct facts *f)
{
	return f->host.bhi_ctrl && !f->bhi_aware && !f->unasked;
}

static bool bhi_in_advance(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_used && !f->bhi_said && (f->can & BHI);
}

static bool bhi_reported(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_used && (f->adds || f->unasked) && (f->can & BHI);
}

static bool bhi_reported_left(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_used && !f->adds && !f->unasked;
}

static bool bhi_declined(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_answered && f->removes && !f->policy.strict;
}

static bool bhi_declined_left(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_aware && !f->bhi_used && !f->bhi_early && !f->unasked;
}

static bool bhi_declined_unheard(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_aware && !f->bhi_used && !f->bhi_early && (f->can & BHI);
}

static bool bhi_early(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_early && f->unasked && (f->can & BHI);
}

static bool bhi_early_left(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_early && !f->unasked;
}

static bool bhi_no_backend(const struct facts *f)
{
	return f->host.bhi_ctrl;
}

static bool long_promised(const struct facts *f)
{
	return f->host.bhb == BHB_LONG && (f->promised & BHI);
}

static bool long_reported(const struct facts *f)
{
	return f->host.bhb == BHB_LONG && f->bhi_used;
}

static bool long_declined(const struct facts *f)
{
	return f->host.bhb == BHB_LONG && f->bhi_answered && f->answer_counts;
}

static bool long_bhb(const struct facts *f)
{
	return f->host.bhb == BHB_LONG;
}

static bool short_bhb(const struct facts *f)
{
	return f->short_host;
}

static bool nested_unknown(const struct facts *f)
{
	return f->host.bhb == BHB_SHORT;
}

static bool always(const struct facts *f)
{
	(void)f;
	return true;
}

static const struct rule bhi_rules[] = {
	{1, bhi_raw_impossible, NEVER,
	 "the policy's raw bits cover BHI_DIS_S, which this host or back end cannot hold so",
	 SRC_OPERATOR},
	{1, bhi_raw_hold, HOLD, "the policy's raw bits hold BHI_DIS_S at 1", SRC_OPERATOR},
	{1, bhi_raw_clear_needed, CLEAR_WARN,
	 "the policy's raw bits hold BHI_DIS_S at 0 where this guest needs it", SRC_OPERATOR},
	{1, bhi_raw_clear, CLEAR, "the policy's raw bits hold BHI_DIS_S at 0", SRC_OPERATOR},
	{1, bhi_raw_left_needed, TELL,
	 "the policy's raw bits leave BHI_DIS_S to the guest; it would have been held, the guest "
	 "may be vulnerable",
	 SRC_OPERATOR},
	{1, bhi_raw_left, LEAVE, "the policy's raw bits leave BHI_DIS_S to the guest",
	 SRC_OPERATOR},
	{2, bhi_off_needed, TELL,
	 "bhi is off in the policy; it would have been held, the guest may be vulnerable",
	 SRC_OPERATOR},
	{2, bhi_off, LEAVE, "bhi is off in the policy, and nothing would have been held",
	 SRC_OPERATOR},
	{3, bhi_on_not_intel, NEVER, "bhi is on in the policy, but only Intel parts have BHI_DIS_S",
	 SRC_LINUX},
	{3, vendor_unknown, UNSURE,
	 "the host's vendor is unknown: whether it is affected by BHI is unknown too", SRC_OURS},
	{3, not_intel, LEAVE, "parts of this vendor are not affected by BHI", SRC_LINUX},
	{4, bhi_on, HOLD, "bhi is on in the policy and this host can hold BHI_DIS_S", SRC_OPERATOR},
	{5, bhi_on_impossible, NEVER,
	 "bhi is on in the policy, but this host or back end cannot hold BHI_DIS_S", SRC_OPERATOR},
	{6, bhi_shown_in_advance, HOLD,
	 "the guest is shown BHI_CTRL and may yet report the short sequence, when the back end "
	 "can no longer add a bit; the policy holds it",
	 SRC_FROZEN},
	{6, bhi_shown_reported, HOLD,
	 "the guest is shown BHI_CTRL, yet reports the short sequence; the policy holds the bit",
	 SRC_RFC_BHI},
	{6, bhi_shown_reported_impossible, CANNOT,
	 "the guest is shown BHI_CTRL and reports the short sequence; the policy holds the "
	 "bit, the back end cannot",
	 SRC_RFC_BHI},
	{6, bhi_shown, LEAVE, "the guest is shown BHI_CTRL and owns BHI_DIS_S", SRC_MATTSON},
	{7, bhi_no_enough, LEAVE, "the host has BHI_NO and the policy takes that as enough",
	 SRC_INTEL},
	{8, bhi_exempt, LEAVE,
	 "an Atom-only part in a pool of such or older parts: the short sequence works", SRC_INTEL},
	{9, bhi_unaware, HOLD,
	 "the guest reports nothing that counts and does not see BHI_CTRL: it may use the short "
	 "sequence",
	 SRC_MATTSON},
	{9, bhi_unaware_left, TELL,
	 "the guest reports nothing that counts and the policy does not hold the bit for it: it "
	 "may "
	 "be "
	 "vulnerable",
	 SRC_OPERATOR},
	{10, bhi_in_advance, HOLD,
	 "the guest may yet report the short sequence, and the back end cannot add a bit then",
	 SRC_FROZEN},
	{10, bhi_reported, HOLD, "the guest reports the short sequence", SRC_RFC_BHI},
	{10, bhi_reported_left, TELL,
	 "the guest reports the short sequence, but the policy does not let a report add bits",
	 SRC_OPERATOR},
	{11, bhi_declined, LEAVE, "the guest read the enumeration and does not ask for BHI_DIS_S",
	 SRC_RFC_BHI},
	{11, bhi_declined_left, TELL,
	 "the guest does not ask for BHI_DIS_S and the policy does not hold it unasked; its answer "
	 "is "
	 "not to be relied on",
	 SRC_OPERATOR},
	{11, bhi_declined_unheard, HOLD,
	 "the guest does not ask for BHI_DIS_S, but the policy, the back end or a missing read of "
	 "the enumeration does not let that count",
	 SRC_MATTSON},
	{12, bhi_early, HOLD, "the guest found the virtual MSRs but has not read them yet",
	 SRC_MATTSON},
	{12, bhi_early_left, TELL,
	 "the guest has not reported yet and the policy does not hold the bit before it does",
	 SRC_OPERATOR},
	{13, bhi_no_backend, CANNOT,
	 "the host has BHI_DIS_S, but the back end cannot hold it: the guest is vulnerable if it "
	 "uses the short sequence",
	 SRC_INTEL},
	{14, long_promised, NEVER,
	 "an earlier host held BHI_DIS_S; this one needs it and does not have it", SRC_INTEL},
	{14, long_reported, NEVER,
	 "the guest reports the short sequence, which is too short on the host, and there is no "
	 "BHI_DIS_S",
	 SRC_RFC_BHI},
	{14, long_declined, UNSURE,
	 "the short sequence is too short on the host and there is no BHI_DIS_S; the guest says "
	 "that it "
	 "needs neither",
	 SRC_RFC_BHI},
	{14, long_bhb, CANNOT,
	 "the short sequence is too short on the host and there is no BHI_DIS_S (nested host, "
	 "masked "
	 "CPUID or old microcode)",
	 SRC_INTEL},
	{15, short_bhb, LEAVE, "the short sequence works on this part", SRC_INTEL},
	{16, nested_unknown, UNSURE, REASON_NESTED, SRC_OURS},
	{16, always, UNSURE,
	 "an unknown model without BHI_CTRL: whether the short sequence works is unknown",
	 SRC_OURS},
};

/* ---- 3. RRSBA_DIS_S ---- */

static bool rsb_raw_impossible(const struct facts *f)
{
	return raw_impossible(f, RRSBA);
}

static bool rsb_raw_hold(const struct facts *f)
{
	return raw_covers(f, RRSBA) && (f->policy.raw_value & RRSBA);
}

static bool rsb_raw_clear_needed(const struct facts *f)
{
	return raw_covers(f, RRSBA) && f->rsb_wanted;
}

static bool rsb_raw_clear(const struct facts *f)
{
	return raw_covers(f, RRSBA);
}

static bool rsb_raw_left_needed(const struct facts *f)
{
	return raw_left(f, RRSBA) && f->rsb_wanted;
}

static bool rsb_raw_left(const struct facts *f)
{
	return raw_left(f, RRSBA);
}

static bool rsb_off_needed(const struct facts *f)
{
	return f->policy.rrsba == POLICY_OFF && f->rsb_wanted;
}

static bool rsb_off(const struct facts *f)
{
	return f->policy.rrsba == POLICY_OFF;
}

static bool rsb_on(const struct facts *f)
{
	return f->policy.rrsba == POLICY_ON && (f->can & RRSBA);
}

static bool rsb_on_impossible(const struct facts *f)
{
	return f->policy.rrsba == POLICY_ON;
}

static bool rsba_hidden(const struct facts *f)
{
	if (f->rrsba_part || !f->host.rsba || f->sees_rsba)
		return false;
	return f->rsb_used || !(f->rsb_answered && f->answer_counts);
}

static bool rsba_shown(const struct facts *f)
{
	return !f->rrsba_part && f->host.rsba && f->sees_rsba;
}

static bool rsba_declined(const struct facts *f)
{
	return !f->rrsba_part && f->host.rsba;
}

static bool no_rrsba(const struct facts *f)
{
	return !f->rrsba_part;
}

static bool rsb_shown(const struct facts *f)
{
	return f->sees_rrsba && f->sees_rrsba_ctrl;
}

static bool rsb_in_advance(const struct facts *f)
{
	return f->host.rrsba_ctrl && f->rsb_used && !f->rsb_said && (f->can & RRSBA);
}

static bool rsb_reported(const struct facts *f)
{
	return f->host.rrsba_ctrl && f->rsb_used && f->adds && (f->can & RRSBA);
}

static bool rsb_declined(const struct facts *f)
{
	return f->host.rrsba_ctrl && f->rsb_answered && f->removes;
}

static bool rsb_hidden(const struct facts *f)
{
	return f->host.rrsba_ctrl && !f->sees_rrsba && f->unasked && (f->can & RRSBA);
}

static bool rsb_hidden_left(const struct facts *f)
{
	return f->host.rrsba_ctrl && !f->sees_rrsba && !f->unasked && !(f->rsb_used && f->adds);
}

static bool rsb_warned(const struct facts *f)
{
	return f->host.rrsba_ctrl && f->sees_rrsba && !(f->rsb_used && f->adds);
}

/*
 * From row 3 on the part has RRSBA, whether its microcode says so or not: a host that tells less
 * of itself is not judged better.
 */
static bool rsb_impossible(const struct facts *f)
{
	/* without the control, a guest that was warned copes */
	return f->host.rrsba_ctrl || (f->rsb_used && !f->sees_rrsba);
}

static bool rsb_uncured(const struct facts *f)
{
	return !f->sees_rrsba && !(f->rsb_answered && f->answer_counts);
}

static const struct rule rrsba_rules[] = {
	{1, rsb_raw_impossible, NEVER,
	 "the policy's raw bits cover RRSBA_DIS_S, which this host or back end cannot hold so",
	 SRC_OPERATOR},
	{1, rsb_raw_hold, HOLD, "the policy's raw bits hold RRSBA_DIS_S at 1", SRC_OPERATOR},
	{1, rsb_raw_clear_needed, CLEAR_WARN,
	 "the policy's raw bits hold RRSBA_DIS_S at 0 where this guest may need it", SRC_OPERATOR},
	{1, rsb_raw_clear, CLEAR, "the policy's raw bits hold RRSBA_DIS_S at 0", SRC_OPERATOR},
	{1, rsb_raw_left_needed, TELL,
	 "the policy's raw bits leave RRSBA_DIS_S to the guest, which may rely on retpolines",
	 SRC_OPERATOR},
	{1, rsb_raw_left, LEAVE, "the policy's raw bits leave RRSBA_DIS_S to the guest",
	 SRC_OPERATOR},
	{1, rsb_off_needed, TELL,
	 "rrsba is off in the policy, and this guest may rely on retpolines", SRC_OPERATOR},
	{1, rsb_off, LEAVE, "rrsba is off in the policy, and nothing would have been held",
	 SRC_OPERATOR},
	{1, rsb_on, HOLD, "rrsba is on in the policy and this host can hold RRSBA_DIS_S",
	 SRC_OPERATOR},
	{1, rsb_on_impossible, NEVER,
	 "rrsba is on in the policy, but this host or back end cannot hold RRSBA_DIS_S",
	 SRC_OPERATOR},
	{2, not_intel, LEAVE, "only Intel parts have RRSBA", SRC_XEN},
	{3, rsba_hidden, CANNOT,
	 "the guest relies, or may rely, on retpolines, which RSBA undermines on the host; no bit "
	 "turns "
	 "that off",
	 SRC_XEN},
	{3, rsba_shown, LEAVE,
	 "no bit turns RSBA off, and the guest sees what bare metal would see", SRC_XEN},
	{3, rsba_declined, LEAVE,
	 "no bit turns RSBA off; the guest read the enumeration and does not report retpolines",
	 SRC_RFC_RSB},
	{3, no_rrsba, LEAVE, "the host does not have RRSBA: nothing to hold", SRC_XEN},
	{4, rsb_shown, LEAVE, "the guest is shown RRSBA and RRSBA_CTRL and sets RRSBA_DIS_S itself",
	 SRC_RFC_RSB},
	{5, rsb_in_advance, HOLD,
	 "the guest may yet report retpolines, and the back end cannot add a bit then", SRC_FROZEN},
	{5, rsb_reported, HOLD, "the guest reports retpolines, which RRSBA would undermine",
	 SRC_RFC_RSB},
	{6, rsb_declined, LEAVE, "the guest read the enumeration and does not report retpolines",
	 SRC_RFC_RSB},
	{7, rsb_hidden, HOLD,
	 "the guest reports nothing that counts and does not see RRSBA: it may trust retpolines",
	 SRC_INTEL},
	{7, rsb_hidden_left, TELL,
	 "the guest does not see RRSBA and the policy does not hold the bit for it: it may trust "
	 "retpolines",
	 SRC_OPERATOR},
	{8, rsb_warned, LEAVE,
	 "the guest sees RRSBA without the control: it does not rely on retpolines alone", SRC_XEN},
	{9, rsb_impossible, CANNOT,
	 "the guest relies, or may rely, on retpolines and RRSBA_DIS_S cannot be held on the host",
	 SRC_RFC_RSB},
	{10, rsb_uncured, CANNOT,
	 "this part has RRSBA and no RRSBA_DIS_S, and the guest was not shown RRSBA: it may trust "
	 "retpolines",
	 SRC_XEN},
	{10, always, LEAVE, "the guest sees what bare metal would see", SRC_XEN},
};

static const struct rule *rule_find(const struct rule *rules, const struct facts *f)
{
	while (!rules->when(f))
		rules++; /* the last row of a table always holds */
	return rules;
}

const struct rule *rules_bhi(const struct facts *f)
{
	return rule_find(bhi_rules, f);
}

const struct rule *rules_rrsba(const struct facts *f)
{
	return rule_find(rrsba_rules, f);
}

/* What the tables say when the operator does not: is it this guest that goes without? */
static void facts_want(struct facts *f)
{
	struct facts silent = *f;
	const struct rule *r;

	silent.policy.bhi = POLICY_AUTO;
	silent.policy.rrsba = POLICY_AUTO;
	silent.policy.raw_mask = 0;
	silent.policy.raw_guest = 0;
	r = rules_bhi(&silent);
	f->bhi_wanted = r->row >= 9 && r->row <= 13 && r->then != LEAVE;
	r = rules_rrsba(&silent);
	f->rsb_wanted = r->then == HOLD || r->then == CANNOT;
}

void facts_init(struct facts *f, const struct mitigation_input *in)
{
	const struct mitigation_policy *p = &in->policy;
	const bool frozen = in->backend.kind == BACKEND_FORCE_SPEC_CTRL ||
			    in->backend.kind == BACKEND_FORCE_SPEC_CTRL_VM;

	memset(f, 0, sizeof(*f));
	f->in = in;
	f->policy = *p;
	f->adds = p->honour_report == REPORT_BOTH || p->honour_report == REPORT_TIGHTEN;
	f->answer_counts = p->honour_report == REPORT_BOTH || p->honour_report == REPORT_RELAX;
	f->removes = f->answer_counts && !frozen;
	f->unasked = p->force_unaware || p->strict;
	host_traits_derive(&in->host, &f->host);
	f->incoming = in->promise.valid;
	facts_of_host(f);
	facts_of_guest(f);
	f->promised = f->incoming ? in->promise.mask & in->promise.value : 0;
	facts_want(f);
}

bool bhi_held_elsewhere(const struct mitigation_input *in)
{
	struct mitigation_input there = *in;
	struct facts f;

	/* any such part: the rows look at what it has */
	there.host = (struct host_facts) {.vendor_id = "GenuineIntel", .family = 6, .model = 0x8f};
	there.host.leaf7_0_edx = CPUID_BIT(7_0_EDX, spec_ctrl);
	there.host.leaf7_2_edx = CPUID_BIT(7_2_EDX, bhi_ctrl);
	there.backend = (struct backend_facts) {.kind = BACKEND_FORCE_VCPU, .can_force = BHI};
	facts_init(&f, &there);
	return rules_bhi(&f)->then == HOLD;
}
