/*
 * MIGRATION: what a guest was promised and shown on an earlier host, over whatever the tables before
 * said. The rows are in the order in which they are told.
 */
#include "msr/rules.h"

#include <stddef.h>

#include "base/bytes.h"
#include "msr/arch_caps.h"
#include "msr/cures.h"

/* ---- a bit with a table of its own that an earlier host held ---- */

static bool bhi_is(const struct facts *f, enum keep keep)
{
	return (f->promised & BHI) && rule_keeps(f->bhi) == keep;
}

static bool rsb_is(const struct facts *f, enum keep keep)
{
	return (f->promised & RRSBA) && rule_keeps(f->rsb) == keep;
}

static bool bhi_dropped(const struct facts *f)
{
	return bhi_is(f, OVERRIDDEN);
}

static bool bhi_immune(const struct facts *f)
{
	return bhi_is(f, NOT_NEEDED) && f->bhi_no_enough && !f->short_host;
}

static bool bhi_short(const struct facts *f)
{
	return bhi_is(f, NOT_NEEDED) && f->short_host;
}

static bool bhi_stays(const struct facts *f)
{
	return bhi_is(f, BROKEN) && (f->can & BHI);
}

static bool bhi_broken(const struct facts *f)
{
	return bhi_is(f, BROKEN) && !(f->can & BHI);
}

static bool rsb_dropped(const struct facts *f)
{
	return rsb_is(f, OVERRIDDEN);
}

static bool rsb_stays(const struct facts *f)
{
	return rsb_is(f, BROKEN) && (f->can & RRSBA);
}

static bool rsb_broken(const struct facts *f)
{
	return rsb_is(f, BROKEN) && !(f->can & RRSBA);
}

/* ---- raw bits of an earlier host's policy, where this host's own policy is silent ---- */

static uint64_t raw_promised(const struct facts *f)
{
	return f->in->promise.mask & ~(BHI | RRSBA);
}

static uint64_t raw_silent(const struct facts *f)
{
	return raw_promised(f) & ~(f->policy.raw_mask | f->policy.raw_guest);
}

static uint64_t raw_dropped(const struct facts *f)
{
	return f->in->promise.value & raw_promised(f) & ~raw_silent(f) & ~f->policy.raw_value;
}

static uint64_t raw_broken(const struct facts *f)
{
	return f->can_clear ? raw_silent(f) & f->in->promise.value & ~f->can : raw_silent(f);
}

/* Held at 0 there, and shown to the guest: it believes that it sets them. */
static uint64_t raw_stays_off(const struct facts *f)
{
	return raw_silent(f) & ~raw_broken(f) & ~f->in->promise.value & f->shown;
}

static uint64_t raw_stays(const struct facts *f)
{
	return raw_silent(f) & ~raw_broken(f) & ~raw_stays_off(f);
}

/* ---- what a guest loses by coming here ---- */

static bool weak(const struct facts *f)
{
	return f->bhi->is & LACKING;
}

static bool weak_declined(const struct facts *f)
{
	return weak(f) && f->bhi_answered && f->answer_counts;
}

static bool weak_as_before(const struct facts *f)
{
	return weak(f) && !weak_declined(f) && f->in->promise.weak && !(f->promised & BHI);
}

static bool weak_anew(const struct facts *f)
{
	return weak(f) && !weak_declined(f) && !weak_as_before(f);
}

static bool retpolines_alone(const struct facts *f)
{
	return (f->rsb->is & LACKING) && f->rsb_used && !f->sees_rrsba;
}

/* ---- what the guest was shown ---- */

/* CPUID that promises a control which this CPU lacks is a #GP in the guest's next write */
static bool lacks_shown_control(const struct facts *f)
{
	return f->intel && f->sees_bhi_ctrl && !f->host.bhi_ctrl;
}

static bool other_vendor(const struct facts *f)
{
	return f->in->guest.vendor != f->host.vendor ||
	       (!f->intel && (f->promised & (BHI | RRSBA)));
}

