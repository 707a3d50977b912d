#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "cpuid/guest_cpu.h"
#include "cpuid/template.h"

static const struct cpu_feature *feature(const char *name)
{
	const struct cpu_feature *f = cpu_feature_find(name, strlen(name));

	if (!f)
		print_message("# no feature %s\n", name);
	assert_non_null(f);
	return f;
}

static bool has(struct cpuid_set *set, const char *name)
{
	return cpu_feature_has(set, feature(name));
}

static void add(struct cpuid_set *set, uint32_t leaf, uint32_t sub, bool indexed, uint32_t eax,
		uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	const struct cpuid_leaf l = {leaf, sub, indexed, eax, ebx, ecx, edx};

	assert_int_equal(cpuid_add(set, &l), 0);
}

/* for each word of @list */
static void put_all(struct cpuid_set *set, const char *list, bool on)
{
	char word[32];
	int used;

	for (; sscanf(list, " %31s%n", word, &used) == 1; list += used)
		assert_int_equal(cpu_feature_put(set, feature(word), on), 0);
}

/* every leaf that features live in, the XSAVE layout of Sapphire Rapids, and leaves of the host */
static void empty_host(struct cpuid_set *set, bool amd)
{
	memset(set, 0, sizeof(*set));
	if (amd)
		add(set, 0, 0, false, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	else
		add(set, 0, 0, false, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(set, 1, 0, false, 0x806f8, 0, 0, 0);
	add(set, 6, 0, false, 0x77, 2, 9, 0);
	add(set, 7, 0, true, 2, 0, 0, 0);
	add(set, 7, 1, true, 0, 0xf, 0xf, 0);
	add(set, 7, 2, true, 0xf, 0, 0, 0);
	add(set, 0xa, 0, false, 0x8300805, 0, 0xf, 0x8604);
	add(set, 0xd, 0, true, 0x602e7, 0x2b00, 0x2b00, 0);
	add(set, 0xd, 1, true, 0, 0x2b00, 0x1900, 0);
	add(set, 0xd, 2, true, 0x100, 0x240, 0, 0);
	add(set, 0xd, 5, true, 0x40, 0x440, 0, 0);
	add(set, 0xd, 6, true, 0x200, 0x480, 0, 0);
	add(set, 0xd, 7, true, 0x400, 0x680, 0, 0);
	add(set, 0xd, 9, true, 8, 0xa80, 0, 0);
	add(set, 0xd, 11, true, 0x10, 0, 1, 0);
	add(set, 0xd, 17, true, 0x40, 0xac0, 2, 0);
	add(set, 0xd, 18, true, 0x2000, 0xb00, 6, 0);
	add(set, 0x15, 0, false, 2, 200, 0, 0);
	add(set, 0x1d, 1, true, 0x4002000, 0, 0, 0);
	add(set, 0x1f, 0, true, 1, 2, 0x100, 0);
	add(set, 0x20, 0, true, 0, 1, 0, 0);
	add(set, 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0, 0);
	add(set, 0x80000000, 0, false, 0x80000022, 0, 0, 0);
	add(set, 0x80000001, 0, false, amd ? 0xa20f10 : 0, 0, 0, 0);
	add(set, 0x80000002, 0, false, 0x41414141, 0, 0, 0);
	add(set, 0x80000007, 0, false, 0, 0, 0, 0);
	add(set, 0x80000008, 0, false, 0x3934, 0, 0, 0);
	add(set, 0x8000000a, 0, false, 1, 0, 0, 0);
	add(set, 0x80000021, 0, false, 0, 0, 0, 0);
	add(set, 0x80000022, 0, false, 1, 0, 0, 0);
}

static void empty_host_of(struct cpuid_set *set, enum cpu_vendor vendor)
{
	const struct cpuid_leaf hygon = {
		.eax = 0xd, .ebx = 0x6f677948, .edx = 0x6e65476e, .ecx = 0x656e6975};

	empty_host(set, vendor != CPU_VENDOR_INTEL);
	if (vendor == CPU_VENDOR_HYGON)
		assert_int_equal(cpuid_add(set, &hygon), 0);
}

static const char *features_of(const char *name, enum cpu_vendor vendor)
{
	unsigned int n, i;
	const struct guest_model *m = guest_models(&n);

	for (i = 0; i < n; i++)
		if (!strcmp(m[i].name, name) && m[i].vendor == vendor)
			return m[i].features;
	fail();
	return "";
}

#define EXTRA_INTEL                                                                           \
	"vmx hle rtm amx_tile amx_int8 amx_bf16 xfd stibp flush_l1d md_clear x2apic arat ht " \
	"cldemote waitpkg psfd mcdt_no intel_pt shstk hypervisor"

static void spr_host(struct cpuid_set *set)
{
	empty_host(set, false);
	put_all(set, features_of("sapphire-rapids-v2", CPU_VENDOR_INTEL), true);
	put_all(set, EXTRA_INTEL, true);
}

static void icx_host(struct cpuid_set *set)
{
	empty_host(set, false);
	put_all(set, features_of("icelake-server", CPU_VENDOR_INTEL), true);
	put_all(set, "vmx stibp flush_l1d md_clear x2apic arat ht hypervisor", true);
	cpu_features_close(set);
}

static void milan_host(struct cpuid_set *set)
{
	empty_host(set, true);
	put_all(set, features_of("epyc-milan", CPU_VENDOR_AMD), true);
	put_all(set, "svm topoext perfctr_core lfence_rdtsc x2apic", true);
}

/* ---- the tables ---- */

static void test_feature_table(void **state)
{
	unsigned int n, i, j;
	const struct cpu_feature *f = cpu_features(&n);

	(void)state;
	for (i = 0; i < n; i++) {
		assert_in_range(f[i].bit, 0, 31);
		assert_true(strlen(f[i].name) < 32 && strlen(f[i].source) > 10);
		assert_ptr_equal(cpu_feature_find(f[i].name, strlen(f[i].name)), &f[i]);
		/* the rows of a register are together */
		if (i && (f[i].leaf != f[i - 1].leaf || f[i].subleaf != f[i - 1].subleaf ||
			  f[i].reg != f[i - 1].reg))
			for (j = 0; j + 1 < i; j++)
				assert_false(f[j].leaf == f[i].leaf &&
					     f[j].subleaf == f[i].subleaf && f[j].reg == f[i].reg);
		for (j = i + 1; j < n; j++) {
			assert_string_not_equal(f[i].name, f[j].name);
			assert_false(f[i].leaf == f[j].leaf && f[i].subleaf == f[j].subleaf &&
				     f[i].reg == f[j].reg && f[i].bit == f[j].bit);
		}
	}
}

static const struct {
	const char *name;
	uint32_t leaf, subleaf;
	enum cpuid_reg reg;
	unsigned int bit;
} known[] = {
	{"spec_ctrl", 7, 0, CPUID_EDX, 26},
	{"spec-ctrl", 7, 0, CPUID_EDX, 26},
	{"stibp", 7, 0, CPUID_EDX, 27},
	{"arch-capabilities", 7, 0, CPUID_EDX, 29},
	{"ssbd", 7, 0, CPUID_EDX, 31},
	{"psfd", 7, 2, CPUID_EDX, 0},
	{"ipred_ctrl", 7, 2, CPUID_EDX, 1},
	{"rrsba_ctrl", 7, 2, CPUID_EDX, 2},
	{"bhi_ctrl", 7, 2, CPUID_EDX, 4},
	{"bhi-ctrl", 7, 2, CPUID_EDX, 4},
	{"SSE4.1", 1, 0, CPUID_ECX, 19},
	{"sse3", 1, 0, CPUID_ECX, 0},
	{"lzcnt", 0x80000001, 0, CPUID_ECX, 5},
	{"avx512-vpopcntdq", 7, 0, CPUID_ECX, 14},
	{"avx512vbmi2", 7, 0, CPUID_ECX, 6},
	{"xsaves", 0xd, 1, CPUID_EAX, 3},
	{"invtsc", 0x80000007, 0, CPUID_EDX, 8},
	{"ibpb", 0x80000008, 0, CPUID_EBX, 12},
	{"amd-stibp", 0x80000008, 0, CPUID_EBX, 15},
	{"nx", 0x80000001, 0, CPUID_EDX, 20},
};

static void test_known_names(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(known); i++) {
		const struct cpu_feature *f = feature(known[i].name);

		print_message("# %s\n", known[i].name);
		assert_int_equal(f->leaf, known[i].leaf);
		assert_int_equal(f->subleaf, known[i].subleaf);
		assert_int_equal(f->reg, known[i].reg);
		assert_int_equal(f->bit, known[i].bit);
	}
	assert_null(cpu_feature_find("avx512", 6)); /* no prefix of a name */
	assert_null(cpu_feature_find("avx2x", 5));
	assert_null(cpu_feature_find("", 0));
}

static bool named_again(const char *list, const char *feature)
{
	char word[32];
	int used;

	for (; sscanf(list, " %31s%n", word, &used) == 1; list += used)
		if (!strcmp(word, feature))
			return true;
	return false;
}

/* a model names features that exist, and everything that they build on */
static void test_model_table(void **state)
{
	unsigned int n, i, j;
	const struct guest_model *m = guest_models(&n);
	struct cpuid_set set;

	(void)state;
	for (i = 0; i < n; i++) {
		const char *list = m[i].features;
		char word[32];
		int used;

		empty_host_of(&set, m[i].vendor);
		put_all(&set, m[i].features, true);
		cpu_features_close(&set);
		for (; sscanf(list, " %31s%n", word, &used) == 1; list += used)
			if (!has(&set, word))
				fail_msg("%s: %s lacks what it builds on", m[i].name, word);
			else if (named_again(list + used, word))
				fail_msg("%s: %s twice", m[i].name, word);
		for (j = i + 1; j < n; j++)
			assert_false(!strcmp(m[i].name, m[j].name) && m[i].vendor == m[j].vendor);
	}
}

/* ---- text ---- */

/* clang-format off */
static const struct {
	const char *text;
	int ret;
	unsigned int n_edits;
	const char *error; /* part of the text */
} texts[] = {
	{"host", 0, 0, NULL},
	{"x86-64-v3", 0, 0, NULL},
	{"icelake-server,-avx512f,+bhi_ctrl", 0, 2, NULL},
	{"host,-avx,+avx,-avx", 0, 1, NULL},
	{"host,+spec-ctrl,-spec_ctrl", 0, 1, NULL},
	{"", -EINVAL, 0, "'' is not a known CPU; use one of host, x86-64-v2"},
	{"pentium", -EINVAL, 0, "'pentium' is not a known CPU"},
	{"sapphire-rapids-v1", 0, 0, NULL},
	{"SapphireRapids", 0, 0, NULL},
	{"skylake-server-noTSX-ibrs,-pku", 0, 1, NULL},
	{"EPYC", 0, 0, NULL},
	{"SapphireRapids-v2", -EINVAL, 0, "'SapphireRapids-v2' is not a known CPU"},
	{"sapphire-rapids-v2-v1", -EINVAL, 0, "is not a known CPU"},
	{"sapphire-rapids-v9", -EINVAL, 0, "is not a known CPU"},
	{"x86-64-v1", -EINVAL, 0, "is not a known CPU"},
	{"-v1", -EINVAL, 0, "is not a known CPU"},
	{"Host", -EINVAL, 0, "'Host' is not a known CPU"},
	{"hosts", -EINVAL, 0, "'hosts' is not a known CPU"},
	{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", -EINVAL, 0,
	 "is not a known CPU"},
	{"host,avx", -EINVAL, 0, "'avx' is not an edit; use +FEATURE or -FEATURE"},
	{"host,", -EINVAL, 0, "'' is not an edit"},
	{"host,,+avx", -EINVAL, 0, "'' is not an edit"},
	{"host,+", -EINVAL, 0, "'+' is not an edit"},
	{"host,+avx3", -EINVAL, 0, "'avx3' is not a known feature"},
	{"host,+avx ", -EINVAL, 0, "'avx ' is not a known feature"},
	{"host,+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", -EINVAL, 0,
	 "is not a known feature"},
};
/* clang-format on */

static void test_parse(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(texts); i++) {
		struct guest_cpu cpu = {.n_edits = 99};
		struct err e = {0};

		print_message("# '%s'\n", texts[i].text);
		assert_int_equal(guest_cpu_parse(texts[i].text, &cpu, &e), texts[i].ret);
		if (texts[i].ret) {
			assert_non_null(strstr(e.text, texts[i].error));
			assert_int_equal(cpu.n_edits, 99); /* untouched */
		} else {
			assert_int_equal(cpu.n_edits, texts[i].n_edits);
		}
	}
}

