/*
 * /dev/kvm: opening it, what it must offer, what it offers. Permission to run comes from the
 * device itself, never from CPU flags: a KVM without VMX and SVM exists (kvm-pvm).
 */
#ifndef VMM_KVM_KVM_H
#define VMM_KVM_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpuid/cpuid.h"

struct err;
struct kvm_cpuid2;

struct kvm {
	int fd;		 /* -1: closed */
	size_t run_size; /* bytes of one vCPU's shared struct kvm_run */
	unsigned int max_vcpus;
	bool tsc_deadline;	/* the in-kernel local APIC has a TSC-deadline timer */
	bool tsc_scaling;	/* a guest's TSC may have another frequency than the host's */
	struct cpuid_set cpuid; /* KVM_GET_SUPPORTED_CPUID */
};

/**
 * kvm_open - open /dev/kvm and check version and capabilities
 * Return: 0; -ENOENT, -EACCES, ... from open with the remedy in @e; -ENOTSUP naming the API version
 * or the missing capability. @kvm may be given to kvm_close() in any case.
 * Source: Documentation/virt/kvm/api.rst, sections 4.1, 4.4, 4.5, 4.46
 */
int kvm_open(struct kvm *kvm, struct err *e);
/**
 * kvm_cpuid_from_set - leaves in the form of KVM_SET_CPUID2
 * Return: heap, to be freed by the caller; NULL when memory runs out
 */
struct kvm_cpuid2 *kvm_cpuid_from_set(const struct cpuid_set *set);

/**
 * kvm_cure - what helps when a call of KVM's, or one around it, failed for a limit of the process
 * or of the host; "see the kernel's log" for other errors
 */
const char *kvm_cure(int error);

/** kvm_close - accepts what kvm_open() left, also on failure */
void kvm_close(struct kvm *kvm);

#endif