static bool unknown_vendor(const struct facts *f)
{
	return other_vendor(f) && f->in->guest.vendor == CPU_VENDOR_OTHER;
}

/* ENUM bit 0 says that the VMM reacts to a report: not where the operator turned that off */
static bool enum_hollow(const struct facts *f)
{
	const struct guest_contract *g = &f->in->guest;

	return (g->virt_enum & VIRT_ENUM_MITIGATION) &&
	       (g->mitigation_enum & MITIGATION_BHB_CLEAR_SEQ_S) && f->policy.bhi == POLICY_OFF &&
	       !f->sees_bhi_ctrl && !f->short_host && !f->bhi_no_enough;
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

static uint64_t extra_bits(const struct facts *f)
{
	return f->intel ? f->in->shadow & ~spec_ctrl_host_bits(&f->in->host) : 0;
}

static bool msrs_stay_hidden(const struct facts *f)
{
	const struct guest_contract *g = &f->in->guest;

	return f->intel && f->policy.virtual_msrs &&
	       (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
	       !(g->arch_cap & ARCH_CAP_VIRTUAL_ENUM);
}

static bool all_is_well(const struct facts *f)
{
	return f->so_far->verdict <= VERDICT_ALLOW_FORCED;
}

/* ---- the table, and the bits that its rows are about ---- */

static uint64_t about_bhi(const struct facts *f)
{
	(void)f;
	return BHI;
}

static uint64_t about_rsb(const struct facts *f)
{
	(void)f;
	return RRSBA;
}

static uint64_t held_so_far(const struct facts *f)
{
	return f->so_far->value;
}

#define DROPPED	  "an earlier host held this bit and the destination's policy drops it"
#define STAYS	  "an earlier host held this bit: it stays held"
#define AS_THERE  STRICT("set this host's policy as the earlier host's", "lets it come")
#define NAME_HOST CURE("boot the guest with a pool that names this host")

static const struct told_rule rules[] = {
	{{3, lacks_shown_control, NEVER, AT_BOOT,
	  "the guest is shown BHI_CTRL and this CPU does not have it", SRC_CONTRACT,
	  CURE("boot the guest with a pool that names this host, or with --cpu host,-bhi_ctrl")},
	 about_bhi},
	{{9, unknown_vendor, NEVER, LAST,
	  "the guest's CPU is of an unknown vendor, not of the destination's", SRC_CONTRACT,
	  CURE("use a host of the guest's vendor")},
	 NULL},
	{{9, other_vendor, NEVER, LAST,
	  "the guest runs as another vendor's CPU than the destination's", SRC_CONTRACT,
	  CURE("use a host of the guest's vendor")},
	 NULL},

	{{1, bhi_dropped, UNSURE, 0, DROPPED, SRC_OPERATOR, AS_THERE}, about_bhi},
	{{5, bhi_immune, LEAVE, 0, "an earlier host held BHI_DIS_S; the destination has BHI_NO",
	  SRC_INTEL, NULL},
	 about_bhi},
	{{2, bhi_short, LEAVE, 0,
	  "an earlier host held BHI_DIS_S; the short sequence works on the destination, the "
	  "promise stays for the next host",
	  SRC_INTEL, NULL},
	 about_bhi},
	{{1, bhi_stays, HOLD, 0, STAYS, SRC_CONTRACT, NULL}, about_bhi},
	{{1, bhi_broken, CANNOT, 0, "an earlier host held BHI_DIS_S and this one cannot", SRC_INTEL,
	  COME(OTHER_HOST)},
	 about_bhi},

	{{1, rsb_dropped, UNSURE, 0, DROPPED, SRC_OPERATOR, AS_THERE}, about_rsb},
	{{1, rsb_stays, HOLD, 0, STAYS, SRC_CONTRACT, NULL}, about_rsb},
	{{6, rsb_broken, UNSURE, 0, "an earlier host held RRSBA_DIS_S and this one cannot",
	  SRC_RFC_RSB, STRICT(OTHER_HOST, "lets it come")},
	 about_rsb},

	{{1, NULL, UNSURE, 0, DROPPED, SRC_OPERATOR, AS_THERE}, raw_dropped},
	{{1, NULL, HOLD, AS_PROMISED, "raw bits of an earlier host's policy stay held",
	  SRC_CONTRACT, NULL},
	 raw_stays},
	{{1, NULL, CLEAR_WARN, AS_PROMISED,
	  "raw bits of an earlier host's policy stay held at 0, though the guest is shown their "
	  "controls: what it sets has no effect",
	  SRC_CONTRACT,
	  STRICT("leave the bit to the guest in this host's spec-ctrl", "lets it come")},
	 raw_stays_off},
	{{7, NULL, NEVER, AS_PROMISED,
	  "raw bits of an earlier host's policy cannot be held on the destination", SRC_CONTRACT,
	  CURE(OTHER_HOST ", or leave the bit to the guest in this host's spec-ctrl")},
	 raw_broken},

	{{4, weak_declined, UNSURE, 0,
	  "BHI_DIS_S cannot be held on the destination; the guest says that it does not need it",
	  SRC_INTEL, COME(OTHER_HOST)},
	 about_bhi},
	{{4, weak_as_before, UNSURE, 0,
	  "BHI_DIS_S cannot be held on the destination, and could not be where the guest comes "
	  "from: it may be vulnerable, as it was",
	  SRC_INTEL, COME(OTHER_HOST)},
	 about_bhi},
	{{4, weak_anew, CANNOT, 0,
	  "the short sequence is too short on the destination, BHI_DIS_S cannot be held, and the "
	  "guest may rely on it",
	  SRC_INTEL, COME(OTHER_HOST)},
	 about_bhi},
	{{6, retpolines_alone, UNSURE, 0,
	  "the guest reports retpolines, was not shown RRSBA, and RRSBA_DIS_S cannot be held on "
	  "the destination",
	  SRC_RFC_RSB, STRICT(OTHER_HOST, "lets it come")},
	 about_rsb},

	{{8, enum_hollow, NEVER, 0, REASON_HOLLOW, SRC_CONTRACT, CURE("set bhi: auto")}, NULL},
	{{8, contract_lost, NEVER, 0,
	  "what the guest was shown (CPUID, ARCH_CAPABILITIES or the virtual MSRs) cannot be shown "
	  "or honoured on the destination",
	  SRC_CONTRACT, NAME_HOST},
	 NULL},
	{{10, NULL, NEVER, 0,
	  "the guest has bits set in SPEC_CTRL that the destination's CPU does not have",
	  SRC_CONTRACT, CURE("use a host whose CPU has the bit")},
	 extra_bits},
	{{12, msrs_stay_hidden, LEAVE, 0,
	  "the guest was not offered the virtual MSRs: they stay hidden until it boots again",
	  SRC_RFC_BHI, NULL},
	 NULL},
	{{1, all_is_well, LEAVE, 0,
	  "all bits that the guest needs or was promised are held on the destination", SRC_CONTRACT,
	  NULL},
	 held_so_far},
};

const struct told_table migration_table = {TABLE_MIGRATION, rules, ARRAY_SIZE(rules)};

const struct rule applied_rules[] = {
	[NOT_TAKEN] =
		{10, NULL, NEVER, 0,
		 "KVM does not take this value of SPEC_CTRL: the CPU does not have all of its bits",
		 SRC_CONTRACT, CURE("use a host whose CPU has the bit")},
	[NOT_KEPT] = {11, NULL, NEVER, 0,
		      "SPEC_CTRL does not read back as it was set: the back end does not hold "
		      "these bits",
		      "measured: a KVM that accepts the value and drops it",
		      CURE(OTHER_HOST ", or another kernel")},
	[NO_CPU] = {13, NULL, NEVER, 0, "the CPU that the guest was shown is not to be had",
		    SRC_CONTRACT,
		    CURE("move it to a host that has them, or boot it with --cpu and a model that "
			 "all hosts of the pool can show")},
};
