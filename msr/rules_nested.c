/*
 * NESTED: does KVM put a branch predictor barrier between the guest and its own guests? Row 1 goes
 * by what the guest is shown, 6 by what KVM says, which one with KVM_CAP_X86_VCPU_IBPB does, the
 * others by the host's kernel.
 */
#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"
#include "msr/rules.h"

#define SRC_SVM	   "Linux 6.16, svm: IBRS of a guest on nested VM-exit, as VMX has it"
#define SRC_VMX	   "Linux 2e7eab81425a, CVE-2022-2196: lost in 5.8 (5c911beff20a), back in 6.2"
#define SRC_STABLE "Linux 2e7eab81425a, in 5.4.233, 5.10.170, 5.15.96 and 6.1.14 (CVE-2022-2196)"
#define SRC_OFF	   "Linux before 6.15 (8c4f28cd81fe): X86_FEATURE_USE_IBPB, off with spectre_v2_user"
#define SRC_CAP	   "kernel/: KVM_VCPU_IBPB_NESTED_EXIT of KVM_CAP_X86_VCPU_IBPB"

static bool is_svm(const struct facts *f)
{
	return cpu_vendor_has_svm(f->host.vendor);
}

/* AMD has a bit of its own for IBRS, and KVM on SVM goes by either. */
static bool shown_ibrs(const struct facts *f)
{
	const struct guest_contract *g = &f->in->guest;

	return g->leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl) ||
	       (is_svm(f) && g->leaf80000008_ebx & CPUID_BIT(80000008_0_EBX, ibrs));
}

/*
 * KVM puts a barrier between a guest and its own guests only for one that is shown IBRS. What the
 * guest is shown is the same on every host: one that comes is no worse off here.
 */
static bool gap(const struct facts *f)
{
	return f->in->nested && !shown_ibrs(f);
}

static bool gap_at_boot(const struct facts *f)
{
	return gap(f) && !f->incoming;
}

/* KVM is to have a barrier there; does the kernel's version decide, or does KVM itself say? */
static bool by_kernel(const struct facts *f)
{
	return f->in->nested && shown_ibrs(f) &&
	       f->in->backend.barrier.nested_exit == NESTED_EXIT_UNSAID;
}

static bool says_bare(const struct facts *f)
{
	return f->in->nested && shown_ibrs(f) &&
	       f->in->backend.barrier.nested_exit == NESTED_EXIT_BARE;
}

static bool kernel_unknown(const struct facts *f)
{
	return by_kernel(f) && !f->in->backend.barrier.major;
}

static bool svm_lacks(const struct facts *f)
{
	return by_kernel(f) && is_svm(f) && barrier_kernel_before(&f->in->backend.barrier, 6, 16);
}

/*
 * Series of Linux that had the barrier on VMX taken away (5c911beff20a) or given back (2e7eab81425a)
 * while they lived, and in which patch level. 5.4 lost it by a change that was meant for 5.8; it did
 * not apply to series before.
 */
static const struct {
	uint32_t major, minor, lost, back;
} stable[] = {
	{5, 4, 47, 233},
	{5, 10, 0, 170},
	{5, 15, 0, 96},
	{6, 1, 0, 14},
};

enum has {
	HAS,
	MAY_HAVE, /* by its patch level, which nothing tells, or by its vendor */
	LACKS,
};

/* Below 5.8, what vendors made their kernels of, with a KVM that is newer: it may have lost it, too. */
static bool is_vendors(const struct barrier_facts *k)
{
	return k->major == 4 ? k->minor == 18
			     : k->major == 5 && (k->minor == 3 || (k->minor == 4 && k->patch < 47));
}

static enum has vmx_has(const struct barrier_facts *k)
{
	size_t i;

	if (barrier_kernel_before(k, 5, 8) && is_vendors(k))
		return MAY_HAVE;
	for (i = 0; i < ARRAY_SIZE(stable); i++) {
		if (k->major != stable[i].major || k->minor != stable[i].minor)
			continue;
		if (!k->patch)
			return MAY_HAVE;
		return k->patch >= stable[i].lost && k->patch < stable[i].back ? LACKS : HAS;
	}
	return !barrier_kernel_before(k, 5, 8) && barrier_kernel_before(k, 6, 2) ? LACKS : HAS;
}

