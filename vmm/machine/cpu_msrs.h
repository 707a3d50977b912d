/*
 * The MSRs that a CPU template gives every vCPU at its creation, besides ARCH_CAPABILITIES, which
 * the mitigation engine shapes. What a template may not touch is a table; what KVM does not take,
 * or does not keep, is refused by name.
 */
#ifndef VMM_MACHINE_CPU_MSRS_H
#define VMM_MACHINE_CPU_MSRS_H

#include <stdint.h>

#include "cpuid/template.h"

struct err;
struct kvm;

/* Zeroed is none. */
struct cpu_msrs {
	char *name; /* of the template, for messages */
	unsigned int n;
	struct msr_template_op *op; /* in the file's order */
};

/**
 * cpu_msrs_init - take over those of @n modifiers that are set by us, after looking at all of them
 * Return: 0; -EINVAL for an MSR that is not a template's to set, -ENOTSUP for one that this host's
 * KVM does not know, -ENOMEM. @m may be given to cpu_msrs_fini() in any case.
 */
int cpu_msrs_init(struct cpu_msrs *m, const char *name, const struct msr_template_op *op,
		  unsigned int n, const struct kvm *kvm, struct err *e);
void cpu_msrs_fini(struct cpu_msrs *m);

/**
 * cpu_msrs_apply - edit the MSRs of a new vCPU; after its CPUID, which KVM checks them against
 * Return: 0; -ENOTSUP with MSR and value when KVM refuses it or reads back another; -errno
 */
int cpu_msrs_apply(const struct cpu_msrs *m, uint32_t id, int vcpu_fd, struct err *e);

#endif
