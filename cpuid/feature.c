/*
 * The table of features, the few that others are built on, and what a change of one means for the
 * leaves that describe it.
 */
#include "cpuid/feature.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define SRC_SDM_1      "SDM vol.2 CPUID leaf 01H"
#define SRC_SDM_6      "SDM vol.2 CPUID leaf 06H"
#define SRC_SDM_7      "SDM vol.2 CPUID leaf 07H"
#define SRC_SDM_D      "SDM vol.2 CPUID leaf 0DH"
#define SRC_INTEL_SPEC "Intel 'CPUID Enumeration and Architectural MSRs'"
#define SRC_APM_1      "APM vol.3 E.4.2, CPUID 8000_0001H"
#define SRC_APM_7      "APM vol.3 E.4.6, CPUID 8000_0007H"
#define SRC_APM_8      "APM vol.3 E.4.7, CPUID 8000_0008H"
#define SRC_APM_21     "APM vol.3 E.4.18, CPUID 8000_0021H"

static const struct cpu_feature features[] = {
#define FEATURE(name, leaf, subleaf, reg, bit, merge, source) \
	{name, leaf, subleaf, reg, bit, merge, source},
#include "cpuid/features.def"
#undef FEATURE
};

/* QEMU's names where they are not Linux's with another separator */
static const struct {
	const char *qemu, *linux_name;
} aliases[] = {
	{"sse3", "pni"},
	{"lzcnt", "abm"},
	{"tsc_deadline", "tsc_deadline_timer"},

	{"sha", "sha_ni"},
	{"cr8legacy", "cr8_legacy"},
	{"tsx_ldtrk", "tsxldtrk"},
	{"prefetchit", "prefetchiti"},
	{"avx512_vbmi", "avx512vbmi"},
	{"avx512vbmi2", "avx512_vbmi2"},
	{"avx512vnni", "avx512_vnni"},
	{"avx512bitalg", "avx512_bitalg"},
	{"htt", "ht"},
	{"l1d_flush", "flush_l1d"},
	{"1gb_pages", "pdpe1gb"},
};

/*
 * A feature and one that it needs. Linux cpuid-deps.c has the same list for the kernel's own use;
 * the controls of SPEC_CTRL are here because without the MSR they would name bits of nothing.
 */
static const struct {
	const char *feature, *needs;
} deps[] = {
	{"sse2", "sse"},
	{"pni", "sse2"},
	{"ssse3", "pni"},
	{"sse4_1", "ssse3"},
	{"sse4_2", "sse4_1"},
	{"sse4a", "pni"},
	{"sse", "fxsr"},
	{"fxsr_opt", "fxsr"},
	{"aes", "sse2"},
	{"pclmulqdq", "sse2"},
	{"sha_ni", "sse2"},
	{"gfni", "sse2"},
	{"xsaveopt", "xsave"},
	{"xsavec", "xsave"},
	{"xgetbv1", "xsave"},
	{"xsaves", "xsavec"},
	{"xfd", "xsave"},
	{"pku", "xsave"},
	{"mpx", "xsave"},
	{"avx", "xsave"},
	{"avx", "sse4_2"},
	{"f16c", "avx"},
	{"fma", "avx"},
	{"fma4", "avx"},
	{"xop", "avx"},
	{"avx2", "avx"},
	{"vaes", "avx"},
	{"vpclmulqdq", "avx"},
	{"avx_vnni", "avx2"},
	{"avx_ifma", "avx2"},
	{"avx_vnni_int8", "avx2"},
	{"avx_vnni_int16", "avx2"},
	{"avx_ne_convert", "avx2"},
	{"sha512", "avx2"},
	{"sm3", "avx"},
	{"sm4", "avx2"},
	{"avx512f", "avx2"},
	{"avx512f", "fma"},
	{"avx512f", "f16c"},
	{"avx512dq", "avx512f"},
	{"avx512ifma", "avx512f"},
	{"avx512pf", "avx512f"},
	{"avx512er", "avx512f"},
	{"avx512cd", "avx512f"},
	{"avx512bw", "avx512f"},
	{"avx512vl", "avx512f"},
	{"avx512vbmi", "avx512bw"},
	{"avx512_vbmi2", "avx512bw"},
	{"avx512_vnni", "avx512f"},
	{"avx512_bitalg", "avx512bw"},
	{"avx512_vpopcntdq", "avx512f"},
	{"avx512_4vnniw", "avx512f"},
	{"avx512_4fmaps", "avx512f"},
	{"avx512_vp2intersect", "avx512f"},
	{"avx512_bf16", "avx512bw"},
	{"avx512_fp16", "avx512bw"},
	{"avx10", "avx512f"},
	{"apx_f", "xsave"},
	{"amx_tile", "xfd"},
	{"amx_bf16", "amx_tile"},
	{"amx_int8", "amx_tile"},
	{"amx_fp16", "amx_tile"},
	{"amx_complex", "amx_tile"},
	{"shstk", "xsaves"},
	{"arch_lbr", "xsaves"},
	{"invpcid", "pcid"},
	{"la57", "lm"},
	{"nx", "pae"},
	{"lm", "pae"},
	{"x2apic", "apic"},
	{"tsc_deadline_timer", "apic"},
	{"tsc_deadline_timer", "tsc"},
	{"rdtscp", "tsc"},
	{"invtsc", "tsc"},
	{"sgx_lc", "sgx"},
	{"enqcmd", "xsaves"},
	{"tsxldtrk", "rtm"},
	{"stibp", "spec_ctrl"},
	{"ssbd", "spec_ctrl"},
	{"psfd", "spec_ctrl"},
	{"ipred_ctrl", "spec_ctrl"},
	{"rrsba_ctrl", "spec_ctrl"},
	{"ddpd_u", "spec_ctrl"},
	{"bhi_ctrl", "spec_ctrl"},
};