/*
 * Before 6.15 the instruction itself is patched out where sysfs says "IBPB: disabled", also of KVM;
 * from then on that is about switches only. SVM had nothing to lose before 6.16.
 */
static bool patched_out(const struct facts *f)
{
	const struct barrier_facts *k = &f->in->backend.barrier;

	return by_kernel(f) && !is_svm(f) && barrier_kernel_before(k, 6, 15) &&
	       k->ibpb == HOST_IBPB_OFF;
}

static bool vmx_is(const struct facts *f, enum has has)
{
	const struct barrier_facts *k = &f->in->backend.barrier;

	return by_kernel(f) && !is_svm(f) && k->major && vmx_has(k) == has;
}

static bool vmx_may_have(const struct facts *f)
{
	return vmx_is(f, MAY_HAVE) && !patched_out(f);
}

static bool vmx_lacks(const struct facts *f)
{
	return vmx_is(f, LACKS) && !patched_out(f);
}

#define NO_BARRIER                                                                            \
	"the guest is shown VMX or SVM but not SPEC_CTRL: KVM then puts no branch predictor " \
	"barrier between it and its own guests"
#define SHOW_IT	      RUN("show it SPEC_CTRL by --cpu, or set nested: hidden")
#define MAY_STEER     ": they may steer the branches of a guest that relies on IBRS"
#define NEWER(kernel) "use a host kernel from " kernel " on, or set nested: hidden"

static const struct told_rule nested_rules[] = {
	{{1, gap_at_boot, CANNOT, LAST, NO_BARRIER, SRC_NESTED, SHOW_IT}, NULL},
	{{1, gap, UNSURE, 0, NO_BARRIER, SRC_NESTED, SHOW_IT}, NULL},
	{{2, svm_lacks, CANNOT, 0,
	  "the guest is shown SVM, and before Linux 6.16 KVM on AMD puts no branch predictor "
	  "barrier between it and its own guests" MAY_STEER,
	  SRC_SVM, RUN(NEWER("6.16"))},
	 NULL},
	{{3, vmx_may_have, UNSURE, 0,
	  "the guest is shown VMX, and kernels of this version got the branch predictor barrier "
	  "between it and its own guests back only in 2023" MAY_STEER " on an earlier one",
	  SRC_STABLE,
	  STRICT(NEWER("6.2"), "lets it run; see that the kernel has the fix of CVE-2022-2196")},
	 NULL},
	{{3, vmx_lacks, UNSURE, 0,
	  "the guest is shown VMX, and this Linux lacks the branch predictor barrier between it "
	  "and its own guests, unless its vendor took that back" MAY_STEER,
	  SRC_VMX,
	  STRICT(NEWER("6.2 (5.4.233, 5.10.170, 5.15.96, 6.1.14)"), "lets it run as it is")},
	 NULL},
	{{4, kernel_unknown, UNSURE, 0,
	  "the guest is shown VMX or SVM, and the host's kernel is not known: whether KVM puts a "
	  "branch predictor barrier between it and its own guests depends on that",
	  SRC_OURS,
	  STRICT("make the fact file anew with testudo host --json, or set nested: hidden",
		 "lets it run as it is")},
	 NULL},
	{{5, patched_out, CANNOT, 0,
	  "the guest is shown VMX, and the host executes no branch predictor barriers, also not "
	  "between it and its own guests" MAY_STEER,
	  SRC_OFF,
	  RUN("boot the host with spectre_v2_user=auto, prctl or on, or set nested: hidden")},
	 NULL},
	{{6, says_bare, CANNOT, 0,
	  "the guest is shown VMX or SVM, and this KVM has no branch predictor barrier between it "
	  "and its own guests, as its capability tells" MAY_STEER,
	  SRC_CAP, RUN("use a host whose KVM does (testudo host says so), or set nested: hidden")},
	 NULL},
};

const struct told_table nested_table = {TABLE_NESTED, nested_rules, ARRAY_SIZE(nested_rules)};
