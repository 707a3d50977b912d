/*
 * CPUID of the host that is laid over this one. What a vendor's processors have, who they are, and
 * what counts for mitigations is the fact file's or fixed here, so that tests see one host on every
 * machine. Features that are neither (SSE, AVX, the width of addresses, XSAVE) stay this machine's:
 * the guest runs on it.
 */
#include <string.h>

#include "base/bytes.h"
#include "msr/spec_ctrl.h"
#include "shim.h"
#include "vmm/hold/host_facts.h"

#define MAX_BASIC	 0x16
#define MAX_EXTENDED	 0x80000008
#define MAX_EXTENDED_AMD 0x80000021

/* Bits that only one vendor has, or that tell of the machine: SDM vol.2 CPUID, APM vol.3 E. */
#define LEAF1_ECX_INTEL	  0x0000c1f4u /* DTES64, DS-CPL, VMX, SMX, EIST, TM2, xTPR, PDCM */
#define LEAF7_EBX_HIDDEN  0x02000814u /* SGX, HLE, RTM, PT */
#define LEAF7_ECX_HIDDEN  0x40000000u /* SGX_LC */
#define EXT1_ECX_COMMON	  0x00000121u /* LAHF, LZCNT, PREFETCHW */
#define EXT1_EDX_COMMON	  0x2c100800u /* SYSCALL, NX, 1 GiB pages, RDTSCP, long mode */
#define EXT1_ECX_AMD	  0x00400010u /* CR8 by LOCK MOV, topology extensions */
#define EXT1_EDX_OF_LEAF1 0x0183f3ffu /* AMD has these of leaf 1 again */

/* Leaves that are one vendor's, or that tell of the machine */
static const uint32_t dropped[] = {
	2,    4,    9,	  0xa,	0x12, 0x14, 0x15,	0x16,	    0x17,
	0x18, 0x1a, 0x1b, 0x1c, 0x1f, 0x20, 0x80000005, 0x80000006,
};

/* Caches: 48 KiB, 2 MiB and 32 MiB on Intel; 32 KiB, 512 KiB and 16 MiB on AMD */
static const struct cpuid_leaf
	of_intel[] =
		{
			{.leaf = 2, .eax = 0x00feff01, .ebx = 0xf0},
			{.leaf = 4,
			 .subleaf = 0,
			 .indexed = true,
			 .eax = 0x121,
			 .ebx = 0x2c0003f,
			 .ecx = 63},
			{.leaf = 4,
			 .subleaf = 1,
			 .indexed = true,
			 .eax = 0x122,
			 .ebx = 0x1c0003f,
			 .ecx = 63},
			{.leaf = 4,
			 .subleaf = 2,
			 .indexed = true,
			 .eax = 0x143,
			 .ebx = 0x3c0003f,
			 .ecx = 2047},
			{.leaf = 4,
			 .subleaf = 3,
			 .indexed = true,
			 .eax = 0x163,
			 .ebx = 0x3c0003f,
			 .ecx = 32767},
			{.leaf = 4, .subleaf = 4, .indexed = true},
},
	of_amd[] = {
		{.leaf = 0x80000005, .ecx = 0x20080140, .edx = 0x20080140},
		{.leaf = 0x80000006, .ecx = 0x02006140, .edx = 0x00809140},
		{.leaf = 0x8000001d,
		 .subleaf = 0,
		 .indexed = true,
		 .eax = 0x121,
		 .ebx = 0x1c0003f,
		 .ecx = 63},
		{.leaf = 0x8000001d,
		 .subleaf = 1,
		 .indexed = true,
		 .eax = 0x122,
		 .ebx = 0x1c0003f,
		 .ecx = 63},
		{.leaf = 0x8000001d,
		 .subleaf = 2,
		 .indexed = true,
		 .eax = 0x143,
		 .ebx = 0x1c0003f,
		 .ecx = 1023},
		{.leaf = 0x8000001d,
		 .subleaf = 3,
		 .indexed = true,
		 .eax = 0x163,
		 .ebx = 0x3c0003f,
		 .ecx = 16383},
		{.leaf = 0x8000001d, .subleaf = 4, .indexed = true},
		{.leaf = 0x8000001e},
		{.leaf = MAX_EXTENDED_AMD,
		 .eax = 0x44}, /* LFENCE serializes, null selectors clear bases */
};

static bool is_amd(void)
{
	const enum cpu_vendor vendor = cpu_vendor_from_id(shim.host.facts.vendor_id);

	return vendor == CPU_VENDOR_AMD || vendor == CPU_VENDOR_HYGON;
}

/* SDM vol.2 CPUID, "Display Family and Display Model", the other way round */
static uint32_t signature(const struct host_facts *f)
{
	const uint32_t family = f->family < 0xf ? f->family : 0xf;

	return f->stepping | (f->model & 0xf) << 4 | family << 8 | (f->model >> 4) << 16 |
	       (f->family - family) << 20;
}

static void put_vendor(struct cpuid_leaf *l)
{
	l->ebx = get_le32(shim.host.facts.vendor_id);
	l->edx = get_le32(shim.host.facts.vendor_id + 4);
	l->ecx = get_le32(shim.host.facts.vendor_id + 8);
}

/*
 * The leaf, made of zeros where this machine has none. A set has room for far more than KVM lists.
 */
