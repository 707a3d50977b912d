/*
 * Guest CPUs by name. A model is the list of its features: everything else is hidden, also what a
 * future CPU will have and this table does not know, so that a guest sees the same on every host.
 */
#include "cpuid/guest_cpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "base/err.h"

#define SRC_PSABI "x86-64 psABI, micro-architecture levels"
#define SRC_INTEL "SDM vol.2 CPUID; QEMU's model of the same name"
#define SRC_QEMU  "QEMU's model of the same name; no such machine was seen"
#define SRC_AMD	  "AMD PPR of the family; QEMU's model of the same name"

/* The host's kernel: KVM passes CPUID.(7,2) on from 6.8, and in stable kernels since April 2024 */
#define KVM_ANY	     NULL
#define KVM_CONTROLS "Linux 6.8, or a stable 6.1 or 6.6 since April 2024"
#define KVM_FAST_REP "Linux 6.8, or a stable 6.6 since April 2024"
#define KVM_6_13     "Linux 6.13"

/* what a 64-bit kernel takes for granted */
#define BASE                                                                               \
	"fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx " \
	"fxsr sse sse2 syscall nx lm "
#define V2 "pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm "
#define V3 "xsave avx avx2 bmi1 bmi2 f16c fma abm movbe "
#define V4 "avx512f avx512bw avx512cd avx512dq avx512vl "
#define INTEL_HSX                                                                       \
	"aes pclmulqdq pcid invpcid rdrand fsgsbase smep erms pdpe1gb rdtscp xsaveopt " \
	"spec_ctrl ssbd "
#define INTEL_BDX "rdseed adx smap 3dnowprefetch "
#define INTEL_SKX INTEL_HSX INTEL_BDX "clflushopt clwb xsavec xgetbv1 xsaves pku "
#define INTEL_CLX "avx512_vnni arch_capabilities "
#define INTEL_ICX                                                                                 \
	"avx512ifma avx512vbmi avx512_vbmi2 avx512_bitalg avx512_vpopcntdq gfni vaes vpclmulqdq " \
	"sha_ni umip rdpid la57 fsrm wbnoinvd "
#define INTEL_SPR                                                                       \
	"avx512_bf16 avx512_fp16 avx_vnni serialize bus_lock_detect movdiri movdir64b " \
	"ipred_ctrl rrsba_ctrl bhi_ctrl "
#define INTEL_SPR_2 "fzrm fsrs fsrc " /* Linux 6.3 */
#define INTEL_GNR   "mcdt_no "
#define INTEL_GNR_2 "prefetchiti " /* Linux 6.2 */
#define INTEL_SRF                                                                          \
	INTEL_SKX                                                                          \
	"arch_capabilities gfni vaes vpclmulqdq sha_ni umip rdpid fsrm wbnoinvd avx_vnni " \
	"serialize bus_lock_detect movdiri movdir64b ipred_ctrl rrsba_ctrl bhi_ctrl mcdt_no "
#define INTEL_AVX_2 "cmpccxadd avx_ifma avx_vnni_int8 avx_ne_convert " /* Linux 6.2 */
#define INTEL_SRF_2 "fsrs " INTEL_AVX_2
#define INTEL_CWF   "sha512 sm3 sm4 avx_vnni_int16 "
/* XSAVES is off on family 17H for erratum 1386, in Linux 6.3 and stable kernels */
#define AMD_NAPLES                                                                             \
	"aes pclmulqdq rdrand rdseed fsgsbase smep smap adx clflushopt sha_ni pdpe1gb rdtscp " \
	"3dnowprefetch mmxext fxsr_opt cr8_legacy sse4a misalignsse osvw xsaveopt xsavec "     \
	"xgetbv1 clzero xsaveerptr ibpb "
#define AMD_ROME  "clwb umip rdpid wbnoinvd amd_stibp amd_ssbd "
#define AMD_MILAN "pcid invpcid pku vaes vpclmulqdq xsaves ibrs "
#define AMD_REP	  "erms fsrm " /* firmware and clouds may hide them */
#define AMD_GENOA                                                                        \
	"avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq " \
	"avx512_bf16 gfni la57 "
#define AMD_TURIN "avx_vnni avx512_vp2intersect movdiri movdir64b "

static const struct guest_model models[] = {
#define GUEST_MODEL(name, vendor, family, model, stepping, features, source, kernel) \
	{name, vendor, family, model, stepping, features, source, kernel},
#include "cpuid/guest_models.def"
#undef GUEST_MODEL
};

