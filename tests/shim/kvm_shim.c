/*
 * A library for tests, to be preloaded: it lays other kernels' KVM over the real one. It answers
 * what a patched or stock KVM on a VMX host would answer about IA32_SPEC_CTRL (0x48) and the
 * virtual mitigation MSRs, keeps the book of guest view and hardware value, and does to the guest
 * what that hardware would do; everything else goes to the real /dev/kvm. The program under test is
 * the one that users run.
 *
 *   KVM_SHIM   which kernel:
 *     rfc               KVM_CAP_FORCE_SPEC_CTRL of the RFC (v3 patch 1), number 236
 *     rfc-virtual-msrs  the same, and the virtual MSRs in KVM (patches 7 to 10)
 *     renumbered        as rfc, but the capability is KVM_SHIM_CAP, by default that of kernel/6.12
 *     vcpu              as rfc, and the capability can be enabled for a vCPU at any time, as asked
 *                       for in 2024 (kernel/6.1)
 *     filter            stock KVM on VMX: 236 is another capability, 0x48 is kept, INIT clears it
 *     mainline          stock KVM on a host without SPEC_CTRL: 0x48 is refused
 *     drops             stock KVM that accepts 0x48 and keeps nothing
 *     bad-cap           the query answers, the capability is refused under its number
 *     lax-cap           the query answers, under 236 is a capability that takes any argument
 *   KVM_SHIM_BITS       bits that can be forced, or that the hardware has (0x447)
 *   KVM_SHIM_CAP        number of the capability (236; renumbered: 0x5343)
 *   KVM_SHIM_ARCH_CAP   feature MSR 0x10a as KVM offers it (0xeb: eIBRS and no older bugs)
 *   KVM_SHIM_7_2_EDX    CPUID.(7,2).EDX that KVM offers to guests (0)
 *   KVM_SHIM_REFUSES    a value of 0x48 that KVM does not take any more, once a vCPU had another
 * (none) KVM_SHIM_INIT       0: do not look for INIT after each exit, which costs time (1)
 *
 * The guest may ask the hardware: RDMSR 0x5f000000 gives the effective 0x48 of its vCPU, 0x5f000001
 * how often that vCPU was INIT, 0x5f000002 CPUID.(7,2).EDX as the program set it for the guest
 * (some KVMs let CPUID through to the hardware). Source: RFC v3 20240410143446.797262-2 to
 * -11-chao.gao@intel.com; arch/x86/kvm of Linux 6.12.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "msr/msr.h"
#include "msr/spec_ctrl.h"

#define QUERY_FORCE _IOR(KVMIO, 0xe4, uint64_t)
#define RFC_CAP	    236
#define OUR_CAP	    0x5343

#define MSR_SHIM_EFFECTIVE 0x5f000000
#define MSR_SHIM_INITS	   0x5f000001
#define MSR_SHIM_7_2_EDX   0x5f000002

#define MAX_FDS	   1024
#define MAX_RANGES KVM_MSR_FILTER_MAX_RANGES
#define DR3_MARK   0x5117u /* INIT clears the debug registers, and guests here never use them */

enum mode {
	RFC,
	RFC_VIRTUAL,
	RENUMBERED,
	VCPU,
	FILTER,
	MAINLINE,
	DROPS,
	BAD_CAP,
	LAX_CAP,
	N_MODES
};

static const char *const mode_names[N_MODES] = {
	[RFC] = "rfc",
	[RFC_VIRTUAL] = "rfc-virtual-msrs",
	[RENUMBERED] = "renumbered",
	[VCPU] = "vcpu",
	[FILTER] = "filter",
	[MAINLINE] = "mainline",
	[DROPS] = "drops",
	[BAD_CAP] = "bad-cap",
	[LAX_CAP] = "lax-cap",
};

struct shim_range {
	uint32_t flags, base, n;
	uint8_t bitmap[0x600];
};

struct shim_vm {
	bool exits; /* KVM_MSR_EXIT_REASON_FILTER enabled by the program */
	bool default_deny;
	unsigned int n_ranges, n_vcpus;
	struct shim_range range[MAX_RANGES];
	uint64_t mask, value; /* of the RFC's capability */
};

