#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "msr/spec_ctrl.h"
#include "policy/facts.h"
#include "tests/unit/mutate.h"

static const struct host_file sapphire = {
	.facts = {.vendor_id = "GenuineIntel",
		  .family = 6,
		  .model = 0x8f,
		  .stepping = 8,
		  .leaf7_0_ecx = 0x1b415fee,
		  .leaf7_0_edx = 0xffdd4432,
		  .leaf7_2_edx = 0x3f,
		  .kvm_leaf7_0_edx = 0xafc14432,
		  .kvm_leaf7_2_edx = 0x3f,
		  .kvm_arch_cap = 0x400000000c08e1eb},
	.backend = {.kind = BACKEND_MSR_FILTER,
		    .can_force = SPEC_CTRL_SSBD | SPEC_CTRL_RRSBA_DIS_S | SPEC_CTRL_BHI_DIS_S},
	.info = {.cpu = "Sapphire Rapids",
		 .microcode = "0x2b000461",
		 .kernel = "6.12.0",
		 .n_vulns = 2,
		 .vuln = {{"meltdown", "Not affected"},
			  {"spectre_v2", "Mitigation: Enhanced IBRS; BHI: BHI_DIS_S"}}},
};

static int parse(const char *text, struct host_file *f, struct err *e)
{
	memset(e, 0, sizeof(*e));
	return host_file_parse("h.json", text, strlen(text), f, e);
}

static void test_round_trip(void **state)
{
	char *text = host_file_format(&sapphire), *again;
	struct host_file f;
	struct err e;

	(void)state;
	assert_non_null(text);
	if (parse(text, &f, &e) != 0)
		fail_msg("%s\n%s", e.text, text);
	assert_memory_equal(&f.facts, &sapphire.facts, sizeof(f.facts));
	assert_int_equal(f.backend.kind, sapphire.backend.kind);
	assert_int_equal(f.backend.can_force, sapphire.backend.can_force);
	assert_memory_equal(&f.info, &sapphire.info, sizeof(f.info));
	again = host_file_format(&f);
	assert_string_equal(text, again);
	free(again);
	free(text);
}

/* All bits of every number survive, also those above JSON's signed 64. */
static void test_extremes(void **state)
{
	struct host_file f,
		h = {.facts = {.vendor_id = "AuthenticAMD",
			       .family = 270,
			       .model = 255,
			       .stepping = 15,
			       .hypervisor = true,
			       .leaf7_0_ecx = UINT32_MAX,
			       .leaf7_0_edx = UINT32_MAX,
			       .leaf7_2_edx = UINT32_MAX,
			       .kvm_leaf7_0_edx = UINT32_MAX,
			       .kvm_leaf7_2_edx = UINT32_MAX,
			       .kvm_arch_cap = UINT64_MAX},
		     .backend = {.kind = BACKEND_FORCE_VCPU, .can_force = SPEC_CTRL_ALL}};
	char *text = host_file_format(&h);
	struct err e;

	(void)state;
	if (parse(text, &f, &e) != 0)
		fail_msg("%s\n%s", e.text, text);
	assert_memory_equal(&f.facts, &h.facts, sizeof(f.facts));
	assert_int_equal(f.backend.can_force, SPEC_CTRL_ALL);
	free(text);
}