/* Leaves that say nothing without a feature */
static const struct {
	const char *feature;
	uint32_t leaf;
} leaves[] = {
	{"xsave", 0xd},	     {"cqm", 0xf},    {"rdt_a", 0x10},	   {"sgx", 0x12},
	{"intel_pt", 0x14},  {"kl", 0x19},    {"arch_lbr", 0x1c},  {"amx_tile", 0x1d},
	{"amx_tile", 0x1e},  {"avx10", 0x24}, {"svm", 0x8000000a}, {"ibs", 0x8000001b},
	{"lwp", 0x8000001c},
};

/* State components of XCR0 and IA32_XSS (SDM vol.1 table 13-1) and what brings each */
static const struct {
	unsigned int bit;
	const char *feature;
} components[] = {
	{2, "avx"},	  {3, "mpx"},	    {4, "mpx"},	      {5, "avx512f"},
	{6, "avx512f"},	  {7, "avx512f"},   {8, "intel_pt"},  {9, "pku"},
	{10, "enqcmd"},	  {11, "shstk"},    {12, "shstk"},    {14, "uintr"},
	{15, "arch_lbr"}, {17, "amx_tile"}, {18, "amx_tile"}, {19, "apx_f"},
};

#define XCR0_X87_SSE	 3u
#define XCR0_TILES	 (3u << 17)
#define XSAVE_HEADER_END 576u /* legacy area and header */

_Static_assert(ARRAY_SIZE(features) <= CPU_FEATURES_MAX, "raise CPU_FEATURES_MAX");

const struct cpu_feature *cpu_features(unsigned int *n)
{
	*n = ARRAY_SIZE(features);
	return features;
}

static char folded(char c)
{
	if (c >= 'A' && c <= 'Z')
		return (char)(c - 'A' + 'a');
	return c == '-' || c == '.' ? '_' : c;
}

static bool same_name(const char *s, size_t len, const char *name)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (!name[i] || folded(s[i]) != name[i])
			return false;
	return !name[len];
}

const struct cpu_feature *cpu_feature_find(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(features); i++)
		if (same_name(name, len, features[i].name))
			return &features[i];
	for (i = 0; i < ARRAY_SIZE(aliases); i++)
		if (same_name(name, len, aliases[i].qemu))
			return cpu_feature_find(aliases[i].linux_name,
						strlen(aliases[i].linux_name));
	return NULL;
}

static const struct cpu_feature *find(const char *name)
{
	return cpu_feature_find(name, strlen(name));
}

uint32_t *cpuid_reg(struct cpuid_leaf *leaf, enum cpuid_reg reg)
{
	switch (reg) {
	case CPUID_EAX:
		return &leaf->eax;
	case CPUID_EBX:
		return &leaf->ebx;
	case CPUID_ECX:
		return &leaf->ecx;
	case CPUID_EDX:
		break;
	}
	return &leaf->edx;
}

bool cpu_feature_has(struct cpuid_set *set, const struct cpu_feature *f)
{
	struct cpuid_leaf *l = cpuid_find(set, f->leaf, f->subleaf);

	return l && (*cpuid_reg(l, f->reg) & 1u << f->bit);
}

int cpu_feature_put(struct cpuid_set *set, const struct cpu_feature *f, bool on)
{
	struct cpuid_leaf *l = cpuid_find(set, f->leaf, f->subleaf);

	if (!l)
		return on ? -ENOENT : 0;
	if (on)
		*cpuid_reg(l, f->reg) |= 1u << f->bit;
	else
		*cpuid_reg(l, f->reg) &= ~(1u << f->bit);
	return 0;
}

const struct cpu_feature *cpu_feature_needs(const struct cpu_feature *f, unsigned int i)
{
	size_t d;

	for (d = 0; d < ARRAY_SIZE(deps); d++)
		if (!strcmp(deps[d].feature, f->name) && i-- == 0)
			return find(deps[d].needs);
	return NULL;
}

