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

static struct barrier_plan plan(const struct facts *f)
{
	struct barrier_plan p;

	barrier_plan(&f->in->backend.barrier, f->host.vendor, &f->policy.barrier, &p);
	return p;
}

static bool driven(const struct facts *f)
{
	return plan(f).drive;
}

static bool on_switch(const struct facts *f, enum barrier_switch s)
{
	return f->policy.barrier.on_switch == s;
}

static bool gets(const struct facts *f, enum barrier_got got)
{
	return plan(f).on_switch == got;
}

/* ---- two vCPUs on one CPU ---- */

static bool always_driven(const struct facts *f)
{
	return on_switch(f, SWITCH_ALWAYS) && driven(f);
}

static bool used_driven(const struct facts *f)
{
	return on_switch(f, SWITCH_USED) && driven(f);
}

static bool never_strict(const struct facts *f)
{
	return on_switch(f, SWITCH_NEVER) && driven(f) && f->policy.strict;
}

static bool never_driven(const struct facts *f)
{
	return on_switch(f, SWITCH_NEVER) && driven(f) && !f->policy.strict;
}

static bool always_stock(const struct facts *f)
{
	return on_switch(f, SWITCH_ALWAYS) && !driven(f) && gets(f, BARRIER_EACH);
}

static bool always_missing(const struct facts *f)
{
	return on_switch(f, SWITCH_ALWAYS) && !driven(f) && gets(f, BARRIER_NONE);
}

static bool used_missing(const struct facts *f)
{
	return on_switch(f, SWITCH_USED) && !driven(f) && gets(f, BARRIER_NONE);
}

static bool more_than_used(const struct facts *f)
{
	return on_switch(f, SWITCH_USED) && !driven(f) && gets(f, BARRIER_EACH);
}

static bool more_than_never(const struct facts *f)
{
	return on_switch(f, SWITCH_NEVER) && !driven(f) && gets(f, BARRIER_EACH);
}

static bool never_unknown(const struct facts *f)
{
	return on_switch(f, SWITCH_NEVER) && !driven(f) && gets(f, BARRIER_UNKNOWN);
}

static bool never_stock(const struct facts *f)
{
	return on_switch(f, SWITCH_NEVER) && !driven(f) && gets(f, BARRIER_NONE);
}

static bool switch_unknown(const struct facts *f)
{
	return (on_switch(f, SWITCH_ALWAYS) || on_switch(f, SWITCH_USED)) && !driven(f) &&
	       gets(f, BARRIER_UNKNOWN);
}

/* ---- a vCPU on another CPU ---- */

static bool moves(const struct facts *f, bool by_capability, enum barrier_got got)
{
	return f->policy.barrier.on_move && driven(f) == by_capability && plan(f).on_move == got;
}

static bool move_driven(const struct facts *f)
{
	return moves(f, true, BARRIER_EACH);
}

static bool move_driven_used(const struct facts *f)
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

#define NO_IBPB                                                                         \
	"the host executes no branch predictor barriers, and the policy asks for them " \
	"between the guest's vCPUs"
#define MORE                                                                            \
	"this KVM cannot be told when: it puts a branch predictor barrier between any " \
	"two vCPUs on one CPU, more of them than the policy asks for"
#define AS_ASKED "KVM is told: a branch predictor barrier "

static const struct told_rule barrier_rules[] = {
	{{1, always_driven, LEAVE, 0, AS_ASKED "each time that vCPUs change on a CPU", SRC_CAP,
	  NULL},
	 NULL},
	{{1, used_driven, LEAVE, 0,
	  AS_ASKED "when vCPUs of the guest change on a CPU, once it has issued one of its own",
	  SRC_CAP, NULL},
	 NULL},
	{{1, never_driven, LEAVE, 0,
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
	{{4, always_missing, CANNOT, 0, NO_IBPB, SRC_OFF, RUN(IBPB_ON)}, NULL},
	{{4, used_missing, CANNOT, 0, NO_IBPB, SRC_OFF, RUN(IBPB_ON)}, NULL},
	{{5, switch_unknown, UNSURE, 0,
	  "nothing tells whether this host puts branch predictor barriers between vCPUs, and the "
	  "policy asks for them",
	  SRC_OURS, TAKE_BACK(ASK_HOST)},
	 NULL},
	{{6, more_than_used, LEAVE, 0, MORE, SRC_SWITCH, NULL}, NULL},
	{{6, more_than_never, LEAVE, 0, MORE, SRC_SWITCH, NULL}, NULL},
	{{6, never_unknown, LEAVE, 0,
	  "this KVM cannot be told when, and nothing tells whether this host puts branch predictor "
	  "barriers between vCPUs",
	  SRC_OURS, NULL},
	 NULL},
	{{6, never_stock, LEAVE, 0,
	  "the host executes no branch predictor barriers, as the policy asks", SRC_OFF, NULL},
	 NULL},
	{{7, move_driven, LEAVE, 0, AS_ASKED "each time that a vCPU moves to another CPU", SRC_CAP,
	  NULL},
	 NULL},
	{{7, move_driven_used, LEAVE, 0,
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
