#include "cpuid/cpuid.h"

#include <errno.h>
#include <stddef.h>

#include "cpuid/feature_bits.h"

/* level types of leaves 0BH and 1FH, ECX[15:8] */
#define LEVEL_INVALID 0
#define LEVEL_SMT     1
#define LEVEL_CORE    2

struct cpuid_leaf *cpuid_find(struct cpuid_set *set, uint32_t leaf, uint32_t subleaf)
{
	uint32_t i;

	for (i = 0; i < set->n_leaves; i++) {
		struct cpuid_leaf *l = &set->leaf[i];

		if (l->leaf == leaf && (!l->indexed || l->subleaf == subleaf))
			return l;
	}
	return NULL;
}

struct cpuid_leaf *cpuid_reach(struct cpuid_set *set, uint32_t leaf, uint32_t subleaf)
{
	const struct cpuid_leaf *top = cpuid_find(set, leaf & 0x80000000, 0);
	const struct cpuid_leaf *first = leaf == 7 ? cpuid_find(set, 7, 0) : NULL;

	if (!top || top->eax < leaf || (first && first->eax < subleaf))
		return NULL;
	return cpuid_find(set, leaf, subleaf);
}

int cpuid_add(struct cpuid_set *set, const struct cpuid_leaf *leaf)
{
	struct cpuid_leaf *old = cpuid_find(set, leaf->leaf, leaf->subleaf);

	if (old) {
		*old = *leaf;
		return 0;
	}
	if (set->n_leaves == CPUID_SET_MAX)
		return -ENOSPC;
	set->leaf[set->n_leaves++] = *leaf;
	return 0;
}

void cpuid_remove(struct cpuid_set *set, uint32_t leaf)
{
	uint32_t from, to = 0;

	for (from = 0; from < set->n_leaves; from++)
		if (set->leaf[from].leaf != leaf)
			set->leaf[to++] = set->leaf[from];
	set->n_leaves = to;
}

bool cpuid_has_invariant_tsc(const struct cpuid_set *set)
{
	uint32_t i;

	for (i = 0; i < set->n_leaves; i++)
		if (set->leaf[i].leaf == 0x80000007)
			return set->leaf[i].edx & CPUID_BIT(80000007_0_EDX, invtsc);
	return false;
}

unsigned int cpuid_phys_bits(struct cpuid_set *set)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0x80000008, 0);

	return l && (l->eax & 0xff) ? l->eax & 0xff : 36;
}

/* bits needed to number @n things from 0 */
static uint32_t id_bits(uint32_t n)
{
	return n > 1 ? 32 - (uint32_t)__builtin_clz(n - 1) : 0;
}

/* Leaf 4 and AMD's 8000_001DH share their layout: EAX[25:14] = sharing threads - 1. */
static void set_cache_sharing(struct cpuid_set *set, uint32_t leaf, uint32_t n_vcpus)
{
	uint32_t i;

	for (i = 0; i < set->n_leaves; i++) {
		struct cpuid_leaf *l = &set->leaf[i];
		uint32_t level = (l->eax >> 5) & 7, sharing = level >= 3 ? n_vcpus - 1 : 0;

		if (l->leaf != leaf || !(l->eax & 0x1f))
			continue;
		l->eax = (l->eax & ~(0xfffu << 14)) | sharing << 14;
		if (leaf == 4) { /* EAX[31:26]: core IDs reserved in the package - 1, six bits */
			uint32_t cores = (1u << id_bits(n_vcpus)) - 1;

			l->eax = (l->eax & ~(0x3fu << 26)) | (cores < 0x3f ? cores : 0x3f) << 26;
		}
	}
}

