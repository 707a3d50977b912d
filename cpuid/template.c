/* Firecracker-style CPU templates: bitmaps, and applying them. */
#include "cpuid/template.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"

int template_bitmap_parse(const char *what, const char *s, unsigned int width, uint64_t *mask,
			  uint64_t *value, struct err *e)
{
	uint64_t m = 0, v = 0;
	unsigned int n = 0;
	const char *p = s;

	if (strncmp(s, "0b", 2))
		return err_set(e, -EINVAL, "%s: bitmap '%s' does not start with 0b; e.g. 0b1x0",
			       what, s);
	for (p = s + 2; *p; p++) {
		if (*p == '_')
			continue;
		if (*p != '0' && *p != '1' && *p != 'x')
			return err_set(
				e, -EINVAL,
				"%s: bitmap '%s' has '%c' in it; only 0, 1, x and _ are legal",
				what, s, *p);
		if (++n > width)
			return err_set(e, -EINVAL,
				       "%s: bitmap '%s' has more than %u bits; the register has %u",
				       what, s, width, width);
		m = m << 1 | (*p != 'x');
		v = v << 1 | (*p == '1');
	}
	if (!n)
		return err_set(e, -EINVAL, "%s: bitmap '%s' has no bits; e.g. 0b1x0", what, s);
	*mask = m;
	*value = v;
	return 0;
}

/*
 * Every guest gets leaf 0BH, by which CPUs with an x2APIC find their IDs: a lower maximum would be
 * raised again, and would not hide what it was to hide.
 */
static int check_max_leaf(struct cpuid_set *set, struct err *e)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0, 0);

	if (!l || l->eax >= 0xb)
		return 0;
	return err_set(e, -EINVAL,
		       "CPU template: leaf 0x0 EAX is 0x%x, the highest leaf, but every guest has "
		       "leaf 0xb; make it 0xb or more, and clear the bits of leaves that are to be "
		       "hidden",
		       l->eax);
}

int template_apply_cpuid(const struct cpu_template_op *ops, unsigned int n, struct cpuid_set *set,
			 struct err *e)
{
	bool max_leaf = false;
	unsigned int i;

	for (i = 0; i < n; i++) {
		struct cpuid_leaf *l = cpuid_find(set, ops[i].leaf, ops[i].subleaf);
		uint32_t *reg;

		max_leaf |= ops[i].leaf == 0 && ops[i].reg == CPUID_EAX && ops[i].mask;

		if (!l && !(ops[i].mask & ops[i].value))
			continue; /* what is not there is clear already */
		if (!l)
			return err_set(
				e, -ENOENT,
				"CPU template: KVM offers no CPUID leaf 0x%x sub-leaf 0x%x to "
				"set bits in; remove it from cpuid_modifiers",
				ops[i].leaf, ops[i].subleaf);
		reg = cpuid_reg(l, ops[i].reg);
		*reg = (*reg & ~ops[i].mask) | (ops[i].value & ops[i].mask);
	}
	return max_leaf ? check_max_leaf(set, e) : 0;
}

/* Bits of operation @i that no later one takes over */
static uint32_t bits_left(const struct cpu_template_op *ops, unsigned int n, unsigned int i)
{
	uint32_t mask = ops[i].mask;
	unsigned int k;

	for (k = i + 1; k < n; k++)
		if (ops[k].leaf == ops[i].leaf && ops[k].subleaf == ops[i].subleaf &&
		    ops[k].reg == ops[i].reg)
			mask &= ~ops[k].mask;
	return mask;
}

unsigned int template_overruled(const struct cpu_template_op *ops, unsigned int n, unsigned int i,
				struct cpuid_set *set)
{
	for (; i < n; i++) {
		struct cpuid_leaf *l = cpuid_find(set, ops[i].leaf, ops[i].subleaf);
		const uint32_t now = l ? *cpuid_reg(l, ops[i].reg) : 0;

		if ((now ^ ops[i].value) & bits_left(ops, n, i))
			break;
	}
	return i;
}

uint64_t template_apply_msr(const struct msr_template_op *ops, unsigned int n, uint32_t index,
			    uint64_t old)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		if (ops[i].index == index)
			old = (old & ~ops[i].mask) | (ops[i].value & ops[i].mask);
	return old;
}
