#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "policy/cpu_template.h"
#include "tests/unit/mutate.h"

static int parse(const char *text, struct cpu_template *t, struct err *e)
{
	memset(e, 0, sizeof(*e));
	return cpu_template_parse("t.json", text, strlen(text), t, e);
}

/* The form is Firecracker's; the content hides BHI_CTRL and pins what a mixed pool needs. */
static const char example[] =
	"{\n"
	"  \"kvm_capabilities\": [\"171\", \"!56\"],\n"
	"  \"cpuid_modifiers\": [\n"
	"    {\"leaf\": \"0x7\", \"subleaf\": \"0x2\", \"flags\": 1, \"modifiers\": [\n"
	"      {\"register\": \"edx\", \"bitmap\": \"0b0x_x1\"},\n"
	"      {\"register\": \"ebx\", \"bitmap\": \"0bxxxxxxxx_xxxxxxxx_xxxxxxxx_xxxxxxx0\"}]},\n"
	"    {\"leaf\": \"0x80000008\", \"subleaf\": \"0b10\", \"flags\": 0, \"modifiers\": []}\n"
	"  ],\n"
	"  \"msr_modifiers\": [\n"
	"    {\"addr\": \"0x10a\", \"bitmap\": \"0b1000000000000000000000000000000000000000000"
	"00000000000000000x011\"}\n"
	"  ]\n"
	"}\n";

static void test_example(void **state)
{
	struct cpu_template t;
	struct err e;

	(void)state;
	if (parse(example, &t, &e) != 0)
		fail_msg("%s", e.text);
	assert_int_equal(t.n_caps, 2);
	assert_int_equal(t.cap[0].cap, 171);
	assert_false(t.cap[0].remove);
	assert_int_equal(t.cap[1].cap, 56);
	assert_true(t.cap[1].remove);

	assert_int_equal(t.n_cpuid, 2);
	assert_int_equal(t.cpuid[0].leaf, 7);
	assert_int_equal(t.cpuid[0].subleaf, 2);
	assert_int_equal(t.cpuid[0].reg, CPUID_EDX);
	assert_int_equal(t.cpuid[0].mask, 0x9);
	assert_int_equal(t.cpuid[0].value, 0x1);
	assert_int_equal(t.cpuid[1].reg, CPUID_EBX);
	assert_int_equal(t.cpuid[1].mask, 0x1);
	assert_int_equal(t.cpuid[1].value, 0);

	assert_int_equal(t.n_msr, 1);
	assert_int_equal(t.msr[0].index, 0x10a);
	assert_int_equal(t.msr[0].mask, ~UINT64_C(8));
	assert_int_equal(t.msr[0].value, UINT64_C(1) << 63 | 3);

	assert_int_equal(parse("{}", &t, &e), 0);
	assert_int_equal(t.n_caps + t.n_cpuid + t.n_msr, 0);
}

#define CPUID(leaf, subleaf, flags, modifiers)                                                    \
	"{\"cpuid_modifiers\": [{\"leaf\": " leaf ", \"subleaf\": " subleaf ", \"flags\": " flags \
	", \"modifiers\": " modifiers "}]}"
#define REG(reg, bitmap) \
	CPUID("\"0x7\"", "\"0x0\"", "0", "[{\"register\": " reg ", \"bitmap\": " bitmap "}]")
#define MSR(addr, bitmap) "{\"msr_modifiers\": [{\"addr\": " addr ", \"bitmap\": " bitmap "}]}"
#define ONES_32		  "11111111111111111111111111111111"

