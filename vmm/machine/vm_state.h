/*
 * What belongs to the whole VM and not to one vCPU: the interrupt controllers and the PIT; time is
 * vm_time.h's. All vCPUs are parked, or never ran.
 */
#ifndef VMM_MACHINE_VM_STATE_H
#define VMM_MACHINE_VM_STATE_H

struct err;
struct rbuf;
struct vm;
struct wbuf;

/** vm_save_chips - append PICs, IOAPIC and PIT. Return: 0 or -errno */
int vm_save_chips(const struct vm *vm, struct wbuf *w, struct err *e);
/** vm_restore_chips - after the local APICs: what waits in the IOAPIC is delivered to them */
int vm_restore_chips(const struct vm *vm, struct rbuf *r, struct err *e);

#endif