/* A change of the file for sapphire, and what must be said about it. */
static const struct {
	const char *from, *to;
	const char *says;
} refused[] = {
	{"{", "", "line 2: "},
	{"{", "[{", "h.json: line"},
	{"\"info\"", "\"facts\"", "duplicate object key"},
	{"\"info\"", "\"inf\"",
	 "'inf' is not a key; give testudo-host-facts, facts, backend, kvm-cpuid, barriers or "
	 "info"},
	{"\"testudo-host-facts\": 1", "\"testudo-host-facts\": 2",
	 "testudo-host-facts: '2' is not a value; give 1"},
	{"\"testudo-host-facts\": 1", "\"testudo-host-facts\": \"1\"", "'1' is not a value"},
	{"\"testudo-host-facts\": 1,", "", "testudo-host-facts is missing"},
	{"\"testudo-host-facts\": 1", "\"testudo-host-facts\": 7, \"new\": 1",
	 "'7' is not a value"},
	{"\"vendor\"", "\"vendro\"",
	 "facts.'vendro' is not a key; give vendor, hypervisor, family"},
	{"\"vendor\"", "\"a\\u0000b\"", "h.json: line"},
	{"\"vendor\": \"GenuineIntel\",", "", "facts.vendor is missing"},
	{"GenuineIntel", "Genuine", "facts.vendor: 'Genuine' is not a value; give the 12 letters"},
	{"GenuineIntel", "GenuineIntel!", "facts.vendor: 'GenuineIntel!'"},
	{"GenuineIntel", "Genuine\\nntel", "facts.vendor: 'Genuine?ntel'"},
	{"\"GenuineIntel\"", "12", "facts.vendor: '12' is not a value"},
	{"\"hypervisor\": false", "\"hypervisor\": 0",
	 "facts.hypervisor: '0' is not a value; give true or false"},
	{"\"hypervisor\": false", "\"hypervisor\": \"false\"", "facts.hypervisor: 'false'"},
	{"\"family\": 6", "\"family\": 271",
	 "facts.family: '271' is not a value; give a number "
	 "from 0 to 0x10e"},
	{"\"family\": 6", "\"family\": -6", "facts.family: '-6'"},
	{"\"family\": 6", "\"family\": 6.0", "facts.family: '6'"},
	{"\"family\": 6", "\"family\": \"\"", "facts.family: ''"},
	{"\"family\": 6", "\"family\": \" 6\"", "facts.family: ' 6'"},
	{"\"family\": 6", "\"family\": \"6 \"", "facts.family: '6 '"},
	{"\"family\": 6", "\"family\": null", "facts.family: null"},
	{"\"family\": 6", "\"family\": true", "facts.family: true"},
	{"\"family\": 6", "\"family\": [6]", "facts.family: an array"},
	{"\"family\": 6", "\"family\": {}", "facts.family: an object"},
	{"\"model\": 143", "\"model\": 256", "facts.model: '256' is not a value"},
	{"\"model\": 143,", "", "facts.model is missing; give a number from 0 to 0xff"},
	{"\"stepping\": 8", "\"stepping\": 16", "facts.stepping: '16' is not a value"},
	{"\"0xffdd4432\"", "\"0x100000000\"", "facts.cpuid-7-0-edx: '0x100000000'"},
	{"\"0xffdd4432\"", "\"0x\"", "facts.cpuid-7-0-edx: '0x'"},
	{"\"0x400000000c08e1eb\"", "\"0x1400000000c08e1eb\"",
	 "facts.kvm-arch-capabilities: '0x140"},
	{"\"0x400000000c08e1eb\"", "\"-1\"", "facts.kvm-arch-capabilities: '-1'"},
	{"\"0x400000000c08e1eb\"", "99999999999999999999", "too big integer"},
	{"msr-filter", "magic", "backend.name: 'magic' is not a value; give none, msr-filter"},
	{"\"name\": \"msr-filter\"", "\"name\": 1", "backend.name: '1' is not a value"},
	{"\"name\": \"msr-filter\",", "", "backend.name is missing"},
	{"\"name\": \"msr-filter\"", "\"nam\": \"x\"", "backend.'nam' is not a key"},
	{"msr-filter", "none", "backend.can-hold: an array is not a value; give [] with"},
	{"\"BHI_DIS_S\"", "\"BHI\"", "backend.can-hold: 'BHI' is not a value"},
	{"\"BHI_DIS_S\"", "\"bhi_dis_s\"", "backend.can-hold: 'bhi_dis_s' is not a value"},
	{"\"BHI_DIS_S\"", "10", "backend.can-hold: '10' is not a value"},
	{"\"can-hold\"", "\"can-hold\": 1, \"x\"", "backend.'x' is not a key"},
	{"\"info\": {", "\"info\": 1, \"x\": {", "'x' is not a key"},
};

/* @text with the first @from replaced by @to; the caller frees */
static char *replace(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	char *out = NULL;

	if (!at)
		fail_msg("'%s' is not in: %s", from, text);
	assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
	return out;
}

struct change {
	const char *from, *to, *says; /* what the refusal has to say */
};

/* @text is taken, and with each of @n changes it is not. */
static void check_changes(const char *text, const struct change *bad, size_t n)
{
	struct host_file f;
	struct err e;
	size_t i;

	if (parse(text, &f, &e) != 0)
		fail_msg("%s", e.text);
	for (i = 0; i < n; i++) {
		char *changed = replace(text, bad[i].from, bad[i].to);

		if (parse(changed, &f, &e) != -EINVAL || !strstr(e.text, bad[i].says))
			fail_msg("'%s': '%s'", bad[i].to, e.text);
		free(changed);
	}
}