static void test_parse_too_many(void **state)
{
	char text[2048] = "host";
	unsigned int n, i;
	const struct cpu_feature *f = cpu_features(&n);
	struct guest_cpu cpu;
	struct err e = {0};

	(void)state;
	for (i = 0; i <= GUEST_CPU_EDITS_MAX; i++) {
		strcat(text, ",-");
		strcat(text, f[i].name);
	}
	assert_int_equal(guest_cpu_parse(text, &cpu, &e), -EINVAL);
	assert_non_null(strstr(e.text, "more than 64 features"));
}

/* whatever a user calls it, the table's name is what the guest and messages get */
static void test_parse_names(void **state)
{
	static const struct {
		const char *text, *name;
	} names[] = {
		{"host", "host"},
		{"icelake-server", "icelake-server"},
		{"icelake-server-v1", "icelake-server"},
		{"Icelake-Server", "icelake-server"},
		{"ICELAKE-SERVER-NOTSX", "icelake-server"},
		{"EPYC-Rome", "epyc-rome"},
		{"EPYC-IBPB", "epyc"},
		{"epyc-milan-v2", "epyc-milan-v2"},
		{"x86-64-v2", "x86-64-v2"},
		{"x86-64-v2-v1", NULL},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		struct guest_cpu cpu;
		const int ret = guest_cpu_parse(names[i].text, &cpu, NULL);

		print_message("# %s\n", names[i].text);
		assert_int_equal(ret, names[i].name ? 0 : -EINVAL);
		if (ret == 0)
			assert_string_equal(cpu.name, names[i].name);
	}
}

