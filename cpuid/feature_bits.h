/*
 * The bits of cpuid/features.def as masks: CPUID_BIT(7_0_EDX, spec_ctrl) is that feature's bit in
 * EDX of leaf 7, sub-leaf 0. A name that is not in that register does not compile. PURE.
 */
#ifndef CPUID_FEATURE_BITS_H
#define CPUID_FEATURE_BITS_H

/* LEAF_SUBLEAF_REGISTER, in hexadecimal where the manuals have it so, and the feature's name */
#define CPUID_BIT(register, name) (1u << CPUID_BIT_##register##_##name)

enum cpuid_bit_number {
#define FEATURE(name, leaf, subleaf, reg, bit, merge, source) \
	CPUID_BIT_##leaf##_##subleaf##_##reg##_##name = bit,
#include "cpuid/features.def"
#undef FEATURE
};

#endif