static void test_refused(void **state)
{
	char *good = host_file_format(&sapphire);
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		char *bad = replace(good, refused[i].from, refused[i].to);
		struct host_file f;
		struct err e;
		int ret = parse(bad, &f, &e);

		if (ret != -EINVAL || !strstr(e.text, refused[i].says) ||
		    strncmp(e.text, "host facts h.json: ", 19) != 0 || !strstr(e.text, "; "))
			fail_msg("'%s' for '%s': %d, '%s'", refused[i].to, refused[i].from, ret,
				 e.text);
		assert_null(strchr(e.text, '\n'));
		free(bad);
	}
	free(good);
}

/* The list of bits had another name in older files; both are too much. */
static void test_earlier_name(void **state)
{
	char *good = host_file_format(&sapphire);
	char *earlier = replace(good, "\"can-hold\"", "\"can-force\"");
	char *both = replace(good, "\"can-hold\"", "\"can-force\": [], \"can-hold\"");
	struct host_file f;
	struct err e;

	(void)state;
	assert_int_equal(parse(earlier, &f, &e), 0);
	assert_int_equal(f.backend.can_force, sapphire.backend.can_force);
	assert_int_equal(parse(both, &f, &e), -EINVAL);
	assert_non_null(strstr(e.text, "backend.can-force"));
	free(both);
	free(earlier);
	free(good);
}

static void test_not_objects(void **state)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{"", "line 1: "},
		{"[]", "not a JSON object"},
		{"1", "h.json: "},
		{"{}", "testudo-host-facts is missing"},
		{"{\"testudo-host-facts\": 1}", "facts is missing; give an object"},
		{"{\"testudo-host-facts\": 1, \"facts\": []}", "facts: an array is not a value"},
		{"{} {}", "line 1: "},
		{"{\"a\": \"\xff\"}", "line 1: "},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct host_file f;
		struct err e;

		if (parse(rows[i].text, &f, &e) != -EINVAL || !strstr(e.text, rows[i].says))
			fail_msg("'%s': %s", rows[i].text, e.text);
	}
}

static void test_cpuid(void **state)
{
	static const struct change bad[] = {
		{"\"7.2\"", "\"7.02\"", "kvm-cpuid.'7.02' is not a key; give a leaf such as"},
		{"\"7.2\"", "\"7.2.3\"", "kvm-cpuid.'7.2.3' is not a key"},
		{"\"1\"", "\"0x1\"", "kvm-cpuid.'0x1' is not a key"},
		{"\"1\"", "\"7.2\"", "duplicate object key"},
		{"\"1\"", "\"\"", "kvm-cpuid.'' is not a key"},
		{"0x0000003f\"", "0x3f\"", "kvm-cpuid.7.2: "},
		{"0x0000003f\"", "0x0000003f 0x00000000\"", "kvm-cpuid.7.2: "},
		{"0x0000003f\"", "0x0000003f\", \"8\": 1, \"9\": \"\"", "kvm-cpuid.8: '1'"},
		{"\"kvm-cpuid\": {", "\"kvm-cpuid\": [], \"x\": {", "'x' is not a key"},
		{"\"msr-exits\": false", "\"msr-exits\": 0", "backend.msr-exits: '0'"},
	};
	struct host_file f, h = sapphire;
	const struct cpuid_leaf one = {.leaf = 1, .eax = 0x806f8, .ecx = 0x80000000},
				two = {.leaf = 7, .subleaf = 2, .indexed = true, .edx = 0x3f},
				high = {.leaf = 0x80000008, .eax = 0x3934, .edx = UINT32_MAX};
	char *text, *again;
	struct err e;

	(void)state;
	cpuid_add(&h.cpuid, &one);
	cpuid_add(&h.cpuid, &two);
	cpuid_add(&h.cpuid, &high);
	h.backend.no_msr_exits = true;
	text = host_file_format(&h);
	if (parse(text, &f, &e) != 0)
		fail_msg("%s", e.text);
	assert_true(f.backend.no_msr_exits);
	assert_int_equal(f.cpuid.n_leaves, 3);
	assert_memory_equal(&f.cpuid.leaf[0], &one, sizeof(one));
	assert_memory_equal(&f.cpuid.leaf[1], &two, sizeof(two));
	assert_memory_equal(&f.cpuid.leaf[2], &high, sizeof(high));
	again = host_file_format(&f);
	assert_string_equal(text, again);
	free(again);
	check_changes(text, bad, ARRAY_SIZE(bad));
	free(text);
}

