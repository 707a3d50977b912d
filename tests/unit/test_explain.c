#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "msr/spec_ctrl.h"
#include "policy/explain.h"

static void test_bits(void **state)
{
	static const struct {
		uint64_t bits;
		const char *text;
	} rows[] = {
		{0, "none"},
		{SPEC_CTRL_BHI_DIS_S, "BHI_DIS_S"},
		{SPEC_CTRL_IBRS | SPEC_CTRL_RRSBA_DIS_S | SPEC_CTRL_BHI_DIS_S,
		 "IBRS, RRSBA_DIS_S, BHI_DIS_S"},
		{1ULL << 9 | 1ULL << 63, "bit 9, bit 63"},
	};
	char buf[256];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		assert_string_equal(explain_bits(rows[i].bits, buf, sizeof(buf)), rows[i].text);
	/* cut, not overrun */
	assert_string_equal(explain_bits(UINT64_MAX, buf, 12), "IBRS, STIBP");
}

/* Made up, so that the text can be known; the real ones come in tests of the command. */
static const struct mitigation_input input = {
	.host = {.vendor_id = "GenuineIntel",
		 .family = 6,
		 .model = 0x8f,
		 .stepping = 8,
		 .leaf7_0_edx = 0xac000000,
		 .leaf7_2_edx = 0x1f,
		 .kvm_arch_cap = ARCH_CAP_IBRS_ALL | ARCH_CAP_RRSBA},
	.backend = {.kind = BACKEND_MSR_FILTER,
		    .can_force = SPEC_CTRL_BHI_DIS_S | SPEC_CTRL_RRSBA_DIS_S},
	.guest = {.leaf7_0_edx =
			  CPUID_BIT(7_0_EDX, spec_ctrl) | CPUID_BIT(7_0_EDX, arch_capabilities),
		  .leaf7_2_edx = CPUID_BIT(7_2_EDX, rrsba_ctrl),
		  .arch_cap = ARCH_CAP_IBRS_ALL | ARCH_CAP_VIRTUAL_ENUM,
		  .virt_enum = VIRT_ENUM_MITIGATION,
		  .mitigation_enum = MITIGATION_ALL},
	.promise = {.valid = true, .mask = SPEC_CTRL_SSBD, .value = SPEC_CTRL_SSBD},
	.pool = {.n_hosts = 3, .any_long_bhb = true, .mixed = true, .long_can_force_bhi = true},
};
static const struct mitigation_decision decision = {
	.mask = SPEC_CTRL_BHI_DIS_S | SPEC_CTRL_STIBP,
	.value = SPEC_CTRL_BHI_DIS_S,
	.verdict = VERDICT_WARN,
	.short_adequate = true,
	.n_steps = 2,
	.step = {{.table = TABLE_BHI,
		  .row = 9,
		  .bit = SPEC_CTRL_BHI_DIS_S,
		  .at_1 = SPEC_CTRL_BHI_DIS_S,
		  .verdict = VERDICT_ALLOW_FORCED,
		  .reason = "a reason of so many words that it has to be broken into more than one "
			    "line when it is printed for a person",
		  .source = "a source"},
		 {.table = TABLE_MIGRATION,
		  .row = 4,
		  .verdict = VERDICT_WARN,
		  .reason = "other",
		  .cure = "use a host on which testudo host lists the bit"}},
};

static char *print(const struct mitigation_input *in, const struct mitigation_decision *d)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	explain_text(f, in, d);
	fclose(f);
	return text;
}

static void expect(const char *text, const char *part)
{
	if (!text || !strstr(text, part))
		fail_msg("'%s' is not in:\n%s", part, text ? text : "nothing");
}

static void test_text(void **state)
{
	char *text = print(&input, &decision), *line;
	char row[256];

	(void)state;
	expect(text, "host        Sapphire Rapids (GenuineIntel family 6 model 0x8f stepping 8)");
	expect(text, "; long BHB; has SPEC_CTRL,");
	expect(text, "back end    msr-filter, can hold RRSBA_DIS_S, BHI_DIS_S\n");
	expect(text, "guest       reports nothing");
	expect(text, "pool        3 hosts or more, short and long branch history buffers");
	expect(text, "moved       comes from a host that held SSBD for it\n");
	snprintf(row, sizeof(row), "verdict     %s\n", verdict_name(VERDICT_WARN));
	expect(text, row);
	expect(text, "holds       BHI_DIS_S at 1, STIBP at 0 (mask 0x402, value 0x400)\n");
	expect(text, "short       too short alone for this part's long BHB; adequate with "
		     "BHI_DIS_S, which is held\n");
	snprintf(row, sizeof(row), "  %s row 9, BHI_DIS_S at 1: %s: a reason of",
		 decision_table_name(TABLE_BHI), verdict_name(VERDICT_ALLOW_FORCED));
	expect(text, row);
	expect(text, "\n      source: a source\n");
	snprintf(row, sizeof(row), "  %s row 4: %s: other\n", decision_table_name(TABLE_MIGRATION),
		 verdict_name(VERDICT_WARN));
	expect(text, row);
	expect(text, "\n      cure: use a host on which testudo host lists the bit\n");
	for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strlen(line) > 100 || line[strlen(line) - 1] == ' ')
			fail_msg("'%s'", line);
	free(text);
}

