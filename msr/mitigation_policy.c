#include "msr/mitigation_policy.h"

void mitigation_policy_default(struct mitigation_policy *p)
{
	*p = (struct mitigation_policy) {
		.bhi = POLICY_AUTO,
		.rrsba = POLICY_AUTO,
		.honour_report = REPORT_BOTH,
		.bhi_no_is_enough = true,
		.virtual_msrs = true,
		.cannot = CANNOT_WARN,
		.incoming_cannot = CANNOT_REFUSE,
		.force_unaware = true,
		.mixed_pool = MIXED_LEVEL,
	};
}