static const struct {
	const char *text, *says;
} refused[] = {
	{"", "line 1: "},
	{"[]", "not a JSON object"},
	{"{\"cpuid_modifiers\": [}", "line 1: "},
	{"{\"cpuid_modifiers\": [], \"cpuid_modifiers\": []}", "duplicate object key"},
	{"{\"cpuid_modifier\": []}",
	 "'cpuid_modifier' is not a key; give kvm_capabilities, cpuid_modifiers or msr_modifiers"},
	{"{\"reg_modifiers\": []}", "for Arm; give a template for x86-64"},
	{"{\"vcpu_features\": []}", "for Arm; give a template for x86-64"},
	{"{\"kvm_capabilities\": {}}", "kvm_capabilities: an object is not a value; give an array"},
	{"{\"kvm_capabilities\": [171]}",
	 "kvm_capabilities: '171' is not a value; give the number"},
	{"{\"kvm_capabilities\": [\"\"]}", "kvm_capabilities: '' is not a value"},
	{"{\"kvm_capabilities\": [\"!\"]}", "kvm_capabilities: '!' is not a value"},
	{"{\"kvm_capabilities\": [\"!!1\"]}", "kvm_capabilities: '!!1' is not a value"},
	{"{\"kvm_capabilities\": [\"0x1\"]}", "kvm_capabilities: '0x1' is not a value"},
	{"{\"kvm_capabilities\": [\"4294967296\"]}", "kvm_capabilities: '4294967296' is not"},
	{"{\"kvm_capabilities\": [\"00000000001\"]}", "kvm_capabilities: '00000000001' is not"},
	{"{\"cpuid_modifiers\": {}}", "cpuid_modifiers: an object is not a value; give an array"},
	{"{\"cpuid_modifiers\": [1]}", "cpuid_modifiers: '1' is not a value; give objects"},
	{"{\"cpuid_modifiers\": [{}]}", "cpuid_modifiers[0].leaf is missing"},
	{"{\"cpuid_modifiers\": [{\"leave\": 1}]}",
	 "cpuid_modifiers[0].'leave' is not a key; give leaf, subleaf, flags or modifiers"},
	{CPUID("\"seven\"", "\"0x0\"", "0", "[]"), "cpuid_modifiers[0].leaf: 'seven' is not"},
	{CPUID("\"0x100000000\"", "\"0x0\"", "0", "[]"), "cpuid_modifiers[0].leaf: '0x100000000'"},
	{CPUID("\"0x7\"", "null", "0", "[]"), "cpuid_modifiers[0].subleaf: null is not"},
	{CPUID("\"0x7\"", "\"0b2\"", "0", "[]"), "cpuid_modifiers[0].subleaf: '0b2' is not"},
	{CPUID("\"0x7\"", "\"0b1x\"", "0", "[]"), "cpuid_modifiers[0].subleaf: '0b1x' is not"},
	{CPUID("\"0x7\"", "\"0x0\"", "-1", "[]"), "cpuid_modifiers[0].flags: '-1' is not"},
	{CPUID("\"0x7\"", "\"0x0\"", "0", "{}"), "cpuid_modifiers[0].modifiers: an object is not"},
	{CPUID("\"0x7\"", "\"0x0\"", "0", "[1]"), "modifiers[0].modifiers: '1' is not"},
	{REG("\"edx\", \"x\": 1", "\"0b1\""), "cpuid_modifiers[0].modifiers[0].'x' is not a key"},
	{REG("\"rax\"", "\"0b1\""),
	 "cpuid_modifiers[0].modifiers[0].register: 'rax' is not a value; give eax, ebx, ecx or "
	 "edx"},
	{REG("\"EDX\"", "\"0b1\""), "register: 'EDX' is not"},
	{REG("1", "\"0b1\""), "register: '1' is not"},
	{REG("\"edx\"", "\"0b\""),
	 "cpuid_modifiers[0].modifiers[0].bitmap: '0b' is not a value; give 0b and 1 to 32"},
	{REG("\"edx\"", "\"0b__\""), "bitmap: '0b__' is not"},
	{REG("\"edx\"", "\"\""), "bitmap: '' is not"},
	{REG("\"edx\"", "\"101\""), "bitmap: '101' is not"},
	{REG("\"edx\"", "\"0b102\""), "bitmap: '0b102' is not"},
	{REG("\"edx\"", "\"0b1X\""), "bitmap: '0b1X' is not"},
	{REG("\"edx\"", "\"0b1 0\""), "bitmap: '0b1 0' is not"},
	{REG("\"edx\"", "\"0b" ONES_32 "1\""), "0b and 1 to 32"},
	{REG("\"edx\"", "5"), "bitmap: '5' is not"},
	{"{\"msr_modifiers\": [{\"addr\": \"0x10a\"}]}", "msr_modifiers[0].bitmap is missing"},
	{"{\"msr_modifiers\": [\"0x10a\"]}", "msr_modifiers: '0x10a' is not a value; give objects"},
	{MSR("\"\"", "\"0b1\""), "msr_modifiers[0].addr: '' is not"},
	{MSR("\"0x10a\", \"index\": 1", "\"0b1\""),
	 "msr_modifiers[0].'index' is not a key; give addr or bitmap"},
	{MSR("\"0x10a\"", "\"0b" ONES_32 ONES_32 "0\""), "0b and 1 to 64"},
};

static void test_refused(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		struct cpu_template t;
		struct err e;
		int ret = parse(refused[i].text, &t, &e);

		if (ret != -EINVAL || !strstr(e.text, refused[i].says) ||
		    strncmp(e.text, "CPU template t.json: ", 21) != 0 || !strstr(e.text, "; "))
			fail_msg("'%s': %d, '%s'", refused[i].text, ret, e.text);
		assert_null(strchr(e.text, '\n'));
	}
}

