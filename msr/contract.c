#include "msr/contract.h"

#include <stddef.h>

#include "cpuid/feature_bits.h"

/* A leaf above the highest of its range gives another leaf's values (SDM vol.2 CPUID). */
static const struct cpuid_leaf *reach(struct cpuid_set *set, uint32_t leaf, uint32_t subleaf)
{
	const struct cpuid_leaf *top = cpuid_find(set, leaf & 0x80000000, 0);

	return top && top->eax >= leaf ? cpuid_find(set, leaf, subleaf) : NULL;
}

void contract_read_cpuid(struct guest_contract *g, bool *nested, struct cpuid_set *cpuid)
{
	const struct cpuid_leaf *l = reach(cpuid, 7, 0), *sub;

	g->leaf7_0_edx = l ? l->edx : 0;
	sub = l && l->eax >= 2 ? reach(cpuid, 7, 2) : NULL;
	g->leaf7_2_edx = sub ? sub->edx : 0;
	l = reach(cpuid, 0x80000008, 0);
	g->leaf80000008_ebx = l ? l->ebx : 0;
	l = reach(cpuid, 1, 0);
	*nested = l && (l->ecx & CPUID_BIT(1_0_ECX, vmx));
	l = reach(cpuid, 0x80000001, 0);
	*nested |= l && (l->ecx & CPUID_BIT(80000001_0_ECX, svm));
}
