/* Which MSRs this host's KVM knows by name: its lists, asked for once and searched. */
#ifndef VMM_KVM_MSR_LIST_H
#define VMM_KVM_MSR_LIST_H

#include <stdbool.h>
#include <stdint.h>

struct kvm;

/**
 * msr_list_has - is the MSR in KVM's list of those that a vCPU's state consists of?
 * false, too, when KVM cannot be asked
 * Source: KVM api.rst 4.3 KVM_GET_MSR_INDEX_LIST
 */
bool msr_list_has(const struct kvm *kvm, uint32_t index);

/** msr_list_has_feature - the same for the MSRs that tell what the CPU can do, as CPUID does:
 * KVM_GET_MSR_FEATURE_INDEX_LIST */
bool msr_list_has_feature(const struct kvm *kvm, uint32_t index);

#endif
