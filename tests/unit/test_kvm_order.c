/*
 * The order of KVM's set-up calls, which is worth ten times on some hosts (vmm/kvm/vm.h): a whole
 * machine is built on a KVM of the test's own, which notes what it is asked, and who closes its
 * VMs. ioctl(2) and close(2) are wrapped at link time; the descriptors are memory files, so that a
 * vCPU's can be mapped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "cpuid/cpuid.h"
#include "devices/chardev.h"
#include "devices/vm_event.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "policy/policy.h"
#include "policy/policy_file.h"
#include "tests/unit/hosts.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/kvm/closer.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_config.h"

#define N_VCPUS	   2
#define FORCEABLE  0x447
#define QUERY	   _IOR(KVMIO, 0xe4, uint64_t)
#define ARCH_CAP   ARCH_CAP_SPR
#define MAX_CALLS  512
#define MAX_FDS	   64
#define VIRT_FIRST MSR_VIRTUAL_ENUMERATION

int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_close(int fd);
int __wrap_close(int fd);

/* ---- what the KVM of a case is like ---- */

enum keeps {
	KEEPS,	 /* of a vCPU whose CPUID has ARCH_CAPABILITIES, as newer kernels */
	DROPS,	 /* takes it, reads back 0: kvm-pvm on AMD */
	REFUSES, /* no such MSR */
};

static const struct host_facts amd = {
	.vendor_id = "AuthenticAMD",
	.family = 0x19,
	.model = 0x11,
	.leaf7_0_edx = EDX_7_0,
	.kvm_leaf7_0_edx = EDX_7_0,
	.kvm_arch_cap = ARCH_CAP,
};

static const struct kvm_case {
	const char *name;
	const struct host_facts *facts;
	enum keeps arch_cap;
	bool has_filter, keeps_spec_ctrl;
	enum backend_kind force; /* BACKEND_NONE: KVM cannot */
	enum backend_kind chosen;
	bool filters;	  /* there is something to be denied */
	const char *says; /* what keeps the machine from being built; NULL: nothing */
} cases[] = {
	{"AMD, kept", &amd, KEEPS, true, false, BACKEND_NONE, BACKEND_NONE, false, NULL},
	{"AMD, dropped", &amd, DROPS, true, false, BACKEND_NONE, BACKEND_NONE, true, NULL},
	{"AMD, refused", &amd, REFUSES, true, false, BACKEND_NONE, BACKEND_NONE, true, NULL},
	{"AMD, dropped, bits can be held", &amd, DROPS, true, true, BACKEND_NONE,
	 BACKEND_MSR_FILTER, true, NULL},
	{"AMD, kept, no MSR filter", &amd, KEEPS, false, true, BACKEND_NONE, BACKEND_NONE, false,
	 NULL},
	{"AMD, dropped, no MSR filter", &amd, DROPS, false, true, BACKEND_NONE, BACKEND_NONE, false,
	 "does not keep ARCH_CAPABILITIES"},
	{"Intel, nothing held, kept", &host_spr, KEEPS, true, false, BACKEND_NONE, BACKEND_NONE,
	 false, NULL},
	{"Intel, nothing held, dropped", &host_spr, DROPS, true, false, BACKEND_NONE, BACKEND_NONE,
	 true, NULL},
	{"Intel, MSR filter, kept", &host_spr, KEEPS, true, true, BACKEND_NONE, BACKEND_MSR_FILTER,
	 true, NULL},
	{"Intel, MSR filter, dropped", &host_spr, DROPS, true, true, BACKEND_NONE,
	 BACKEND_MSR_FILTER, true, NULL},
	{"Intel, forced, kept", &host_spr, KEEPS, true, true, BACKEND_FORCE_SPEC_CTRL,
	 BACKEND_FORCE_SPEC_CTRL, true, NULL},
	{"Intel, forced, dropped", &host_spr, DROPS, true, true, BACKEND_FORCE_SPEC_CTRL,
	 BACKEND_FORCE_SPEC_CTRL, true, NULL},
	{"Intel, forced, kept, no MSR filter", &host_spr, KEEPS, false, true,
	 BACKEND_FORCE_SPEC_CTRL, BACKEND_FORCE_SPEC_CTRL, false, NULL},
	{"Intel, forced, virtual MSRs of KVM, kept", &host_spr, KEEPS, true, true,
	 BACKEND_FORCE_SPEC_CTRL_VM, BACKEND_FORCE_SPEC_CTRL_VM, true, NULL},
	{"Intel, forced, virtual MSRs of KVM, dropped", &host_spr, DROPS, true, true,
	 BACKEND_FORCE_SPEC_CTRL_VM, BACKEND_FORCE_SPEC_CTRL_VM, true, NULL},
	{"Intel, forced per vCPU, kept", &host_spr, KEEPS, true, true, BACKEND_FORCE_VCPU,
	 BACKEND_FORCE_VCPU, true, NULL},
	{"Intel, forced per vCPU, dropped", &host_spr, DROPS, true, true, BACKEND_FORCE_VCPU,
	 BACKEND_FORCE_VCPU, true, NULL},
};

