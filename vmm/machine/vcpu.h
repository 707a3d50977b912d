/* One virtual CPU: its KVM descriptor, its thread, and what happens at each exit. */
#ifndef VMM_MACHINE_VCPU_H
#define VMM_MACHINE_VCPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/guest_mem.h"
#include "devices/bus.h"
#include "devices/vm_event.h"

struct cpu_msrs;
struct cpuid_set;
struct dirty_ring;
struct err;
struct isolation;
struct kvm;
struct kvm_regs;
struct kvm_run;
struct kvm_sregs;
struct mitigation;
struct vm;

/* What a vCPU's exits reach; shared by all vCPUs of a machine. */
struct vcpu_env {
	const struct bus *ports, *mmio;
	const struct guest_mem *mem;
	struct vm_event_sink *sink;
	const struct cpuid_set *cpuid; /* the guest's, without topology */
	const struct cpu_msrs *cpu_msrs;
	struct mitigation *mitigation;
	const struct isolation *isolation;
	struct dirty_ring *dirty_ring;
};

struct vcpu {
	uint32_t id; /* also its x2APIC ID */
	int fd;	     /* -1: none */
	struct kvm_run *run;
	size_t run_size;
	const struct vcpu_env *env;
	pthread_t thread;
	bool started;
	bool stop; /* atomic: leave the run loop */
	/* pausing: vcpu_request_pause() asks, the thread answers with parked and waits */
	pthread_mutex_t park_lock;
	pthread_cond_t park_cond;
	bool pause;  /* written under park_lock, read by anyone (atomic) */
	bool parked; /* under park_lock: it stands in vcpu_thread() with its registers in order */
	bool ended;  /* under park_lock: the thread has left the run loop */
	bool check;  /* atomic: compare the mitigation's bits with KVM's */
	uint32_t nap_us; /* atomic: stay out of the guest for so long, once */
	int tid;	 /* of its thread, atomic; 0: none yet */
	/* exits to user space, counted by its own thread, read by any (atomic) */
	uint64_t exits, exits_io, exits_mmio, exits_msr, exits_dirty_ring;
};

/**
 * vcpu_base_cpuid - the VMM's own bits in the CPUID of every vCPU of a guest, before topology
 * @set: the CPU that the guest is shown otherwise; edited in place
 * @nested: leave VMX and SVM in
 */
void vcpu_base_cpuid(struct cpuid_set *set, const struct kvm *kvm, bool nested);

/**
 * vcpu_create - vCPU @id of @n_vcpus with its CPUID, boot MSRs and virtual-wire local APIC
 * The boot vCPU (0) still needs vcpu_set_entry(); the others wait for INIT and SIPI.
 * Return: 0 or -errno; @v may be given to vcpu_destroy() in any case
 */
int vcpu_create(struct vcpu *v, uint32_t id, uint32_t n_vcpus, const struct kvm *kvm, struct vm *vm,
		const struct vcpu_env *env, struct err *e);
void vcpu_destroy(struct vcpu *v);

/** vcpu_get_sregs, vcpu_set_entry - the registers that a boot protocol starts from and asks for */
int vcpu_get_sregs(struct vcpu *v, struct kvm_sregs *sregs, struct err *e);
int vcpu_set_entry(struct vcpu *v, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
		   struct err *e);

/** vcpu_init_kick - once a process: the signal by which vcpu_stop() interrupts KVM_RUN */
int vcpu_init_kick(struct err *e);

/** vcpu_start - run it in a thread of its own. Return: 0 or -errno. */
int vcpu_start(struct vcpu *v, struct err *e);
/** vcpu_request_stop - ask the thread to leave; returns at once */
void vcpu_request_stop(struct vcpu *v);

/**
 * vcpu_request_pause - ask the thread to park; returns at once
 * Legal before vcpu_start(): the vCPU then parks before its first instruction.
 */
void vcpu_request_pause(struct vcpu *v);
/**
 * vcpu_wait_parked - wait until it is parked, or has ended, or never started
 * From then until vcpu_resume() its registers are complete: an access that had left KVM is
 * finished, and any thread may get and set them.
 */
void vcpu_wait_parked(struct vcpu *v);
/** vcpu_resume - let a parked vCPU go on; harmless on one that is not */
void vcpu_resume(struct vcpu *v);

/**
 * vcpu_request_check - let the thread compare SPEC_CTRL with what is to be held; returns at once
 */
void vcpu_request_check(struct vcpu *v);
/**
 * vcpu_request_nap - keep the vCPU out of the guest for @us microseconds; returns at once
 * A stop or a pause ends the nap. A nap asked for during another takes its place.
 */
void vcpu_request_nap(struct vcpu *v, uint32_t us);
/** vcpu_join - wait until it has left; does nothing if it never started */
void vcpu_join(struct vcpu *v);

#endif
