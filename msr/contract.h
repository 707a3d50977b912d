/* What a guest was shown of mitigations, and how it is read off the CPU that it is shown. PURE. */
#ifndef MSR_CONTRACT_H
#define MSR_CONTRACT_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"

/* What the guest was shown at its first boot, unchanged over any number of hosts. */
struct guest_contract {
	enum cpu_vendor vendor; /* CPU_VENDOR_OTHER: not known, not compared with a host */
	uint32_t leaf7_0_edx, leaf7_2_edx;
	uint32_t leaf80000008_ebx; /* AMD's enumeration of SPEC_CTRL */
	uint64_t arch_cap;	   /* as the guest reads it, VIRTUAL_ENUM included when offered */
	uint64_t virt_enum;	   /* MSR 0x50000000 */
	uint64_t mitigation_enum;  /* MSR 0x50000001 */
};

/**
 * contract_read_cpuid - the part of a guest's CPUID that decisions look at
 * @g: leaf7_0_edx, leaf7_2_edx and leaf80000008_ebx are set: what the guest can reach of them
 * @nested: receives whether it is shown VMX or SVM
 */
void contract_read_cpuid(struct guest_contract *g, bool *nested, struct cpuid_set *cpuid);

#endif
