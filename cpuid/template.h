/*
 * CPU templates in Firecracker's form, as values: a bitmap says of each bit of a register whether
 * it is cleared, set, or passed through. Reading the file is somebody else's job. PURE.
 */
#ifndef CPUID_TEMPLATE_H
#define CPUID_TEMPLATE_H

#include <stdint.h>

#include "cpuid/feature.h"

struct err;

/* A register of one CPUID leaf; bits outside @mask pass through. */
struct cpu_template_op {
	uint32_t leaf, subleaf;
	enum cpuid_reg reg;
	uint32_t mask, value;
};

/* One MSR, the same way. */
struct msr_template_op {
	uint32_t index;
	uint64_t mask, value;
};

/**
 * template_bitmap_parse - read a bitmap
 * @what: names the place, for the error text
 * @s: "0b" and then 0 (clear), 1 (set), x (pass through), most significant bit first, with _ where
 *     it helps reading. Shorter than @width: the bits on the left pass through.
 * @width: 32 or 64
 * Return: 0, or -EINVAL with the place and the text in @e; outputs untouched on error
 */
int template_bitmap_parse(const char *what, const char *s, unsigned int width, uint64_t *mask,
			  uint64_t *value, struct err *e);

/**
 * template_apply_cpuid - apply @n operations in order
 * Return: 0; -EINVAL for a highest leaf, leaf 0 EAX, below 0BH; -ENOENT naming a leaf that is not
 * in
 *         @set and that an operation sets bits in. On error @set is partly changed.
 */
int template_apply_cpuid(const struct cpu_template_op *ops, unsigned int n, struct cpuid_set *set,
			 struct err *e);

/**
 * template_overruled - the first operation from @i on that something else made void
 * @set: what the guest is shown, with all that was set after template_apply_cpuid()
 * Return: its index; @n when there is none
 */
unsigned int template_overruled(const struct cpu_template_op *ops, unsigned int n, unsigned int i,
				struct cpuid_set *set);

/** template_apply_msr - what @ops make of MSR @index when it would be @old */
uint64_t template_apply_msr(const struct msr_template_op *ops, unsigned int n, uint32_t index,
			    uint64_t old);

#endif
