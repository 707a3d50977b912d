/* What the operator wants of the guest's protection: the policy file as values. PURE. */
#ifndef MSR_MITIGATION_POLICY_H
#define MSR_MITIGATION_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/barrier.h"

enum policy_switch { POLICY_AUTO, POLICY_ON, POLICY_OFF };

/* What a guest's report may do to the default of rows 9 to 12. */
enum policy_report {
	REPORT_BOTH,	/* tighten and relax (default) */
	REPORT_TIGHTEN, /* a report may add a bit, never remove one */
	REPORT_RELAX,	/* a report may remove a bit, never add one */
	REPORT_IGNORE,
};

/* What to do where the host cannot do what is needed. */
enum policy_cannot { CANNOT_WARN, CANNOT_REFUSE };

/* What a pool that mixes short and long branch history buffers is. */
enum policy_mixed {
	MIXED_LEVEL, /* served: what is offered is levelled over all hosts (default) */
	MIXED_WARN,
	MIXED_REFUSE,
};

struct mitigation_policy {
	enum policy_switch bhi, rrsba;
	enum policy_report honour_report;
	bool strict;	       /* refuse whatever would leave a guest weaker than it may be */
	bool bhi_no_is_enough; /* BHI_NO on the host ends the matter (default yes) */
	bool force_when_shown; /* force BHI_DIS_S on a report even where the guest sees BHI_CTRL
				  (RFC: yes) */
	uint64_t raw_mask, raw_value; /* operator's own bits; value is inside mask */
	uint64_t raw_guest;	      /* bits that the operator leaves to the guest, not in mask */
	bool virtual_msrs;	      /* offer 0x50000000-2 */
	enum policy_cannot cannot;
	enum policy_cannot incoming_cannot; /* the same for a guest that arrives from another host,
					       unless it says that it does not need the bit
					       (default refuse) */
	bool force_unaware; /* force for a guest that reports nothing (default yes; RFC: left to
			       the VMM, stock KVM: no); strict always does */
	bool rebuild;	    /* where the back end's mask is frozen: do not hold in advance what a
			       report may ask for, but build the VM anew when it does */
	bool trust_model;   /* believe the model of a host that is itself a guest (default no) */
	enum policy_mixed mixed_pool;
	struct barrier_policy barrier;
};

/**
 * mitigation_policy_default - auto, not strict, reports honoured, virtual MSRs offered; warn where
 * a bit cannot be had at first boot, refuse where it cannot be had after migration
 */
void mitigation_policy_default(struct mitigation_policy *p);

#endif
