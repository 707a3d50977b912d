/*
 * The facts of the host that this process runs on. Raw CPUID and not KVM's: KVM may hide what the
 * processor has, and the processor is what the guest's code runs on.
 */
#ifndef VMM_HOLD_HOST_FACTS_H
#define VMM_HOLD_HOST_FACTS_H

#include "cpuid/host.h"

struct kvm;

/** host_facts_read - everything from CPUID and KVM's feature MSR */
void host_facts_read(struct host_facts *f, const struct kvm *kvm);

/** host_arch_cap - IA32_ARCH_CAPABILITIES as KVM offers it; 0 when it offers none */
uint64_t host_arch_cap(const struct kvm *kvm);

/**
 * host_cpuid_of_test - CPUID of the host that tests lay over this one, instead of the instruction
 * tests/shim defines it, and a library that is preloaded can answer any ioctl, but no instruction.
 * There is none in the program: the pointer is NULL.
 * Return: false when it lays none
 */
bool host_cpuid_of_test(struct cpuid_leaf *l) __attribute__((weak));

#endif
