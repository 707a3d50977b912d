/*
 * NESTED: does KVM put a branch predictor barrier between the guest and its own guests? Row 1 goes
 * by what the guest is shown, the others by the host's kernel. One that has KVM_CAP_X86_VCPU_IBPB
 * has the barrier, too: it is of the same series.
 */
#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"
#include "msr/rules.h"

#define SRC_SVM	   "Linux 6.16, svm: IBRS of a guest on nested VM-exit, as VMX has it"
#define SRC_VMX	   "Linux 2e7eab81425a, CVE-2022-2196: lost in 5.8 (5c911beff20a), back in 6.2"
#define SRC_STABLE "Linux 2e7eab81425a, CVE-2022-2196: also in 5.10.y, 5.15.y and 6.1.y of 2023"

static bool is_svm(const struct facts *f)
{
	return f->host.vendor == CPU_VENDOR_AMD || f->host.vendor == CPU_VENDOR_HYGON;
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

/* Is it the kernel's version that decides? */
static bool by_kernel(const struct facts *f)
{
	return f->in->nested && shown_ibrs(f) && !f->in->backend.barrier.driven;
}

static bool from(const struct barrier_facts *k, uint32_t major, uint32_t minor)
{
	return k->major > major || (k->major == major && k->minor >= minor);
}

static bool kernel_unknown(const struct facts *f)
{
	return by_kernel(f) && !f->in->backend.barrier.major;
}

static bool svm_lacks(const struct facts *f)
{
	const struct barrier_facts *k = &f->in->backend.barrier;

	return by_kernel(f) && is_svm(f) && k->major && !from(k, 6, 16);
}

static bool vmx_lost(const struct facts *f)
{
	const struct barrier_facts *k = &f->in->backend.barrier;

	return by_kernel(f) && !is_svm(f) && from(k, 5, 8) && !from(k, 6, 2);
}

/* a series that got the fix while it lived; a fact file does not tell how far it is */
static bool vmx_of_stable(const struct facts *f)
{
	const struct barrier_facts *k = &f->in->backend.barrier;

	return vmx_lost(f) && ((k->major == 5 && (k->minor == 10 || k->minor == 15)) ||
			       (k->major == 6 && k->minor == 1));
}

static bool vmx_may_lack(const struct facts *f)
{
	return vmx_lost(f) && !vmx_of_stable(f);
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
	{{3, vmx_of_stable, TELL, 0,
	  "the guest is shown VMX, and this series of Linux got the branch predictor barrier "
	  "between it and its own guests back only in 2023" MAY_STEER " on an earlier one",
	  SRC_STABLE,
	  CURE("see that the host's kernel is one of 2023 or later, or set nested: hidden")},
	 NULL},
	{{3, vmx_may_lack, UNSURE, 0,
	  "the guest is shown VMX, and Linux from 5.8 to 6.1 lacks the branch predictor barrier "
	  "between it and its own guests, unless its vendor took that back" MAY_STEER,
	  SRC_VMX, STRICT(NEWER("6.2"), "lets it run as it is")},
	 NULL},
	{{4, kernel_unknown, UNSURE, 0,
	  "the guest is shown VMX or SVM, and the host's kernel is not known: whether KVM puts a "
	  "branch predictor barrier between it and its own guests depends on that",
	  SRC_OURS,
	  STRICT("make the fact file anew with testudo host --json, or set nested: hidden",
		 "lets it run as it is")},
	 NULL},
};

const struct told_table nested_table = {TABLE_NESTED, nested_rules, ARRAY_SIZE(nested_rules)};