static int set_extended_topology(struct cpuid_set *set, uint32_t leaf, uint32_t apic_id,
				 uint32_t n_vcpus)
{
	const struct {
		uint32_t shift, count, type;
	} level[] = {
		{0, 1, LEVEL_SMT},
		{id_bits(n_vcpus), n_vcpus, LEVEL_CORE},
		{0, 0, LEVEL_INVALID},
	};
	uint32_t i;

	cpuid_remove(set, leaf);
	for (i = 0; i < 3; i++) {
		const struct cpuid_leaf l = {
			.leaf = leaf,
			.subleaf = i,
			.indexed = true,
			.eax = level[i].shift,
			.ebx = level[i].count,
			.ecx = level[i].type << 8 | i,
			.edx = apic_id,
		};
		int ret = cpuid_add(set, &l);

		if (ret)
			return ret;
	}
	return 0;
}

/* AMD and Hygon, by the first letters of the vendor string in leaf 0 EBX */
static bool is_amd(struct cpuid_set *set)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0, 0);

	return l && (l->ebx == 0x68747541 /* "Auth" */ || l->ebx == 0x6f677948 /* "Hygo" */);
}

static void set_amd_topology(struct cpuid_set *set, uint32_t apic_id, uint32_t n_vcpus)
{
	struct cpuid_leaf *l = cpuid_find(set, 0x80000001, 0);

	if (l && n_vcpus > 1)
		l->ecx |= CPUID_BIT(80000001_0_ECX, cmp_legacy);
	else if (l)
		l->ecx &= ~CPUID_BIT(80000001_0_ECX, cmp_legacy);
	l = cpuid_find(set, 0x80000008, 0);
	if (l) /* ECX[15:12] bits of the core ID, ECX[7:0] cores - 1 */
		l->ecx = (l->ecx & ~0xf0ffu) | id_bits(n_vcpus) << 12 | (n_vcpus - 1);
	set_cache_sharing(set, 0x8000001d, n_vcpus);
	l = cpuid_find(set, 0x8000001e, 0);
	if (l) { /* extended APIC ID; compute unit = core, one thread; node 0 of 1 */
		l->eax = apic_id;
		l->ebx = apic_id & 0xff;
		l->ecx = 0;
	}
}

int cpuid_set_topology(struct cpuid_set *set, uint32_t apic_id, uint32_t n_vcpus)
{
	struct cpuid_leaf *l0 = cpuid_find(set, 0, 0);
	struct cpuid_leaf *l;
	int ret;

	l = cpuid_find(set, 1, 0);
	if (l) {
		/* EBX[23:16]: IDs reserved for the package, a power of two; 256 does not fit */
		uint32_t ids = 1u << id_bits(n_vcpus);

		l->ebx = (l->ebx & 0xffff) | apic_id << 24 | (ids < 0xff ? ids : 0xff) << 16;
		if (n_vcpus > 1)
			l->edx |= CPUID_BIT(1_0_EDX, ht);
		else
			l->edx &= ~CPUID_BIT(1_0_EDX, ht);
	}
	set_cache_sharing(set, 4, n_vcpus);

	if (l0 && l0->eax < 0xb)
		l0->eax = 0xb;
	if (l0 && l0->eax >= 0x1f && cpuid_find(set, 0x1f, 0)) {
		ret = set_extended_topology(set, 0x1f, apic_id, n_vcpus);
		if (ret)
			return ret;
	}
	ret = set_extended_topology(set, 0xb, apic_id, n_vcpus);
	if (ret)
		return ret;

	if (is_amd(set))
		set_amd_topology(set, apic_id, n_vcpus);
	return 0;
}

void cpuid_set_vmm_bits(struct cpuid_set *set, bool tsc_deadline)
{
	struct cpuid_leaf *l = cpuid_find(set, 1, 0);

	if (!l)
		return;
	l->ecx |= CPUID_BIT(1_0_ECX, hypervisor) | CPUID_BIT(1_0_ECX, x2apic);
	l->ecx &= ~CPUID_BIT(1_0_ECX, monitor);
	if (tsc_deadline)
		l->ecx |= CPUID_BIT(1_0_ECX, tsc_deadline_timer);
}