/* ---- on a host ---- */

typedef void (*make_host)(struct cpuid_set *set);

/* clang-format off */
static const struct {
	const char *name, *cpu;
	make_host host;
	int ret;
	const char *error, *shown, *hidden;
} applied[] = {
	{"host shows all", "host", spr_host, 0, NULL, "vmx avx512f amx_tile bhi_ctrl rtm", "3dnow"},
	{"host without a family of features", "host,-avx", spr_host, 0, NULL, "sse4_2 xsave bhi_ctrl",
	 "avx avx2 fma f16c avx512f avx512bw avx512_vnni avx512_fp16 vaes vpclmulqdq avx_vnni"},
	{"host without XSAVE", "host,-xsave", spr_host, 0, NULL, "sse4_2",
	 "xsave xsaves xsavec xgetbv1 xfd avx pku amx_tile shstk avx512f"},
	{"host without SPEC_CTRL has no controls either", "host,-spec_ctrl", spr_host, 0, NULL,
	 "arch_capabilities flush_l1d",
	 "spec_ctrl stibp ssbd psfd ipred_ctrl rrsba_ctrl bhi_ctrl"},
	{"host without BHI_CTRL", "host,-bhi_ctrl", spr_host, 0, NULL, "rrsba_ctrl ipred_ctrl",
	 "bhi_ctrl"},
	{"plus what is there", "host,+avx2", spr_host, 0, NULL, "avx2", "3dnow"},
	{"plus what is not", "host,+3dnow,+avx512pf", spr_host, -ENOTSUP, "lacks 3dnow, avx512pf;",
	 NULL, NULL},
	{"plus without what it builds on", "host,-avx,+avx2", spr_host, -EINVAL,
	 "+avx2 builds on avx,", NULL, NULL},
	{"plus without what that builds on", "host,-xsave,+avx2", spr_host, -EINVAL,
	 "+avx2 builds on avx,", NULL, NULL},
	{"icelake-server on Sapphire Rapids", "icelake-server", spr_host, 0, NULL,
	 "avx512_bitalg sha_ni spec_ctrl stibp arch_capabilities md_clear x2apic",
	 "bhi_ctrl rrsba_ctrl ipred_ctrl psfd mcdt_no vmx rtm amx_tile avx512_fp16 serialize cldemote"},
	{"sapphire-rapids", "sapphire-rapids", spr_host, 0, NULL, "bhi_ctrl avx512_fp16 la57",
	 "amx_tile vmx psfd intel_pt"},
	{"sapphire-rapids with AMX", "sapphire-rapids,+amx_tile,+xfd", spr_host, 0, NULL,
	 "amx_tile xfd", "amx_int8"},
	{"AMX without XFD", "sapphire-rapids,+amx_tile", spr_host, -EINVAL, "builds on xfd", NULL,
	 NULL},
	{"sapphire-rapids on Ice Lake", "sapphire-rapids", icx_host, -ENOTSUP,
	 "lacks: avx512_bf16, avx512_fp16, avx_vnni, serialize, bus_lock_detect, movdiri, "
	 "movdir64b, ipred_ctrl, rrsba_ctrl, bhi_ctrl; use a lesser model, a KVM of at least Linux "
	 "6.8, or a stable 6.1 or 6.6 since April 2024, or give them up "
	 "(sapphire-rapids,-avx512_bf16...)",
	 NULL, NULL},
	{"sapphire-rapids-v2", "sapphire-rapids-v2", spr_host, 0, NULL, "fzrm fsrs fsrc", "amx_tile"},
	{"sapphire-rapids does not show what only its version 2 has", "SapphireRapids", spr_host, 0,
	 NULL, "bhi_ctrl", "fzrm fsrs fsrc"},
	{"granite-rapids-v2 on Sapphire Rapids", "granite-rapids-v2", spr_host, -ENOTSUP,
	 "lacks: prefetchiti;", NULL, NULL},
	{"granite-rapids-v2, given up", "granite-rapids-v2,-prefetchiti", spr_host, 0, NULL,
	 "mcdt_no fzrm", "prefetchiti"},
	{"sierra-forest on Sapphire Rapids", "sierra-forest", spr_host, 0, NULL,
	 "mcdt_no avx_vnni", "avx512f la57"},
	{"skylake-server with VMX", "skylake-server,+vmx", icx_host, 0, NULL, "vmx avx512f",
	 "avx512_vnni avx512ifma"},
	{"cascadelake-server without AVX-512", "cascadelake-server,-avx512f", icx_host, 0, NULL,
	 "avx2 fma", "avx512f avx512vl avx512bw avx512_vnni"},
	{"x86-64-v2", "x86-64-v2", icx_host, 0, NULL, "sse4_2 popcnt cx16 lahf_lm spec_ctrl nx lm",
	 "avx xsave aes pcid"},
	{"x86-64-v3", "x86-64-v3", icx_host, 0, NULL, "avx2 bmi2 movbe abm", "avx512f xsaves"},
	{"x86-64-v4", "x86-64-v4", icx_host, 0, NULL, "avx512vl", "avx512_vnni"},
	{"x86-64-v4 on AMD without", "x86-64-v4", milan_host, -ENOTSUP,
	 "lacks: avx512f, avx512bw, avx512cd, avx512dq, avx512vl;", NULL, NULL},
	{"x86-64-v3 on AMD", "x86-64-v3", milan_host, 0, NULL, "avx2 ibpb amd_ssbd lfence_rdtsc",
	 "svm clzero"},
	{"epyc-milan", "epyc-milan", milan_host, 0, NULL, "vaes ibrs wbnoinvd topoext", "svm"},
	{"epyc-rome on Milan", "epyc-rome", milan_host, 0, NULL, "wbnoinvd",
	 "vaes pcid invpcid xsaves"},
	{"epyc-milan-v2", "epyc-milan-v2", milan_host, -ENOTSUP, "lacks: erms, fsrm; use a lesser "
	 "model, or give them up (epyc-milan-v2,-erms...)", NULL, NULL},
	{"epyc-milan on Intel", "epyc-milan", spr_host, -ENOTSUP, "not a CPU of this host's vendor",
	 NULL, NULL},
	{"icelake-server on AMD", "icelake-server", milan_host, -ENOTSUP,
	 "not a CPU of this host's vendor", NULL, NULL},
};
/* clang-format on */

