/*
 * The table of features, the few that others are built on, and what a change of one means for the
 * leaves that describe it.
 */
#include "cpuid/feature.h"

#include <errno.h>

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
	{#name, 0x##leaf, subleaf, CPUID_##reg, bit, merge, source},
#include "cpuid/features.def"
#undef FEATURE
};

/* QEMU's names where they are not Linux's with another separator */
static const struct {
	const char *qemu;
	enum cpu_feature_id id;
} aliases[] = {
	{"sse3", FEATURE_pni},
	{"lzcnt", FEATURE_abm},
	{"tsc_deadline", FEATURE_tsc_deadline_timer},
	{"sha", FEATURE_sha_ni},
	{"cr8legacy", FEATURE_cr8_legacy},
	{"tsx_ldtrk", FEATURE_tsxldtrk},
	{"prefetchit", FEATURE_prefetchiti},
	{"avx512_vbmi", FEATURE_avx512vbmi},
	{"avx512vbmi2", FEATURE_avx512_vbmi2},
	{"avx512vnni", FEATURE_avx512_vnni},
	{"avx512bitalg", FEATURE_avx512_bitalg},
	{"htt", FEATURE_ht},
	{"l1d_flush", FEATURE_flush_l1d},
	{"1gb_pages", FEATURE_pdpe1gb},
};

/*
 * A feature and one that it needs. Linux cpuid-deps.c has the same list for the kernel's own use;
 * the controls of SPEC_CTRL are here because without the MSR they would name bits of nothing.
 */
static const struct {
	enum cpu_feature_id feature, needs;
} deps[] = {
	{FEATURE_sse2, FEATURE_sse},
	{FEATURE_pni, FEATURE_sse2},
	{FEATURE_ssse3, FEATURE_pni},
	{FEATURE_sse4_1, FEATURE_ssse3},
	{FEATURE_sse4_2, FEATURE_sse4_1},
	{FEATURE_sse4a, FEATURE_pni},
	{FEATURE_sse, FEATURE_fxsr},
	{FEATURE_fxsr_opt, FEATURE_fxsr},
	{FEATURE_aes, FEATURE_sse2},
	{FEATURE_pclmulqdq, FEATURE_sse2},
	{FEATURE_sha_ni, FEATURE_sse2},
	{FEATURE_gfni, FEATURE_sse2},
	{FEATURE_xsaveopt, FEATURE_xsave},
	{FEATURE_xsavec, FEATURE_xsave},
	{FEATURE_xgetbv1, FEATURE_xsave},
	{FEATURE_xsaves, FEATURE_xsavec},
	{FEATURE_xfd, FEATURE_xsave},
	{FEATURE_pku, FEATURE_xsave},
	{FEATURE_mpx, FEATURE_xsave},
	{FEATURE_avx, FEATURE_xsave},
	{FEATURE_avx, FEATURE_sse4_2},
	{FEATURE_f16c, FEATURE_avx},
	{FEATURE_fma, FEATURE_avx},
	{FEATURE_fma4, FEATURE_avx},
	{FEATURE_xop, FEATURE_avx},
	{FEATURE_avx2, FEATURE_avx},
	{FEATURE_vaes, FEATURE_avx},
	{FEATURE_vpclmulqdq, FEATURE_avx},
	{FEATURE_avx_vnni, FEATURE_avx2},
	{FEATURE_avx_ifma, FEATURE_avx2},
	{FEATURE_avx_vnni_int8, FEATURE_avx2},
	{FEATURE_avx_vnni_int16, FEATURE_avx2},
	{FEATURE_avx_ne_convert, FEATURE_avx2},
	{FEATURE_sha512, FEATURE_avx2},
	{FEATURE_sm3, FEATURE_avx},
	{FEATURE_sm4, FEATURE_avx2},
	{FEATURE_avx512f, FEATURE_avx2},
	{FEATURE_avx512f, FEATURE_fma},
	{FEATURE_avx512f, FEATURE_f16c},
	{FEATURE_avx512dq, FEATURE_avx512f},
	{FEATURE_avx512ifma, FEATURE_avx512f},
	{FEATURE_avx512pf, FEATURE_avx512f},
	{FEATURE_avx512er, FEATURE_avx512f},
	{FEATURE_avx512cd, FEATURE_avx512f},
	{FEATURE_avx512bw, FEATURE_avx512f},
	{FEATURE_avx512vl, FEATURE_avx512f},
	{FEATURE_avx512vbmi, FEATURE_avx512bw},
	{FEATURE_avx512_vbmi2, FEATURE_avx512bw},
	{FEATURE_avx512_vnni, FEATURE_avx512f},
	{FEATURE_avx512_bitalg, FEATURE_avx512bw},
	{FEATURE_avx512_vpopcntdq, FEATURE_avx512f},
	{FEATURE_avx512_4vnniw, FEATURE_avx512f},
	{FEATURE_avx512_4fmaps, FEATURE_avx512f},
	{FEATURE_avx512_vp2intersect, FEATURE_avx512f},
	{FEATURE_avx512_bf16, FEATURE_avx512bw},
	{FEATURE_avx512_fp16, FEATURE_avx512bw},
	{FEATURE_avx10, FEATURE_avx512f},
	{FEATURE_apx_f, FEATURE_xsave},
	{FEATURE_amx_tile, FEATURE_xfd},
	{FEATURE_amx_bf16, FEATURE_amx_tile},
	{FEATURE_amx_int8, FEATURE_amx_tile},
	{FEATURE_amx_fp16, FEATURE_amx_tile},
	{FEATURE_amx_complex, FEATURE_amx_tile},
	{FEATURE_shstk, FEATURE_xsaves},
	{FEATURE_arch_lbr, FEATURE_xsaves},
	{FEATURE_invpcid, FEATURE_pcid},
	{FEATURE_la57, FEATURE_lm},
	{FEATURE_nx, FEATURE_pae},
	{FEATURE_lm, FEATURE_pae},
	{FEATURE_x2apic, FEATURE_apic},
	{FEATURE_tsc_deadline_timer, FEATURE_apic},
	{FEATURE_tsc_deadline_timer, FEATURE_tsc},
	{FEATURE_rdtscp, FEATURE_tsc},
	{FEATURE_invtsc, FEATURE_tsc},
	{FEATURE_sgx_lc, FEATURE_sgx},
	{FEATURE_enqcmd, FEATURE_xsaves},
	{FEATURE_tsxldtrk, FEATURE_rtm},
	{FEATURE_stibp, FEATURE_spec_ctrl},
	{FEATURE_ssbd, FEATURE_spec_ctrl},
	{FEATURE_psfd, FEATURE_spec_ctrl},
	{FEATURE_ipred_ctrl, FEATURE_spec_ctrl},
	{FEATURE_rrsba_ctrl, FEATURE_spec_ctrl},
	{FEATURE_ddpd_u, FEATURE_spec_ctrl},
	{FEATURE_bhi_ctrl, FEATURE_spec_ctrl},
};

