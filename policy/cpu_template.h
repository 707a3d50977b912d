/*
 * Firecracker's custom CPU templates (x86-64), read as they are: edits of CPUID and MSRs as bitmaps
 * of 0, 1 and x. Values only: cpuid/template.h applies them.
 */
#ifndef POLICY_CPU_TEMPLATE_H
#define POLICY_CPU_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpuid/template.h"

struct err;

#define CPU_TEMPLATE_SIZE_MAX  (256 * 1024) /* bytes of a template */
#define CPU_TEMPLATE_CPUID_MAX 512
#define CPU_TEMPLATE_MSR_MAX   1024
#define CPU_TEMPLATE_CAP_MAX   64

/* What KVM must offer besides what this VMM needs anyway, or what need not be checked. */
struct cpu_template_cap {
	uint32_t cap;
	bool remove;
};

/* Edits in the file's order: a later one wins. */
struct cpu_template {
	unsigned int n_cpuid, n_msr, n_caps;
	struct cpu_template_op cpuid[CPU_TEMPLATE_CPUID_MAX];
	struct msr_template_op msr[CPU_TEMPLATE_MSR_MAX];
	struct cpu_template_cap cap[CPU_TEMPLATE_CAP_MAX];
};

/**
 * cpu_template_parse - read a template
 * @name: the file's name, for messages
 * @text: @len bytes of it, up to CPU_TEMPLATE_SIZE_MAX; need not end with NUL
 * @t: unspecified on error
 * The flags of a leaf, KVM's, must be a number and are not kept: whether the sub-leaf counts is
 * known from the leaf itself.
 * Return: 0; -EINVAL with "CPU template NAME: ..." in @e, templates for Arm among them; -EFBIG;
 * -ENOMEM
 * Source: Firecracker docs/cpu_templates/cpu-templates.md
 */
int cpu_template_parse(const char *name, const char *text, size_t len, struct cpu_template *t,
		       struct err *e);

#endif