static void test_barriers(void **state)
{
	static const struct barrier_facts good[] = {
		{false, HOST_IBPB_CONDITIONAL, 6, 1, 0, NESTED_EXIT_UNSAID},
		{false, HOST_IBPB_OFF, 6, 1, 192, NESTED_EXIT_UNSAID},
		{true, HOST_IBPB_ALWAYS, 6, 12, 118, NESTED_EXIT_BARE},
		{true, HOST_IBPB_ALWAYS, 7, 3, 4, NESTED_EXIT_BARRIER},
		{true, HOST_IBPB_UNKNOWN, 0, 0, 0, NESTED_EXIT_BARRIER},
	};
	static const struct change bad[] = {
		{"\"6.12.118\"", "\"6.12.0\"", "barriers.kernel: '6.12.0' is not a value"},
		{"\"6.12.118\"", "\"6.12.118-1\"", "barriers.kernel: '6.12.118-1'"},
		{"\"6.12.118\"", "\"6.12.0118\"", "barriers.kernel: '6.12.0118'"},
		{"\"6.12.118\"", "\"6\"", "barriers.kernel: '6' is not a value; give its"},
		{"\"nested-exit\": false", "\"nested-exit\": 0", "barriers.nested-exit: '0'"},
		{"\"nested-exit\"", "\"nested\"", "barriers.'nested' is not a key"},
		{"\"per-vm\": true", "\"per-vm\": false",
		 "barriers.nested-exit is said by a KVM with per-vm: true only"},
	};
	struct host_file f, h = sapphire;
	struct err e;
	char *text;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		h.backend.barrier = good[i];
		text = host_file_format(&h);
		if (parse(text, &f, &e) != 0)
			fail_msg("%s\n%s", e.text, text);
		assert_memory_equal(&f.backend.barrier, &good[i], sizeof(good[i]));
		free(text);
	}
	h.backend.barrier = good[2];
	text = host_file_format(&h);
	check_changes(text, bad, ARRAY_SIZE(bad));
	free(text);
}