static void check_words(struct cpuid_set *set, const char *list, bool expect)
{
	char word[32];
	int used;

	for (; sscanf(list, " %31s%n", word, &used) == 1; list += used)
		if (has(set, word) != expect)
			fail_msg("%s is %s", word, expect ? "missing" : "shown");
}

static void test_apply(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(applied); i++) {
		struct cpuid_set set;
		struct guest_cpu cpu;
		struct err e = {0};

		print_message("# %s\n", applied[i].name);
		applied[i].host(&set);
		assert_int_equal(guest_cpu_parse(applied[i].cpu, &cpu, &e), 0);
		assert_int_equal(guest_cpu_apply(&cpu, &set, &e), applied[i].ret);
		if (applied[i].ret) {
			if (!strstr(e.text, applied[i].error))
				fail_msg("%s", e.text);
			continue;
		}
		check_words(&set, applied[i].shown, true);
		check_words(&set, applied[i].hidden, false);
	}
}

static void apply_ok(const char *text, struct cpuid_set *set)
{
	struct guest_cpu cpu;
	struct err e = {0};

	assert_int_equal(guest_cpu_parse(text, &cpu, &e), 0);
	assert_int_equal(guest_cpu_apply(&cpu, set, &e), 0);
}

static void test_identity(void **state)
{
	struct cpuid_set set;
	struct host_facts f = {0};
	unsigned int n, i;
	const struct guest_model *m = guest_models(&n);

	(void)state;
	for (i = 0; i < n; i++) {
		const bool amd = m[i].vendor != CPU_VENDOR_INTEL;
		char brand[49] = "";
		int part;

		print_message("# %s\n", m[i].name);
		empty_host_of(&set, m[i].vendor);
		put_all(&set, m[i].features, true);
		apply_ok(m[i].name, &set);
		host_facts_from_cpuid(&f, &set, &set); /* reads back what was written */
		assert_int_equal(f.family, m[i].family);
		assert_int_equal(f.model, m[i].model);
		assert_int_equal(f.stepping, m[i].stepping);
		assert_int_equal(cpuid_find(&set, 0x80000001, 0)->eax,
				 amd ? cpuid_find(&set, 1, 0)->eax : 0);
		for (part = 0; part < 3; part++) {
			const struct cpuid_leaf *l =
				cpuid_find(&set, 0x80000002 + (uint32_t)part, 0);

			put_le32(brand + part * 16, l->eax);
			put_le32(brand + part * 16 + 4, l->ebx);
			put_le32(brand + part * 16 + 8, l->ecx);
			put_le32(brand + part * 16 + 12, l->edx);
		}
		assert_non_null(strstr(brand, m[i].name));
		assert_non_null(strstr(brand, m[i].vendor == CPU_VENDOR_INTEL ? "Intel"
					      : m[i].vendor == CPU_VENDOR_AMD ? "AMD"
									      : "Hygon"));
	}
	spr_host(&set);
	apply_ok("host", &set);
	assert_int_equal(cpuid_find(&set, 1, 0)->eax, 0x806f8);
	assert_int_equal(cpuid_find(&set, 0x80000002, 0)->eax, 0x41414141);
}

