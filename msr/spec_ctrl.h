/*
 * IA32_SPEC_CTRL and what enumerates its bits: numbers and names, with sources. Names are the
 * vendor's. A new bit is a line here, part of SPEC_CTRL_ALL, and a row of the table of spec_ctrl.c;
 * what enumerates it is a line of cpuid/features.def and part of SPECULATION_7_*. Probing, policies,
 * fact files and reports ask these. What is decided about it by itself is a table of rules
 * (rules.h). PURE.
 */
#ifndef MSR_SPEC_CTRL_H
#define MSR_SPEC_CTRL_H

#include <stdint.h>

#include "cpuid/arch_cap.h"
#include "cpuid/feature_bits.h"

/* MSR 48H, SDM vol.4 table 2-2; Intel "CPUID Enumeration and Architectural MSRs" */
#define SPEC_CTRL_IBRS	      (1ULL << 0)
#define SPEC_CTRL_STIBP	      (1ULL << 1)
#define SPEC_CTRL_SSBD	      (1ULL << 2)
#define SPEC_CTRL_IPRED_DIS_U (1ULL << 3)
#define SPEC_CTRL_IPRED_DIS_S (1ULL << 4)
#define SPEC_CTRL_RRSBA_DIS_U (1ULL << 5)
#define SPEC_CTRL_RRSBA_DIS_S (1ULL << 6)
#define SPEC_CTRL_PSFD	      (1ULL << 7)
#define SPEC_CTRL_DDPD_U      (1ULL << 8)
#define SPEC_CTRL_BHI_DIS_S   (1ULL << 10)

/* every bit that is defined; the rest is reserved */
#define SPEC_CTRL_ALL 0x5ffULL

/* those that other vendors have, too (AMD APM vol.2 3.2.9): a back end may hold them there. On such
 * parts facts say nothing of them, so what the back end found by trying is what there is */
#define SPEC_CTRL_COMMON (SPEC_CTRL_IBRS | SPEC_CTRL_STIBP | SPEC_CTRL_SSBD | SPEC_CTRL_PSFD)

/* the part of leaf 7 that says how speculation is controlled: what hosts are compared and levelled
 * by and reports name; the rest is for those who choose the guest's CPU */
#define SPECULATION_7_0_EDX                                          \
	(CPUID_BIT(7_0_EDX, spec_ctrl) | CPUID_BIT(7_0_EDX, stibp) | \
	 CPUID_BIT(7_0_EDX, arch_capabilities) | CPUID_BIT(7_0_EDX, ssbd))
#define SPECULATION_7_2_EDX                                            \
	(CPUID_BIT(7_2_EDX, psfd) | CPUID_BIT(7_2_EDX, ipred_ctrl) |   \
	 CPUID_BIT(7_2_EDX, rrsba_ctrl) | CPUID_BIT(7_2_EDX, ddpd_u) | \
	 CPUID_BIT(7_2_EDX, bhi_ctrl))

/* Intel's virtual mitigation MSRs (RFC v3, 20240410143446.797262-8 to -11) */
/* MSR 48H itself is MSR_IA32_SPEC_CTRL of msr/msr.h */
#define MSR_VIRTUAL_ENUMERATION	    0x50000000
#define MSR_VIRTUAL_MITIGATION_ENUM 0x50000001
#define MSR_VIRTUAL_MITIGATION_CTRL 0x50000002
#define VIRT_ENUM_MITIGATION	    (1ULL << 0) /* the other two exist */
#define MITIGATION_BHB_CLEAR_SEQ_S  (1ULL << 0) /* ENUM: _SUPPORT, CTRL: _USED */
#define MITIGATION_RETPOLINE_S	    (1ULL << 1)
#define MITIGATION_ALL		    (MITIGATION_BHB_CLEAR_SEQ_S | MITIGATION_RETPOLINE_S)

struct guest_contract;
struct host_facts;

/** spec_ctrl_legal - the bits that a guest with this CPUID may set in 0x48; 0 when it has no such
 * MSR */
uint64_t spec_ctrl_legal(const struct guest_contract *guest);

/** spec_ctrl_shown - those of them that its CPUID enumerates: STIBP may be written without */
uint64_t spec_ctrl_shown(const struct guest_contract *guest);

/** spec_ctrl_host_bits - the bits of 0x48 that this Intel host's CPU has, by raw CPUID */
uint64_t spec_ctrl_host_bits(const struct host_facts *host);

/** spec_ctrl_bit_name - "BHI_DIS_S" for one bit of 0x48; NULL for a reserved one or several */
const char *spec_ctrl_bit_name(uint64_t bit);

#endif
