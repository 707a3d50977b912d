/*
 * Facts of hosts for the tests of the mitigation engine: real parts as CPUID shows them, reduced to
 * what a decision looks at, and the back ends that they would have.
 */
#ifndef TESTS_UNIT_HOSTS_H
#define TESTS_UNIT_HOSTS_H

#include "msr/decide.h"

/* SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD */
#define EDX_7_0 0xac000000u
/* PSFD, IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL */
#define EDX_7_2 0x1fu

/* ARCH_CAPABILITIES as seen on such hosts */
#define ARCH_CAP_SKX 0x000000000a000c04ULL
#define ARCH_CAP_CLX 0x000000000c0aa0ebULL
#define ARCH_CAP_SPR 0x400000000c08e1ebULL
#define ARCH_CAP_GNR 0x400000000d08e1ebULL

#define CAN_OLD 0x7ULL	 /* IBRS, STIBP, SSBD */
#define CAN_ALL 0x5ffULL /* every bit that is defined */

#define INTEL_HOST(fam, mod, step, edx2, cap)                                               \
	{                                                                                   \
		.vendor_id = "GenuineIntel", .family = fam, .model = mod, .stepping = step, \
		.leaf7_0_edx = EDX_7_0, .kvm_leaf7_0_edx = EDX_7_0, .leaf7_2_edx = edx2,    \
		.kvm_leaf7_2_edx = edx2, .kvm_arch_cap = cap                                \
	}

static const struct host_facts host_bdw = INTEL_HOST(6, 0x4f, 1, 0, 0);
static const struct host_facts host_skx = INTEL_HOST(6, 0x55, 4, 0, ARCH_CAP_SKX);
/* the same before the microcode that says RSBA */
static const struct host_facts host_skx_old = INTEL_HOST(6, 0x55, 4, 0, 0);
static const struct host_facts host_clx = INTEL_HOST(6, 0x55, 7, 0, ARCH_CAP_CLX);
static const struct host_facts host_icx = INTEL_HOST(6, 0x6a, 6, 0, ARCH_CAP_CLX);
static const struct host_facts host_spr = INTEL_HOST(6, 0x8f, 8, EDX_7_2, ARCH_CAP_SPR);
/* Sapphire Rapids whose hypervisor hides leaf 7.2 */
static const struct host_facts host_spr_masked = INTEL_HOST(6, 0x8f, 8, 0, ARCH_CAP_SPR);
static const struct host_facts host_srf = INTEL_HOST(6, 0xaf, 3, EDX_7_2, ARCH_CAP_SPR);
static const struct host_facts host_unknown = INTEL_HOST(6, 0x18, 0, 0, 0);
static const struct host_facts host_amd = {
	.vendor_id = "AuthenticAMD", .family = 0x19, .model = 1, .stepping = 1};
static const struct host_facts host_alien = {.vendor_id = "SomeoneElse!", .family = 6};

#endif