/* ---- that KVM ---- */

enum fd_kind { FD_SYSTEM, FD_VM, FD_VCPU };

struct fake_fd {
	int fd;
	enum fd_kind kind;
	unsigned int vm; /* which VM, counted from 1; 0: the system */
	/* a vCPU's */
	bool cpuid_has_arch_cap;
	uint64_t arch_cap, spec_ctrl, virt[3];
};

static struct fake {
	const struct kvm_case *is;
	struct fake_fd fd[MAX_FDS];
	unsigned int n_fds, n_vms;
	struct {
		unsigned int vm;
		unsigned long request;
	} call[MAX_CALLS];
	unsigned int n_calls;
	bool denies_arch_cap; /* by the last filter */
	pthread_t main;
	unsigned int closed, closed_in_place; /* VMs, atomic; those by the main thread */
} fake;

static int refuse(int err)
{
	errno = err;
	return -1;
}

static struct fake_fd *find_fd(int fd)
{
	unsigned int i;

	for (i = fake.n_fds; i > 0; i--) /* numbers are used again: the newest counts */
		if (__atomic_load_n(&fake.fd[i - 1].fd, __ATOMIC_RELAXED) == fd)
			return &fake.fd[i - 1];
	fail_msg("ioctl of descriptor %d, which is not KVM's", fd);
	return NULL;
}

static int new_fd(enum fd_kind kind, unsigned int vm)
{
	const int fd = memfd_create("fake-kvm", MFD_CLOEXEC);

	assert_true(fd >= 0 && fake.n_fds < MAX_FDS);
	assert_int_equal(ftruncate(fd, sysconf(_SC_PAGESIZE)), 0);
	fake.fd[fake.n_fds] = (struct fake_fd) {.fd = fd, .kind = kind, .vm = vm};
	__atomic_store_n(&fake.n_fds, fake.n_fds + 1, __ATOMIC_RELEASE);
	return fd;
}

static int check_extension(unsigned long cap)
{
	switch (cap) {
	case KVM_CAP_X86_USER_SPACE_MSR:
	case KVM_CAP_X86_MSR_FILTER:
		return fake.is->has_filter;
	case BACKEND_FORCE_CAP:
		return fake.is->force != BACKEND_NONE;
	default:
		return 0;
	}
}

static bool has_vcpu(unsigned int vm)
{
	unsigned int i;

	for (i = 0; i < fake.n_fds; i++)
		if (fake.fd[i].vm == vm && fake.fd[i].kind == FD_VCPU)
			return true;
	return false;
}

/* The RFC's rules: for a VM before its first vCPU, or for a vCPU at any time. */
static int enable_cap(const struct fake_fd *f, const struct kvm_enable_cap *cap)
{
	if (cap->cap == KVM_CAP_SPLIT_IRQCHIP)
		return 0;
	if (cap->cap == KVM_CAP_X86_USER_SPACE_MSR)
		return fake.is->has_filter ? 0 : refuse(EINVAL);
	if (cap->cap != BACKEND_FORCE_CAP || fake.is->force == BACKEND_NONE ||
	    cap->args[1] & ~cap->args[0] || cap->args[0] & ~(uint64_t)FORCEABLE)
		return refuse(EINVAL);
	if (f->kind == FD_VCPU)
		return fake.is->force == BACKEND_FORCE_VCPU ? 0 : refuse(EINVAL);
	return has_vcpu(f->vm) ? refuse(EINVAL) : 0;
}