/* a model is the same on two generations, leaf by leaf, but for what KVM itself says */
static void test_same_everywhere(void **state)
{
	struct cpuid_set a, b;
	uint32_t i;

	(void)state;
	spr_host(&a);
	icx_host(&b);
	apply_ok("icelake-server", &a);
	apply_ok("icelake-server", &b);
	assert_int_equal(a.n_leaves, b.n_leaves);
	for (i = 0; i < a.n_leaves; i++) {
		const struct cpuid_leaf *l = cpuid_find(&b, a.leaf[i].leaf, a.leaf[i].subleaf);

		print_message("# leaf %x.%x\n", a.leaf[i].leaf, a.leaf[i].subleaf);
		assert_non_null(l);
		assert_int_equal(a.leaf[i].eax, l->eax);
		assert_int_equal(a.leaf[i].ebx, l->ebx);
		assert_int_equal(a.leaf[i].ecx, l->ecx);
		assert_int_equal(a.leaf[i].edx, l->edx);
	}
	assert_int_equal(cpuid_find(&a, 0, 0)->eax, 0xd);
	assert_int_equal(cpuid_find(&a, 7, 0)->eax, 0);
	assert_int_equal(cpuid_find(&a, 0x80000000, 0)->eax, 0x80000008);
	assert_int_equal(cpuid_find(&a, 0xa, 0)->eax, 0);
	assert_int_equal(cpuid_find(&a, 6, 0)->eax, 4); /* ARAT */
	assert_int_equal(cpuid_find(&a, 6, 0)->ecx, 0);
	assert_null(cpuid_find(&a, 0x1f, 0));
	assert_non_null(cpuid_find(&a, 0x40000000, 0));
}

