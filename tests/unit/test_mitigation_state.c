/*
 * What the engine knows of a guest's barriers and answers, on a KVM that is this file: who is told,
 * what travels, what a reset forgets, and which denials end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/err.h"
#include "cpuid/cpuid.h"
#include "hosts.h"
#include "migration/state/buf.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/mitigation.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/kvm/vm.h"

#define VCPUS	   2
#define VM_FD	   1000
#define VCPU_FD(i) (VM_FD + 1 + (int)(i))
#define IN_64_BIT  (EFER_LME | EFER_LMA)
#define MANY	   2000 /* writes of EFER: more than are taken for a CPU's way up */

/* ---- KVM ---- */

static struct {
	bool issued[VCPUS];
	uint64_t efer[VCPUS];
	bool denies_efer, denies_pred_cmd;
	bool filter_fails;
} kvm;

int __wrap_ioctl(int fd, unsigned long request, ...);

static int refuse(int why)
{
	errno = why;
	return -1;
}

static int set_filter(const struct kvm_msr_filter *f)
{
	size_t i;

	if (kvm.filter_fails)
		return refuse(ENOMEM);
	kvm.denies_efer = kvm.denies_pred_cmd = false;
	for (i = 0; i < ARRAY_SIZE(f->ranges); i++) {
		kvm.denies_efer |= f->ranges[i].nmsrs && f->ranges[i].base == MSR_EFER;
		kvm.denies_pred_cmd |= f->ranges[i].nmsrs && f->ranges[i].base == MSR_IA32_PRED_CMD;
	}
	return 0;
}

static int move_msr(int fd, struct kvm_msrs *m, bool set)
{
	uint64_t *efer = &kvm.efer[fd - VCPU_FD(0)];

	assert_int_equal(m->nmsrs, 1);
	if (set && m->entries[0].index == MSR_EFER)
		*efer = m->entries[0].data;
	else if (!set)
		m->entries[0].data = m->entries[0].index == MSR_EFER ? *efer : 0;
	return 1;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	switch (request) {
	case KVM_ENABLE_CAP:
		return 0;
	case KVM_X86_SET_MSR_FILTER:
		return set_filter(arg);
	case KVM_GET_DEVICE_ATTR:
		*(uint64_t *)(uintptr_t)((struct kvm_device_attr *)arg)->addr =
			kvm.issued[fd - VCPU_FD(0)];
		return 0;
	case KVM_SET_DEVICE_ATTR:
		kvm.issued[fd - VCPU_FD(0)] = true;
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return move_msr(fd, arg, request == KVM_SET_MSRS);
	case KVM_GET_SREGS:
		memset(arg, 0, sizeof(struct kvm_sregs));
		return 0;
	default: /* no statistics */
		return refuse(ENOTTY);
	}
}

/* ---- a back end that holds in KVM, for each vCPU: 0x48 never comes to testudo ---- */

static int apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
		 uint64_t guest, struct backend_held *held, struct err *e)
{
	(void)b;
	(void)vcpu_fd;
	(void)e;
	held->mask = mask;
	held->value = value;
	held->guest = guest;
	held->effective = (guest & ~mask) | value;
	held->known = true;
	return 0;
}

static void read_held(int vcpu_fd, struct backend_held *held)
{
	(void)vcpu_fd;
	held->known = true;
}

static const struct backend_ops in_kvm = {
	.kind = BACKEND_FORCE_VCPU,
	.vcpu_apply = apply,
	.vcpu_read = read_held,
};

/* ---- a guest ---- */

struct guest {
	struct mitigation m;
	struct mitigation_vcpu vcpu[VCPUS];
	struct kvm_run run;
};

static struct guest g;

/* An engine before its first VM. Nothing of what an earlier one did is left, in KVM either. */
static struct mitigation *engine(void)
{
	struct mitigation *m = &g.m;
	uint32_t i;

	memset(&kvm, 0, sizeof(kvm));
	memset(&g, 0, sizeof(g));
	m->vcpu = g.vcpu;
	m->n_vcpus = VCPUS;
	pthread_mutex_init(&m->filter_lock, NULL);
	for (i = 0; i < VCPUS; i++) {
		g.vcpu[i].id = i;
		g.vcpu[i].fd = -1;
		pthread_mutex_init(&g.vcpu[i].lock, NULL);
	}
	mitigation_policy_default(&m->options.policy);
	m->options.policy.incoming_cannot = CANNOT_WARN;
	m->options.observe_ibpb = true;
	m->host = host_spr;
	m->active = m->backend.ops = &in_kvm;
	m->backend.can_force = SPEC_CTRL_BHI_DIS_S | SPEC_CTRL_RRSBA_DIS_S;
	m->backend.msr_exits = true;
	m->backend.barrier.driven = true;
	m->contract = (struct guest_contract) {
		.vendor = CPU_VENDOR_INTEL,
		.virt_enum = VIRT_ENUM_MITIGATION,
		.mitigation_enum = MITIGATION_ALL,
	};
	return m;
}