static int set_filter(const struct kvm_msr_filter *filter)
{
	const struct kvm_msr_filter_range *r;

	fake.denies_arch_cap = false;
	for (r = filter->ranges; r < filter->ranges + KVM_MSR_FILTER_MAX_RANGES && r->nmsrs; r++)
		fake.denies_arch_cap |=
			r->base == MSR_IA32_ARCH_CAPABILITIES && r->flags == KVM_MSR_FILTER_READ;
	return 0;
}

static int set_cpuid(struct fake_fd *f, const struct kvm_cpuid2 *c)
{
	uint32_t i;

	f->cpuid_has_arch_cap = false;
	for (i = 0; i < c->nent; i++)
		if (c->entries[i].function == 7 && c->entries[i].index == 0)
			f->cpuid_has_arch_cap =
				c->entries[i].edx & CPUID_BIT(7_0_EDX, arch_capabilities);
	return 0;
}

/* Return: did KVM take it? */
static bool access_msr(struct fake_fd *f, struct kvm_msr_entry *m, bool write)
{
	uint64_t nothing = 0, *value = &nothing;

	if (m->index == MSR_IA32_ARCH_CAPABILITIES) {
		if (f->kind == FD_SYSTEM)
			f->arch_cap = ARCH_CAP;
		else if (fake.is->arch_cap == REFUSES ||
			 (fake.is->arch_cap == KEEPS && !f->cpuid_has_arch_cap))
			return false;
		if (fake.is->arch_cap == KEEPS || f->kind == FD_SYSTEM)
			value = &f->arch_cap;
	} else if (m->index == MSR_IA32_SPEC_CTRL && fake.is->keeps_spec_ctrl) {
		value = &f->spec_ctrl;
	} else if (m->index >= VIRT_FIRST && m->index < VIRT_FIRST + ARRAY_SIZE(f->virt)) {
		if (fake.is->force != BACKEND_FORCE_SPEC_CTRL_VM)
			return false;
		value = &f->virt[m->index - VIRT_FIRST];
	}
	if (write)
		*value = m->data;
	else
		m->data = *value;
	return true;
}

static int access_msrs(struct fake_fd *f, struct kvm_msrs *m, bool write)
{
	uint32_t i;

	for (i = 0; i < m->nmsrs && access_msr(f, &m->entries[i], write); i++)
		;
	return (int)i;
}

static int list_msrs(struct kvm_msr_list *list)
{
	const uint32_t n = fake.is->force == BACKEND_FORCE_SPEC_CTRL_VM ? 3 : 0;
	const uint32_t room = list->nmsrs;
	uint32_t i;

	list->nmsrs = n;
	if (room < n)
		return refuse(E2BIG);
	for (i = 0; i < n; i++)
		list->indices[i] = VIRT_FIRST + i;
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct fake_fd *f = find_fd(fd);
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	assert_true(fake.n_calls < MAX_CALLS);
	fake.call[fake.n_calls].vm = f->vm;
	fake.call[fake.n_calls++].request = request;
	switch (request) {
	case KVM_CREATE_VM:
		return new_fd(FD_VM, ++fake.n_vms);
	case KVM_CREATE_VCPU:
		return new_fd(FD_VCPU, f->vm);
	case KVM_CHECK_EXTENSION:
		return check_extension((unsigned long)arg);
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(arg);
	case QUERY:
		if (f->kind != FD_SYSTEM || fake.is->force == BACKEND_NONE)
			return refuse(ENOTTY);
		*(uint64_t *)arg = FORCEABLE;
		return 0;
	case KVM_ENABLE_CAP:
		return enable_cap(f, arg);
	case KVM_X86_SET_MSR_FILTER:
		return set_filter(arg);
	case KVM_SET_CPUID2:
		return set_cpuid(f, arg);
	case KVM_GET_MSRS:
		return access_msrs(f, arg, false);
	case KVM_SET_MSRS:
		return access_msrs(f, arg, true);
	case KVM_GET_LAPIC:
		memset(arg, 0, sizeof(struct kvm_lapic_state));
		return 0;
	case KVM_SET_IDENTITY_MAP_ADDR:
	case KVM_SET_TSS_ADDR:
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_CREATE_IRQCHIP:
	case KVM_CREATE_PIT2:
	case KVM_IRQFD:
	case KVM_IOEVENTFD:
	case KVM_SET_LAPIC:
		return 0;
	case KVM_GET_TSC_KHZ:
		return 2000000;
	default:
		fail_msg("ioctl %#lx: this KVM does not know it", request);
		return -1;
	}
}

