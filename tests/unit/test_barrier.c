/* What becomes of the policy's barriers on each kind of host, and what sysfs says of IBPB. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "hosts.h"
#include "msr/decide.h"

static const struct barrier_facts ours = {true, HOST_IBPB_CONDITIONAL, 6, 12,
					  0,	NESTED_EXIT_UNSAID};
static const struct barrier_facts linux_6_1 = {false, HOST_IBPB_CONDITIONAL, 6, 1,
					       0,     NESTED_EXIT_UNSAID};
static const struct barrier_facts linux_6_12 = {false, HOST_IBPB_ALWAYS,  6, 12,
						0,     NESTED_EXIT_UNSAID};
static const struct barrier_facts linux_6_16 = {false, HOST_IBPB_CONDITIONAL, 6, 16,
						0,     NESTED_EXIT_UNSAID};
static const struct barrier_facts linux_7_3 = {false, HOST_IBPB_CONDITIONAL, 7, 3,
					       0,     NESTED_EXIT_UNSAID};
static const struct barrier_facts old_off = {false, HOST_IBPB_OFF, 6, 12, 0, NESTED_EXIT_UNSAID};
static const struct barrier_facts new_off = {false, HOST_IBPB_OFF, 6, 16, 0, NESTED_EXIT_UNSAID};
static const struct barrier_facts unknown;

static const struct {
	const char *name;
	const struct barrier_facts *facts;
	const struct host_facts *host;
	enum barrier_switch on_switch;
	bool on_move;
	/* what follows */
	unsigned int row; /* 0: none is told */
	enum verdict verdict;
	enum barrier_got got_switch, got_move;
	uint32_t args;
	bool drive;
} cases[] = {
	{"nothing asked", &ours, &host_icx, SWITCH_DEFAULT, false, 0, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_EACH, 0, false},
	{"nothing asked, 6.16", &linux_6_16, &host_icx, SWITCH_DEFAULT, false, 0, VERDICT_ALLOW,
	 BARRIER_EACH, BARRIER_NONE, 0, false},
	{"nothing asked, off", &old_off, &host_icx, SWITCH_DEFAULT, false, 0, VERDICT_ALLOW,
	 BARRIER_NONE, BARRIER_NONE, 0, false},
	{"nothing asked, unknown", &unknown, &host_icx, SWITCH_DEFAULT, false, 0, VERDICT_ALLOW,
	 BARRIER_UNKNOWN, BARRIER_UNKNOWN, 0, false},
	{"always, driven", &ours, &host_icx, SWITCH_ALWAYS, false, 1, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_EACH, 0, true},
	{"used, driven", &ours, &host_amd, SWITCH_USED, false, 1, VERDICT_ALLOW, BARRIER_USED,
	 BARRIER_NONE, 1, true},
	{"never, driven", &ours, &host_icx, SWITCH_NEVER, false, 1, VERDICT_ALLOW, BARRIER_NONE,
	 BARRIER_NONE, 2, true},
	{"always, 6.1", &linux_6_1, &host_icx, SWITCH_ALWAYS, false, 3, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_EACH, 0, false},
	{"always, 6.12", &linux_6_12, &host_amd, SWITCH_ALWAYS, false, 3, VERDICT_ALLOW,
	 BARRIER_EACH, BARRIER_NONE, 0, false},
	{"always, 7.3", &linux_7_3, &host_icx, SWITCH_ALWAYS, false, 3, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_NONE, 0, false},
	{"always, off", &new_off, &host_icx, SWITCH_ALWAYS, false, 4, VERDICT_WARN, BARRIER_NONE,
	 BARRIER_NONE, 0, false},
	{"always, off, old", &old_off, &host_icx, SWITCH_ALWAYS, false, 4, VERDICT_WARN,
	 BARRIER_NONE, BARRIER_NONE, 0, false},
	{"used, off", &new_off, &host_icx, SWITCH_USED, false, 4, VERDICT_WARN, BARRIER_NONE,
	 BARRIER_NONE, 0, false},
	{"always, unknown", &unknown, &host_icx, SWITCH_ALWAYS, false, 5, VERDICT_WARN,
	 BARRIER_UNKNOWN, BARRIER_UNKNOWN, 0, false},
	{"used, stock", &linux_6_12, &host_icx, SWITCH_USED, false, 6, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_EACH, 0, false},
	{"never, stock", &linux_6_16, &host_icx, SWITCH_NEVER, false, 6, VERDICT_ALLOW,
	 BARRIER_EACH, BARRIER_NONE, 0, false},
	{"never, off", &new_off, &host_icx, SWITCH_NEVER, false, 6, VERDICT_ALLOW, BARRIER_NONE,
	 BARRIER_NONE, 0, false},
	{"move, driven", &ours, &host_amd, SWITCH_DEFAULT, true, 7, VERDICT_ALLOW, BARRIER_EACH,
	 BARRIER_EACH, 4, true},
	{"move, 6.12 VMX", &linux_6_12, &host_icx, SWITCH_DEFAULT, true, 8, VERDICT_ALLOW,
	 BARRIER_EACH, BARRIER_EACH, 0, false},
	{"move, 6.12 SVM", &linux_6_12, &host_amd, SWITCH_DEFAULT, true, 9, VERDICT_WARN,
	 BARRIER_EACH, BARRIER_NONE, 0, false},
	{"move, 6.16 VMX", &linux_6_16, &host_icx, SWITCH_DEFAULT, true, 9, VERDICT_WARN,
	 BARRIER_EACH, BARRIER_NONE, 0, false},
	{"move, unknown", &unknown, &host_icx, SWITCH_DEFAULT, true, 10, VERDICT_WARN,
	 BARRIER_UNKNOWN, BARRIER_UNKNOWN, 0, false},
};

