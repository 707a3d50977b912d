/*
 * BARRIER: what KVM does when vCPUs change, against what the policy asks for. Rows 1 to 6 are about
 * two vCPUs of the guest on one CPU, 7 to 10 about one that moves; without a word of the policy none
 * of them applies, and the host stays as it is.
 */
#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"
#include "msr/rules.h"

#define SRC_CAP "kernel/: KVM_CAP_X86_VCPU_IBPB"
#define SRC_SWITCH \
	"Sean Christopherson, May 2022, 20220512184514.15742-1: kept for one guest's vCPUs"
#define SRC_OFF	    "Linux bugs.c, spectre_v2_user_select_mitigation(): off executes no IBPB"
#define SRC_MOVE    "Sean Christopherson, 20260128013432.3250805-1: stale predictions on another CPU"
#define SRC_VMCLEAR "Linux vmx.c before 6.16, vmx_vcpu_load_vmcs(): each VMCS that is loaded"

#define IBPB_ON	 "boot the host with spectre_v2_user=auto, prctl or on"
#define OUR_KVM	 "use a host whose KVM has KVM_CAP_X86_VCPU_IBPB (testudo host says so)"
#define ASK_HOST "make the fact file anew with testudo host --json"

/* ---- two vCPUs on one CPU ---- */

/* @s is asked for, of a KVM that is told */
static bool told(const struct facts *f, enum barrier_switch s)
{
	return f->policy.barrier.on_switch == s && f->barrier.drive;
}

/* @s is asked for, of a KVM that does as it does, which is @got */
static bool stock(const struct facts *f, enum barrier_switch s, enum barrier_got got)
{
	return f->policy.barrier.on_switch == s && !f->barrier.drive && f->barrier.on_switch == got;
}

static bool always_told(const struct facts *f)
{
	return told(f, SWITCH_ALWAYS);
}

static bool used_told(const struct facts *f)
{
	return told(f, SWITCH_USED);
}

static bool never_told(const struct facts *f)
{
	return told(f, SWITCH_NEVER) && !f->policy.strict;
}

static bool never_strict(const struct facts *f)
{
	return told(f, SWITCH_NEVER) && f->policy.strict;
}

static bool always_stock(const struct facts *f)
{
	return stock(f, SWITCH_ALWAYS, BARRIER_EACH);
}

static bool missing(const struct facts *f)
{
	return stock(f, SWITCH_ALWAYS, BARRIER_NONE) || stock(f, SWITCH_USED, BARRIER_NONE);
}

static bool unknown(const struct facts *f)
{
	return stock(f, SWITCH_ALWAYS, BARRIER_UNKNOWN) || stock(f, SWITCH_USED, BARRIER_UNKNOWN);
}

static bool more(const struct facts *f)
{
	return stock(f, SWITCH_USED, BARRIER_EACH) || stock(f, SWITCH_NEVER, BARRIER_EACH);
}

static bool never_unknown(const struct facts *f)
{
	return stock(f, SWITCH_NEVER, BARRIER_UNKNOWN);
}

static bool never_stock(const struct facts *f)
{
	return stock(f, SWITCH_NEVER, BARRIER_NONE);
}

/* ---- a vCPU on another CPU ---- */

static bool moves(const struct facts *f, bool is_told, enum barrier_got got)
{
	return f->policy.barrier.on_move && f->barrier.drive == is_told &&
	       f->barrier.on_move == got;
}

static bool move_told(const struct facts *f)
{
	return moves(f, true, BARRIER_EACH);
}

static bool move_told_used(const struct facts *f)
{
	return moves(f, true, BARRIER_USED);
}

static bool move_accident(const struct facts *f)
{
	return moves(f, false, BARRIER_EACH);
}

static bool move_missing(const struct facts *f)
{
	return moves(f, false, BARRIER_NONE);
}

static bool move_unknown(const struct facts *f)
{
	return moves(f, false, BARRIER_UNKNOWN);
}

#define AS_ASKED "KVM is told: a branch predictor barrier "

static const struct told_rule barrier_rules[] = {
	{{1, always_told, LEAVE, 0, AS_ASKED "each time that vCPUs change on a CPU", SRC_CAP, NULL},
	 NULL},
	{{1, used_told, LEAVE, 0,
	  AS_ASKED "when vCPUs of the guest change on a CPU, once it has issued one of its own",
	  SRC_CAP, NULL},
	 NULL},
	{{1, never_told, LEAVE, 0,
	  "KVM is told: no branch predictor barrier when vCPUs of the guest change on a CPU",
	  SRC_CAP, NULL},
	 NULL},
	{{2, never_strict, GIVEN_UP, 0,
	  "vcpu-switch-barrier is never: one vCPU's branches can be steered by what another one "
	  "of the guest left on the CPU, and the guest is not told when they change",
	  SRC_SWITCH, TAKE_BACK("set vcpu-switch-barrier: used")},
	 NULL},
	{{3, always_stock, LEAVE, 0,
	  "this KVM puts a branch predictor barrier between any two vCPUs on one CPU by itself",
	  SRC_SWITCH, NULL},
	 NULL},
	{{4, missing, CANNOT, 0,
	  "the host executes no branch predictor barriers, and the policy asks for them between "
	  "the guest's vCPUs",
	  SRC_OFF, RUN(IBPB_ON)},
	 NULL},
	{{5, unknown, UNSURE, 0,
	  "nothing tells whether this host puts branch predictor barriers between vCPUs, and the "
	  "policy asks for them",
	  SRC_OURS, TAKE_BACK(ASK_HOST)},
	 NULL},
	{{6, more, LEAVE, 0,
	  "this KVM cannot be told when: it puts a branch predictor barrier between any two vCPUs "
	  "on "
	  "one CPU, more of them than the policy asks for",
	  SRC_SWITCH, NULL},
	 NULL},
	{{6, never_unknown, LEAVE, 0,
	  "this KVM cannot be told when, and nothing tells whether this host puts branch predictor "
	  "barriers between vCPUs",
	  SRC_OURS, NULL},
	 NULL},
	{{6, never_stock, LEAVE, 0,
	  "the host executes no branch predictor barriers, as the policy asks", SRC_OFF, NULL},
	 NULL},
	{{7, move_told, LEAVE, 0, AS_ASKED "each time that a vCPU moves to another CPU", SRC_CAP,
	  NULL},
	 NULL},
	{{7, move_told_used, LEAVE, 0,
	  AS_ASKED "when a vCPU moves to another CPU, once the guest has issued one of its own",
	  SRC_CAP, NULL},
	 NULL},
	{{8, move_accident, LEAVE, 0,
	  "KVM on VMX before Linux 6.16 issues a branch predictor barrier after each move of a "
	  "vCPU, by the way in which it loads one",
	  SRC_VMCLEAR, NULL},
	 NULL},
	{{9, move_missing, CANNOT, 0,
	  "this KVM issues no branch predictor barrier when a vCPU moves to another CPU, and "
	  "its branches can be steered by what ran on that one before",
	  SRC_MOVE, RUN(OUR_KVM ", or pin each vCPU to a CPU by vcpu-pinning")},
	 NULL},
	{{10, move_unknown, UNSURE, 0,
	  "nothing tells whether this host issues a branch predictor barrier when a vCPU moves to "
	  "another CPU",
	  SRC_OURS, TAKE_BACK(OUR_KVM ", or " ASK_HOST)},
	 NULL},
};

const struct told_table barrier_table = {TABLE_BARRIER, barrier_rules, ARRAY_SIZE(barrier_rules)};