struct shim_vcpu {
	struct shim_vm *vm;
	struct kvm_run *run;
	uint64_t mask, value;  /* of the capability: the VM's, or its own */
	uint64_t shadow, real; /* of 0x48 */
	uint64_t extra;	       /* bits forced by a report inside KVM */
	uint64_t arch_cap, virt_enum, mitigation_enum, mitigation_ctrl;
	uint64_t inits;
	uint32_t leaf7_2_edx;
};

typedef int (*ioctl_fn)(int, unsigned long, ...);

static struct {
	pthread_once_t once;
	pthread_mutex_t lock;
	ioctl_fn real;
	enum mode mode;
	uint64_t bits, arch_cap, refuses;
	uint32_t cap, leaf7_2_edx;
	bool look_for_init;
	struct shim_vm *vm[MAX_FDS];
	struct shim_vcpu *vcpu[MAX_FDS];
	size_t run_size;
} shim = {.once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

static void shim_init(void)
{
	const char *name = getenv("KVM_SHIM");
	void *symbol = dlsym(RTLD_NEXT, "ioctl");
	int i;

	memcpy(&shim.real, &symbol, sizeof(symbol));
	shim.mode = N_MODES;
	for (i = 0; name && i < N_MODES; i++)
		if (strcmp(name, mode_names[i]) == 0)
			shim.mode = (enum mode)i;
	if (shim.mode == N_MODES) {
		fprintf(stderr, "kvm_shim: KVM_SHIM=%s is no mode\n", name ? name : "");
		abort();
	}
	shim.bits = env_u64("KVM_SHIM_BITS", SPEC_CTRL_IBRS | SPEC_CTRL_STIBP | SPEC_CTRL_SSBD |
						     SPEC_CTRL_RRSBA_DIS_S | SPEC_CTRL_BHI_DIS_S);
	shim.cap = (uint32_t)env_u64("KVM_SHIM_CAP", shim.mode == RENUMBERED ? OUR_CAP : RFC_CAP);
	shim.arch_cap = env_u64("KVM_SHIM_ARCH_CAP", 0xeb);
	shim.refuses = env_u64("KVM_SHIM_REFUSES", UINT64_MAX);
	shim.look_for_init = env_u64("KVM_SHIM_INIT", 1);
	shim.leaf7_2_edx = (uint32_t)env_u64("KVM_SHIM_7_2_EDX", 0);
}

static bool has_rfc(void)
{
	return shim.mode == RFC || shim.mode == RFC_VIRTUAL || shim.mode == RENUMBERED ||
	       shim.mode == VCPU || shim.mode == BAD_CAP || shim.mode == LAX_CAP;
}

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- the book of one vCPU ---- */

static uint64_t held_mask(const struct shim_vcpu *v)
{
	return v->mask | v->extra;
}

static uint64_t held_value(const struct shim_vcpu *v)
{
	return v->value | v->extra;
}

/*
 * RFC: the host's setter sets the shadow and ORs the forced value into the real one. The kernel
 * with the form for vCPUs clears the masked bits first.
 */
static void set_by_host(struct shim_vcpu *v, uint64_t data)
{
	v->shadow = data;
	if (shim.mode == VCPU)
		data &= ~held_mask(v);
	v->real = has_rfc() ? data | held_value(v) : data;
}

/* The processor, with "virtualize IA32_SPEC_CTRL" or without. */
static void set_by_guest(struct shim_vcpu *v, uint64_t data)
{
	v->shadow = data;
	v->real = has_rfc() ? (data & ~held_mask(v)) | (v->real & held_mask(v)) : data;
}

/* Patches 9 and 10: what a report makes KVM force; the capability's bits stay the operator's. */
static void set_report(struct shim_vcpu *v, uint64_t ctrl)
{
	uint64_t extra = 0;

	if ((ctrl & MITIGATION_BHB_CLEAR_SEQ_S) && (shim.bits & SPEC_CTRL_BHI_DIS_S) &&
	    !(shim.arch_cap & ARCH_CAP_BHI_NO))
		extra |= SPEC_CTRL_BHI_DIS_S;
	if ((ctrl & MITIGATION_RETPOLINE_S) && (shim.bits & SPEC_CTRL_RRSBA_DIS_S) &&
	    (shim.arch_cap & ARCH_CAP_RRSBA))
		extra |= SPEC_CTRL_RRSBA_DIS_S;
	v->mitigation_ctrl = ctrl;
	v->extra = extra & ~v->mask;
	v->real = (v->shadow & ~held_mask(v)) | held_value(v);
}

/* ---- MSRs by the host's right: KVM_GET_MSRS and KVM_SET_MSRS. Return: taken? ---- */

static bool is_virtual(uint32_t index)
{
	return index >= MSR_VIRTUAL_ENUMERATION && index <= MSR_VIRTUAL_MITIGATION_CTRL;
}

static bool is_ours(uint32_t index)
{
	return index == MSR_IA32_SPEC_CTRL || is_virtual(index);
}

static bool host_set(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		if (shim.mode == MAINLINE)
			return false;
		if (shim.mode == DROPS)
			return true;
		/* KVM tries the value on the processor */
		if (data & ~shim.bits || (data == shim.refuses && v->real))
			return false;
		set_by_host(v, data);
		return true;
	case MSR_VIRTUAL_ENUMERATION:
		if (shim.mode != RFC_VIRTUAL || data & ~VIRT_ENUM_MITIGATION)
			return false;
		v->virt_enum = data;
		return true;
	case MSR_VIRTUAL_MITIGATION_ENUM:
		if (shim.mode != RFC_VIRTUAL || data & ~MITIGATION_ALL)
			return false;
		v->mitigation_enum = data;
		return true;
	case MSR_VIRTUAL_MITIGATION_CTRL:
		if (shim.mode != RFC_VIRTUAL || data & ~MITIGATION_ALL)
			return false;
		set_report(v, data);
		return true;
	default:
		return false;
	}
}

