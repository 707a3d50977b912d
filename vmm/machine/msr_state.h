/*
 * A parked vCPU's MSRs as one section, and back: all that KVM lists and can read, less those that
 * have an owner of their own. A table says which they are, and which may be refused by another
 * host without harm; every other MSR must restore and read back.
 */
#ifndef VMM_MACHINE_MSR_STATE_H
#define VMM_MACHINE_MSR_STATE_H

struct err;
struct kvm;
struct rbuf;
struct vcpu;
struct wbuf;

/** msrs_save - append the section. Return: 0 or -errno */
int msrs_save(const struct vcpu *v, const struct kvm *kvm, struct wbuf *w, struct err *e);

/**
 * msrs_restore - read it into a vCPU that never ran, after its local APIC
 * Return: 0; -EINVAL for a bad section; -EIO with MSR and both values when KVM refuses or drops one
 */
int msrs_restore(const struct vcpu *v, struct rbuf *r, struct err *e);

#endif
