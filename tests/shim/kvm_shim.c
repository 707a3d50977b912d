/*
 * A library for tests, to be preloaded: it lays other kernels' KVM over the real one. It answers
 * what a patched or stock KVM on a VMX host would answer about IA32_SPEC_CTRL (0x48) and the
 * virtual mitigation MSRs, keeps the book of guest view and hardware value, and does to the guest
 * what that hardware would do; and it lays another host over this machine, whose CPU may be of the
 * other vendor. Everything else goes to the real /dev/kvm. The program under test is the one that
 * users run.
 *
 *   KVM_SHIM_HOST       a fact file (tests/data/hosts): who the host is. CPUID, the lists of MSRs,
 *                       feature MSRs, and the MSRs of shim_host_msrs.c are that host's, on any
 *                       machine. Where the other variables are not given, it says those too:
 *                       the back end is the mode, "can-force" the bits.
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
 *   KVM_SHIM_IBPB       1: KVM_CAP_X86_VCPU_IBPB of kernel/, with its attribute and statistics;
 *                       bare: the same, without a barrier from L2 to L1;
 *                       lax: a capability under its number that takes any argument (0)
 *   KVM_SHIM_INIT       0: do not look for INIT after each exit, which costs time (1)
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

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "shim.h"

#define QUERY_FORCE _IOR(KVMIO, 0xe4, uint64_t)
#define RFC_CAP	    236
#define OUR_CAP	    0x5343

#define MAX_FDS	 1024
#define DR3_MARK 0x5117u /* INIT clears the debug registers, and guests here never use them */

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

/* The mode of a fact file's back end */
static const enum shim_mode backend_modes[] = {
	[BACKEND_NONE] = DROPS,		 [BACKEND_MSR_FILTER] = FILTER,
	[BACKEND_FORCE_SPEC_CTRL] = RFC, [BACKEND_FORCE_SPEC_CTRL_VM] = RFC_VIRTUAL,
	[BACKEND_FORCE_VCPU] = VCPU,
};

struct shim shim = {.once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};

static struct {
	struct shim_vm *vm[MAX_FDS];
	struct shim_vcpu *vcpu[MAX_FDS];
	size_t run_size;
	uint64_t serial; /* of VMs and vCPUs */
} known;

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

static void load_host(const char *path)
{
	AUTO_FREE char *text = NULL;
	struct err e = {0};
	size_t len;

	if (file_read("KVM_SHIM_HOST", path, FACTS_SIZE_MAX, &text, &len, &e) < 0 ||
	    host_file_parse(path, text, len, &shim.host, &e) < 0) {
		fprintf(stderr, "kvm_shim: %s\n", e.text);
		abort();
	}
	shim.has_host = true;
}

static void choose_mode(const char *name)
{
	int i;

	shim.mode = N_MODES;
	if (!name && shim.has_host)
		shim.mode = backend_modes[shim.host.backend.kind];
	for (i = 0; name && i < N_MODES; i++)
		if (strcmp(name, mode_names[i]) == 0)
			shim.mode = (enum shim_mode)i;
	if (shim.mode == N_MODES) {
		fprintf(stderr, "kvm_shim: KVM_SHIM=%s is no mode\n", name ? name : "");
		abort();
	}
}

