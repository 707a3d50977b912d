/*
 * The mitigations of a guest that moves between hosts: run under tests/shim, which lays a KVM that
 * can hold bits over this host's, and tells the guest what the hardware would have (0x5f000000).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "msr/spec_ctrl.h"
#include "tests/kvm/rig.h"

#define ARCH_CAP 0x800eb /* IBRS_ALL and RRSBA among others */

static const struct host_facts spr = {
	.vendor_id = "GenuineIntel",
	.family = 6,
	.model = 0x8f,
	.stepping = 8,
	.leaf7_0_ecx = 0x1000000,
	.leaf7_0_edx = 0xbc000400,
	.leaf7_2_edx = 0x1f,
	.kvm_leaf7_0_edx = 0xac000400,
	.kvm_arch_cap = ARCH_CAP,
};

static const struct host_facts icx = {
	.vendor_id = "GenuineIntel",
	.family = 6,
	.model = 0x6a,
	.stepping = 6,
	.leaf7_0_edx = 0xbc000400,
	.kvm_leaf7_0_edx = 0xac000400,
	.kvm_arch_cap = ARCH_CAP,
};

static bool said_reported(struct rig *r)
{
	return rig_said(r, "idx=0x50000002") || rig_ended(r);
}

/* The guest sets IBRS, reports the short sequence, spends a second, and looks at all again. */
static struct rig *boot_reporting(const struct host_facts *on)
{
	const char *words[] = {
		"-p",
		"msrs cpus=2 do=0.w.48.1,1.w.48.1,0.r.50000001,1.r.50000001,1.w.50000002.1,"
		"0.w.50000002.1,0.spin.2000.50000000,0.r.48,1.r.48,0.r.50000002,1.r.50000002,"
		"0.r.5f000000,1.r.5f000000",
		"-c",
		"2",
		"-m",
		"64M",
		NULL};
	struct rig *r = rig_boot_on(words, on);

	rig_run(r, said_reported);
	rig_run_ms(r, 50); /* into the spinning, so that vCPU 0 has written, too */
	assert_false(rig_ended(r));
	return r;
}

static void expect_end(struct rig *r, const char *hw)
{
	char line[160];

	rig_run_to_end(r);
	snprintf(line, sizeof(line),
		 "msrs cpu=0 r idx=0x48 value=0x1\nmsrs cpu=1 r idx=0x48 value=0x1\n"
		 "msrs cpu=0 r idx=0x50000002 value=0x1\nmsrs cpu=1 r idx=0x50000002 value=0x1\n");
	rig_expect(r, line);
	snprintf(line, sizeof(line),
		 "msrs cpu=0 r idx=0x5f000000 value=%s\nmsrs cpu=1 r idx=0x5f000000 value=%s\n", hw,
		 hw);
	rig_expect(r, line);
	rig_expect(r, "done msrs");
}

static void test_same_host(void **state)
{
	struct rig *r = boot_reporting(&spr);
	const uint64_t held = r->guest.mitigation.vcpu[0].held.value;
	char hw[32];
	int i;

	(void)state;
	assert_true(held & SPEC_CTRL_BHI_DIS_S);
	for (i = 0; i < 5; i++) {
		rig_hop(r);
		assert_int_equal(r->guest.mitigation.vcpu[1].msrs.report.ctrl, 1);
		assert_true(r->guest.mitigation.vcpu[1].promise.value & SPEC_CTRL_BHI_DIS_S);
		rig_run_ms(r, 10);
	}
	snprintf(hw, sizeof(hw), "0x%llx", (unsigned long long)(held | 1));
	expect_end(r, hw);
	rig_free(r);
}

/* Ice Lake, Sapphire Rapids, Ice Lake, Sapphire Rapids: the bit comes and goes, and is told. */
static void test_there_and_back(void **state)
{
	static const struct {
		const struct host_facts *to;
		const char *here, *says;
	} hops[] = {
		{&spr, "spr",
		 "BHI_DIS_S was not held on icx, is held on spr: guest reported the "
		 "short sequence"},
		{&icx, "icx",
		 "BHI_DIS_S was held on spr, is not held on icx: guest reported the "
		 "short sequence"},
		{&spr, "spr",
		 "BHI_DIS_S was not held on icx, is held on spr: guest reported the "
		 "short sequence"},
	};
	struct rig *r = boot_reporting(&icx);
	const char *there = "icx";
	size_t i;

	(void)state;
	assert_false(r->guest.mitigation.vcpu[0].held.value & SPEC_CTRL_BHI_DIS_S);
	for (i = 0; i < ARRAY_SIZE(hops); i++) {
		struct mitigation_saved s;
		char text[400];

		machine_pause(&r->guest.machine);
		rig_ok(r, mitigation_save(&r->guest.mitigation, true, &s, &r->e));
		rig_stand_for(r, hops[i].to);
		rig_hop(r);
		mitigation_describe_change(&r->guest.mitigation, there, hops[i].here, text,
					   sizeof(text));
		assert_non_null(strstr(text, hops[i].says));
		there = hops[i].here;
		mitigation_saved_fini(&s);
		rig_run_ms(r, 10);
	}
	/* bits beside BHI_DIS_S depend on the back end: frozen ones cover what may be reported */
	rig_run_to_end(r);
	rig_expect(r, "done msrs");
	rig_expect(r, "msrs cpu=1 r idx=0x48 value=0x1\n");
	rig_free(r);
}