static void ask(size_t i, bool strict, enum policy_cannot cannot, struct mitigation_decision *d)
{
	struct mitigation_input in = {.host = *cases[i].host};

	mitigation_policy_default(&in.policy);
	in.policy.bhi = in.policy.rrsba = POLICY_AUTO;
	in.policy.strict = strict;
	in.policy.cannot = cannot;
	in.policy.barrier = (struct barrier_policy) {cases[i].on_switch, cases[i].on_move};
	in.backend.barrier = *cases[i].facts;
	mitigation_decide(&in, d);
}

static const struct decision_step *told(const struct mitigation_decision *d)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == TABLE_BARRIER)
			return &d->step[i];
	return NULL;
}

static void test_rows(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct barrier_policy policy = {cases[i].on_switch, cases[i].on_move};
		struct mitigation_decision d;
		const struct decision_step *s;
		struct barrier_plan p;

		ask(i, false, CANNOT_WARN, &d);
		s = told(&d);
		if ((s ? s->row : 0) != cases[i].row || (s && s->verdict != cases[i].verdict))
			fail_msg("%s: row %u, %s", cases[i].name, s ? s->row : 0,
				 s ? s->reason : "nothing told");
		barrier_plan(cases[i].facts, cpu_vendor_from_id(cases[i].host->vendor_id), &policy,
			     &p);
		if (p.on_switch != cases[i].got_switch || p.on_move != cases[i].got_move ||
		    p.args != cases[i].args || p.drive != cases[i].drive)
			fail_msg("%s: %s, %s, %u", cases[i].name, barrier_got_name(p.on_switch),
				 barrier_got_name(p.on_move), p.args);
	}
}

/* cannot: refuse is for what is missing, strict for what is unsure or given up as well. */
static void test_refused(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const unsigned int row = cases[i].row;
		struct mitigation_decision d;

		if (!row)
			continue;
		ask(i, false, CANNOT_REFUSE, &d);
		assert_int_equal(told(&d)->verdict == VERDICT_REFUSE, row == 4 || row == 9);
		ask(i, true, CANNOT_WARN, &d);
		if (cases[i].on_switch == SWITCH_NEVER && cases[i].drive)
			assert_int_equal(told(&d)->row, 2);
		assert_int_equal(told(&d)->verdict == VERDICT_REFUSE,
				 row == 4 || row == 5 || row > 8 || told(&d)->row == 2);
	}
}