/* What stands in the file twice must be the same. */
static void test_told_twice(void **state)
{
	static const struct change bad[] = {
		{"\"family\": 6", "\"family\": 7", "facts.family is 0x7, but kvm-cpuid.1 says 0x6"},
		{"\"model\": 143", "\"model\": 106",
		 "facts.model is 0x6a, but kvm-cpuid.1 says 0x8f"},
		{"0x000806f8", "0x000806f7", "facts.stepping is 0x8, but kvm-cpuid.1 says 0x7"},
		{"0x756e6547", "0x68747541", "facts.vendor is not that of kvm-cpuid.0"},
		{"0x00000000 0xac000000\"", "0x00000000 0xac000001\"",
		 "kvm-cpuid.7.0 says 0xac000001"},
		{"0x0000003f\"", "0x0000002f\"",
		 "kvm-cpuid-7-2-edx is 0x3f, but kvm-cpuid.7.2 says 0x2f"},
		{"\"7.0\": \"0x00000002", "\"7.0\": \"0x00000001", "kvm-cpuid.7.2 says 0"},
	};
	const struct cpuid_leaf leaves[] = {
		{.leaf = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
		{.leaf = 1, .eax = 0x806f8, .ecx = 0x80000000},
		{.leaf = 7, .indexed = true, .eax = 2, .edx = 0xac000000},
		{.leaf = 7, .subleaf = 2, .indexed = true, .edx = 0x3f},
	};
	struct host_file h = sapphire;
	char *text;
	size_t i;

	(void)state;
	h.facts.kvm_leaf7_0_edx = 0xac000000;
	h.facts.kvm_leaf7_2_edx = 0x3f;
	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		cpuid_add(&h.cpuid, &leaves[i]);
	text = host_file_format(&h);
	check_changes(text, bad, ARRAY_SIZE(bad));
	free(text);
}

/* As many leaves as a set has room for, and one more. */
static void test_many_leaves(void **state)
{
	char *good = host_file_format(&sapphire), *list = malloc(FACTS_SIZE_MAX), *full;
	struct host_file f;
	struct err e;
	unsigned int i;
	size_t at;

	(void)state;
	strcpy(list, "\"kvm-cpuid\": {");
	for (i = 0; i <= CPUID_SET_MAX; i++) {
		at = strlen(list);
		snprintf(list + at, FACTS_SIZE_MAX - at,
			 "%s\"%x\": \"0x00000000 0x00000000 0x00000000 0x00000000\"", i ? ", " : "",
			 i);
	}
	strcat(list, "}, \"info\"");
	full = replace(good, "\"info\"", list);
	assert_int_equal(parse(full, &f, &e), -EINVAL);
	assert_non_null(strstr(e.text, "kvm-cpuid: more than 256 leaves"));
	free(full);
	free(list);
	free(good);
}

#define DEEP15 "[[[[[[[[[[[[[[["

static const struct {
	const char *text, *says;
} deep[] = {
	{"{\"a\": " DEEP15 "]]]]]]]]]]]]]]]}", "testudo-host-facts is missing"},
	{"{\"a\": " DEEP15 "[]]]]]]]]]]]]]]]]}", "levels"},
	{"{\"a\": " DEEP15 "{", "levels"},
	{"{\"a\": \"" DEEP15 DEEP15 "\"}", "testudo-host-facts is missing"},
	{"{\"a\": \"\\\"" DEEP15 DEEP15 "\"}", "testudo-host-facts is missing"},
	{"{\"a\": \"\\\\\", \"b\": " DEEP15 DEEP15, "levels"},
	{"}}}}]]]]" DEEP15, "line 1"}, /* what closes too much gives no room */
	{"}}}}]]]]" DEEP15 "[[", "levels"},
};

static void test_limits(void **state)
{
	size_t i;
	char *big = malloc(FACTS_SIZE_MAX + 1);
	char *good = host_file_format(&sapphire);
	struct host_file f;
	struct err e = {0};

	(void)state;
	memset(big, ' ', FACTS_SIZE_MAX + 1);
	memcpy(big, good, strlen(good));
	assert_int_equal(host_file_parse("big", big, FACTS_SIZE_MAX, &f, &e), 0);
	assert_int_equal(host_file_parse("big", big, FACTS_SIZE_MAX + 1, &f, &e), -EFBIG);
	assert_string_equal(e.text,
			    "host facts big: larger than 65536 bytes; is it the right file?");
	for (i = 0; i < ARRAY_SIZE(deep); i++) {
		memset(&e, 0, sizeof(e));
		assert_int_equal(host_file_parse("deep", deep[i].text, strlen(deep[i].text), &f,
						 &e),
				 -EINVAL);
		if (!strstr(e.text, deep[i].says))
			fail_msg("'%s' is not in: %s", deep[i].says, e.text);
	}
	memset(&e, 0, sizeof(e));
	memset(big, '[', FACTS_SIZE_MAX);
	assert_int_equal(host_file_parse("deep", big, FACTS_SIZE_MAX, &f, &e), -EINVAL);
	assert_string_equal(e.text, "host facts deep: brackets in more than 16 levels; is it the "
				    "right file?");
	free(good);
	free(big);
}

/* Decides nothing, so nothing in it is refused; but it is printed, so it is cleaned. */
static void test_info(void **state)
{
	char *good = host_file_format(&sapphire), *with;
	struct host_file f;
	struct err e;

	(void)state;
	with = replace(good, "\"Sapphire Rapids\"", "\"\\u001b[31m\\n\xc3\xa4!\", \"later\": {}");
	assert_int_equal(parse(with, &f, &e), 0);
	assert_string_equal(f.info.cpu, "?[31m?\?\?!");
	free(with);
	with = replace(good, "\"0x2b000461\"", "\"0123456789012345678901234567890123456789\"");
	assert_int_equal(parse(with, &f, &e), 0);
	assert_string_equal(f.info.microcode, "0123456789012345678901234567890");
	free(with);
	with = replace(good, "\"meltdown\"", "\"one\": 1, \"two\": null, \"meltdown\"");
	assert_int_equal(parse(with, &f, &e), 0);
	assert_int_equal(f.info.n_vulns, 2);
	free(with);
	free(good);
}

static const char *data_file(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/tests/data/hosts/%s", SOURCE_ROOT, name);
	return path;
}

static void read_data(const char *name, struct host_file *f)
{
	struct err e = {0};
	char *text, *again;
	size_t len;

	if (file_read("host facts", data_file(name), FACTS_SIZE_MAX, &text, &len, &e) < 0 ||
	    host_file_parse(name, text, len, f, &e) < 0)
		fail_msg("%s", e.text);
	/* they are in the form that the program writes */
	again = host_file_format(f);
	assert_string_equal(text, again);
	free(again);
	free(text);
}

static void test_data(void **state)
{
	static const struct {
		const char *name, *cpu;
		enum cpu_vendor vendor;
		enum bhb_kind bhb;
		bool bhi_ctrl, atom_only, hybrid;
	} rows[] = {
		{"icelake-server.json", "Ice Lake", CPU_VENDOR_INTEL, BHB_SHORT, false, false,
		 false},
		{"sapphire-rapids.json", "Sapphire Rapids", CPU_VENDOR_INTEL, BHB_LONG, true, false,
		 false},
		{"alder-lake.json", "Alder Lake", CPU_VENDOR_INTEL, BHB_LONG, true, false, true},
		{"sierra-forest.json", "Sierra Forest", CPU_VENDOR_INTEL, BHB_LONG, true, true,
		 false},
	};
	struct host_traits t;
	struct host_file f;
	unsigned int n = 0;
	struct dirent *d;
	size_t i;
	DIR *dir;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		read_data(rows[i].name, &f);
		host_traits_derive(&f.facts, &t);
		if (!strstr(t.name, rows[i].cpu) || t.vendor != rows[i].vendor ||
		    t.bhi_ctrl != rows[i].bhi_ctrl || t.atom_only != rows[i].atom_only ||
		    t.hybrid != rows[i].hybrid)
			fail_msg("%s: %s", rows[i].name, t.name);
		/* an Atom's buffer is not what BHI_CTRL says elsewhere */
		if (!t.atom_only)
			assert_int_equal(t.bhb, rows[i].bhb);
	}
	read_data("epyc-rome.json", &f);
	host_traits_derive(&f.facts, &t);
	assert_int_equal(t.vendor, CPU_VENDOR_AMD);

	dir = opendir(data_file(""));
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		if (!strstr(d->d_name, ".json"))
			continue;
		read_data(d->d_name, &f);
		n++;
	}
	closedir(dir);
	assert_true(n >= 6);
}

