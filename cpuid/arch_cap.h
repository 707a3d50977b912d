/*
 * Bits of IA32_ARCH_CAPABILITIES (MSR 10AH, SDM vol.4 table 2-2) that tell one kind of host from
 * another, or that decisions look at. All that have a name are in msr/arch_caps.def. PURE.
 */
#ifndef CPUID_ARCH_CAP_H
#define CPUID_ARCH_CAP_H

#define ARCH_CAP_RDCL_NO      (1ULL << 0)
#define ARCH_CAP_IBRS_ALL     (1ULL << 1)
#define ARCH_CAP_RSBA	      (1ULL << 2)
#define ARCH_CAP_RRSBA	      (1ULL << 19)
#define ARCH_CAP_BHI_NO	      (1ULL << 20)
#define ARCH_CAP_ITS_NO	      (1ULL << 62)
#define ARCH_CAP_VIRTUAL_ENUM (1ULL << 63) /* virtual only: MSRs 50000000H to 50000002H exist */

#endif
