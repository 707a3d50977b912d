/*
 * One virtual machine of KVM: the calls that set it up. Their order matters by a factor of twenty
 * on some kernels: a new MSR filter and a new memory slot wait for a grace period of SRCU. The
 * first of a VM is over at once; one that comes close behind another, or behind the registration of
 * an in-kernel device, takes 12 to 16 ms. Memory slots wait in the short way (expedited), the
 * filter does not. So: vm_create, MSR filter (once), vm_add_memory, then vm_create_irqchip, and
 * nothing that waits from there on: interrupts, kicks, vCPUs.
 */
#ifndef VMM_KVM_VM_H
#define VMM_KVM_VM_H

#include <stdint.h>

#include "base/guest_mem.h"

struct closer;
struct err;
struct kvm;

struct vm {
	int fd; /* -1: none */
};

/** vm_create - an empty VM; nothing in here waits. Return: 0 or -errno; @vm may be given to
 * vm_fini() in any case. */
int vm_create(struct vm *vm, const struct kvm *kvm, struct err *e);
/**
 * vm_fini - nothing else may hold it: no vCPU, nothing mapped. @c: closes it beside; may be NULL
 */
void vm_fini(struct vm *vm, struct closer *c);

/**
 * vm_add_memory - one slot for each region of @mem, and what KVM on some CPUs needs for itself
 * Return: 0 or -errno
 */
int vm_add_memory(struct vm *vm, const struct guest_mem *mem, struct err *e);

/** vm_create_irqchip - PIC, IOAPIC and local APICs, then the PIT with its speaker port. */
int vm_create_irqchip(struct vm *vm, struct err *e);

/**
 * vm_bind_irq - let writes to @eventfd pulse interrupt @gsi
 * GSIs 0 to 15 reach PIC and IOAPIC, 16 to 23 the IOAPIC (KVM's default routing).
 */
int vm_bind_irq(struct vm *vm, uint32_t gsi, int eventfd, struct err *e);

/** vm_bind_kick - let a 4-byte guest write of @value to @gpa signal @eventfd without an exit */
int vm_bind_kick(struct vm *vm, gpa_t gpa, uint32_t value, int eventfd, struct err *e);

#endif
