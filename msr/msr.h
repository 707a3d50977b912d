/*
 * Model-specific registers as values: their numbers and bits with sources, and what firmware would
 * have left in them. PURE: no ioctl, no file; usable without the rest of testudo.
 */
#ifndef MSR_MSR_H
#define MSR_MSR_H

#include <stdint.h>

/* SDM vol.4 unless said otherwise */
#define MSR_IA32_TSC		   0x010
#define MSR_IA32_APIC_BASE	   0x01b
#define MSR_IA32_TSC_ADJUST	   0x03b
#define MSR_IA32_SPEC_CTRL	   0x048
#define MSR_IA32_PRED_CMD	   0x049
#define MSR_IA32_MPERF		   0x0e7
#define MSR_IA32_APERF		   0x0e8
#define MSR_IA32_ARCH_CAPABILITIES 0x10a
#define MSR_IA32_FLUSH_CMD	   0x10b
#define MSR_IA32_MISC_ENABLE	   0x1a0
#define MSR_IA32_MTRR_DEF_TYPE	   0x2ff
#define MSR_IA32_TSC_DEADLINE	   0x6e0
#define MSR_EFER		   0xc0000080 /* AMD APM vol.2 3.1.7 */
#define MSR_AMD_VIRT_SPEC_CTRL	   0xc001011f /* AMD's "Speculative Store Bypass Disable" paper */

#define PRED_CMD_IBPB (UINT64_C(1) << 0)
#define PRED_CMD_SBPB (UINT64_C(1) << 7) /* AMD, where CPUID 8000_0021.EAX[27] says so */

#define EFER_SCE (UINT64_C(1) << 0)
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)
#define EFER_NXE (UINT64_C(1) << 11)

#define MISC_ENABLE_FAST_STRING	 (1u << 0)
#define MTRR_DEF_TYPE_ENABLE	 (1u << 11)
#define MTRR_DEF_TYPE_WRITE_BACK 6u

struct msr_value {
	uint32_t index;
	uint64_t value;
};

#define MSR_BOOT_MAX 4

/**
 * msr_boot_values - the MSRs that firmware sets before it starts an operating system
 * @out: room for MSR_BOOT_MAX values
 * MISC_ENABLE: fast strings on (a guest that finds them off drops REP MOVSB). MTRR default type:
 * enabled, write-back (the reset value would make all memory uncached).
 * Return: number of values written
 */
unsigned int msr_boot_values(struct msr_value *out);

#endif