/* How QEMU and libvirt spell a CPU. Their versions (-v2 and so on) are not these. */
static const struct guest_alias aliases[] = {
#define GUEST_ALIAS(name, model) {name, model},
#include "cpuid/guest_aliases.def"
#undef GUEST_ALIAS
};

/*
 * Shown by every model where the host has it: a guest that loses one of these becomes slower or
 * weaker, never wrong. The controls that tell parts of one kind from another (CPUID.(7,2)) are not
 * among them: a guest takes them as a promise that it never moves to a host without.
 */
static const enum cpu_feature_id shown_anyway[] = {
	FEATURE_x2apic,
	FEATURE_tsc_deadline_timer,
	FEATURE_tsc_adjust,
	FEATURE_arat,
	FEATURE_hypervisor,
	FEATURE_ht,
	FEATURE_cmp_legacy,
	FEATURE_topoext,
	FEATURE_invtsc,
	FEATURE_spec_ctrl,
	FEATURE_stibp,
	FEATURE_ssbd,
	FEATURE_arch_capabilities,
	FEATURE_md_clear,
	FEATURE_flush_l1d,
	FEATURE_rtm_always_abort,
	FEATURE_fdp_excptn_only,
	FEATURE_zero_fcs_fds,
	FEATURE_ibpb,
	FEATURE_ibrs,
	FEATURE_amd_stibp,
	FEATURE_amd_ssbd,
	FEATURE_virt_ssbd,
	FEATURE_amd_ssb_no,
	FEATURE_stibp_always_on,
	FEATURE_ibrs_preferred,
	FEATURE_ibrs_same_mode,
	FEATURE_btc_no,
	FEATURE_ibpb_ret,
	FEATURE_lfence_rdtsc,
	FEATURE_null_sel_clr_base,
	FEATURE_verw_clear,
	FEATURE_autoibrs,
	FEATURE_sbpb,
	FEATURE_ibpb_brtype,
	FEATURE_srso_no,
	FEATURE_srso_user_kernel_no,
};

const struct guest_model *guest_models(unsigned int *n)
{
	*n = ARRAY_SIZE(models);
	return models;
}

const struct guest_alias *guest_aliases(unsigned int *n)
{
	*n = ARRAY_SIZE(aliases);
	return aliases;
}

/* the next word of a list; NULL at its end */
static const struct cpu_feature *next_feature(const char **list)
{
	const size_t blanks = strspn(*list, " "), len = strcspn(*list + blanks, " ");
	const char *word = *list + blanks;

	*list = word + len;
	return len ? cpu_feature_find(word, len) : NULL;
}

/* Set @wanted, by index of the table, for each word of @list. */
static void mark(const char *list, bool *wanted)
{
	unsigned int n;
	const struct cpu_feature *table = cpu_features(&n), *f;

	while ((f = next_feature(&list)))
		wanted[f - table] = true;
}

/* ---- text ---- */

static const char *model_called(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (!strncmp(models[i].name, name, len) && !models[i].name[len])
			return models[i].name;
	return NULL;
}

/* The table's name for what a user calls a CPU; NULL where there is none */
static const char *model_known(const char *name, size_t len)
{
	static const char first[] = "-v1";
	const size_t tail = strlen(first);
	const char *model = model_called(name, len);
	size_t i;

	if (len == strlen("host") && !strncmp(name, "host", len))
		return "host";
	if (!model && len > 2 * tail && !strncmp(name + len - tail, first, tail) &&
	    strncmp(name + len - 2 * tail, first, tail - 1) != 0)
		model = model_called(name, len - tail);
	for (i = 0; !model && i < ARRAY_SIZE(aliases); i++)
		if (!strncasecmp(aliases[i].name, name, len) && !aliases[i].name[len])
			model = aliases[i].model;
	return model;
}

static int unknown_model(const char *name, int len, struct err *e)
{
	char known[1024] = "host";
	size_t i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (!i || strcmp(models[i].name, models[i - 1].name)) {
			strncat(known, ", ", sizeof(known) - strlen(known) - 1);
			strncat(known, models[i].name, sizeof(known) - strlen(known) - 1);
		}
	return err_set(e, -EINVAL, "--cpu: '%.*s' is not a known CPU; use one of %s", len, name,
		       known);
}

