/* IA32_ARCH_CAPABILITIES bit by bit, and levelling it over hosts. PURE. */
#ifndef MSR_ARCH_CAPS_H
#define MSR_ARCH_CAPS_H

#include <stdint.h>

#include "cpuid/merge.h"

/* One bit of IA32_ARCH_CAPABILITIES (msr/arch_caps.def). */
struct arch_cap_bit {
	const char *name;
	unsigned int bit;
	enum merge_rule merge;
	const char *why, *source;
};

/** arch_cap_bits - the table; @n receives the number of rows */
const struct arch_cap_bit *arch_cap_bits(unsigned int *n);

/**
 * arch_cap_merge - level two values of IA32_ARCH_CAPABILITIES
 * A bit that the table does not know is not passed on.
 */
uint64_t arch_cap_merge(uint64_t a, uint64_t b);

/** arch_cap_warnings - the bits that are levelled by OR: a guest may be shown them on any host */
uint64_t arch_cap_warnings(void);

/** arch_cap_lost - what a guest that was shown @guest cannot be shown on a host that has @host */
uint64_t arch_cap_lost(uint64_t guest, uint64_t host);

#endif
