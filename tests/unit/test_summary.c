#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "hosts.h"
#include "policy/summary.h"

#define BHI   SPEC_CTRL_BHI_DIS_S
#define RRSBA SPEC_CTRL_RRSBA_DIS_S
#define STIBP (1u << 1)

enum held { AS_WANTED, NOTHING, ALSO_RRSBA, FAILED };

static const struct {
	const char *name;
	const struct host_facts *host;
	bool no_backend, unaware, strict, off;
	uint64_t raw_mask;
	enum held held;
	const char *text;
	const char *bits; /* of the first row of the JSON */
	bool wanted, is_held;
} rows[] = {
	{"reported", &host_spr, .held = AS_WANTED,
	 .text = "BHI_DIS_S held: the guest reports the short sequence, Sapphire Rapids needs it",
	 .bits = "BHI_DIS_S", .wanted = true, .is_held = true},
	{"unaware", &host_spr, .unaware = true, .held = AS_WANTED,
	 .text = "BHI_DIS_S held: the guest reports nothing that counts and does not see BHI_CTRL: "
		 "it may use the short sequence, Sapphire Rapids needs it",
	 .bits = "BHI_DIS_S", .wanted = true, .is_held = true},
	{"nothing is needed", &host_icx, .held = AS_WANTED,
	 .text = "nothing held: the short sequence works on this part"},
	{"AMD", &host_amd, .unaware = true, .held = AS_WANTED,
	 .text = "nothing held: parts of this vendor are not affected by BHI"},
	{"the policy gives it up", &host_spr, .off = true, .held = AS_WANTED,
	 .text = "nothing held: bhi is off in the policy; it would have been held, the guest may "
		 "be "
		 "vulnerable"},
	{"back end none", &host_spr, .no_backend = true, .held = AS_WANTED,
	 .text = "nothing held: the host has BHI_DIS_S, but the back end cannot hold it: the guest "
		 "is "
		 "vulnerable if it uses the short sequence"},
	{"refused", &host_spr, .no_backend = true, .strict = true, .held = AS_WANTED,
	 .text = "refused: the host has BHI_DIS_S, but the back end cannot hold it: the guest is "
		 "vulnerable if it uses the short sequence; nothing held"},
	{"frozen, more than is wanted", &host_spr, .held = ALSO_RRSBA,
	 .text = "RRSBA_DIS_S held though not wanted now: what is held was fixed when the VM was "
		 "made; BHI_DIS_S held: the guest reports the short sequence, Sapphire Rapids "
		 "needs it",
	 .bits = "RRSBA_DIS_S", .is_held = true},
	{"frozen, less than is wanted", &host_spr, .held = NOTHING,
	 .text = "BHI_DIS_S wanted, not held: what is held was fixed when the VM was made",
	 .bits = "BHI_DIS_S", .wanted = true},
	{"not kept", &host_spr, .held = FAILED,
	 .text = "BHI_DIS_S wanted, not held: KVM did not take or keep it", .bits = "BHI_DIS_S",
	 .wanted = true},
	{"held at 0", &host_spr, .raw_mask = STIBP, .held = AS_WANTED,
	 .text = "STIBP held at 0: raw bits held at 0 by the policy; BHI_DIS_S held: the guest "
		 "reports the short sequence, Sapphire Rapids needs it",
	 .bits = "STIBP", .wanted = true, .is_held = true},
};

static void test_rows(void **state)
{
	char buf[SUMMARY_MAX];
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct mitigation_input in = {
			.host = *rows[i].host,
			.backend = {.kind = rows[i].no_backend ? BACKEND_NONE : BACKEND_MSR_FILTER,
				    .can_force = rows[i].no_backend ? 0 : SPEC_CTRL_ALL},
			.guest = {.vendor = cpu_vendor_from_id(rows[i].host->vendor_id),
				  .leaf7_0_edx = CPUID_BIT(7_0_EDX, spec_ctrl) |
						 CPUID_BIT(7_0_EDX, arch_capabilities),
				  .arch_cap =
					  ARCH_CAP_RRSBA | ARCH_CAP_RSBA | ARCH_CAP_VIRTUAL_ENUM,
				  .virt_enum = VIRT_ENUM_MITIGATION,
				  .mitigation_enum = MITIGATION_BHB_CLEAR_SEQ_S},
		};
		struct mitigation_decision d;
		struct summary_held held;
		json_t *list, *row;

		mitigation_policy_default(&in.policy);
		in.policy.strict = rows[i].strict;
		in.policy.bhi = rows[i].off ? POLICY_OFF : POLICY_AUTO;
		in.policy.raw_mask = rows[i].raw_mask;
		if (!rows[i].unaware)
			in.report =
				(struct vcpu_report) {true, true, true, MITIGATION_BHB_CLEAR_SEQ_S};
		mitigation_decide(&in, &d);
		held = (struct summary_held) {d.mask, d.value, rows[i].held == FAILED};
		if (rows[i].held == NOTHING || rows[i].held == FAILED)
			held.mask = held.value = 0;
		if (rows[i].held == ALSO_RRSBA) {
			held.mask |= RRSBA;
			held.value |= RRSBA;
		}
		if (strcmp(summary_text(&in.host, &d, &held, buf, sizeof(buf)), rows[i].text) != 0)
			fail_msg("%s:\n%s\nis not\n%s", rows[i].name, buf, rows[i].text);

		list = summary_json(&in.host, &d, &held);
		row = json_array_get(list, 0);
		assert_int_equal(json_array_size(json_object_get(row, "bits")),
				 rows[i].bits ? 1 : 0);
		if (rows[i].bits)
			assert_string_equal(
				json_string_value(json_array_get(json_object_get(row, "bits"), 0)),
				rows[i].bits);
		assert_int_equal(json_is_true(json_object_get(row, "wanted")), rows[i].wanted);
		assert_int_equal(json_is_true(json_object_get(row, "held")), rows[i].is_held);
		assert_non_null(json_string_value(json_object_get(row, "reason")));
		json_decref(list);
	}
}

static void test_cut_off(void **state)
{
	struct mitigation_decision d = {.mask = BHI, .value = BHI};
	const struct summary_held held = {BHI, BHI, false};
	char buf[12];

	(void)state;
	summary_text(&host_spr, &d, &held, buf, sizeof(buf));
	assert_string_equal(buf, "BHI_DIS_S h");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_cut_off),
	};

	return cmocka_run_group_tests_name("summary", tests, NULL, NULL);
}