/* In `used` what moves follows the guest as well, and each half of the policy has its row. */
static void test_both(void **state)
{
	const struct barrier_policy policy = {SWITCH_USED, true};
	struct barrier_plan p;

	(void)state;
	barrier_plan(&ours, CPU_VENDOR_INTEL, &policy, &p);
	assert_int_equal(p.on_switch, BARRIER_USED);
	assert_int_equal(p.on_move, BARRIER_USED);
	assert_int_equal(p.args, 5);
	assert_false(p.by_accident);
}

static void test_sysfs(void **state)
{
	static const struct {
		const char *line;
		enum host_ibpb ibpb;
	} lines[] = {
		{"Mitigation: Retpolines; IBPB: conditional; STIBP: disabled",
		 HOST_IBPB_CONDITIONAL},
		{"Mitigation: Enhanced / Automatic IBRS; IBPB: always-on", HOST_IBPB_ALWAYS},
		{"Vulnerable; IBPB: disabled; STIBP: disabled; BHI: Vulnerable", HOST_IBPB_OFF},
		{"Vulnerable", HOST_IBPB_OFF},
		{"Not affected", HOST_IBPB_OFF},
		{"Mitigation: Retpolines; STIBP: disabled", HOST_IBPB_OFF},
		{"Vulnerable: eIBRS with unprivileged eBPF", HOST_IBPB_UNKNOWN},
		{"Vulnerable: eIBRS+LFENCE with unprivileged eBPF and SMT", HOST_IBPB_UNKNOWN},
		{"Vulnerable: LFENCE", HOST_IBPB_UNKNOWN},
		{"Vulnerable: Retpoline without module; IBPB: conditional", HOST_IBPB_CONDITIONAL},
		{"Mitigation: x; IBPB: sometimes", HOST_IBPB_UNKNOWN},
		{"", HOST_IBPB_UNKNOWN},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(host_ibpb_from_sysfs(lines[i].line), lines[i].ibpb);
}

/* The last number of a vendor's release is not that of the kernel which it was made of. */
static void test_kernel(void **state)
{
	static const struct {
		const char *release, *told;
		uint32_t major, minor, patch;
	} rows[] = {
		{"6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-05)", 6, 1,
		 192},
		{"6.12.118+deb13-cloud-amd64", "#1 SMP Debian 6.12.118-1 (2026-11-01)", 6, 12, 118},
		{"5.15.0-91-generic", "Ubuntu 5.15.0-91.101-generic 5.15.131", 5, 15, 131},
		{"5.15.0-91-generic", "#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023", 5, 15, 0},
		{"6.1.13", "#1 SMP 6.1.99", 6, 1, 13},
		{"6.1.0", "#1 SMP Debian 6.12.118-1", 6, 1, 0},
		{"6.1.0", "#1 SMP Debian 6.1-2 x6.1.7 6.1.x", 6, 1, 0},
		{"6.1.0-x", "6.1.5", 6, 1, 5},
		{"6.1.0-x", "  6.1.5  ", 6, 1, 5},
		{"7.3", "", 7, 3, 0},
		{"7.3-rc1", "7.3.", 7, 3, 0},
		{"7", "7.3.1", 0, 0, 0},
		{"x7.3.1", "7.3.1", 0, 0, 0},
		{"", "6.1.5", 0, 0, 0},
		{"6.99999999999999999999.1", "", 6, 99999, 0},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct barrier_facts f = {false, HOST_IBPB_ALWAYS, 9, 9, 9, NESTED_EXIT_BARE};

		barrier_kernel(&f, rows[i].release, rows[i].told);
		if (f.major != rows[i].major || f.minor != rows[i].minor ||
		    f.patch != rows[i].patch)
			fail_msg("%s, %s: %u.%u.%u", rows[i].release, rows[i].told, f.major,
				 f.minor, f.patch);
		assert_int_equal(f.ibpb, HOST_IBPB_ALWAYS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),   cmocka_unit_test(test_refused),
		cmocka_unit_test(test_both),   cmocka_unit_test(test_sysfs),
		cmocka_unit_test(test_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