static int add_edit(struct guest_cpu *cpu, const struct cpu_feature *f, bool on, struct err *e)
{
	unsigned int i;

	for (i = 0; i < cpu->n_edits; i++)
		if (cpu->edit[i].feature == f)
			break;
	if (i == GUEST_CPU_EDITS_MAX)
		return err_set(e, -EINVAL, "--cpu: more than %d features; name fewer",
			       GUEST_CPU_EDITS_MAX);
	cpu->edit[i].feature = f;
	cpu->edit[i].on = on;
	if (i == cpu->n_edits)
		cpu->n_edits++;
	return 0;
}

int guest_cpu_parse(const char *text, struct guest_cpu *out, struct err *e)
{
	size_t len = strcspn(text, ",");
	const char *name = model_known(text, len);
	struct guest_cpu cpu = {0};

	if (!name)
		return unknown_model(text, len < 64 ? (int)len : 64, e);
	snprintf(cpu.name, sizeof(cpu.name), "%s", name);
	for (text += len; *text; text += len) {
		const struct cpu_feature *f;
		int ret;

		text++; /* the comma */
		len = strcspn(text, ",");
		if (len < 2 || (*text != '+' && *text != '-'))
			return err_set(e, -EINVAL,
				       "--cpu: '%.*s' is not an edit; use +FEATURE or -FEATURE",
				       len < 64 ? (int)len : 64, text);
		f = cpu_feature_find(text + 1, len - 1);
		if (!f)
			return err_set(e, -EINVAL,
				       "--cpu: '%.*s' is not a known feature; names are those of "
				       "/proc/cpuinfo and of QEMU",
				       len < 64 ? (int)len - 1 : 64, text + 1);
		ret = add_edit(&cpu, f, *text == '+', e);
		if (ret)
			return ret;
	}
	*out = cpu;
	return 0;
}

/* ---- leaves ---- */

static bool edited(const struct guest_cpu *cpu, const struct cpu_feature *f, bool on)
{
	unsigned int i;

	for (i = 0; i < cpu->n_edits; i++)
		if (cpu->edit[i].feature == f)
			return cpu->edit[i].on == on;
	return false;
}

static enum cpu_vendor vendor_of(struct cpuid_set *set)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0, 0);
	char id[13] = "";

	if (l) {
		put_le32(id, l->ebx);
		put_le32(id + 4, l->edx);
		put_le32(id + 8, l->ecx);
	}
	return cpu_vendor_from_id(id);
}

static int find_model(const char *name, enum cpu_vendor vendor, const struct guest_model **out,
		      struct err *e)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (!strcmp(models[i].name, name) && models[i].vendor == vendor) {
			*out = &models[i];
			return 0;
		}
	return err_set(e, -ENOTSUP,
		       "--cpu: %s is not a CPU of this host's vendor; a guest cannot be shown "
		       "another vendor's CPU, use one of this vendor or host",
		       name);
}

static void append_name(char *text, size_t size, const char *name)
{
	const size_t len = strlen(text);

	snprintf(text + len, size - len, "%s%s", len ? ", " : "", name);
}

/* taken away by "-", itself or something that it builds on */
static bool given_up(const struct guest_cpu *cpu, const struct cpu_feature *f)
{
	const struct cpu_feature *needs;
	unsigned int i;

	if (edited(cpu, f, false))
		return true;
	for (i = 0; (needs = cpu_feature_needs(f, i)); i++)
		if (given_up(cpu, needs))
			return true;
	return false;
}

static int check_present(const struct guest_cpu *cpu, const struct guest_model *m,
			 struct cpuid_set *set, struct err *e)
{
	const char *list = m->features;
	const struct cpu_feature *f;
	char missing[600] = "", cure[64] = "";

	while ((f = next_feature(&list)))
		if (!cpu_feature_has(set, f) && !given_up(cpu, f)) {
			append_name(missing, sizeof(missing), f->name);
			if (!*cure)
				snprintf(cure, sizeof(cure), ",-%s", f->name);
		}
	if (!*missing)
		return 0;
	return err_set(e, -ENOTSUP,
		       "--cpu: %s needs features that this host or its KVM lacks: %s; use a lesser "
		       "model%s%s, or give them up (%s%s...)",
		       cpu->name, missing, m->kernel ? ", a KVM of at least " : "",
		       m->kernel ? m->kernel : "", cpu->name, cure);
}

/*
 * Every register that the table knows keeps only what the model or the user names, and XSAVE only
 * components of such features.
 */
