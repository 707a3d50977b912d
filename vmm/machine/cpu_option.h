/* `--cpu`: the CPU that the guest is shown, from a name with edits or from a template file. */
#ifndef VMM_MACHINE_CPU_OPTION_H
#define VMM_MACHINE_CPU_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/cpuid.h"

struct cpu_msrs;
struct cpu_option;
struct err;
struct kvm;

/** cpu_option_is_path - does the option name a file, and not a CPU? */
bool cpu_option_is_path(const char *text);

#define CPU_OPTION_HELP "help" /* in place of a name: print the names */

/**
 * cpu_option_print_names - the CPUs, their other names and the features, on standard output
 * Return: did all of it get there?
 */
bool cpu_option_print_names(void);

/**
 * cpu_option_load - read the option's value and check it against what this host's KVM has
 * @text: "host", a named CPU, either with ",+feature" and ",-feature"; or, with a '/' in it or with
 *        ".json" at its end, the path of a CPU template (JSON as Firecracker takes it)
 * @kvm: NULL leaves out what only KVM can tell
 * @out: receives the option, owned by the caller; it refers to @text
 * Return: 0; -EINVAL for a word or a file that is wrong, -ENOTSUP for a KVM capability that the
 * template asks for, -ENOMEM; the text is in @e
 */
int cpu_option_load(const char *text, const struct kvm *kvm, struct cpu_option **out,
		    struct err *e);
void cpu_option_free(struct cpu_option *c);

/**
 * cpu_option_shown - what a guest of this CPU would be shown, with the checks of a run
 * @text: as above
 * @kvm: this host's; NULL: another one, whose KVM cannot be asked about capabilities and MSRs
 * @nested: the policy shows VMX and SVM
 * @assumed: @set is host_facts_to_cpuid()'s: of a template CPUID leaf 7 and ARCH_CAPABILITIES count
 * @set: what the host's KVM offers, made the chosen CPU, with vcpu_base_cpuid()
 * @arch_cap: ARCH_CAPABILITIES, the same way
 * Return: as cpu_option_load(), cpu_option_apply(), cpu_option_check() and cpu_option_msrs()
 */
int cpu_option_shown(const char *text, const struct kvm *kvm, bool nested, bool assumed,
		     struct cpuid_set *set, uint64_t *arch_cap, struct err *e);

/**
 * cpu_option_apply - make @set, what this guest would be shown by default, the chosen CPU
 * Topology is set later. Return: 0; -ENOTSUP naming what this host lacks, -EINVAL, -ENOSPC
 */
int cpu_option_apply(const struct cpu_option *c, struct cpuid_set *set, struct err *e);

/**
 * cpu_option_check - did what the VMM sets itself leave the option's words as they are?
 * A template's are warned of: it may have been dumped from another VMM's guest.
 * @set: after cpu_option_apply() and vcpu_base_cpuid()
 * @n_vcpus: those of the guest; 0: not known, topology is not looked at
 * Return: 0; -EINVAL naming the word, and what decides in its place; -ENOSPC
 */
int cpu_option_check(const struct cpu_option *c, const struct cpuid_set *set, uint32_t n_vcpus,
		     struct err *e);

/**
 * cpu_option_msrs - the other MSRs that a template edits; none for a named CPU
 * @kvm: NULL leaves out what only KVM can tell
 * Return: as cpu_msrs_init() does
 */
int cpu_option_msrs(const struct cpu_option *c, const struct kvm *kvm, struct cpu_msrs *msrs,
		    struct err *e);

/** cpu_option_arch_cap - ARCH_CAPABILITIES for the guest, given what it would be otherwise */
uint64_t cpu_option_arch_cap(const struct cpu_option *c, uint64_t arch_cap);

#endif
