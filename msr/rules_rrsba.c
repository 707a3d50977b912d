/*
 * Is RRSBA_DIS_S held? Rows tried from the top, as in rules_bhi.c.
 */
#include "msr/rules.h"

#include <stddef.h>

#include "msr/cures.h"

#define SHOW(bit) "show the guest " bit " from its first boot, by a pool that names this host"

static bool rsb_raw_impossible(const struct facts *f)
{
	return facts_raw_impossible(f, RRSBA);
}

static bool rsb_raw_hold(const struct facts *f)
{
	return facts_raw_covers(f, RRSBA) && (f->policy.raw_value & RRSBA);
}

static bool rsb_raw_clear_needed(const struct facts *f)
{
	return facts_raw_covers(f, RRSBA) && f->rsb_wanted;
}

static bool rsb_raw_clear_shown(const struct facts *f)
{
	return facts_raw_covers(f, RRSBA) && f->sees_rrsba_ctrl;
}

static bool rsb_raw_clear(const struct facts *f)
{
	return facts_raw_covers(f, RRSBA);
}

static bool rsb_raw_left_needed(const struct facts *f)
{
	return facts_raw_left(f, RRSBA) && f->rsb_wanted;
}

static bool rsb_raw_left(const struct facts *f)
{
	return facts_raw_left(f, RRSBA);
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

static bool not_intel(const struct facts *f)
{
	return !f->intel;
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

static bool rsb_replaced(const struct facts *f)
{
	return f->rsb_bare && f->so_far && (f->so_far->value & BHI);
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

const struct rule rrsba_rules[] = {
	{1, rsb_raw_impossible, NEVER, OVERRIDES | AS_POLICY,
	 "the policy's raw bits cover RRSBA_DIS_S, which this host or back end cannot hold so",
	 SRC_OPERATOR, CURE("take RRSBA_DIS_S out of spec-ctrl, or " OTHER_HOST)},
	{1, rsb_raw_hold, HOLD, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold RRSBA_DIS_S at 1", SRC_OPERATOR, NULL},
	{1, rsb_raw_clear_needed, CLEAR_WARN, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold RRSBA_DIS_S at 0 where this guest may need it", SRC_OPERATOR,
	 TAKE_BACK("take RRSBA_DIS_S out of spec-ctrl")},
	{1, rsb_raw_clear_shown, CLEAR_WARN, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold RRSBA_DIS_S at 0, though the guest is shown RRSBA_CTRL: what "
	 "it sets has no effect",
	 SRC_OPERATOR, TAKE_BACK("take RRSBA_DIS_S out of spec-ctrl")},
	{1, rsb_raw_clear, CLEAR, OVERRIDES | AS_POLICY,
	 "the policy's raw bits hold RRSBA_DIS_S at 0", SRC_OPERATOR, NULL},
	{1, rsb_raw_left_needed, GIVEN_UP, OVERRIDES,
	 "the policy's raw bits leave RRSBA_DIS_S to the guest, which may rely on retpolines",
	 SRC_OPERATOR, TAKE_BACK("take RRSBA_DIS_S out of spec-ctrl")},
	{1, rsb_raw_left, LEAVE, OVERRIDES, "the policy's raw bits leave RRSBA_DIS_S to the guest",
	 SRC_OPERATOR, NULL},
	{1, rsb_off_needed, GIVEN_UP, OVERRIDES,
	 "rrsba is off in the policy, and this guest may rely on retpolines", SRC_OPERATOR,
	 TAKE_BACK("set rrsba: auto")},
	{1, rsb_off, LEAVE, OVERRIDES,
	 "rrsba is off in the policy, and nothing would have been held", SRC_OPERATOR, NULL},
	{1, rsb_on, HOLD, OVERRIDES, "rrsba is on in the policy and this host can hold RRSBA_DIS_S",
	 SRC_OPERATOR, NULL},
	{1, rsb_on_impossible, NEVER, OVERRIDES,
	 "rrsba is on in the policy, but this host or back end cannot hold RRSBA_DIS_S",
	 SRC_OPERATOR, CURE("set rrsba: auto, or " OTHER_HOST)},
	{2, not_intel, LEAVE, 0, "only Intel parts have RRSBA", SRC_XEN, NULL},
	{3, rsba_hidden, CANNOT, WANTED,
	 "the guest relies, or may rely, on retpolines, which RSBA undermines on the host; no bit "
	 "turns that off",
	 SRC_XEN, RUN(SHOW("RSBA"))},
	{3, rsba_shown, LEAVE, ENDS_NEED,
	 "no bit turns RSBA off, and the guest sees what bare metal would see", SRC_XEN, NULL},
	{3, rsba_declined, LEAVE, ENDS_NEED,
	 "no bit turns RSBA off; the guest read the enumeration and does not report retpolines",
	 SRC_RFC_RSB, NULL},
	{3, no_rrsba, LEAVE, ENDS_NEED, "the host does not have RRSBA: nothing to hold", SRC_XEN,
	 NULL},
	{4, rsb_shown, LEAVE, 0,
	 "the guest is shown RRSBA and RRSBA_CTRL and sets RRSBA_DIS_S itself", SRC_RFC_RSB, NULL},
	{5, rsb_in_advance, HOLD, WANTED,
	 "the guest may yet report retpolines, and the back end cannot add a bit then", SRC_FROZEN,
	 NULL},
	{5, rsb_reported, HOLD, WANTED, "the guest reports retpolines, which RRSBA would undermine",
	 SRC_RFC_RSB, NULL},
	{6, rsb_declined, LEAVE, ENDS_NEED,
	 "the guest read the enumeration and does not report retpolines", SRC_RFC_RSB, NULL},
	{7, rsb_hidden, HOLD, WANTED,
	 "the guest reports nothing that counts and does not see RRSBA: it may trust retpolines",
	 SRC_INTEL, NULL},
	{7, rsb_hidden_left, TELL, 0,
	 "the guest does not see RRSBA and the policy does not hold the bit for it: it may trust "
	 "retpolines",
	 SRC_OPERATOR, CURE("set hold-unaware: on, or show the guest RRSBA from its first boot")},
	{8, rsb_warned, LEAVE, 0,
	 "the guest sees RRSBA without the control: it does not rely on retpolines alone", SRC_XEN,
	 NULL},
	{9, rsb_replaced, LEAVE, 0,
	 "the guest relies, or may rely, on retpolines and RRSBA_DIS_S cannot be held on the host; "
	 "BHI_DIS_S is held in its place",
	 SRC_LINUX_BHI, NULL},
	{9, rsb_impossible, CANNOT, WANTED | LACKING,
	 "the guest relies, or may rely, on retpolines and RRSBA_DIS_S cannot be held on the host",
	 SRC_RFC_RSB, RUN("show the guest RRSBA from its first boot, or " OTHER_HOST)},
	{10, rsb_uncured, CANNOT, WANTED | LACKING,
	 "this part has RRSBA and no RRSBA_DIS_S, and the guest was not shown RRSBA: it may trust "
	 "retpolines",
	 SRC_XEN, RUN(SHOW("RRSBA"))},
	{10, NULL, LEAVE, 0, "the guest sees what bare metal would see", SRC_XEN, NULL},
};
