/* RAW: the bits of "spec-ctrl:" in the policy, less BHI_DIS_S and RRSBA_DIS_S, which have tables. */
#include "msr/rules.h"

#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"

static uint64_t malformed(const struct facts *f)
{
	const uint64_t mask = f->policy.raw_mask;

	return (f->policy.raw_value & ~mask) | (mask & ~SPEC_CTRL_ALL);
}

static uint64_t others(const struct facts *f)
{
	return f->policy.raw_mask & ~(BHI | RRSBA);
}

static uint64_t impossible(const struct facts *f)
{
	return f->can_clear ? others(f) & f->policy.raw_value & ~f->can : others(f);
}

static uint64_t held_at_1(const struct facts *f)
{
	return others(f) & f->policy.raw_value & ~impossible(f);
}

static uint64_t held_at_0(const struct facts *f)
{
	return others(f) & ~f->policy.raw_value & ~impossible(f) & ~f->shown;
}

static uint64_t shown_at_0(const struct facts *f)
{
	return others(f) & ~f->policy.raw_value & ~impossible(f) & f->shown;
}

static bool on_intel(const struct facts *f)
{
	return f->intel;
}

static bool not_on_intel(const struct facts *f)
{
	return !f->intel;
}

#define AT_0	     "raw bits held at 0 by the policy"
#define THOUGH_SHOWN ", though the guest is shown their controls: what it sets has no effect"
#define HOSTS_OWN    "; a CPU with V_SPEC_CTRL runs the guest with the host's own bits, too"
#define TAKE_OUT     TAKE_BACK("take the bit out of spec-ctrl")

static const struct told_rule rules[] = {
	{{1, NULL, NEVER, AS_POLICY | LAST,
	  "raw bits are malformed: the value leaves the mask, or the mask names reserved bits",
	  SRC_OPERATOR, CURE("name bits of IA32_SPEC_CTRL that are not reserved in spec-ctrl")},
	 malformed},
	{{2, NULL, NEVER, AS_POLICY,
	  "raw bits that this host or back end cannot hold as the policy says", SRC_OPERATOR,
	  CURE("take the bit out of spec-ctrl, or " OTHER_HOST)},
	 impossible},
	{{3, NULL, HOLD, AS_POLICY, "raw bits held at 1 by the policy", SRC_OPERATOR, NULL},
	 held_at_1},
	{{4, on_intel, CLEAR_WARN, AS_POLICY, AT_0 THOUGH_SHOWN, SRC_OPERATOR, TAKE_OUT},
	 shown_at_0},
	{{4, not_on_intel, CLEAR_WARN, AS_POLICY, AT_0 THOUGH_SHOWN HOSTS_OWN, SRC_OPERATOR,
	  TAKE_OUT},
	 shown_at_0},
	{{4, on_intel, CLEAR, AS_POLICY, AT_0, SRC_OPERATOR, NULL}, held_at_0},
	{{4, not_on_intel, CLEAR, AS_POLICY, AT_0 HOSTS_OWN, SRC_OPERATOR, NULL}, held_at_0},
};

const struct told_table raw_table = {TABLE_RAW, rules, ARRAY_SIZE(rules)};