static const struct {
	const char *cpu;
	uint32_t xcr0, size, xss, last; /* last sub-leaf of 0DH */
} xsave[] = {
	{"host", 0x602e7, 0x2b00, 0x1900, 18},
	{"host,-amx_tile", 0x2e7, 0xa88, 0x1900, 11},
	{"host,-amx_tile,-pku", 0xe7, 0xa80, 0x1900, 11},
	{"host,-avx512f,-amx_tile", 0x207, 0xa88, 0x1900, 11},
	{"host,-avx,-pku,-amx_tile", 0x3, 0x240, 0x1900, 11},
	{"host,-xsaves,-amx_tile", 0x2e7, 0xa88, 0, 9},
	{"host,-shstk,-intel_pt", 0x602e7, 0x2b00, 0, 18},
	{"x86-64-v3", 0x7, 0x340, 0, 2},
	{"sapphire-rapids", 0x2e7, 0xa88, 0, 9},
};

static void test_xsave(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(xsave); i++) {
		uint32_t j, last = 0;
		struct cpuid_set set;

		print_message("# %s\n", xsave[i].cpu);
		spr_host(&set);
		apply_ok(xsave[i].cpu, &set);
		assert_int_equal(cpuid_find(&set, 0xd, 0)->eax, xsave[i].xcr0);
		assert_int_equal(cpuid_find(&set, 0xd, 0)->ecx, xsave[i].size);
		assert_true(cpuid_find(&set, 0xd, 0)->ebx <= xsave[i].size);
		assert_int_equal(cpuid_find(&set, 0xd, 1)->ecx, xsave[i].xss);
		for (j = 0; j < set.n_leaves; j++)
			if (set.leaf[j].leaf == 0xd && set.leaf[j].subleaf > last)
				last = set.leaf[j].subleaf;
		assert_int_equal(last, xsave[i].last);
	}
}

/* however odd KVM's set is, "host" does not judge it */
static void test_host_untouched(void **state)
{
	struct cpuid_set set, before;

	(void)state;
	spr_host(&set);
	cpu_feature_put(&set, feature("xsave"), false);
	cpu_feature_put(&set, feature("spec_ctrl"), false);
	before = set;
	apply_ok("host", &set);
	assert_memory_equal(&set, &before, sizeof(set));
	apply_ok("host,+avx2", &set);
	assert_memory_equal(&set, &before, sizeof(set));
}

/* a component from the future: passed with `host`, not with a model */
static void test_xsave_unknown(void **state)
{
	struct cpuid_set set;

	(void)state;
	spr_host(&set);
	cpuid_find(&set, 0xd, 0)->eax |= 1u << 20;
	add(&set, 0xd, 20, true, 0x100, 0x2b00, 0, 0);
	apply_ok("host,-vmx", &set);
	assert_int_equal(cpuid_find(&set, 0xd, 0)->eax, 0x602e7 | 1u << 20);
	assert_int_equal(cpuid_find(&set, 0xd, 0)->ecx, 0x2c00);
	apply_ok("sapphire-rapids", &set);
	assert_int_equal(cpuid_find(&set, 0xd, 0)->eax, 0x2e7);
	assert_null(cpuid_find(&set, 0xd, 20));
}

/* KVM lists AMX, but not the state that it needs, to whom has no permission for that */
static void test_amx_without_permission(void **state)
{
	static const char amx[] = "amx_tile amx_int8 amx_bf16";
	struct cpuid_set set, before;

	(void)state;
	spr_host(&set);
	before = set;
	cpu_features_hide_amx(&set);
	assert_memory_equal(&set, &before, sizeof(set));
	cpuid_find(&set, 0xd, 0)->eax &= ~(3u << 17);
	cpu_features_hide_amx(&set);
	check_words(&set, amx, false);
	check_words(&set, "avx512f pku xfd", true);
	assert_null(cpuid_find(&set, 0x1d, 0));
	assert_null(cpuid_find(&set, 0x1d, 1));
	spr_host(&set);
	cpuid_remove(&set, 0xd);
	cpu_features_hide_amx(&set);
	check_words(&set, amx, false);
}

static void test_leaves_go_with_features(void **state)
{
	struct cpuid_set set;

	(void)state;
	spr_host(&set);
	assert_non_null(cpuid_find(&set, 0x1d, 1));
	apply_ok("host,-amx_tile", &set);
	assert_null(cpuid_find(&set, 0x1d, 1));
	spr_host(&set);
	apply_ok("host,-xsave", &set);
	assert_null(cpuid_find(&set, 0xd, 0));
	milan_host(&set);
	apply_ok("host,-svm", &set);
	assert_null(cpuid_find(&set, 0x8000000a, 0));
}

/* ---- templates ---- */