/* A closed descriptor's number is another's from here on: what it was is forgotten before. */
int __wrap_close(int fd)
{
	unsigned int i;

	for (i = __atomic_load_n(&fake.n_fds, __ATOMIC_ACQUIRE);
	     i > 0 && __atomic_load_n(&fake.fd[i - 1].fd, __ATOMIC_RELAXED) != fd; i--)
		;
	if (i > 0 && fake.fd[i - 1].kind == FD_VM) {
		__atomic_fetch_add(&fake.closed, 1, __ATOMIC_RELAXED);
		if (pthread_equal(pthread_self(), fake.main))
			fake.closed_in_place++;
	}
	if (i > 0)
		__atomic_store_n(&fake.fd[i - 1].fd, -1, __ATOMIC_RELAXED);
	return __real_close(fd);
}

/* ---- the rule ---- */

/* Each waits for the readers of what it replaces: synchronize_srcu() in Linux' KVM. */
static bool waits(unsigned long request)
{
	switch (request) {
	case KVM_SET_TSS_ADDR:
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_GSI_ROUTING:
	case KVM_SET_PMU_EVENT_FILTER:
	case KVM_X86_SET_MSR_FILTER:
		return true;
	default:
		return false;
	}
}

/* What may come before the filter: nothing that waits, nothing that others would wait for. */
static bool may_come_first(unsigned long request)
{
	return request == KVM_SET_IDENTITY_MAP_ADDR || request == KVM_ENABLE_CAP;
}

static void check_order(unsigned int vm)
{
	bool irqchip = false, other = false, vcpu = false;
	unsigned int i, filters = 0;

	for (i = 0; i < fake.n_calls; i++) {
		const unsigned long request = fake.call[i].request;

		if (fake.call[i].vm != vm)
			continue;
		if (irqchip && waits(request))
			fail_msg("ioctl %#lx waits, and comes after the irqchip", request);
		if (request == KVM_X86_SET_MSR_FILTER && (other || filters++))
			fail_msg("the MSR filter is not the first, or not the only one");
		if (vcpu && (request == KVM_CREATE_IRQCHIP || waits(request)))
			fail_msg("ioctl %#lx comes after a vCPU", request);
		irqchip |= request == KVM_CREATE_IRQCHIP;
		vcpu |= request == KVM_CREATE_VCPU;
		other |= request != KVM_X86_SET_MSR_FILTER && !may_come_first(request);
	}
	assert_true(irqchip && vcpu);
	assert_int_equal(filters, fake.is->filters);
}

/* ---- a machine ---- */

struct setup {
	struct machine_config config;
	struct loop loop;
	struct kvm kvm;
	struct cpuid_set cpuid;
	struct cpu_msrs cpu_msrs; /* none */
	struct policy policy;
	struct isolation isolation;
	struct chardev serial;
	struct vm_event_sink sink;
	struct closer closer;
	struct machine_host host;
	struct mitigation mitigation;
	struct machine machine;
	struct err e;
};

