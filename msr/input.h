/* All that a decision about one vCPU looks at. PURE. */
#ifndef MSR_INPUT_H
#define MSR_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"
#include "msr/backend_kind.h"
#include "msr/contract.h"
#include "msr/mitigation_policy.h"
#include "msr/pool.h"
#include "msr/virt_msr.h"

/* What an earlier host held for this vCPU. */
struct mitigation_promise {
	bool valid; /* false: first boot */
	uint64_t mask, value;
	bool weak; /* that host needed to hold BHI_DIS_S and could not: mitigation_left_weak() */
};

struct mitigation_input {
	struct host_facts host;
	struct backend_facts backend;
	struct guest_contract guest;
	struct vcpu_report report;
	struct mitigation_policy policy;
	struct mitigation_promise promise;
	struct pool_facts pool;
	bool nested;	 /* the guest is shown VMX or SVM */
	uint64_t shadow; /* the guest's own value of SPEC_CTRL; checked when it comes from
			    another host */
};

#endif