static const struct {
	const char *text;
	unsigned int width;
	int ret;
	uint64_t mask, value;
	const char *error;
} bitmaps[] = {
	{"0b1", 32, 0, 1, 1, NULL},
	{"0b0", 32, 0, 1, 0, NULL},
	{"0bx", 32, 0, 0, 0, NULL},
	{"0b01x", 32, 0, 6, 2, NULL},
	{"0b01x_01x", 32, 0, 0x36, 0x12, NULL},
	{"0b1xxx", 64, 0, 8, 8, NULL},
	{"0b11111111_11111111_11111111_11111111", 32, 0, 0xffffffff, 0xffffffff, NULL},
	{"0b0000000000000000000000000000000000000000000000000000000000000001", 64, 0, ~0ULL, 1,
	 NULL},
	{"0b1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 64, 0, 1ULL << 63,
	 1ULL << 63, NULL},
	{"0b11111111_11111111_11111111_11111111_1", 32, -EINVAL, 0, 0, "more than 32 bits"},
	{"0b", 32, -EINVAL, 0, 0, "has no bits"},
	{"0b___", 32, -EINVAL, 0, 0, "has no bits"},
	{"", 32, -EINVAL, 0, 0, "does not start with 0b"},
	{"01x", 32, -EINVAL, 0, 0, "does not start with 0b"},
	{"0x1", 32, -EINVAL, 0, 0, "does not start with 0b"},
	{"0b012", 32, -EINVAL, 0, 0, "has '2' in it"},
	{"0b01X", 32, -EINVAL, 0, 0, "has 'X' in it"},
	{"0b01 ", 32, -EINVAL, 0, 0, "has ' ' in it"},
};

static void test_bitmap(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bitmaps); i++) {
		uint64_t mask = 42, value = 43;
		struct err e = {0};

		print_message("# '%s'\n", bitmaps[i].text);
		assert_int_equal(template_bitmap_parse("t.json", bitmaps[i].text, bitmaps[i].width,
						       &mask, &value, &e),
				 bitmaps[i].ret);
		if (bitmaps[i].ret) {
			assert_non_null(strstr(e.text, bitmaps[i].error));
			assert_non_null(strstr(e.text, "t.json"));
			assert_true(mask == 42 && value == 43);
		} else {
			assert_true(mask == bitmaps[i].mask && value == bitmaps[i].value);
		}
	}
}

static void test_template(void **state)
{
	const struct cpu_template_op ops[] = {
		{7, 0, CPUID_EDX, 1u << 26 | 1u << 31, 1u << 31},
		{7, 2, CPUID_EDX, 1u << 4, 0},
		{7, 0, CPUID_EDX, 1u << 26, 1u << 26}, /* the last one counts */
		{0x99, 0, CPUID_EAX, 0xff, 0},	       /* clears what is not there */
	};
	const struct cpu_template_op sets_nothing_there = {0x99, 3, CPUID_EAX, 1, 1};
	const struct cpu_template_op too_low = {0, 0, CPUID_EAX, ~0u, 6};
	const struct cpu_template_op low_enough = {0, 0, CPUID_EAX, ~0u, 0xb};
	const struct msr_template_op msrs[] = {
		{0x10a, 0xff, 0x0f}, {0x48, ~0ULL, 1}, {0x10a, 0x100, 0x100}};
	struct cpuid_set set;
	struct err e = {0};

	(void)state;
	spr_host(&set);
	cpu_feature_put(&set, feature("spec_ctrl"), false);
	assert_int_equal(template_apply_cpuid(ops, ARRAY_SIZE(ops), &set, &e), 0);
	check_words(&set, "spec_ctrl ssbd arch_capabilities stibp", true);
	check_words(&set, "bhi_ctrl", false);
	assert_null(cpuid_find(&set, 0x99, 0));
	assert_int_equal(template_apply_cpuid(&sets_nothing_there, 1, &set, &e), -ENOENT);
	assert_non_null(strstr(e.text, "leaf 0x99 sub-leaf 0x3"));
	e = (struct err) {0};
	assert_int_equal(template_apply_cpuid(&too_low, 1, &set, &e), -EINVAL);
	assert_non_null(strstr(e.text, "leaf 0x0 EAX is 0x6"));
	assert_int_equal(template_apply_cpuid(&low_enough, 1, &set, &e), 0);
	assert_int_equal(cpuid_find(&set, 0, 0)->eax, 0xb);

	assert_int_equal(template_apply_msr(msrs, 3, 0x10a, 0xabcd00f0), 0xabcd010f);
	assert_int_equal(template_apply_msr(msrs, 3, 0x48, 0x400), 1);
	assert_int_equal(template_apply_msr(msrs, 3, 0x49, 7), 7);
}