static void keep_listed(const struct guest_cpu *cpu, const char *list, struct cpuid_set *set)
{
	bool wanted[CPU_FEATURES] = {false};
	unsigned int n, i, next;
	const struct cpu_feature *f = cpu_features(&n);
	struct cpuid_leaf *l;

	mark(list, wanted);
	for (i = 0; i < ARRAY_SIZE(shown_anyway); i++)
		wanted[shown_anyway[i]] = true;
	for (i = 0; i < cpu->n_edits; i++)
		wanted[cpu->edit[i].feature - f] |= cpu->edit[i].on;
	for (i = 0; i < n; i = next) { /* the rows of a register are together */
		uint32_t keep = 0;

		for (next = i; next < n && f[next].leaf == f[i].leaf &&
			       f[next].subleaf == f[i].subleaf && f[next].reg == f[i].reg;
		     next++)
			keep |= wanted[next] ? 1u << f[next].bit : 0;
		l = cpuid_find(set, f[i].leaf, f[i].subleaf);
		if (l)
			*cpuid_reg(l, f[i].reg) &= keep;
	}
	l = cpuid_find(set, 0xd, 0);
	if (l) {
		l->eax &= (uint32_t)XSAVE_COMPONENTS_KNOWN;
		l->edx = 0;
	}
	l = cpuid_find(set, 0xd, 1);
	if (l) {
		l->ecx &= (uint32_t)XSAVE_COMPONENTS_KNOWN;
		l->edx = 0;
	}
}

/* the highest leaf from @first to @last */
static uint32_t highest_leaf(const struct cpuid_set *set, uint32_t first, uint32_t last)
{
	uint32_t i, highest = first;

	for (i = 0; i < set->n_leaves; i++)
		if (set->leaf[i].leaf > highest && set->leaf[i].leaf <= last)
			highest = set->leaf[i].leaf;
	return highest;
}

/*
 * Leaves that are not features but tell one host from another: frequencies, caches' allocation,
 * power management, and registers whose bits have no names yet. Those above 0DH stay only for a
 * feature that was asked for; cpu_features_close() dropped the others' before.
 */
static void trim(const struct guest_model *m, struct cpuid_set *set)
{
	static const uint32_t of_the_host[] = {3,    5,	   9,	 0x15, 0x16, 0x17, 0x18,
					       0x1a, 0x1b, 0x1f, 0x20, 0x21, 0x23};
	const uint32_t ext_last = m->vendor == CPU_VENDOR_INTEL ? 0x80000008 : 0x80000021;
	struct cpuid_leaf *l;
	uint32_t i;

	for (i = 0; i < ARRAY_SIZE(of_the_host); i++)
		cpuid_remove(set, of_the_host[i]);
	while (highest_leaf(set, 0, 0x3fffffff) > 0x24)
		cpuid_remove(set, highest_leaf(set, 0, 0x3fffffff));
	while (highest_leaf(set, 0x80000000, 0x8fffffff) > ext_last)
		cpuid_remove(set, highest_leaf(set, 0x80000000, 0x8fffffff));
	l = cpuid_find(set, 6, 0);
	if (l)
		l->ebx = l->ecx = l->edx = 0;
	l = cpuid_find(set, 0xa, 0);
	if (l)
		l->eax = l->ebx = l->ecx = l->edx = 0;
	l = cpuid_find(set, 7, 1);
	if (l)
		l->ebx = l->ecx = 0;
	l = cpuid_find(set, 7, 2);
	if (l)
		l->eax = l->ebx = l->ecx = 0;
	l = cpuid_find(set, 7, 0);
	if (l) { /* the highest sub-leaf that says something */
		const struct cpuid_leaf *l1 = cpuid_find(set, 7, 1), *l2 = cpuid_find(set, 7, 2);

		l->eax = l2 && l2->edx ? 2 : l1 && (l1->eax | l1->edx) ? 1 : 0;
	}
	l = cpuid_find(set, 0, 0);
	if (l)
		l->eax = highest_leaf(set, 0, 0x3fffffff);
	l = cpuid_find(set, 0x80000000, 0);
	if (l)
		l->eax = highest_leaf(set, 0x80000000, 0x8fffffff);
}

static uint32_t signature(const struct guest_model *m)
{
	const uint32_t family = m->family < 0xf ? m->family : 0xf;

	return (m->family - family) << 20 | (m->model >> 4) << 16 | family << 8 |
	       (m->model & 0xf) << 4 | m->stepping;
}

