/*
 * Is BHI_DIS_S held? Rows tried from the top; the numbers are those of docs/mitigation.md, and a row
 * that ends in different verdicts has a line for each. How a row is added: see rules.h.
 */
#include "msr/rules.h"

#include <stddef.h>

#include "msr/cures.h"

/* for a part whose buffer is long, and which has no control */
#define OLD_HOST OTHER_HOST ", or one from before Alder Lake and Sapphire Rapids"
#define GIVE_UP	 OLD_HOST "; bhi: off gives the protection up, for a guest that boots"
/* strict does not let it be given up */
#define OLDER_HOST (&(const struct cure) {OLD_HOST, {GIVE_UP, OLD_HOST, GIVE_UP, OLD_HOST}})

#define DOUBTFUL \
	"the short sequence does not work on the host, or may not: the guest may be vulnerable"

static bool bhi_raw_impossible(const struct facts *f)
{
	return facts_raw_impossible(f, BHI);
}

static bool bhi_raw_hold(const struct facts *f)
{
	return facts_raw_covers(f, BHI) && (f->policy.raw_value & BHI);
}

static bool bhi_raw_clear_needed(const struct facts *f)
{
	return facts_raw_covers(f, BHI) && f->bhi_wanted;
}

static bool bhi_raw_clear_doubtful(const struct facts *f)
{
	return facts_raw_covers(f, BHI) && f->bhi_doubtful;
}

static bool bhi_raw_clear_shown(const struct facts *f)
{
	return facts_raw_covers(f, BHI) && f->sees_bhi_ctrl;
}

static bool bhi_raw_clear(const struct facts *f)
{
	return facts_raw_covers(f, BHI);
}

static bool bhi_raw_left_needed(const struct facts *f)
{
	return facts_raw_left(f, BHI) && f->bhi_wanted;
}

static bool bhi_raw_left_doubtful(const struct facts *f)
{
	return facts_raw_left(f, BHI) && f->bhi_doubtful;
}

static bool bhi_raw_left(const struct facts *f)
{
	return facts_raw_left(f, BHI);
}

static bool bhi_off_needed(const struct facts *f)
{
	return f->policy.bhi == POLICY_OFF && f->bhi_wanted;
}