static void shim_init(void)
{
	const char *mode = getenv("KVM_SHIM"), *host = getenv("KVM_SHIM_HOST");
	const char *ibpb = getenv("KVM_SHIM_IBPB");
	const struct host_file *h = &shim.host;
	void *symbol = dlsym(RTLD_NEXT, "ioctl");
	uint64_t bits = SPEC_CTRL_IBRS | SPEC_CTRL_STIBP | SPEC_CTRL_SSBD | SPEC_CTRL_RRSBA_DIS_S |
			SPEC_CTRL_BHI_DIS_S;

	memcpy(&shim.real, &symbol, sizeof(symbol));
	if (host)
		load_host(host);
	choose_mode(mode);
	if (host && !mode)
		bits = h->backend.can_force;
	shim.bits = env_u64("KVM_SHIM_BITS", bits);
	shim.cap = (uint32_t)env_u64("KVM_SHIM_CAP", shim.mode == RENUMBERED ? OUR_CAP : RFC_CAP);
	shim.arch_cap = env_u64("KVM_SHIM_ARCH_CAP", host ? h->facts.kvm_arch_cap : 0xeb);
	shim.refuses = env_u64("KVM_SHIM_REFUSES", UINT64_MAX);
	shim.ibpb_lax = ibpb && strcmp(ibpb, "lax") == 0;
	shim.ibpb_bare = ibpb && strcmp(ibpb, "bare") == 0;
	shim.ibpb = shim.ibpb_bare || (!shim.ibpb_lax && env_u64("KVM_SHIM_IBPB", 0));
	shim.look_for_init = env_u64("KVM_SHIM_INIT", 1);
	shim.leaf7_2_edx =
		(uint32_t)env_u64("KVM_SHIM_7_2_EDX", host ? h->facts.kvm_leaf7_2_edx : 0);
}

int shim_fail(int err)
{
	errno = err;
	return -1;
}

/* ---- MSRs: by the host's right, KVM_GET_MSRS and KVM_SET_MSRS; and by the guest ---- */

static bool is_ours(uint32_t index)
{
	return spec_ctrl_owns(index) || host_owns(index);
}

static bool set_ours(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	return host_owns(index) ? host_set(v, index, data) : spec_ctrl_host_set(v, index, data);
}

static bool get_ours(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	return host_owns(index) ? host_get(v, index, data) : spec_ctrl_host_get(v, index, data);
}

static bool guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	switch (index) {
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
		return host_owns(index) ? host_guest_read(v, index, data)
					: spec_ctrl_guest_read(v, index, data);
	}
}