static bool host_get(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	if (index == MSR_IA32_SPEC_CTRL) {
		*data = has_rfc() ? v->shadow : v->real;
		return shim.mode != MAINLINE;
	}
	if (shim.mode != RFC_VIRTUAL)
		return false;
	*data = index == MSR_VIRTUAL_ENUMERATION       ? v->virt_enum
		: index == MSR_VIRTUAL_MITIGATION_ENUM ? v->mitigation_enum
						       : v->mitigation_ctrl;
	return true;
}

static int vcpu_msrs(int fd, struct shim_vcpu *v, unsigned long request, struct kvm_msrs *m)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head.nmsrs = 1};
	uint32_t i;

	for (i = 0; i < m->nmsrs; i++) {
		struct kvm_msr_entry *e = &m->entries[i];
		uint64_t data = 0;
		bool taken;

		if (!is_ours(e->index)) {
			int ret;

			one.entry = *e;
			ret = shim.real(fd, request, &one);
			if (ret != 1)
				return ret < 0 ? ret : (int)i;
			*e = one.entry;
			if (e->index == MSR_IA32_ARCH_CAPABILITIES)
				v->arch_cap = e->data;
			continue;
		}
		pthread_mutex_lock(&shim.lock);
		taken = request == KVM_SET_MSRS ? host_set(v, e->index, e->data)
						: host_get(v, e->index, &data);
		pthread_mutex_unlock(&shim.lock);
		if (!taken)
			return (int)i;
		if (request == KVM_GET_MSRS)
			e->data = data;
	}
	return (int)m->nmsrs;
}

/* ---- MSRs by the guest: what KVM and the processor do. Return: no #GP? ---- */

static bool guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		*data = has_rfc() ? v->shadow : v->real;
		return shim.mode != MAINLINE;
	case MSR_VIRTUAL_ENUMERATION:
		*data = v->virt_enum;
		return shim.mode == RFC_VIRTUAL && (v->arch_cap & ARCH_CAP_VIRTUAL_ENUM);
	case MSR_VIRTUAL_MITIGATION_ENUM:
		*data = v->mitigation_enum;
		return shim.mode == RFC_VIRTUAL && (v->virt_enum & VIRT_ENUM_MITIGATION);
	case MSR_VIRTUAL_MITIGATION_CTRL:
		*data = v->mitigation_ctrl;
		return shim.mode == RFC_VIRTUAL && (v->virt_enum & VIRT_ENUM_MITIGATION);
	case MSR_SHIM_EFFECTIVE:
		*data = v->real;
		return true;
	case MSR_SHIM_INITS:
		*data = v->inits;
		return true;
	case MSR_SHIM_7_2_EDX:
		*data = v->leaf7_2_edx;
		return true;
	default:
		return false;
	}
}