/* A VM and its vCPUs, the next ones at a reset */
static void build(struct mitigation *m)
{
	struct vm vm = {.fd = VM_FD};
	struct err e = {0};
	uint32_t i;

	memset(kvm.issued, 0, sizeof(kvm.issued));
	assert_int_equal(mitigation_setup_vm(m, &vm, &e), 0);
	for (i = 0; i < VCPUS; i++) {
		kvm.efer[i] = IN_64_BIT;
		if (mitigation_setup_vcpu(m, i, VCPU_FD(i), &e) < 0)
			fail_msg("%s", e.text);
	}
	/* what the guest is shown; the saved contract has it not, since it has no CPUID here */
	m->contract.leaf7_0_edx = CPUID_BIT(7_0_EDX, spec_ctrl);
	m->long_mode = true;
}

static struct mitigation *booted(void)
{
	struct mitigation *m = engine();

	m->contract_made = true;
	build(m);
	return m;
}

static void guest_writes(uint32_t id, uint32_t index, uint64_t value)
{
	g.run.msr.index = index;
	g.run.msr.data = value;
	mitigation_exit_wrmsr(&g.m, id, &g.run);
	assert_int_equal(g.run.msr.error, 0);
}

static void guest_reads_enumeration(uint32_t id)
{
	g.run.msr.index = MSR_VIRTUAL_MITIGATION_ENUM;
	mitigation_exit_rdmsr(&g.m, id, &g.run);
	assert_int_equal(g.run.msr.error, 0);
	assert_int_equal(g.run.msr.data, MITIGATION_ALL);
}

static void guest_starts(uint32_t id)
{
	kvm.efer[id] = 0; /* INIT */
	guest_writes(id, MSR_EFER, EFER_LME);
	kvm.efer[id] = IN_64_BIT;
}

static void guest_writes_efer_often(void)
{
	unsigned int i;

	for (i = 0; i < MANY; i++)
		guest_writes(0, MSR_EFER, IN_64_BIT);
}

static struct mitigation_saved saved(bool parked)
{
	struct mitigation_saved s;
	struct err e = {0};

	assert_int_equal(mitigation_save(&g.m, parked, &s, &e), 0);
	s.contract.leaf7_0_edx = 0;
	return s;
}

/* @early: as of the handshake, @late: with the rest of the state. Both are freed. */
static struct mitigation *arrived(struct mitigation_saved *early, struct mitigation_saved *late)
{
	struct mitigation *m = engine();
	struct cpuid_set none = {0};
	struct err e = {0};

	if (mitigation_adopt(m, &none, early, &e) < 0)
		fail_msg("%s", e.text);
	build(m);
	m->contract.leaf7_0_edx = 0;
	if (mitigation_update(m, late, &e) < 0)
		fail_msg("%s", e.text);
	m->contract.leaf7_0_edx = CPUID_BIT(7_0_EDX, spec_ctrl);
	mitigation_saved_fini(early);
	mitigation_saved_fini(late);
	return m;
}

/* ---- barriers ---- */

/* KVM alone knows of it until the vCPUs stand. */
static void test_what_kvm_tells_at_last_travels(void **state)
{
	struct mitigation_saved early, late;
	struct mitigation *m;

	(void)state;
	booted();
	kvm.issued[1] = true;
	early = saved(false);
	assert_false(early.ibpb_seen);
	late = saved(true);
	assert_true(late.vcpu[1].ibpb_issued);
	assert_true(late.ibpb_seen);
	m = arrived(&early, &late);
	assert_true(m->ibpb_seen);
	assert_true(kvm.issued[1]);
	assert_false(m->vcpu[0].ibpb_issued);
}

/* A stream of a testudo that saved the two at different times. */
static void test_one_vcpu_is_enough(void **state)
{
	bool twice;
	int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct mitigation_saved early, late;

		twice = i;
		booted();
		kvm.issued[1] = true;
		early = saved(twice);
		late = saved(true);
		early.ibpb_seen = late.ibpb_seen = false;
		assert_int_equal(early.vcpu[1].ibpb_issued, twice);
		assert_true(arrived(&early, &late)->ibpb_seen);
		assert_int_equal(kvm.denies_pred_cmd, !twice);
	}
}

/* Whoever saw the first one: the first write that leaves KVM is the last. */
static void test_denial_ends_though_the_first_was_seen(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	assert_true(kvm.denies_pred_cmd);
	kvm.issued[1] = true;
	mitigation_check_vcpu(m, 1);
	assert_true(m->ibpb_seen);
	guest_writes(0, MSR_IA32_PRED_CMD, PRED_CMD_IBPB);
	assert_false(kvm.denies_pred_cmd);
	assert_true(kvm.issued[0]);
}

