/*
 * The guest's clocks as state: kvmclock, and each vCPU's TSC with its frequency. All vCPUs are
 * parked, or never ran. How much time passed meanwhile is migration/state/clock.h's to judge.
 */
#ifndef VMM_MACHINE_VM_TIME_H
#define VMM_MACHINE_VM_TIME_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/state/clock.h"

struct err;
struct kvm;
struct rbuf;
struct vcpu;
struct vm;
struct wbuf;

/** vm_time_tsc_khz - the frequency of a vCPU that does not run. Return: 0: KVM does not tell */
uint32_t vm_time_tsc_khz(const struct vcpu *v);

/**
 * vm_time_check_tsc - can a vCPU's TSC run at @khz here? Before there is a machine
 * @invariant: the guest was told that its TSC never changes its frequency
 * Return: 0; -ENOTSUP with both frequencies; -errno
 */
int vm_time_check_tsc(const struct kvm *kvm, uint32_t khz, bool invariant, struct err *e);

/**
 * vm_save_time - append kvmclock, TSC frequency and the TSC of every vCPU, with their moment
 * @base: the moment is told as its time of day and what CLOCK_MONOTONIC has counted since
 */
int vm_save_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		 const struct clock_reading *base, struct wbuf *w, struct err *e);

/* How a guest's clocks are to go on. */
struct vm_time_load {
	struct clock_window window; /* when it was saved */
	bool invariant_tsc;	    /* as vm_time_check_tsc() */
	bool tsc_scaling;	    /* KVM can run a TSC at another frequency than the host's */
	int64_t off_ns;		    /* receives what clock_passed() says */
};

/**
 * vm_restore_time - set TSCs and kvmclock on by what passed since the guest was saved
 * Before the vCPUs' MSRs. vCPUs keep their TSCs' distances; no clock goes back.
 * Return: 0; -ENOTSUP with both frequencies when the guest's cannot be had here; -errno
 */
int vm_restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		    struct vm_time_load *load, struct rbuf *r, struct err *e);

#endif