/* One row that warns or refuses, as a line. */
static void test_steps(void **state)
{
	static const struct {
		struct decision_step step;
		const char *text;
	} rows[] = {
		{{TABLE_BHI, 6, SPEC_CTRL_BHI_DIS_S, SPEC_CTRL_BHI_DIS_S, VERDICT_ALLOW, "fine", "",
		  NULL, false, false},
		 "bhi row 6, BHI_DIS_S: fine"},
		{{TABLE_RAW, 2, SPEC_CTRL_SSBD | SPEC_CTRL_STIBP, SPEC_CTRL_SSBD, VERDICT_REFUSE,
		  "no", "", "take the bit out of spec-ctrl, or use another host", false, false},
		 "raw row 2, SSBD at 1, STIBP at 0: no; take the bit out of spec-ctrl, or use "
		 "another host"},
		{{TABLE_POOL, 1, 0, 0, VERDICT_WARN, "mixed", "", "set mixed-pool: level", false,
		  false},
		 "pool row 1: mixed; set mixed-pool: level"},
	};
	struct mitigation_decision d = {.verdict = VERDICT_REFUSE};
	char buf[512], both[1024];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct mitigation_decision one = {
			.verdict = rows[i].step.verdict, .n_steps = 1, .step = {rows[i].step}};

		assert_string_equal(explain_reasons(&one, buf, sizeof(buf)), rows[i].text);
		d.step[d.n_steps++] = rows[i].step;
	}
	assert_string_equal(explain_reasons(&d, buf, sizeof(buf)), rows[1].text);
	d.step[d.n_steps++] = rows[1].step;
	/* the same advice is not given twice */
	snprintf(both, sizeof(both), "%s. raw row 2, SSBD at 1, STIBP at 0: no", rows[1].text);
	assert_string_equal(explain_reasons(&d, buf, sizeof(buf)), both);
	explain_reasons(&d, buf, 10);
	assert_string_equal(buf, "raw row 2");
}

/* Each alternative of a cure is said once in the line, and what is left of it still reads well. */
static void test_advice_is_given_once(void **state)
{
	static const struct mitigation_decision d = {
		.verdict = VERDICT_REFUSE,
		.n_steps = 3,
		.step = {{TABLE_BHI, 13, SPEC_CTRL_BHI_DIS_S, SPEC_CTRL_BHI_DIS_S, VERDICT_REFUSE,
			  "one", "",
			  "use a host on which testudo host lists the bit, or show the guest "
			  "BHI_CTRL; strict: off lets it run as it is",
			  true, true},
			 {TABLE_RRSBA, 9, SPEC_CTRL_RRSBA_DIS_S, SPEC_CTRL_RRSBA_DIS_S,
			  VERDICT_REFUSE, "two", "",
			  "show the guest RRSBA from its first boot, or use a host on which "
			  "testudo host lists the bit; strict: off lets it run as it is",
			  true, true},
			 {TABLE_MIGRATION, 4, SPEC_CTRL_BHI_DIS_S, SPEC_CTRL_BHI_DIS_S,
			  VERDICT_REFUSE, "three", "",
			  "use a host on which testudo host lists the bit; strict: off lets it "
			  "come",
			  false, false}},
	};
	char buf[1024];

	(void)state;
	assert_string_equal(
		explain_reasons(&d, buf, sizeof(buf)),
		"bhi row 13, BHI_DIS_S at 1: one; use a host on which testudo host lists the bit, "
		"or show the guest BHI_CTRL; strict: off lets it run as it is. rrsba row 9, "
		"RRSBA_DIS_S at 1: two; show the guest RRSBA from its first boot. migration row 4, "
		"BHI_DIS_S at 1: three; strict: off lets it come");
}

static void test_nothing_held(void **state)
{
	const struct mitigation_decision nothing = {.verdict = VERDICT_ALLOW};
	char *text = print(&input, &nothing);

	(void)state;
	expect(text, "holds       nothing; the guest's own value stands\n");
	expect(text, "short       nothing on this host assures that the short BHB sequence is "
		     "adequate\n");
	free(text);
}

