/*
 * The state of a parked vCPU as sections, and back: an ordered table of KVM's get and set calls,
 * each row saying why it stands where it stands. Time (TSC, kvmclock) is vm_time.h's, SPEC_CTRL
 * and ARCH_CAPABILITIES are the mitigation engine's.
 */
#ifndef VMM_MACHINE_VCPU_STATE_H
#define VMM_MACHINE_VCPU_STATE_H

#include <stdint.h>

struct err;
struct kvm;
struct rbuf;
struct vcpu;
struct vm;
struct wbuf;

/**
 * vcpu_save - append the sections of a parked vCPU
 * From any thread, while every vCPU of the machine is parked. Return: 0; -ENOTSUP when the guest
 * runs guests of its own, or this KVM lacks a call; -errno with vCPU and call in @e
 */
int vcpu_save(struct vcpu *v, const struct kvm *kvm, const struct vm *vm, struct wbuf *w,
	      struct err *e);

/**
 * vcpu_restore - read what vcpu_save() wrote into a vCPU that never ran
 * Its CPUID and time are set. Nothing of the stream is trusted: names, order and sizes are checked
 * here, values by KVM, and MSRs are read back.
 * Return: 0; -EINVAL for a bad stream; -EIO for a value that KVM refuses or does not keep
 */
int vcpu_restore(struct vcpu *v, const struct vm *vm, struct rbuf *r, struct err *e);

#endif