static bool guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	if (index == MSR_IA32_SPEC_CTRL) {
		if (shim.mode == MAINLINE || data & ~shim.bits)
			return false;
		if (shim.mode != DROPS)
			set_by_guest(v, data);
		return true;
	}
	if (index != MSR_VIRTUAL_MITIGATION_CTRL || shim.mode != RFC_VIRTUAL ||
	    !(v->virt_enum & VIRT_ENUM_MITIGATION) || data & ~MITIGATION_ALL)
		return false;
	set_report(v, data);
	return true;
}

/* ---- the program's MSR filter, and ours below it ---- */

static bool program_denies(const struct shim_vm *vm, uint32_t index, uint32_t flag)
{
	unsigned int i;

	if (!vm->exits)
		return false;
	for (i = 0; i < vm->n_ranges; i++) {
		const struct shim_range *r = &vm->range[i];
		const uint32_t at = index - r->base;

		if ((r->flags & flag) && index >= r->base && at < r->n)
			return !(r->bitmap[at / 8] & 1u << at % 8);
	}
	return vm->default_deny;
}

/* The real filter: what the program denies, and all that we play ourselves. */
static int real_filter(int fd, const struct shim_vm *vm)
{
	static uint8_t deny[1];
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = {KVM_MSR_EXIT_REASON_FILTER},
	};
	struct kvm_msr_filter f = {0};
	const uint32_t own[][2] = {
		{MSR_IA32_SPEC_CTRL, 1},
		{MSR_VIRTUAL_ENUMERATION, 3},
		{MSR_SHIM_EFFECTIVE, 3},
	};
	unsigned int n = 0, i;

	for (i = 0; i < 3; i++)
		f.ranges[n++] = (struct kvm_msr_filter_range) {
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = own[i][0],
			.nmsrs = own[i][1],
			.bitmap = deny,
		};
	for (i = 0; i < vm->n_ranges && n < MAX_RANGES; i++) {
		if (is_ours(vm->range[i].base))
			continue;
		f.ranges[n++] = (struct kvm_msr_filter_range) {
			.flags = vm->range[i].flags,
			.base = vm->range[i].base,
			.nmsrs = vm->range[i].n,
			.bitmap = (uint8_t *)(uintptr_t)vm->range[i].bitmap,
		};
	}
	if (shim.real(fd, KVM_ENABLE_CAP, &exits) < 0)
		return -1;
	return shim.real(fd, KVM_X86_SET_MSR_FILTER, &f);
}