/* Of a vendor that is not affected nothing is said that reads like a part that is. */
static void test_unaffected(void **state)
{
	static const struct {
		const char *vendor;
		unsigned int family;
		const char *says;
	} rows[] = {
		{"AuthenticAMD", 25, "; not affected by BHI;"},
		{"HygonGenuine", 24, "; not affected by BHI;"},
		{"CentaurHauls", 7, "; not affected by BHI;"},
		{"CentaurHauls", 6, "; unknown BHB;"},
	};
	const struct mitigation_decision nothing = {.verdict = VERDICT_ALLOW};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct mitigation_input in = input;
		char *text;

		memcpy(in.host.vendor_id, rows[i].vendor, 12);
		in.host.family = rows[i].family;
		in.host.model = 1;
		text = print(&in, &nothing);
		expect(text, rows[i].says);
		assert_null(strstr(text, "short BHB;"));
		free(text);
	}
}

static void test_reports(void **state)
{
	static const struct {
		struct vcpu_report report;
		const char *says;
	} rows[] = {
		{{.aware = false}, "reports nothing"},
		{{.aware = true}, "has not reported yet"},
		{{.aware = true, .enum_read = true}, "uses neither"},
		{{.aware = true, .written = true}, "has not read what it could report"},
		{{.aware = true, .written = true, .ctrl = 1}, "reports the short BHB sequence;"},
		{{.aware = true, .written = true, .ctrl = 2}, "reports retpolines"},
		{{.aware = true, .written = true, .ctrl = 3},
		 "reports the short BHB sequence and retpolines"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct mitigation_input in = input;
		char *text;

		in.report = rows[i].report;
		text = print(&in, &decision);
		expect(text, rows[i].says);
		free(text);
	}
}

static const char *string_at(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static void test_json(void **state)
{
	json_t *root = explain_json(&input, &decision), *d, *steps, *step;

	(void)state;
	assert_non_null(root);
	assert_string_equal(string_at(json_object_get(root, "host"), "bhb"), "long");
	assert_string_equal(string_at(json_object_get(root, "backend"), "name"), "msr-filter");
	assert_string_equal(string_at(json_object_get(root, "guest"), "arch-capabilities"),
			    "0x8000000000000002");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(root, "pool"), "hosts")), 3);
	assert_true(json_is_true(json_object_get(json_object_get(root, "promise"), "valid")));

	d = json_object_get(root, "decision");
	assert_string_equal(string_at(d, "verdict"), verdict_name(VERDICT_WARN));
	assert_string_equal(string_at(d, "mask"), "0x402");
	assert_string_equal(string_at(d, "value"), "0x400");
	assert_string_equal(json_string_value(json_array_get(json_object_get(d, "at-1"), 0)),
			    "BHI_DIS_S");
	assert_string_equal(json_string_value(json_array_get(json_object_get(d, "at-0"), 0)),
			    "STIBP");
	assert_true(json_is_true(json_object_get(d, "short-sequence-adequate")));
	steps = json_object_get(d, "steps");
	assert_int_equal(json_array_size(steps), 2);
	step = json_array_get(steps, 0);
	assert_string_equal(string_at(step, "table"), decision_table_name(TABLE_BHI));
	assert_int_equal(json_integer_value(json_object_get(step, "row")), 9);
	assert_string_equal(string_at(step, "source"), "a source");
	assert_string_equal(string_at(json_array_get(steps, 1), "source"), "");
	json_decref(root);
}

/* What the engine itself produces can be rendered, whatever comes in. */
static void test_real_decisions(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 64; i++) {
		struct mitigation_input in = input;
		struct mitigation_decision d;
		char *text;
		json_t *root;

		mitigation_policy_default(&in.policy);
		in.promise.valid = i & 1;
		in.backend.kind = i & 2 ? BACKEND_MSR_FILTER : BACKEND_NONE;
		in.backend.can_force = i & 2 ? SPEC_CTRL_ALL : 0;
		in.policy.strict = i & 4;
		in.host.leaf7_2_edx = i & 8 ? 0x1f : 0;
		in.report.aware = in.report.written = i & 16;
		in.report.ctrl = i & 16 ? 3 : 0;
		if (i & 32)
			memcpy(in.host.vendor_id, "AuthenticAMD", 12);
		mitigation_decide(&in, &d);
		text = print(&in, &d);
		expect(text, verdict_name(d.verdict));
		assert_null(strstr(text, "(null)"));
		root = explain_json(&in, &d);
		assert_int_equal(json_array_size(json_object_get(json_object_get(root, "decision"),
								 "steps")),
				 d.n_steps);
		json_decref(root);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_advice_is_given_once),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_unaffected),
		cmocka_unit_test(test_reports),
		cmocka_unit_test(test_nothing_held),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_real_decisions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