static struct cpuid_leaf *leaf(struct cpuid_set *set, uint32_t number, uint32_t subleaf)
{
	struct cpuid_leaf *l = cpuid_find(set, number, subleaf);
	const struct cpuid_leaf none = {.leaf = number, .subleaf = subleaf, .indexed = number == 7};

	if (l)
		return l;
	cpuid_add(set, &none);
	return cpuid_find(set, number, subleaf);
}

static void drop_leaves(struct cpuid_set *set)
{
	uint32_t i, k = 0;

	for (i = 0; i < ARRAY_SIZE(dropped); i++)
		cpuid_remove(set, dropped[i]);
	for (i = 0; i < set->n_leaves; i++)
		if (set->leaf[i].leaf <= MAX_EXTENDED)
			set->leaf[k++] = set->leaf[i];
	set->n_leaves = k;
}

static void lay_basic(const struct host_facts *f, struct cpuid_set *set)
{
	struct cpuid_leaf *l = leaf(set, 0, 0);

	l->eax = MAX_BASIC;
	put_vendor(l);
	l = leaf(set, 1, 0);
	l->eax = signature(f);
	l->ecx &= ~LEAF1_ECX_INTEL;
	l = leaf(set, 7, 0);
	l->eax = is_amd() ? !!cpuid_find(set, 7, 1) : 2;
	l->ebx &= ~LEAF7_EBX_HIDDEN;
	l->ecx &= ~LEAF7_ECX_HIDDEN;
	l->edx = f->kvm_leaf7_0_edx;
	if (is_amd())
		return;
	leaf(set, 7, 1);
	leaf(set, 7, 2)->edx = shim.leaf7_2_edx;
}

/* AMD's bits for what leaf 7's EDX says in Intel's: KVM offers both. */
static uint32_t ext8_ebx(uint32_t leaf7_0_edx)
{
	uint32_t ebx = 0;

	if (leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl))
		ebx |= CPUID_BIT(80000008_0_EBX, ibpb) | CPUID_BIT(80000008_0_EBX, ibrs);
	if (leaf7_0_edx & CPUID_BIT(7_0_EDX, stibp))
		ebx |= CPUID_BIT(80000008_0_EBX, amd_stibp);
	if (leaf7_0_edx & CPUID_BIT(7_0_EDX, ssbd))
		ebx |= CPUID_BIT(80000008_0_EBX, amd_ssbd);
	return ebx;
}

static void lay_extended(const struct host_facts *f, struct cpuid_set *set)
{
	const uint32_t leaf1_edx = leaf(set, 1, 0)->edx;
	struct cpuid_leaf *l = leaf(set, 0x80000000, 0);
	char brand[48] = {0};
	uint32_t i;

	l->eax = is_amd() ? MAX_EXTENDED_AMD : MAX_EXTENDED;
	l->ebx = l->ecx = l->edx = 0;
	if (is_amd())
		put_vendor(l);
	l = leaf(set, 0x80000001, 0);
	l->eax = is_amd() ? signature(f) : 0;
	l->ebx = 0;
	l->ecx = (l->ecx & EXT1_ECX_COMMON) | (is_amd() ? EXT1_ECX_AMD : 0);
	l->edx = (l->edx & EXT1_EDX_COMMON) | (is_amd() ? leaf1_edx & EXT1_EDX_OF_LEAF1 : 0);
	memcpy(brand, shim.host.info.cpu, sizeof(brand) - 1);
	for (i = 0; i < 3; i++) {
		l = leaf(set, 0x80000002 + i, 0);
		l->eax = get_le32(brand + 16 * i);
		l->ebx = get_le32(brand + 16 * i + 4);
		l->ecx = get_le32(brand + 16 * i + 8);
		l->edx = get_le32(brand + 16 * i + 12);
	}
	l = leaf(set, 0x80000008, 0);
	l->ebx = is_amd() ? ext8_ebx(f->kvm_leaf7_0_edx) : 0;
	l->ecx = 0;
}

void host_lay_cpuid(struct cpuid_set *set)
{
	const struct cpuid_leaf *own = is_amd() ? of_amd : of_intel;
	const size_t n = is_amd() ? ARRAY_SIZE(of_amd) : ARRAY_SIZE(of_intel);
	size_t i;

	drop_leaves(set);
	lay_basic(&shim.host.facts, set);
	lay_extended(&shim.host.facts, set);
	for (i = 0; i < n; i++)
		cpuid_add(set, &own[i]);
}

SHIM_EXPORT bool host_cpuid_of_test(struct cpuid_leaf *l)
{
	const struct host_facts *f = &shim.host.facts;

	if (!shim.has_host)
		return false;
	l->eax = l->ebx = l->ecx = l->edx = 0;
	if (l->leaf == 0) {
		l->eax = MAX_BASIC;
		put_vendor(l);
	} else if (l->leaf == 1) {
		l->eax = signature(f);
		l->ecx = f->hypervisor ? 1u << 31 : 0;
	} else if (l->leaf == 7 && l->subleaf == 0) {
		l->eax = 2;
		l->ecx = f->leaf7_0_ecx;
		l->edx = f->leaf7_0_edx;
	} else if (l->leaf == 7 && l->subleaf == 2) {
		l->edx = f->leaf7_2_edx;
	}
	return true;
}