/* A reset of the guest forgets what it reported and what was promised; the contract stays. */
static void test_reset_after_hop(void **state)
{
	struct rig *r = boot_reporting(&spr);
	struct guest_contract contract = r->guest.mitigation.contract;
	struct mitigation_vcpu *v;

	(void)state;
	rig_stand_for(r, &icx);
	rig_hop(r);
	v = &r->guest.mitigation.vcpu[0];
	assert_true(v->promise.valid);
	r->guest.mitigation.ibpb_seen = v->ibpb_issued = true;
	machine_fini(&r->guest.machine);
	rig_ok(r, machine_init(&r->guest.machine, &r->guest.host, NULL, &r->e));
	assert_false(v->promise.valid);
	assert_false(v->ibpb_issued);
	assert_false(r->guest.mitigation.ibpb_seen);
	assert_false(v->msrs.report.aware);
	assert_int_equal(v->msrs.spec_ctrl, 0);
	assert_memory_equal(&r->guest.mitigation.contract, &contract, sizeof(contract));
	assert_false(v->held.value & SPEC_CTRL_BHI_DIS_S);
	rig_free(r);
}

static void test_refused(void **state)
{
	static const struct {
		const char *name;
		uint64_t arch_cap_missing;
		const char *vendor;
		bool bhi_off;
		const char *says;
	} cases[] = {
		{"immunity lost", 1, NULL, false, "migration row 8"},
		{"another vendor", 0, "AuthenticAMD", false, "migration row 9"},
		{"policy drops it", 0, NULL, true, "migration row 1, BHI_DIS_S at 1"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig *r = boot_reporting(&spr);
		struct mitigation_saved s;
		struct wbuf w = {0};
		int fd;

		print_message("case: %s\n", cases[i].name);
		rig_save(r, &w, &s, &fd);
		r->guest.facts.facts.kvm_arch_cap &= ~cases[i].arch_cap_missing;
		if (cases[i].vendor)
			snprintf(r->guest.facts.facts.vendor_id,
				 sizeof(r->guest.facts.facts.vendor_id), "%s", cases[i].vendor);
		if (cases[i].bhi_off) {
			r->guest.policy.mitigation.bhi = POLICY_OFF;
			r->guest.policy.mitigation.strict = true;
		}
		assert_int_equal(rig_next_host(r, &s, fd), -EPERM);
		if (!strstr(r->e.text, cases[i].says) || strchr(r->e.text, '\n'))
			fail_msg("'%s' is not in: %s", cases[i].says, r->e.text);
		mitigation_saved_fini(&s);
		wbuf_fini(&w);
		rig_free(r);
	}
}

/* A report that came after the handshake is in the state, and is decided about again. */
static void test_report_after_handshake(void **state)
{
	struct rig *r = boot_reporting(&spr);
	struct mitigation_saved early, s;
	struct wbuf w = {0};
	struct rbuf in;
	int fd;

	(void)state;
	rig_ok(r, mitigation_save(&r->guest.mitigation, false, &early, &r->e));
	early.vcpu[1].report = (struct vcpu_report) {0};
	early.vcpu[1].shadow = 0;
	rig_save(r, &w, &s, &fd);
	in = rbuf_of(w.data, w.len);
	rig_ok(r, rig_next_host(r, &early, fd));
	assert_int_equal(r->guest.mitigation.vcpu[1].msrs.report.ctrl, 0);
	rig_ok(r, rig_restore(r, &in));
	assert_int_equal(r->guest.mitigation.vcpu[1].msrs.report.ctrl, 1);
	assert_int_equal(r->guest.mitigation.vcpu[1].msrs.spec_ctrl, 1);
	assert_true(r->guest.mitigation.vcpu[1].held.value & SPEC_CTRL_BHI_DIS_S);
	mitigation_saved_fini(&early);
	mitigation_saved_fini(&s);
	wbuf_fini(&w);
	rig_free(r);
}

static void test_rebuild(void **state)
{
	struct rig *r = boot_reporting(&spr);
	const uint64_t held = r->guest.mitigation.vcpu[0].held.value;
	char hw[32];
	bool gone;

	(void)state;
	assert_false(mitigation_wants_rebuild(&r->guest.mitigation));
	rig_ok(r, machine_rebuild(&r->guest.machine, &gone, &r->e));
	assert_false(r->guest.mitigation.vcpu[0].promise.valid);
	snprintf(hw, sizeof(hw), "0x%llx", (unsigned long long)(held | 1));
	expect_end(r, hw);
	rig_free(r);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_host),
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_reset_after_hop),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_rebuild),
		cmocka_unit_test(test_report_after_handshake),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