/* What is set after the chosen CPU must not take back silently what was asked for. */
static void test_overruled(void **state)
{
	static const struct {
		const char *cpu;
		uint32_t n_vcpus;
		const char *error; /* NULL: nothing is overruled */
	} rows[] = {
		{"host", 4, NULL},
		{"host,-avx512f,+avx2", 4, NULL},
		{"host,-x2apic", 1, "-x2apic: every guest has it"},
		{"host,-hypervisor", 1, "-hypervisor: every guest has it"},
		{"host,-tsc_deadline_timer", 1, "-tsc_deadline_timer: every guest has it"},
		{"host,-ht", 2, "-ht: it tells of more than one CPU; -c decides"},
		{"host,-ht", 1, NULL},
	};
	const struct cpu_template_op ops[] = {
		{1, 0, CPUID_ECX, 1u << 31, 0}, /* taken over by the next one */
		{1, 0, CPUID_ECX, 1u << 31 | 1u << 3, 1u << 31},
		{7, 0, CPUID_EDX, 1u << 26, 1u << 26},
		{0xb, 1, CPUID_EBX, 0xffff, 77},
		{0x99, 0, CPUID_EAX, 0xff, 0},
		{1, 0, CPUID_ECX, 1u << 21, 0},
	};
	struct cpuid_set set;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct guest_cpu cpu;
		struct err e = {0};

		print_message("# %s on %u\n", rows[i].cpu, rows[i].n_vcpus);
		spr_host(&set);
		assert_int_equal(guest_cpu_parse(rows[i].cpu, &cpu, &e), 0);
		assert_int_equal(guest_cpu_apply(&cpu, &set, &e), 0);
		cpuid_set_vmm_bits(&set, true);
		assert_int_equal(cpuid_set_topology(&set, 0, rows[i].n_vcpus), 0);
		assert_int_equal(guest_cpu_check_edits(&cpu, &set, &e),
				 rows[i].error ? -EINVAL : 0);
		if (rows[i].error)
			assert_non_null(strstr(e.text, rows[i].error));
	}
	spr_host(&set);
	assert_int_equal(template_apply_cpuid(ops, 3, &set, NULL), 0);
	cpuid_set_vmm_bits(&set, true);
	assert_int_equal(cpuid_set_topology(&set, 0, 2), 0);
	assert_int_equal(template_overruled(ops, 6, 0, &set), 3);
	assert_int_equal(template_overruled(ops, 6, 4, &set), 5);
	assert_int_equal(template_overruled(ops, 6, 6, &set), 6);
	assert_int_equal(template_overruled(ops, 3, 0, &set), 3);
}

/* A host that is only facts: what it tells decides, what it does not tell is there. */
static void test_host_of_facts(void **state)
{
	static const struct {
		const char *name, *cpu;
		uint32_t model, edx7_0, edx7_2;
		int ret;
		uint32_t shown7_0, shown7_2; /* of SPEC_CTRL, STIBP, ARCH_CAP, SSBD; of all */
	} rows[] = {
		{"everything", "host", 0x8f, 0xafc14432, 0x3f, 0, 0xac000000, 0x3f},
		{"a newer part as itself", "sapphire-rapids", 0x8f, 0xafc14432, 0x3f, 0, 0xac000000,
		 0x16},
		{"a newer part as an older one", "icelake-server", 0x8f, 0xafc14432, 0x3f, 0,
		 0xac000000, 0},
		{"less one feature", "host,-bhi_ctrl", 0x8f, 0xafc14432, 0x3f, 0, 0xac000000, 0x2f},
		{"an older part as a newer one", "sapphire-rapids", 0x6a, 0xac000412, 0, -ENOTSUP,
		 0, 0},
		{"without SPEC_CTRL", "icelake-server", 0x6a, 0x20000412, 0, -ENOTSUP, 0, 0},
		{"another vendor's", "epyc-rome", 0x6a, 0xac000412, 0, -ENOTSUP, 0, 0},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct host_facts f = {
			.vendor_id = "GenuineIntel",
			.family = 6,
			.model = rows[i].model,
			.kvm_leaf7_0_edx = rows[i].edx7_0,
			.kvm_leaf7_2_edx = rows[i].edx7_2,
		};
		struct guest_cpu cpu;
		struct cpuid_set set;

		print_message("# %s\n", rows[i].name);
		assert_int_equal(guest_cpu_parse(rows[i].cpu, &cpu, NULL), 0);
		host_facts_to_cpuid(&f, &set);
		assert_int_equal(guest_cpu_apply(&cpu, &set, NULL), rows[i].ret);
		if (rows[i].ret)
			continue;
		assert_int_equal(cpuid_find(&set, 7, 0)->edx & 0xac000000, rows[i].shown7_0);
		assert_int_equal(cpuid_find(&set, 7, 2)->edx, rows[i].shown7_2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_feature_table),
		cmocka_unit_test(test_known_names),
		cmocka_unit_test(test_model_table),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_too_many),
		cmocka_unit_test(test_parse_names),
		cmocka_unit_test(test_apply),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_same_everywhere),
		cmocka_unit_test(test_xsave),
		cmocka_unit_test(test_host_untouched),
		cmocka_unit_test(test_xsave_unknown),
		cmocka_unit_test(test_amx_without_permission),
		cmocka_unit_test(test_leaves_go_with_features),
		cmocka_unit_test(test_bitmap),
		cmocka_unit_test(test_template),
		cmocka_unit_test(test_overruled),
		cmocka_unit_test(test_host_of_facts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
