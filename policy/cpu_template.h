/*
 * Firecracker's custom CPU templates (x86-64), read as they are: edits of CPUID and MSRs as bitmaps
 * of 0, 1 and x. Values only; applying them is cpuid/'s and the VMM's.
 */
#ifndef POLICY_CPU_TEMPLATE_H
#define POLICY_CPU_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define CPU_TEMPLATE_SIZE_MAX  (256 * 1024) /* bytes of a template */
#define CPU_TEMPLATE_CPUID_MAX 512
#define CPU_TEMPLATE_MSR_MAX   1024
#define CPU_TEMPLATE_CAP_MAX   64

enum cpuid_reg { CPUID_REG_EAX, CPUID_REG_EBX, CPUID_REG_ECX, CPUID_REG_EDX };

/* reg = (reg & ~mask) | value; value is inside mask */
struct cpu_template_cpuid {
	uint32_t leaf, subleaf;
	uint32_t flags; /* KVM_CPUID_FLAG_*: the entry is the one with the same flags */
	enum cpuid_reg reg;
	uint32_t mask, value;
};

struct cpu_template_msr {
	uint32_t index;
	uint64_t mask, value;
};

/* What KVM must offer besides what this VMM needs anyway, or what need not be checked. */
struct cpu_template_cap {
	uint32_t cap;
	bool remove;
};

/* Edits in the file's order: a later one wins. */
struct cpu_template {
	unsigned int n_cpuid, n_msr, n_caps;
	struct cpu_template_cpuid cpuid[CPU_TEMPLATE_CPUID_MAX];
	struct cpu_template_msr msr[CPU_TEMPLATE_MSR_MAX];
	struct cpu_template_cap cap[CPU_TEMPLATE_CAP_MAX];
};

/**
 * cpu_template_parse - read a template
 * @name: the file's name, for messages
 * @text: @len bytes of it, up to CPU_TEMPLATE_SIZE_MAX; need not end with NUL
 * @t: unspecified on error
 * Return: 0; -EINVAL with "CPU template NAME: ..." in @e, templates for Arm among them; -EFBIG;
 * -ENOMEM
 * Source: Firecracker docs/cpu_templates/cpu-templates.md
 */
int cpu_template_parse(const char *name, const char *text, size_t len, struct cpu_template *t,
		       struct err *e);

#endif