static bool guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	if (shim.ibpb && index == MSR_IA32_PRED_CMD &&
	    (!host_owns(index) || host_guest_write(v, index, data)))
		return barrier_guest_write(v, data);
	return host_owns(index) ? host_guest_write(v, index, data)
				: spec_ctrl_guest_write(v, index, data);
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
		taken = request == KVM_SET_MSRS ? set_ours(v, e->index, e->data)
						: get_ours(v, e->index, &data);
		pthread_mutex_unlock(&shim.lock);
		if (!taken)
			return (int)i;
		if (request == KVM_GET_MSRS)
			e->data = data;
	}
	return (int)m->nmsrs;
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
		{MSR_IA32_PRED_CMD, shim.ibpb && !host_owns(MSR_IA32_PRED_CMD)}, /* 0: not denied */
	};
	unsigned int n = host_deny(f.ranges, deny), i;

	for (i = 0; i < ARRAY_SIZE(own) && own[i][1]; i++)
		f.ranges[n++] = (struct kvm_msr_filter_range) {
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = own[i][0],
			.nmsrs = own[i][1],
			.bitmap = deny,
		};
	for (i = 0; i < vm->n_ranges && n < SHIM_RANGES; i++) {
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
	for (i = 0; i < SHIM_RANGES; i++) {
		const struct kvm_msr_filter_range *from = &f->ranges[i];
		struct shim_range *to = &vm->range[vm->n_ranges];
		const size_t bytes = (from->nmsrs + 7) / 8;

		if (!from->nmsrs)
			continue;
		if (!(from->flags & (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) ||
		    bytes > sizeof(to->bitmap))
			return shim_fail(EINVAL);
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
		return shim_fail(EINVAL);
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
		return shim_fail(EINVAL);
	pthread_mutex_lock(&shim.lock);
	v->mask = cap->args[0];
	v->value = cap->args[1];
	spec_ctrl_set_by_host(v, v->shadow);
	pthread_mutex_unlock(&shim.lock);
	return 0;
}

static int enable_cap(int fd, struct shim_vm *vm, struct kvm_enable_cap *cap)
{
	if (cap->cap == KVM_CAP_X86_USER_SPACE_MSR) {
		vm->exits = cap->args[0] & KVM_MSR_EXIT_REASON_FILTER;
		return 0;
	}
	if (cap->cap == SHIM_CAP_IBPB && (shim.ibpb || shim.ibpb_lax))
		return shim.ibpb ? barrier_enable(vm, cap) : 0;
	if (spec_ctrl_has_rfc() && shim.mode != BAD_CAP && cap->cap == shim.cap)
		return enable_force(vm, cap);
	if (cap->cap == RFC_CAP || cap->cap == shim.cap)
		return shim_fail(EINVAL);
	return shim.real(fd, KVM_ENABLE_CAP, cap);
}

/* A descriptor's number comes again: nothing may be left of what it was. */
static void forget(int fd)
{
	if (fd >= MAX_FDS)
		abort();
	free(known.vm[fd]);
	known.vm[fd] = NULL;
	if (!known.vcpu[fd])
		return;
	munmap(known.vcpu[fd]->run, known.run_size);
	if (known.vcpu[fd]->stats_fd)
		close(known.vcpu[fd]->stats_fd);
	free(known.vcpu[fd]);
	known.vcpu[fd] = NULL;
}

static int create_vm(int kvm_fd, unsigned long type)
{
	const int fd = shim.real(kvm_fd, KVM_CREATE_VM, type);

	if (fd < 0)
		return fd;
	forget(fd);
	if (!known.run_size)
		known.run_size = (size_t)shim.real(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	known.vm[fd] = calloc(1, sizeof(*known.vm[fd]));
	if (!known.vm[fd] || real_filter(fd, known.vm[fd]) < 0)
		abort();
	known.vm[fd]->serial = ++known.serial;
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
	v->serial = ++known.serial;
	host_reset_msrs(v);
	v->mask = vm->mask;
	v->value = vm->value;
	vm->n_vcpus++;
	v->run = mmap(NULL, known.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (v->run == MAP_FAILED)
		abort();
	spec_ctrl_set_by_host(v, 0);
	mark_registers(fd);
	known.vcpu[fd] = v;
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
	spec_ctrl_set_by_host(v, 0);
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
	barrier_load(v);
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
	if (spec_ctrl_has_rfc() && cap == shim.cap)
		return shim.bits != 0;
	if (cap == SHIM_CAP_IBPB && (shim.ibpb || shim.ibpb_lax))
		return shim.ibpb_lax || shim.ibpb_bare ? 7 : 15;
	if (cap == RFC_CAP) /* KVM_CAP_PRE_FAULT_MEMORY: two-dimensional paging is on */
		return 1;
	return shim.real(fd, KVM_CHECK_EXTENSION, cap);
}

static int query_force(uint64_t *bits)
{
	if (!spec_ctrl_has_rfc())
		return shim_fail(EINVAL);
	*bits = shim.bits;
	return 0;
}

static int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	struct shim_vm *vm = fd >= 0 && fd < MAX_FDS ? known.vm[fd] : NULL;
	struct shim_vcpu *v = fd >= 0 && fd < MAX_FDS ? known.vcpu[fd] : NULL;

	switch (request) {
	case KVM_CREATE_VM:
		return create_vm(fd, (unsigned long)arg);
	case KVM_CREATE_VCPU:
		return create_vcpu(fd, vm, (unsigned long)arg);
	case KVM_CHECK_EXTENSION:
		return check_extension(fd, (unsigned long)arg);
	case KVM_GET_SUPPORTED_CPUID:
		return system_cpuid(fd, arg);
	case KVM_SET_CPUID2:
		return vcpu_set_cpuid(fd, v, arg);
	case KVM_GET_MSR_INDEX_LIST:
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		return system_msr_list(fd, request, arg);
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
	case KVM_HAS_DEVICE_ATTR:
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		if (v && shim.ibpb && ((struct kvm_device_attr *)arg)->group == SHIM_SPECULATION)
			return barrier_attr(v, request, arg);
		return shim.real(fd, request, arg);
	case KVM_GET_STATS_FD:
		return v && shim.ibpb ? barrier_stats_fd(v) : shim.real(fd, request, arg);
	case KVM_RUN:
		return run_vcpu(fd, v);
	default:
		return shim.real(fd, request, arg);
	}
}

SHIM_EXPORT int ioctl(int fd, unsigned long request, ...)
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