#define ok(s, call)                                             \
	do {                                                    \
		if ((call) != 0)                                \
			fail_msg("%s: %s", #call, (s)->e.text); \
	} while (0)

static size_t no_write(struct chardev *c, const uint8_t *data, size_t len)
{
	(void)c;
	(void)data;
	return len;
}

static void no_kick(struct chardev *c)
{
	(void)c;
}

static void show_cpu(struct cpuid_set *set, const struct host_facts *facts)
{
	const struct cpuid_leaf leaves[] = {
		{.leaf = 0, .eax = 7},
		{.leaf = 1},
		{.leaf = 7, .indexed = true, .eax = 2, .edx = facts->kvm_leaf7_0_edx},
		{.leaf = 7, .subleaf = 2, .indexed = true, .edx = facts->kvm_leaf7_2_edx},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(leaves); i++)
		assert_int_equal(cpuid_add(set, &leaves[i]), 0);
}

/* Up to a machine, on the KVM of @is. @from: the guest comes from another host; NULL: it boots */
static int set_up(struct setup *s, const struct kvm_case *is, const struct mitigation_saved *from)
{
	static const struct chardev_ops serial_ops = {no_write, no_kick};
	const struct isolation_options none = {0};
	struct mitigation_options options = {.facts = is->facts};

	memset(s, 0, sizeof(*s));
	memset(&fake, 0, sizeof(fake));
	fake.is = is;
	fake.main = pthread_self();
	s->config.n_vcpus = N_VCPUS;
	s->config.memory.size_bytes = 16 * MiB;
	s->config.rng = true; /* a virtio device, whose kick is an ioeventfd */
	s->serial.ops = &serial_ops;
	s->kvm.fd = new_fd(FD_SYSTEM, 0);
	s->kvm.run_size = (size_t)sysconf(_SC_PAGESIZE);
	show_cpu(&s->cpuid, is->facts);
	ok(s, loop_init(&s->loop));
	ok(s, policy_load(NULL, &s->policy, &s->e));
	s->policy.mitigation.incoming_cannot = CANNOT_WARN;
	ok(s, isolation_enter(&s->isolation, &none, N_VCPUS, &s->e));
	s->host = (struct machine_host) {
		.config = &s->config,
		.kvm = &s->kvm,
		.cpuid = &s->cpuid,
		.cpu_msrs = &s->cpu_msrs,
		.mitigation = &s->mitigation,
		.isolation = &s->isolation,
		.serial = &s->serial,
		.loop = &s->loop,
		.sink = &s->sink,
		.closer = &s->closer,
	};
	options.policy = s->policy.mitigation;
	ok(s, mitigation_init(&s->mitigation, &options, &s->kvm, N_VCPUS, &s->e));
	assert_int_equal(s->mitigation.backend.ops->kind, is->chosen);
	if (from)
		ok(s, mitigation_adopt(&s->mitigation, &s->cpuid, from, &s->e));
	else
		ok(s, mitigation_make_contract(&s->mitigation, &s->cpuid, &s->e));
	assert_int_equal(s->mitigation.contract.arch_cap & ~ARCH_CAP_VIRTUAL_ENUM, ARCH_CAP);
	return machine_init(&s->machine, &s->host, NULL, &s->e);
}

static void tear_down(struct setup *s)
{
	machine_fini(&s->machine);
	mitigation_fini(&s->mitigation);
	loop_fini(&s->loop);
	closer_wait(&s->closer);
	close(s->kvm.fd);
	assert_int_equal(fake.closed, fake.n_vms);
	assert_int_equal(fake.closed_in_place, 0); /* 15 ms each that somebody waits for */
}

static void check_machine(const struct setup *s)
{
	check_order(find_fd(s->machine.vm.fd)->vm);
	assert_int_equal(fake.denies_arch_cap, fake.is->arch_cap != KEEPS);
}

static void test_boot_and_reset(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct setup s;
		unsigned int vms;
		int ret;

		print_message("case: %s\n", cases[i].name);
		ret = set_up(&s, &cases[i], NULL);
		if (cases[i].says) {
			assert_int_equal(ret, -EIO);
			assert_non_null(strstr(s.e.text, cases[i].says));
			tear_down(&s);
			continue;
		}
		ok(&s, ret);
		check_machine(&s);
		/* a reset: what was learnt is known, and no VM is made for it */
		mitigation_started(&s.mitigation);
		vms = fake.n_vms;
		machine_fini(&s.machine);
		ok(&s, machine_init(&s.machine, &s.host, NULL, &s.e));
		assert_int_equal(fake.n_vms, vms + 1);
		check_machine(&s);
		tear_down(&s);
	}
}

/* From a host of the same kind whose KVM keeps all, to each that can take the guest. */
static void test_arrival(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct kvm_case there = cases[i];
		struct mitigation_saved saved;
		struct setup s;

		if (cases[i].says)
			continue;
		print_message("case: %s\n", cases[i].name);
		there.arch_cap = KEEPS;
		ok(&s, set_up(&s, &there, NULL));
		ok(&s, mitigation_save(&s.mitigation, false, &saved, &s.e));
		tear_down(&s);
		ok(&s, set_up(&s, &cases[i], &saved));
		check_machine(&s);
		tear_down(&s);
		mitigation_saved_fini(&saved);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_and_reset),
		cmocka_unit_test(test_arrival),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
