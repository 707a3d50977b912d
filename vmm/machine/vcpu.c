#include "vmm/machine/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "cpuid/feature.h"
#include "msr/msr.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/kvm/dirty_ring.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory_fault.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/vcpu_crash.h"

#define KICK_SIGNAL SIGUSR1

/* local APIC registers (SDM vol.3, local APIC) and what firmware leaves in them */
#define APIC_LVT_LINT0	 0x350
#define APIC_LVT_LINT1	 0x360
#define APIC_MODE_NMI	 0x400
#define APIC_MODE_EXTINT 0x700

static int vcpu_ioctl(struct vcpu *v, unsigned long request, void *arg, const char *name,
		      struct err *e)
{
	int ret = ioctl(v->fd, request, arg);

	if (ret >= 0)
		return ret;
	return err_set(e, -errno, "vCPU %u: %s: %s; %s", v->id, name, strerror(errno),
		       kvm_cure(errno));
}

void vcpu_base_cpuid(struct cpuid_set *set, const struct kvm *kvm, bool nested)
{
	cpuid_set_vmm_bits(set, kvm->tsc_deadline);
	if (nested)
		return;
	cpu_feature_put(set, cpu_feature(FEATURE_vmx), false);
	cpu_feature_put(set, cpu_feature(FEATURE_svm), false);
}

static int set_cpuid(struct vcpu *v, uint32_t n_vcpus, struct err *e)
{
	AUTO_FREE struct kvm_cpuid2 *c = NULL;
	struct cpuid_set set = *v->env->cpuid;
	int ret;

	ret = cpuid_set_topology(&set, v->id, n_vcpus);
	if (ret < 0)
		return err_set(e, ret, "vCPU %u: no room for the topology leaves of CPUID", v->id);
	c = kvm_cpuid_from_set(&set);
	if (!c)
		return err_no_memory(e);
	if (ioctl(v->fd, KVM_SET_CPUID2, c) < 0)
		return err_set(e, -errno,
			       "vCPU %u: KVM_SET_CPUID2: KVM does not take this CPUID: %s; change "
			       "--cpu, or leave it out",
			       v->id, strerror(errno));
	return 0;
}

static int set_boot_msrs(struct vcpu *v, struct err *e)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[MSR_BOOT_MAX];
	} msrs = {0};
	struct msr_value value[MSR_BOOT_MAX];
	unsigned int i, n = msr_boot_values(value);
	int ret;

	msrs.head.nmsrs = n;
	for (i = 0; i < n; i++) {
		msrs.entry[i].index = value[i].index;
		msrs.entry[i].data = value[i].value;
	}
	ret = vcpu_ioctl(v, KVM_SET_MSRS, &msrs, "KVM_SET_MSRS", e);
	if (ret < 0)
		return ret;
	if ((unsigned int)ret != n) /* KVM stops at the first that it refuses */
		return err_set(e, -EIO, "vCPU %u: KVM refuses MSR %#x = %#llx", v->id,
			       value[ret].index, (unsigned long long)value[ret].value);
	return 0;
}

/* Virtual wire: the PIC reaches the boot CPU through LINT0, NMI everyone through LINT1. */
static int set_local_apic(struct vcpu *v, struct err *e)
{
	struct kvm_lapic_state apic;
	int ret = vcpu_ioctl(v, KVM_GET_LAPIC, &apic, "KVM_GET_LAPIC", e);

	if (ret < 0)
		return ret;
	if (v->id == 0)
		put_le32(apic.regs + APIC_LVT_LINT0, APIC_MODE_EXTINT);
	put_le32(apic.regs + APIC_LVT_LINT1, APIC_MODE_NMI);
	return vcpu_ioctl(v, KVM_SET_LAPIC, &apic, "KVM_SET_LAPIC", e);
}

int vcpu_create(struct vcpu *v, uint32_t id, uint32_t n_vcpus, const struct kvm *kvm, struct vm *vm,
		const struct vcpu_env *env, struct err *e)
{
	void *map;
	int ret;

	memset(v, 0, sizeof(*v));
	v->id = id;
	v->env = env;
	pthread_mutex_init(&v->park_lock, NULL);
	pthread_cond_init(&v->park_cond, NULL);
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (v->fd < 0)
		return err_set(e, -errno, "KVM_CREATE_VCPU %u of %u: %s; %s", id, n_vcpus,
			       strerror(errno), kvm_cure(errno));
	map = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (map == MAP_FAILED)
		return err_set(e, -errno, "vCPU %u: cannot map struct kvm_run: %s; %s", id,
			       strerror(errno), kvm_cure(errno));
	v->run = map;
	v->run_size = kvm->run_size;
	ret = dirty_ring_map(env->dirty_ring, id, v->fd, e);
	if (!ret)
		ret = set_cpuid(v, n_vcpus, e);
	if (!ret)
		ret = set_boot_msrs(v, e);
	if (!ret)
		ret = cpu_msrs_apply(env->cpu_msrs, id, v->fd, e);
	if (!ret)
		ret = mitigation_setup_vcpu(env->mitigation, id, v->fd, e);
	if (!ret)
		ret = set_local_apic(v, e);
	return ret;
}