static void test_mutations(void **state)
{
	static const char *const words[] = {"{",
					    "}",
					    "[",
					    "]",
					    "\"",
					    ",",
					    ":",
					    "null",
					    "true",
					    "-1",
					    "1e999",
					    "0x",
					    "\\u0000",
					    "\\ud800",
					    "\"x\": ",
					    "\"facts\": {",
					    "99999999999999999999",
					    "\xff",
					    NULL};
	char *good = host_file_format(&sapphire);
	uint64_t seed = 758359;
	unsigned int i, fine = 0;

	(void)state;
	for (i = 0; i < 20000; i++) {
		size_t n = strlen(good), size = n + 128;
		char *buf = malloc(size);
		struct host_file f;
		struct err e = {0};
		int ret;

		memcpy(buf, good, n);
		n = mutate(buf, n, size, words, &seed);
		buf = realloc(buf, n + !n);
		ret = host_file_parse("damaged", buf, n, &f, &e);
		fine += ret == 0;
		if (ret < 0 && (!e.text[0] || strchr(e.text, '\n')))
			fail_msg("mutation %u: '%s'", i, e.text);
		if (ret == 0) {
			char *again = host_file_format(&f);
			struct host_file g;

			/* whatever is taken can be written, and read as the same */
			if (parse(again, &g, &e) != 0 ||
			    memcmp(&f.facts, &g.facts, sizeof(f.facts)))
				fail_msg("mutation %u: %s: %s", i, again, e.text);
			free(again);
		}
		free(buf);
	}
	free(good);
	assert_in_range(fine, 50, 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_refused),	    cmocka_unit_test(test_earlier_name),
		cmocka_unit_test(test_not_objects), cmocka_unit_test(test_cpuid),
		cmocka_unit_test(test_told_twice),  cmocka_unit_test(test_many_leaves),
		cmocka_unit_test(test_limits),	    cmocka_unit_test(test_info),
		cmocka_unit_test(test_data),	    cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_barriers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
