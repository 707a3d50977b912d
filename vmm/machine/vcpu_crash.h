/* What to tell the user when a vCPU cannot go on. */
#ifndef VMM_MACHINE_VCPU_CRASH_H
#define VMM_MACHINE_VCPU_CRASH_H

struct vcpu;

/**
 * vcpu_log_crash - log why @v stopped: the exit reason in words, RIP, the bytes there, what it
 * means Called on the vCPU's own thread, after KVM_RUN returned with an exit that ends the guest.
 */
void vcpu_log_crash(struct vcpu *v);

#endif