void vcpu_destroy(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, v->run_size);
	if (v->fd >= 0)
		close(v->fd);
	if (v->env) {
		pthread_cond_destroy(&v->park_cond);
		pthread_mutex_destroy(&v->park_lock);
	}
	memset(v, 0, sizeof(*v));
	v->fd = -1;
}

int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *sregs, struct err *e)
{
	return vcpu_ioctl(v, KVM_GET_SREGS, sregs, "KVM_GET_SREGS", e);
}

int vcpu_set_entry(struct vcpu *v, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
		   struct err *e)
{
	struct kvm_sregs s = *sregs;
	struct kvm_regs r = *regs;
	int ret = vcpu_ioctl(v, KVM_SET_SREGS, &s, "KVM_SET_SREGS", e);

	return ret < 0 ? ret : vcpu_ioctl(v, KVM_SET_REGS, &r, "KVM_SET_REGS", e);
}

static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	const struct bus *ports = v->env->ports;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t i;

	for (i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(ports, run->io.port, data, run->io.size);
		else
			bus_read(ports, run->io.port, data, run->io.size);
	}
}

static void exit_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	const struct bus *mmio = v->env->mmio;

	if (run->mmio.is_write)
		bus_write(mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static enum vm_event exit_system_event(const struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return VM_EVENT_POWEROFF;
	case KVM_SYSTEM_EVENT_RESET:
		return VM_EVENT_RESET;
	default: /* KVM_SYSTEM_EVENT_CRASH: a Hyper-V guest reports a panic */
		return VM_EVENT_PANIC;
	}
}

/* KVM lets it run again only when there is room. */
static enum vm_event exit_dirty_ring(const struct vcpu *v)
{
	const int ret = dirty_ring_full(v->env->dirty_ring, v->id);

	if (!ret)
		return VM_EVENT_NONE;
	log_err("vCPU %u: KVM_RESET_DIRTY_RINGS: %s; see the kernel's log", v->id, strerror(-ret));
	return VM_EVENT_FAILED;
}

static void count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* Deal with one exit; what it means for the whole machine, if anything. */
static enum vm_event vcpu_handle_exit(struct vcpu *v)
{
	count(&v->exits);
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		count(&v->exits_io);
		exit_io(v);
		return VM_EVENT_NONE;
	case KVM_EXIT_MMIO:
		count(&v->exits_mmio);
		exit_mmio(v);
		return VM_EVENT_NONE;
	case KVM_EXIT_X86_RDMSR:
		count(&v->exits_msr);
		mitigation_exit_rdmsr(v->env->mitigation, v->id, v->run);
		return VM_EVENT_NONE;
	case KVM_EXIT_X86_WRMSR:
		count(&v->exits_msr);
		mitigation_exit_wrmsr(v->env->mitigation, v->id, v->run);
		return VM_EVENT_NONE;
	case KVM_EXIT_DIRTY_RING_FULL:
		count(&v->exits_dirty_ring);
		return exit_dirty_ring(v);
	case KVM_EXIT_SYSTEM_EVENT:
		return exit_system_event(v);
	default:
		/* of memory that it cannot read a guest may crash, too */
		if (memory_fault_explains(false))
			return VM_EVENT_FAILED;
		vcpu_log_crash(v->id, v->fd, v->run, v->env->mem);
		return VM_EVENT_CRASH;
	}
}

/* Return: may the vCPU run? */
static bool pin(struct vcpu *v)
{
	struct err e = {0};

	if (isolation_pin_vcpu(v->env->isolation, v->id, &e) == 0)
		return true;
	if (v->env->isolation->options.cannot == CANNOT_WARN) {
		log_warn("isolation: %s", e.text);
		return true;
	}
	log_err("%s", e.text);
	v->env->sink->raise(v->env->sink, VM_EVENT_FAILED);
	return false;
}

/*
 * The kick is blocked from the look at immediate_exit, which every request to leave sets first, to
 * the sleep that lets it in: so none is missed.
 */