static int set_filter(int fd, struct shim_vm *vm, const struct kvm_msr_filter *f)
{
	unsigned int i;

	vm->n_ranges = 0;
	vm->default_deny = f->flags & KVM_MSR_FILTER_DEFAULT_DENY;
	for (i = 0; i < MAX_RANGES; i++) {
		const struct kvm_msr_filter_range *from = &f->ranges[i];
		struct shim_range *to = &vm->range[vm->n_ranges];
		const size_t bytes = (from->nmsrs + 7) / 8;

		if (!from->nmsrs)
			continue;
		if (!(from->flags & (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) ||
		    bytes > sizeof(to->bitmap))
			return fail(EINVAL);
		to->flags = from->flags;
		to->base = from->base;
		to->n = from->nmsrs;
		memcpy(to->bitmap, from->bitmap, bytes);
		vm->n_ranges++;
	}
	return real_filter(fd, vm);
}

/* ---- VMs ---- */

/* RFC v3 patch 1, api.rst 7.35: every way to EINVAL, but for a vCPU that is there already */
static bool is_valid_force(const struct kvm_enable_cap *cap)
{
	const uint64_t mask = cap->args[0], value = cap->args[1];

	return !cap->flags && shim.bits && !(value & ~shim.bits) && !(value & ~mask);
}

static int enable_force(struct shim_vm *vm, const struct kvm_enable_cap *cap)
{
	if (shim.mode == LAX_CAP)
		return 0;
	if (vm->n_vcpus || !is_valid_force(cap))
		return fail(EINVAL);
	vm->mask = cap->args[0];
	vm->value = cap->args[1];
	return 0;
}

/* At any time, and the guest's own value stays what it is. */
static int enable_vcpu_cap(int fd, struct shim_vcpu *v, struct kvm_enable_cap *cap)
{
	if (cap->cap != RFC_CAP && cap->cap != shim.cap)
		return shim.real(fd, KVM_ENABLE_CAP, cap);
	if (shim.mode != VCPU || cap->cap != shim.cap || !is_valid_force(cap))
		return fail(EINVAL);
	pthread_mutex_lock(&shim.lock);
	v->mask = cap->args[0];
	v->value = cap->args[1];
	set_by_host(v, v->shadow);
	pthread_mutex_unlock(&shim.lock);
	return 0;
}

static int enable_cap(int fd, struct shim_vm *vm, struct kvm_enable_cap *cap)
{
	if (cap->cap == KVM_CAP_X86_USER_SPACE_MSR) {
		vm->exits = cap->args[0] & KVM_MSR_EXIT_REASON_FILTER;
		return 0;
	}
	if (has_rfc() && shim.mode != BAD_CAP && cap->cap == shim.cap)
		return enable_force(vm, cap);
	if (cap->cap == RFC_CAP || cap->cap == shim.cap)
		return fail(EINVAL);
	return shim.real(fd, KVM_ENABLE_CAP, cap);
}

/* A descriptor's number comes again: nothing may be left of what it was. */
static void forget(int fd)
{
	if (fd >= MAX_FDS)
		abort();
	free(shim.vm[fd]);
	shim.vm[fd] = NULL;
	if (!shim.vcpu[fd])
		return;
	munmap(shim.vcpu[fd]->run, shim.run_size);
	free(shim.vcpu[fd]);
	shim.vcpu[fd] = NULL;
}

static int create_vm(int kvm_fd, unsigned long type)
{
	const int fd = shim.real(kvm_fd, KVM_CREATE_VM, type);

	if (fd < 0)
		return fd;
	forget(fd);
	if (!shim.run_size)
		shim.run_size = (size_t)shim.real(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	shim.vm[fd] = calloc(1, sizeof(*shim.vm[fd]));
	if (!shim.vm[fd] || real_filter(fd, shim.vm[fd]) < 0)
		abort();
	return fd;
}

static void mark_registers(int fd)
{
	struct kvm_debugregs d;

	if (shim.real(fd, KVM_GET_DEBUGREGS, &d) < 0)
		return;
	d.db[3] = DR3_MARK;
	shim.real(fd, KVM_SET_DEBUGREGS, &d);
}

static int create_vcpu(int vm_fd, struct shim_vm *vm, unsigned long id)
{
	const int fd = shim.real(vm_fd, KVM_CREATE_VCPU, id);
	struct shim_vcpu *v;

	if (fd < 0)
		return fd;
	forget(fd);
	v = calloc(1, sizeof(*v));
	if (!v)
		abort();
	v->vm = vm;
	v->mask = vm->mask;
	v->value = vm->value;
	vm->n_vcpus++;
	v->run = mmap(NULL, shim.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (v->run == MAP_FAILED)
		abort();
	set_by_host(v, 0);
	mark_registers(fd);
	shim.vcpu[fd] = v;
	return fd;
}

/* ---- running ---- */

/* INIT happens inside KVM: it shows in registers only. Stock KVM forgets 0x48 then, the RFC not. */
static void look_for_init(int fd, struct shim_vcpu *v)
{
	struct kvm_debugregs d;

	if (shim.real(fd, KVM_GET_DEBUGREGS, &d) < 0 || d.db[3] == DR3_MARK)
		return;
	pthread_mutex_lock(&shim.lock);
	v->inits++;
	set_by_host(v, 0);
	pthread_mutex_unlock(&shim.lock);
	mark_registers(fd);
}

/* Return: was it ours? */
static bool play_msr(struct shim_vcpu *v)
{
	struct kvm_run *run = v->run;
	const bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
	const uint32_t index = run->msr.index;
	uint64_t data = 0;
	bool ok;

	if (run->exit_reason != KVM_EXIT_X86_RDMSR && !write)
		return false;
	if (program_denies(v->vm, index, write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ))
		return false;
	pthread_mutex_lock(&shim.lock);
	ok = write ? guest_write(v, index, run->msr.data) : guest_read(v, index, &data);
	pthread_mutex_unlock(&shim.lock);
	run->msr.error = !ok;
	if (!write)
		run->msr.data = data;
	return true;
}

static int run_vcpu(int fd, struct shim_vcpu *v)
{
	for (;;) {
		const int ret = shim.real(fd, KVM_RUN, 0);
		const int err = errno;

		if (shim.look_for_init)
			look_for_init(fd, v);
		errno = err;
		if (ret < 0 || !play_msr(v))
			return ret;
	}
}

/* ---- /dev/kvm itself ---- */

static int check_extension(int fd, unsigned long cap)
{
	if (has_rfc() && cap == shim.cap)
		return shim.bits != 0;
	if (cap == RFC_CAP) /* KVM_CAP_PRE_FAULT_MEMORY: two-dimensional paging is on */
		return 1;
	return shim.real(fd, KVM_CHECK_EXTENSION, cap);
}

static int supported_cpuid(int fd, struct kvm_cpuid2 *c)
{
	const int ret = shim.real(fd, KVM_GET_SUPPORTED_CPUID, c);
	uint32_t i;

	for (i = 0; ret >= 0 && i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 7 && e->index == 0)
			e->edx |= CPUID_7_0_EDX_SPEC_CTRL | CPUID_7_0_EDX_STIBP |
				  CPUID_7_0_EDX_ARCH_CAP | CPUID_7_0_EDX_SSBD;
		if (e->function == 7 && e->index == 2)
			e->edx = shim.leaf7_2_edx;
	}
	return ret;
}

static int set_cpuid(int fd, struct shim_vcpu *v, const struct kvm_cpuid2 *c)
{
	uint32_t i;

	v->leaf7_2_edx = 0;
	for (i = 0; i < c->nent; i++)
		if (c->entries[i].function == 7 && c->entries[i].index == 2)
			v->leaf7_2_edx = c->entries[i].edx;
	return shim.real(fd, KVM_SET_CPUID2, c);
}

static int system_msrs(int fd, struct kvm_msrs *m)
{
	const int ret = shim.real(fd, KVM_GET_MSRS, m);
	int i;

	for (i = 0; i < ret; i++)
		if (m->entries[i].index == MSR_IA32_ARCH_CAPABILITIES)
			m->entries[i].data = shim.arch_cap;
	return ret;
}

static int msr_list(int fd, struct kvm_msr_list *list)
{
	const uint32_t room = list->nmsrs;
	uint32_t i;
	int ret;

	if (shim.mode != RFC_VIRTUAL)
		return shim.real(fd, KVM_GET_MSR_INDEX_LIST, list);
	if (room < 3) {
		ret = shim.real(fd, KVM_GET_MSR_INDEX_LIST, list);
		list->nmsrs += 3;
		return ret;
	}
	list->nmsrs = room - 3;
	ret = shim.real(fd, KVM_GET_MSR_INDEX_LIST, list);
	if (ret == 0)
		for (i = 0; i < 3; i++)
			list->indices[list->nmsrs++] = MSR_VIRTUAL_ENUMERATION + i;
	else
		list->nmsrs += 3;
	return ret;
}

static int query_force(uint64_t *bits)
{
	if (!has_rfc())
		return fail(EINVAL);
	*bits = shim.bits;
	return 0;
}

static int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	struct shim_vm *vm = fd >= 0 && fd < MAX_FDS ? shim.vm[fd] : NULL;
	struct shim_vcpu *v = fd >= 0 && fd < MAX_FDS ? shim.vcpu[fd] : NULL;

	switch (request) {
	case KVM_CREATE_VM:
		return create_vm(fd, (unsigned long)arg);
	case KVM_CREATE_VCPU:
		return create_vcpu(fd, vm, (unsigned long)arg);
	case KVM_CHECK_EXTENSION:
		return check_extension(fd, (unsigned long)arg);
	case KVM_GET_SUPPORTED_CPUID:
		return supported_cpuid(fd, arg);
	case KVM_SET_CPUID2:
		return set_cpuid(fd, v, arg);
	case KVM_GET_MSR_INDEX_LIST:
		return msr_list(fd, arg);
	case QUERY_FORCE:
		return query_force(arg);
	case KVM_ENABLE_CAP:
		return v ? enable_vcpu_cap(fd, v, arg) : enable_cap(fd, vm, arg);
	case KVM_X86_SET_MSR_FILTER:
		return set_filter(fd, vm, arg);
	case KVM_GET_MSRS:
		return v ? vcpu_msrs(fd, v, request, arg) : system_msrs(fd, arg);
	case KVM_SET_MSRS:
		return vcpu_msrs(fd, v, request, arg);
	case KVM_RUN:
		return run_vcpu(fd, v);
	default:
		return shim.real(fd, request, arg);
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	pthread_once(&shim.once, shim_init);
	if (_IOC_TYPE(request) != KVMIO)
		return shim.real(fd, request, arg);
	return kvm_ioctl(fd, request, arg);
}