static void test_reset_forgets_barriers(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	m->options.policy.barrier.on_switch = SWITCH_USED;
	guest_writes(1, MSR_IA32_PRED_CMD, PRED_CMD_IBPB);
	assert_true(m->ibpb_seen);
	assert_false(mitigation_wants_checks(m));
	assert_true(mitigation_may_want_checks(m));
	build(m);
	assert_false(m->ibpb_seen);
	assert_false(m->vcpu[1].ibpb_issued);
	assert_true(kvm.denies_pred_cmd);
	assert_true(mitigation_wants_checks(m));
}

/* A VM built anew under the guest is no reset. */
static void test_rebuild_keeps_barriers(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	guest_writes(1, MSR_IA32_PRED_CMD, PRED_CMD_IBPB);
	mitigation_stay(m);
	build(m);
	assert_true(m->ibpb_seen);
	assert_true(kvm.issued[1]);
	assert_false(kvm.denies_pred_cmd);
	build(m); /* and this is one */
	assert_false(m->ibpb_seen);
	assert_false(kvm.issued[1]);
}

/* The stream says of each vCPU whether it issued one: none is made up. */
static void test_no_vcpu_is_blamed(void **state)
{
	struct mitigation_saved early, late, read;
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;

	(void)state;
	booted();
	early = saved(true);
	late = saved(true);
	early.ibpb_seen = late.ibpb_seen = true;
	mitigation_saved_encode(&late, &w);
	r = rbuf_of(w.data, w.len);
	assert_int_equal(mitigation_saved_decode(&r, &read, &e), 0);
	assert_true(read.ibpb_seen);
	assert_false(read.vcpu[0].ibpb_issued);
	mitigation_saved_fini(&late);
	arrived(&early, &read);
	assert_false(g.m.vcpu[0].ibpb_issued);
	assert_false(kvm.issued[0]);
	wbuf_fini(&w);
}

/* ---- answers, which end at INIT ---- */

static void test_efer_is_let_go_where_nobody_answered(void **state)
{
	(void)state;
	booted();
	assert_true(kvm.denies_efer);
	guest_writes_efer_often();
	assert_false(kvm.denies_efer);
}

static void test_init_ends_an_answer_after_many_writes(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	guest_reads_enumeration(1);
	assert_true(m->vcpu[1].msrs.report.enum_read);
	guest_writes_efer_often();
	assert_true(kvm.denies_efer);
	guest_starts(1);
	assert_false(m->vcpu[1].msrs.report.enum_read);
}

static void test_an_answer_after_many_writes(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	guest_writes_efer_often();
	guest_reads_enumeration(1);
	assert_true(m->vcpu[1].msrs.report.enum_read);
	assert_true(kvm.denies_efer);
	guest_starts(1);
	assert_false(m->vcpu[1].msrs.report.enum_read);
}

static void test_an_answer_that_init_would_not_end(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	guest_writes_efer_often();
	kvm.filter_fails = true;
	guest_reads_enumeration(1);
	assert_false(m->vcpu[1].msrs.report.enum_read);
}

static void test_an_answer_from_another_host(void **state)
{
	struct mitigation_saved early, late;
	struct mitigation *m;

	(void)state;
	booted();
	early = saved(false);
	guest_reads_enumeration(1);
	late = saved(true);
	m = arrived(&early, &late);
	guest_writes_efer_often();
	assert_true(kvm.denies_efer);
	guest_starts(1);
	assert_false(m->vcpu[1].msrs.report.enum_read);
}

/* A new boot may let go again. */
static void test_reset_forgets_answers(void **state)
{
	struct mitigation *m = booted();

	(void)state;
	guest_reads_enumeration(1);
	build(m);
	assert_true(kvm.denies_efer);
	guest_writes_efer_often();
	assert_false(kvm.denies_efer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_kvm_tells_at_last_travels),
		cmocka_unit_test(test_one_vcpu_is_enough),
		cmocka_unit_test(test_denial_ends_though_the_first_was_seen),
		cmocka_unit_test(test_reset_forgets_barriers),
		cmocka_unit_test(test_rebuild_keeps_barriers),
		cmocka_unit_test(test_no_vcpu_is_blamed),
		cmocka_unit_test(test_efer_is_let_go_where_nobody_answered),
		cmocka_unit_test(test_init_ends_an_answer_after_many_writes),
		cmocka_unit_test(test_an_answer_after_many_writes),
		cmocka_unit_test(test_an_answer_that_init_would_not_end),
		cmocka_unit_test(test_an_answer_from_another_host),
		cmocka_unit_test(test_reset_forgets_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