static void nap(const struct vcpu *v, uint32_t us)
{
	const struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};
	sigset_t kick, before;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	if (!__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
		ppoll(NULL, 0, &t, &before);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The kick of a nap asked for during another ends the first. */
static void naps(struct vcpu *v)
{
	uint32_t us;

	while ((us = __atomic_exchange_n(&v->nap_us, 0, __ATOMIC_ACQ_REL)))
		nap(v, us);
}

/*
 * Called only where no exit is half done: before the first KVM_RUN, and after one that returned
 * EINTR. With immediate_exit set, KVM first completes the access that the last exit was about (and
 * may exit again for the rest of it), then returns EINTR: api.rst 5, "immediate_exit".
 */
static void park_if_asked(struct vcpu *v)
{
	if (!__atomic_load_n(&v->pause, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&v->park_lock);
	while (v->pause && !__atomic_load_n(&v->stop, __ATOMIC_ACQUIRE)) {
		v->parked = true;
		pthread_cond_broadcast(&v->park_cond);
		pthread_cond_wait(&v->park_cond, &v->park_lock);
	}
	v->parked = false;
	pthread_mutex_unlock(&v->park_lock);
}

static void run_loop(struct vcpu *v)
{
	park_if_asked(v);
	while (!__atomic_load_n(&v->stop, __ATOMIC_ACQUIRE)) {
		const int ret = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
		enum vm_event event;

		if (!ret) {
			event = vcpu_handle_exit(v);
		} else if (ret == EINTR || ret == EAGAIN) {
			/* kicked, or woken by INIT; exit_reason is that of an older exit */
			if (__atomic_exchange_n(&v->check, false, __ATOMIC_ACQ_REL))
				mitigation_check_vcpu(v->env->mitigation, v->id);
			naps(v);
			if (ret == EINTR)
				park_if_asked(v);
			continue;
		} else {
			if (!memory_fault_explains(ret == EFAULT))
				log_err("vCPU %u: KVM_RUN: %s; see the kernel's log", v->id,
					strerror(ret));
			event = VM_EVENT_FAILED;
		}
		if (event != VM_EVENT_NONE) {
			v->env->sink->raise(v->env->sink, event);
			break;
		}
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->id);
	pthread_setname_np(pthread_self(), name);
	__atomic_store_n(&v->tid, gettid(), __ATOMIC_RELAXED);
	if (pin(v))
		run_loop(v);
	pthread_mutex_lock(&v->park_lock);
	v->ended = true;
	pthread_cond_broadcast(&v->park_cond);
	pthread_mutex_unlock(&v->park_lock);
	return NULL;
}

static void kick_handler(int sig)
{
	(void)sig; /* its arrival is what ends KVM_RUN */
}

int vcpu_init_kick(struct err *e)
{
	const struct sigaction act = {.sa_handler = kick_handler};

	if (sigaction(KICK_SIGNAL, &act, NULL) < 0)
		return err_set(e, -errno, "sigaction: %s", strerror(errno));
	return 0;
}

int vcpu_start(struct vcpu *v, struct err *e)
{
	int ret = pthread_create(&v->thread, NULL, vcpu_thread, v);

	if (ret)
		return err_set(e, -ret, "vCPU %u: no thread to be had: %s; %s", v->id,
			       strerror(ret), kvm_cure(ret));
	v->started = true;
	return 0;
}

void vcpu_request_stop(struct vcpu *v)
{
	if (!v->started)
		return;
	pthread_mutex_lock(&v->park_lock);
	__atomic_store_n(&v->stop, true, __ATOMIC_RELEASE);
	/* closes the gap between the thread's look at stop and its entry into KVM_RUN */
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&v->park_cond);
	pthread_mutex_unlock(&v->park_lock);
	pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_request_pause(struct vcpu *v)
{
	if (v->fd < 0)
		return;
	pthread_mutex_lock(&v->park_lock);
	__atomic_store_n(&v->pause, true, __ATOMIC_RELEASE);
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE); /* as for a stop */
	pthread_mutex_unlock(&v->park_lock);
	if (v->started)
		pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_wait_parked(struct vcpu *v)
{
	if (!v->started)
		return;
	pthread_mutex_lock(&v->park_lock);
	while (!v->parked && !v->ended)
		pthread_cond_wait(&v->park_cond, &v->park_lock);
	pthread_mutex_unlock(&v->park_lock);
}

void vcpu_resume(struct vcpu *v)
{
	if (v->fd < 0)
		return;
	pthread_mutex_lock(&v->park_lock);
	if (v->pause && !__atomic_load_n(&v->stop, __ATOMIC_ACQUIRE)) {
		/*
		 * A guest that has kvmclock is told that it stood still, so that its watchdogs do
		 * not take the pause for a lockup (api.rst 4.68); others have nothing to be told.
		 */
		(void)!ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0);
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELEASE);
		__atomic_store_n(&v->pause, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&v->park_cond);
	}
	pthread_mutex_unlock(&v->park_lock);
}

void vcpu_request_check(struct vcpu *v)
{
	if (!v->started)
		return;
	/* one that comes between the thread's look and KVM_RUN is seen at the next kick */
	__atomic_store_n(&v->check, true, __ATOMIC_RELEASE);
	pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_request_nap(struct vcpu *v, uint32_t us)
{
	if (!v->started)
		return;
	__atomic_store_n(&v->nap_us, us, __ATOMIC_RELEASE);
	pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_join(struct vcpu *v)
{
	if (!v->started)
		return;
	pthread_join(v->thread, NULL);
	v->started = false;
}