/* The size of the XSAVE area in the standard format: the end of its last component */
static uint32_t xsave_size(struct cpuid_set *set, uint64_t xcr0)
{
	uint32_t size = XSAVE_HEADER_END;
	unsigned int bit;

	for (bit = 2; bit < 63; bit++) {
		const struct cpuid_leaf *l = cpuid_find(set, 0xd, bit);

		if ((xcr0 & 1ULL << bit) && l && l->ebx + l->eax > size)
			size = l->ebx + l->eax;
	}
	return size;
}

/* A component that the table does not know is left to KVM. */
static uint64_t components_allowed(struct cpuid_set *set)
{
	uint64_t allowed = ~0ULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(components); i++)
		if (!cpu_feature_has(set, find(components[i].feature)))
			allowed &= ~(1ULL << components[i].bit);
	return allowed;
}

static void close_xsave(struct cpuid_set *set)
{
	const uint64_t allowed = components_allowed(set);
	struct cpuid_leaf *l0 = cpuid_find(set, 0xd, 0), *l1 = cpuid_find(set, 0xd, 1);
	const bool xsaves = cpu_feature_has(set, find("xsaves"));
	uint64_t both = XCR0_X87_SSE;
	uint32_t from, to = 0;

	if (l0) {
		l0->eax &= (uint32_t)allowed;
		l0->edx &= (uint32_t)(allowed >> 32);
		both |= l0->eax | (uint64_t)l0->edx << 32;
		l0->ecx = xsave_size(set, l0->eax | (uint64_t)l0->edx << 32);
		if (l0->ebx > l0->ecx)
			l0->ebx = l0->ecx; /* what XCR0 holds now; KVM keeps it */
	}
	if (l1) {
		l1->ecx &= xsaves ? (uint32_t)allowed : 0;
		l1->edx &= xsaves ? (uint32_t)(allowed >> 32) : 0;
		both |= l1->ecx | (uint64_t)l1->edx << 32;
	}
	for (from = 0; from < set->n_leaves; from++) {
		const struct cpuid_leaf *l = &set->leaf[from];

		if (l->leaf != 0xd || l->subleaf < 2 ||
		    (l->subleaf < 64 && (both & 1ULL << l->subleaf)))
			set->leaf[to++] = *l;
	}
	set->n_leaves = to;
}

void cpu_features_close(struct cpuid_set *set)
{
	const struct cpu_feature *feature[ARRAY_SIZE(deps)], *needs[ARRAY_SIZE(deps)];
	bool again = true;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(deps); i++) {
		feature[i] = find(deps[i].feature);
		needs[i] = find(deps[i].needs);
	}
	while (again) { /* each round clears at least one */
		again = false;
		for (i = 0; i < ARRAY_SIZE(deps); i++) {
			if (!cpu_feature_has(set, feature[i]) || cpu_feature_has(set, needs[i]))
				continue;
			cpu_feature_put(set, feature[i], false);
			again = true;
		}
	}
	close_xsave(set);
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		if (!cpu_feature_has(set, find(leaves[i].feature)))
			cpuid_remove(set, leaves[i].leaf);
}

void cpu_features_hide_amx(struct cpuid_set *set)
{
	const struct cpu_feature *tile = find("amx_tile");
	const struct cpuid_leaf *l = cpuid_find(set, 0xd, 0);
	size_t i;

	if (l && (l->eax & XCR0_TILES) == XCR0_TILES)
		return;
	cpu_feature_put(set, tile, false);
	for (i = 0; i < ARRAY_SIZE(deps); i++)
		if (!strcmp(deps[i].needs, tile->name))
			cpu_feature_put(set, find(deps[i].feature), false);
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		if (!strcmp(leaves[i].feature, tile->name))
			cpuid_remove(set, leaves[i].leaf);
}

/* one word: bits by their rules */
static uint32_t level_word(uint32_t leaf, uint32_t subleaf, enum cpuid_reg reg, uint32_t a,
			   uint32_t b)
{
	uint32_t or_bits = 0, special = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		const struct cpu_feature *f = &features[i];

		if (f->leaf != leaf || f->subleaf != subleaf || f->reg != reg)
			continue;
		or_bits |= f->merge == MERGE_OR ? 1u << f->bit : 0;
		special |= f->merge == MERGE_SPECIAL ? 1u << f->bit : 0;
	}
	return ((a & b) | ((a | b) & or_bits)) & ~special;
}

void cpu_features_level(struct cpuid_set *set, struct cpuid_set *other)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		const struct cpu_feature *f = &features[i];
		struct cpuid_leaf *a = cpuid_find(set, f->leaf, f->subleaf);
		struct cpuid_leaf *b = cpuid_find(other, f->leaf, f->subleaf);
		uint32_t *reg;

		if (!a)
			continue;
		reg = cpuid_reg(a, f->reg);
		*reg = level_word(f->leaf, f->subleaf, f->reg, *reg, b ? *cpuid_reg(b, f->reg) : 0);
	}
	cpu_features_close(set);
}
