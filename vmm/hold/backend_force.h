/*
 * What the back ends on KVM_CAP_FORCE_SPEC_CTRL share: finding the capability, and the guest's view
 * of IA32_SPEC_CTRL, which is all that KVM shows while it holds bits.
 */
#ifndef VMM_HOLD_BACKEND_FORCE_H
#define VMM_HOLD_BACKEND_FORCE_H

#include <stdint.h>

#include "vmm/hold/backend.h"

/**
 * force_probe - is the capability here, under which number, and does it do what it says?
 * @s: empty; to be closed by the caller in either case. On success a VM with all bits held and one
 *	vCPU
 * Fills in force_cap and can_force of @b. Return: 0, or -ENOTSUP with @t->why set; other -errno:
 * no VM could be made
 */
int force_probe(struct backend *b, const struct kvm *kvm, struct backend_scratch *s,
		struct backend_trial *t);

/** force_enable - hold @value in @mask; @fd is a VM or a vCPU. Return: 0 or -errno */
int force_enable(const struct backend *b, int fd, uint64_t mask, uint64_t value);

/**
 * force_keeps_rules - a call that must fail, then one that holds @bits and must not
 * Return: 0, or -EINVAL: this is not the capability
 */
int force_keeps_rules(const struct backend *b, int fd, uint64_t bits);

/** force_read - vcpu_read of backend_ops: effective follows from what is held */
void force_read(int vcpu_fd, struct backend_held *held);

/** force_write_guest - set the guest's view. Return: 0; -EIO refused, -EBADE not kept */
int force_write_guest(int vcpu_fd, uint64_t guest, struct backend_held *held, struct err *e);

#endif
