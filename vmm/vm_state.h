/*
 * What belongs to the whole VM and not to one vCPU: the interrupt controllers, the PIT, and time.
 * All vCPUs are parked, or never ran.
 */
#ifndef VMM_VM_STATE_H
#define VMM_VM_STATE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct rbuf;
struct vcpu;
struct vm;
struct wbuf;

/** vm_save_chips - append PICs, IOAPIC and PIT. Return: 0 or -errno */
int vm_save_chips(const struct vm *vm, struct wbuf *w, struct err *e);
/** vm_restore_chips - after the local APICs: what waits in the IOAPIC is delivered to them */
int vm_restore_chips(const struct vm *vm, struct rbuf *r, struct err *e);

/**
 * vm_save_time - append kvmclock, TSC frequency and the TSC of every vCPU, with the time of day
 */
int vm_save_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus, struct wbuf *w,
		 struct err *e);
/**
 * vm_restore_time - set TSCs and kvmclock on by what passed since then, by both hosts' time of day
 * Before the vCPUs' MSRs. vCPUs keep their TSCs' distances.
 * @invariant_tsc: the guest was told that its TSC never changes its frequency
 * Return: 0; -ENOTSUP with both frequencies when the guest's cannot be had here; -errno
 */
int vm_restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		    bool invariant_tsc, struct rbuf *r, struct err *e);

#endif