/* The widest bitmaps, and the same bit from both ends. */
static void test_widths(void **state)
{
	struct cpu_template t;
	struct err e;

	(void)state;
	assert_int_equal(parse(REG("\"eax\"", "\"0b" ONES_32 "\""), &t, &e), 0);
	assert_int_equal(t.cpuid[0].mask, UINT32_MAX);
	assert_int_equal(t.cpuid[0].value, UINT32_MAX);
	assert_int_equal(parse(MSR("266", "\"0b" ONES_32 "_" ONES_32 "\""), &t, &e), 0);
	assert_int_equal(t.msr[0].index, 266);
	assert_int_equal(t.msr[0].mask, UINT64_MAX);
	assert_int_equal(t.msr[0].value, UINT64_MAX);
	assert_int_equal(parse(MSR("\"0x48\"", "\"0b0\""), &t, &e), 0);
	assert_int_equal(t.msr[0].mask, 1);
	assert_int_equal(t.msr[0].value, 0);
}

/* @n times @item in the list @key */
static char *many(const char *key, const char *item, unsigned int n)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	fprintf(f, "{\"%s\": [", key);
	while (n--)
		fprintf(f, "%s%s", item, n ? "," : "");
	fprintf(f, "]}");
	fclose(f);
	return text;
}

static void test_limits(void **state)
{
	static const struct {
		const char *key, *item, *says;
		unsigned int max;
	} rows[] = {
		{"kvm_capabilities", "\"1\"", "kvm_capabilities: more than 64; leave some out",
		 CPU_TEMPLATE_CAP_MAX},
		{"cpuid_modifiers",
		 "{\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":"
		 "[{\"register\":\"eax\",\"bitmap\":\"0b1\"}]}",
		 "cpuid_modifiers: more than 512", CPU_TEMPLATE_CPUID_MAX},
		{"msr_modifiers", "{\"addr\":\"0x1\",\"bitmap\":\"0b1\"}",
		 "msr_modifiers: more than 1024", CPU_TEMPLATE_MSR_MAX},
	};
	char *big = malloc(CPU_TEMPLATE_SIZE_MAX + 1);
	struct cpu_template t;
	struct err e;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		char *text = many(rows[i].key, rows[i].item, rows[i].max);

		assert_int_equal(parse(text, &t, &e), 0);
		free(text);
		text = many(rows[i].key, rows[i].item, rows[i].max + 1);
		assert_int_equal(parse(text, &t, &e), -EINVAL);
		assert_non_null(strstr(e.text, rows[i].says));
		free(text);
	}
	memset(big, ' ', CPU_TEMPLATE_SIZE_MAX + 1);
	big[0] = '{';
	big[1] = '}';
	assert_int_equal(cpu_template_parse("t", big, CPU_TEMPLATE_SIZE_MAX, &t, NULL), 0);
	assert_int_equal(cpu_template_parse("t", big, CPU_TEMPLATE_SIZE_MAX + 1, &t, NULL), -EFBIG);
	free(big);
}

static void test_mutations(void **state)
{
	static const char *const words[] = {
		"{", "}", "[",	   "]",	     "\"",	",",	      ":",    "null", "0b",
		"x", "_", "1e999", "\"0x\"", "\\u0000", "\"leaf\": ", "\xff", NULL};
	uint64_t seed = 6120;
	unsigned int i, fine = 0;

	(void)state;
	for (i = 0; i < 20000; i++) {
		size_t n = strlen(example), size = n + 128, k;
		char *buf = malloc(size);
		struct cpu_template t;
		struct err e = {0};
		int ret;

		memcpy(buf, example, n);
		n = mutate(buf, n, size, words, &seed);
		buf = realloc(buf, n + !n);
		ret = cpu_template_parse("damaged", buf, n, &t, &e);
		fine += ret == 0;
		if (ret < 0 && (!e.text[0] || strchr(e.text, '\n')))
			fail_msg("mutation %u: '%s'", i, e.text);
		for (k = 0; ret == 0 && k < t.n_cpuid; k++)
			assert_int_equal(t.cpuid[k].value & ~t.cpuid[k].mask, 0);
		for (k = 0; ret == 0 && k < t.n_msr; k++)
			assert_int_equal(t.msr[k].value & ~t.msr[k].mask, 0);
		free(buf);
	}
	assert_in_range(fine, 50, 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_example),	  cmocka_unit_test(test_refused),
		cmocka_unit_test(test_widths),	  cmocka_unit_test(test_limits),
		cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