static bool bhi_off_doubtful(const struct facts *f)
{
	return f->policy.bhi == POLICY_OFF && f->bhi_doubtful;
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

static bool bhi_no(const struct facts *f)
{
	return f->bhi_no_enough;
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

/* BHI_DIS_S keeps user space out of what RRSBA predicts, too */
static bool bhi_for_retpolines(const struct facts *f)
{
	return f->host.bhi_ctrl && f->bhi_aware && !f->bhi_used &&
	       (f->bhi_answered || f->rsb_said) && f->rsb_bare && (f->can & BHI);
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

const struct rule bhi_rules[] = {
	{1, bhi_raw_impossible, NEVER, OVERRIDES | AS_POLICY,
	 "the policy's raw bits cover BHI_DIS_S, which this host or back end cannot hold so",
	 SRC_OPERATOR, CURE("take BHI_DIS_S out of spec-ctrl, or " OTHER_HOST)},
	{1, bhi_raw_hold, HOLD, OVERRIDES | AS_POLICY, "the policy's raw bits hold BHI_DIS_S at 1",
	 SRC_OPERATOR, NULL},
	{1, bhi_raw_clear_needed, CLEAR_WARN, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold BHI_DIS_S at 0 where this guest needs it", SRC_OPERATOR,
	 TAKE_BACK("take BHI_DIS_S out of spec-ctrl")},
	{1, bhi_raw_clear_doubtful, CLEAR_WARN, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold BHI_DIS_S at 0; " DOUBTFUL, SRC_OPERATOR,
	 TAKE_BACK("take BHI_DIS_S out of spec-ctrl")},
	{1, bhi_raw_clear_shown, CLEAR_WARN, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold BHI_DIS_S at 0, though the guest is shown BHI_CTRL: what it "
	 "sets has no effect",
	 SRC_OPERATOR, TAKE_BACK("take BHI_DIS_S out of spec-ctrl")},
	{1, bhi_raw_clear, CLEAR, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold BHI_DIS_S at 0", SRC_OPERATOR, NULL},
	{1, bhi_raw_left_needed, GIVEN_UP, OVERRIDES,
	 "the policy's raw bits leave BHI_DIS_S to the guest; it would have been held, the guest "
	 "may be vulnerable",
	 SRC_OPERATOR, TAKE_BACK("take BHI_DIS_S out of spec-ctrl")},
	{1, bhi_raw_left_doubtful, GIVEN_UP, OVERRIDES,
	 "the policy's raw bits leave BHI_DIS_S to the guest; " DOUBTFUL, SRC_OPERATOR,
	 TAKE_BACK("take BHI_DIS_S out of spec-ctrl")},
	{1, bhi_raw_left, LEAVE, OVERRIDES, "the policy's raw bits leave BHI_DIS_S to the guest",
	 SRC_OPERATOR, NULL},
	{2, bhi_off_needed, GIVEN_UP, OVERRIDES,
	 "bhi is off in the policy; it would have been held, the guest may be vulnerable",
	 SRC_OPERATOR, TAKE_BACK("set bhi: auto")},
	{2, bhi_off_doubtful, GIVEN_UP, OVERRIDES, "bhi is off in the policy; " DOUBTFUL,
	 SRC_OPERATOR, TAKE_BACK("set bhi: auto")},
	{2, bhi_off, LEAVE, OVERRIDES, "bhi is off in the policy, and nothing would have been held",
	 SRC_OPERATOR, NULL},
	{3, bhi_on_not_intel, NEVER, 0,
	 "bhi is on in the policy, but only Intel parts have BHI_DIS_S", SRC_LINUX,
	 CURE("set bhi: auto, or use a host of Intel")},
	{3, vendor_unknown, UNSURE, 0,
	 "the host's vendor is unknown: whether it is affected by BHI is unknown too", SRC_OURS,
	 STRICT("use a host of a known vendor", "lets the guest run on an unknown one")},
	{3, not_intel, LEAVE, 0, "parts of this vendor are not affected by BHI", SRC_LINUX, NULL},
	{4, bhi_on, HOLD, 0, "bhi is on in the policy and this host can hold BHI_DIS_S",
	 SRC_OPERATOR, NULL},
	{5, bhi_on_impossible, NEVER, 0,
	 "bhi is on in the policy, but this host or back end cannot hold BHI_DIS_S", SRC_OPERATOR,
	 CURE("set bhi: auto, or " OTHER_HOST)},
	{6, bhi_shown_in_advance, HOLD, 0,
	 "the guest is shown BHI_CTRL and may yet report the short sequence, when the back end can "
	 "no longer add a bit; the policy holds it",
	 SRC_FROZEN, NULL},
	{6, bhi_shown_reported, HOLD, 0,
	 "the guest is shown BHI_CTRL, yet reports the short sequence; the policy holds the bit",
	 SRC_RFC_BHI, NULL},
	{6, bhi_shown_reported_impossible, CANNOT, 0,
	 "the guest is shown BHI_CTRL and reports the short sequence; the policy holds the bit, "
	 "the back end cannot",
	 SRC_RFC_BHI, RUN("set hold-when-shown: off, or " OTHER_HOST)},
	{6, bhi_shown, LEAVE, 0, "the guest is shown BHI_CTRL and owns BHI_DIS_S", SRC_MATTSON,
	 NULL},
	{7, bhi_no, LEAVE, ENDS_NEED | IMMUNE,
	 "the host has BHI_NO and the policy takes that as enough", SRC_INTEL, NULL},
	{8, bhi_exempt, LEAVE, ENDS_NEED,
	 "an Atom-only part in a pool of such or older parts: the short sequence works", SRC_INTEL,
	 NULL},
	{9, bhi_unaware, HOLD, WANTED,
	 "the guest reports nothing that counts and does not see BHI_CTRL: it may use the short "
	 "sequence",
	 SRC_MATTSON, NULL},
	{9, bhi_unaware_left, TELL, WANTED,
	 "the guest reports nothing that counts and the policy does not hold the bit for it: it "
	 "may be vulnerable",
	 SRC_OPERATOR, CURE("set hold-unaware: on")},
	{10, bhi_in_advance, HOLD, WANTED,
	 "the guest may yet report the short sequence, and the back end cannot add a bit then",
	 SRC_FROZEN, NULL},
	{10, bhi_reported, HOLD, WANTED, "the guest reports the short sequence", SRC_RFC_BHI, NULL},
	{10, bhi_reported_left, TELL, WANTED,
	 "the guest reports the short sequence, but the policy does not let a report add bits",
	 SRC_OPERATOR, CURE("set hold-unaware: on, or honour-report: both")},
	{11, bhi_for_retpolines, HOLD, WANTED,
	 "the guest does not ask for BHI_DIS_S, but may rely on retpolines, which RRSBA "
	 "undermines, "
	 "and RRSBA_DIS_S cannot be held: BHI_DIS_S is, in its place",
	 SRC_LINUX_BHI, NULL},
	{11, bhi_declined, LEAVE, ENDS_NEED,
	 "the guest read the enumeration and does not ask for BHI_DIS_S", SRC_RFC_BHI, NULL},
	{11, bhi_declined_left, TELL, WANTED,
	 "the guest does not ask for BHI_DIS_S and the policy does not hold it unasked; its answer "
	 "is not to be relied on",
	 SRC_OPERATOR, CURE("set hold-unaware: on")},
	{11, bhi_declined_unheard, HOLD, WANTED,
	 "the guest does not ask for BHI_DIS_S, but the policy, the back end or a missing read of "
	 "the enumeration does not let that count",
	 SRC_MATTSON, NULL},
	{12, bhi_early, HOLD, WANTED, "the guest found the virtual MSRs but has not read them yet",
	 SRC_MATTSON, NULL},
	{12, bhi_early_left, TELL, WANTED,
	 "the guest has not reported yet and the policy does not hold the bit before it does",
	 SRC_OPERATOR, CURE("set hold-unaware: on")},
	{13, bhi_no_backend, CANNOT, WANTED | LACKING,
	 "the host has BHI_DIS_S, but the back end cannot hold it: the guest is vulnerable if it "
	 "uses the short sequence",
	 SRC_INTEL, RUN(OTHER_HOST ", or show the guest BHI_CTRL")},
	{14, long_promised, NEVER, LACKING,
	 "an earlier host held BHI_DIS_S; this one needs it and does not have it", SRC_INTEL,
	 OLDER_HOST},
	{14, long_reported, NEVER, LACKING,
	 "the guest reports the short sequence, which is too short on the host, and there is no "
	 "BHI_DIS_S",
	 SRC_RFC_BHI, OLDER_HOST},
	{14, long_declined, UNSURE, LACKING,
	 "the short sequence is too short on the host and there is no BHI_DIS_S; the guest says "
	 "that it needs neither",
	 SRC_RFC_BHI, OLDER_HOST},
	{14, long_bhb, CANNOT, LACKING,
	 "the short sequence is too short on the host and there is no BHI_DIS_S (nested host, "
	 "masked CPUID or old microcode)",
	 SRC_INTEL, OLDER_HOST},
	{15, short_bhb, LEAVE, ENDS_NEED, "the short sequence works on this part", SRC_INTEL, NULL},
	{16, nested_unknown, UNSURE, 0,
	 "this host is itself a guest: its model says that the short sequence works, but may lie",
	 SRC_OURS,
	 STRICT("set trust-model: true if the model is known to be true", "lets it run as it is")},
	{16, NULL, UNSURE, 0,
	 "an unknown model without BHI_CTRL: whether the short sequence works is unknown", SRC_OURS,
	 STRICT("use a host whose CPU testudo knows", "lets it run as it is")},
};
