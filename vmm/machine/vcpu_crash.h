/* What to tell the user when a vCPU cannot go on. */
#ifndef VMM_MACHINE_VCPU_CRASH_H
#define VMM_MACHINE_VCPU_CRASH_H

#include <stdint.h>

struct guest_mem;
struct kvm_run;

/**
 * vcpu_log_crash - log why vCPU @id stopped: the exit reason in words, RIP, the bytes there, what it
 * means
 * @fd, @run: KVM's of it
 * @mem: where the bytes are looked for
 * Called on the vCPU's own thread, after KVM_RUN returned with an exit that ends the guest.
 */
void vcpu_log_crash(uint32_t id, int fd, const struct kvm_run *run, const struct guest_mem *mem);

#endif