static int set_identity(const struct guest_model *m, struct cpuid_set *set)
{
	const uint32_t amd_leaf = 0x80000001;
	struct cpuid_leaf *l = cpuid_find(set, 1, 0);
	char brand[48] = "";
	unsigned int i;

	if (l)
		l->eax = signature(m);
	l = cpuid_find(set, amd_leaf, 0);
	if (l && m->vendor != CPU_VENDOR_INTEL)
		l->eax = signature(m); /* the same there; reserved on Intel */
	snprintf(brand, sizeof(brand), "%s virtual CPU (%s)",
		 m->vendor == CPU_VENDOR_INTEL ? "Intel"
		 : m->vendor == CPU_VENDOR_AMD ? "AMD"
					       : "Hygon",
		 m->name);
	for (i = 0; i < 3; i++) {
		const char *part = brand + 16 * (size_t)i;
		const struct cpuid_leaf b = {
			.leaf = 0x80000002 + i,
			.eax = get_le32(part),
			.ebx = get_le32(part + 4),
			.ecx = get_le32(part + 8),
			.edx = get_le32(part + 12),
		};
		int ret = cpuid_add(set, &b);

		if (ret)
			return ret;
	}
	return 0;
}

static int check_edits(const struct guest_cpu *cpu, struct cpuid_set *kvm, struct err *e)
{
	char missing[600] = "";
	unsigned int i;

	for (i = 0; i < cpu->n_edits; i++)
		if (cpu->edit[i].on && !cpu_feature_has(kvm, cpu->edit[i].feature))
			append_name(missing, sizeof(missing), cpu->edit[i].feature->name);
	if (!*missing)
		return 0;
	return err_set(e, -ENOTSUP,
		       "--cpu: this host or its KVM lacks %s; remove it from the list of +FEATURE",
		       missing);
}

static int check_foundations(const struct guest_cpu *cpu, struct cpuid_set *set, struct err *e)
{
	const struct cpu_feature *needs;
	unsigned int i, j;

	for (i = 0; i < cpu->n_edits; i++)
		for (j = 0; cpu->edit[i].on && (needs = cpu_feature_needs(cpu->edit[i].feature, j));
		     j++)
			if (!cpu_feature_has(set, needs))
				return err_set(e, -EINVAL,
					       "--cpu: +%s builds on %s, which this guest does not "
					       "have; add +%s or drop +%s",
					       cpu->edit[i].feature->name, needs->name, needs->name,
					       cpu->edit[i].feature->name);
	return 0;
}

int guest_cpu_apply(const struct guest_cpu *cpu, struct cpuid_set *set, struct err *e)
{
	const struct guest_model *m = NULL;
	bool less = false;
	unsigned int i;
	int ret;

	ret = check_edits(cpu, set, e);
	if (ret)
		return ret;
	if (strcmp(cpu->name, "host")) {
		ret = find_model(cpu->name, vendor_of(set), &m, e);
		if (!ret)
			ret = check_present(cpu, m, set, e);
		if (!ret)
			ret = set_identity(m, set);
		if (ret)
			return ret;
		keep_listed(cpu, m->features, set);
	}
	for (i = 0; i < cpu->n_edits; i++)
		if (!cpu->edit[i].on) {
			cpu_feature_put(set, cpu->edit[i].feature, false);
			less = true;
		}
	if (!m && !less)
		return 0; /* what KVM says, to the letter */
	ret = check_foundations(cpu, set, e);
	if (ret)
		return ret;
	cpu_features_close(set);
	ret = check_foundations(cpu, set, e);
	if (!ret && m)
		trim(m, set);
	return ret;
}

/* What decides in place of --cpu */
static const char *overruler(const struct cpu_feature *f, bool on)
{
	if (f == cpu_feature(FEATURE_vmx) || f == cpu_feature(FEATURE_svm))
		return "the policy hides it; set nested: shown";
	if (f == cpu_feature(FEATURE_ht) || f == cpu_feature(FEATURE_cmp_legacy))
		return "it tells of more than one CPU; -c decides";
	return on ? "no guest has it; leave it out" : "every guest has it; leave it out";
}

int guest_cpu_check_edits(const struct guest_cpu *cpu, struct cpuid_set *set, struct err *e)
{
	unsigned int i;

	for (i = 0; i < cpu->n_edits; i++) {
		const struct cpu_feature *f = cpu->edit[i].feature;
		const bool on = cpu->edit[i].on;

		if (cpu_feature_has(set, f) != on)
			return err_set(e, -EINVAL, "--cpu: %c%s: %s", on ? '+' : '-', f->name,
				       overruler(f, on));
	}
	return 0;
}