/* Leaves that say nothing without a feature */
static const struct {
	enum cpu_feature_id feature;
	uint32_t leaf;
} leaves[] = {
	{FEATURE_xsave, 0xd},	   {FEATURE_cqm, 0xf},	      {FEATURE_rdt_a, 0x10},
	{FEATURE_sgx, 0x12},	   {FEATURE_intel_pt, 0x14},  {FEATURE_kl, 0x19},
	{FEATURE_arch_lbr, 0x1c},  {FEATURE_amx_tile, 0x1d},  {FEATURE_amx_tile, 0x1e},
	{FEATURE_avx10, 0x24},	   {FEATURE_svm, 0x8000000a}, {FEATURE_ibs, 0x8000001b},
	{FEATURE_lwp, 0x8000001c},
};

/* State components of XCR0 and IA32_XSS (SDM vol.1 table 13-1) and what brings each */
static const struct {
	unsigned int bit;
	enum cpu_feature_id feature;
} components[] = {
	{2, FEATURE_avx},	{3, FEATURE_mpx},	{4, FEATURE_mpx},
	{5, FEATURE_avx512f},	{6, FEATURE_avx512f},	{7, FEATURE_avx512f},
	{8, FEATURE_intel_pt},	{9, FEATURE_pku},	{10, FEATURE_enqcmd},
	{11, FEATURE_shstk},	{12, FEATURE_shstk},	{14, FEATURE_uintr},
	{15, FEATURE_arch_lbr}, {17, FEATURE_amx_tile}, {18, FEATURE_amx_tile},
	{19, FEATURE_apx_f},
};

#define XCR0_X87_SSE	 3u
#define XCR0_TILES	 (3u << 17)
#define XSAVE_HEADER_END 576u /* legacy area and header */

const struct cpu_feature *cpu_features(unsigned int *n)
{
	*n = ARRAY_SIZE(features);
	return features;
}

const struct cpu_feature *cpu_feature(enum cpu_feature_id id)
{
	return &features[id];
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
			return &features[aliases[i].id];
	return NULL;
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

static bool is_set(struct cpuid_leaf *l, const struct cpu_feature *f)
{
	return l && (*cpuid_reg(l, f->reg) & 1u << f->bit);
}

bool cpu_feature_has(struct cpuid_set *set, const struct cpu_feature *f)
{
	return is_set(cpuid_find(set, f->leaf, f->subleaf), f);
}

bool cpu_feature_shown(struct cpuid_set *set, const struct cpu_feature *f)
{
	return is_set(cpuid_reach(set, f->leaf, f->subleaf), f);
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
		if (&features[deps[d].feature] == f && i-- == 0)
			return &features[deps[d].needs];
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
static bool has(struct cpuid_set *set, enum cpu_feature_id id)
{
	return cpu_feature_has(set, &features[id]);
}

static uint64_t components_allowed(struct cpuid_set *set)
{
	uint64_t allowed = ~0ULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(components); i++)
		if (!has(set, components[i].feature))
			allowed &= ~(1ULL << components[i].bit);
	return allowed;
}

static void close_xsave(struct cpuid_set *set)
{
	const uint64_t allowed = components_allowed(set);
	struct cpuid_leaf *l0 = cpuid_find(set, 0xd, 0), *l1 = cpuid_find(set, 0xd, 1);
	const bool xsaves = has(set, FEATURE_xsaves);
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
	bool again = true;
	size_t i;

	while (again) { /* each round clears at least one */
		again = false;
		for (i = 0; i < ARRAY_SIZE(deps); i++) {
			if (!has(set, deps[i].feature) || has(set, deps[i].needs))
				continue;
			cpu_feature_put(set, &features[deps[i].feature], false);
			again = true;
		}
	}
	close_xsave(set);
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		if (!has(set, leaves[i].feature))
			cpuid_remove(set, leaves[i].leaf);
}

void cpu_features_hide_amx(struct cpuid_set *set)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0xd, 0);
	size_t i;

	if (l && (l->eax & XCR0_TILES) == XCR0_TILES)
		return;
	cpu_feature_put(set, &features[FEATURE_amx_tile], false);
	for (i = 0; i < ARRAY_SIZE(deps); i++)
		if (deps[i].needs == FEATURE_amx_tile)
			cpu_feature_put(set, &features[deps[i].feature], false);
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		if (leaves[i].feature == FEATURE_amx_tile)
			cpuid_remove(set, leaves[i].leaf);
}
