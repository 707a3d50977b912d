#include "msr/contract.h"

#include <stddef.h>

#include "cpuid/feature_bits.h"

void contract_read_cpuid(struct guest_contract *g, bool *nested, struct cpuid_set *cpuid)
{
	const struct cpuid_leaf *l = cpuid_reach(cpuid, 7, 0);

	g->leaf7_0_edx = l ? l->edx : 0;
	l = cpuid_reach(cpuid, 7, 2);
	g->leaf7_2_edx = l ? l->edx : 0;
	l = cpuid_reach(cpuid, 0x80000008, 0);
	g->leaf80000008_ebx = l ? l->ebx : 0;
	l = cpuid_reach(cpuid, 1, 0);
	*nested = l && (l->ecx & CPUID_BIT(1_0_ECX, vmx));
	l = cpuid_reach(cpuid, 0x80000001, 0);
	*nested |= l && (l->ecx & CPUID_BIT(80000001_0_ECX, svm));
}
