/*
 * One virtual machine of KVM: the calls that set it up. Their order matters by a factor of ten on
 * some kernels: registering the in-kernel devices starts a grace period that the next change of
 * memory slots or of the MSR filter has to wait for. So: vm_create, memory, (MSR filter), then
 * vm_create_irqchip, then interrupts and kicks, then vCPUs.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <stdint.h>

#include "devices/guest_mem.h"

struct err;
struct kvm;

struct vm {
	int fd; /* -1: none */
};

/** vm_create - an empty VM. Return: 0 or -errno; @vm may be given to vm_fini() in any case. */
int vm_create(struct vm *vm, const struct kvm *kvm, struct err *e);
void vm_fini(struct vm *vm);

/** vm_add_memory - one slot for each region of @mem. Return: 0 or -errno. */
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
