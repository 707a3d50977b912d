/*
 * `--cpu`: which CPU a guest is shown. Text to values, and values applied to what KVM supports.
 * PURE: no file, no ioctl; the caller brings KVM_GET_SUPPORTED_CPUID's leaves.
 */
#ifndef CPUID_GUEST_CPU_H
#define CPUID_GUEST_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/cpuid.h"
#include "cpuid/feature.h"
#include "cpuid/host.h"

struct err;

#define GUEST_CPU_EDITS_MAX 64

/* One line of cpuid/guest_models.def; a name may have a line for each vendor. */
struct guest_model {
	const char *name;
	enum cpu_vendor vendor;
	uint32_t family, model, stepping;
	const char *features; /* separated by blanks; the host must have them all */
	const char *source;
	const char *kernel; /* the oldest of a host that gives it: "Linux 6.13"; NULL: any */
};

struct guest_cpu {
	char name[32]; /* "host", or a name of the table, whatever the user called it */
	unsigned int n_edits;
	struct {
		const struct cpu_feature *feature;
		bool on;
	} edit[GUEST_CPU_EDITS_MAX]; /* +feature, -feature; each feature once */
};

/** guest_models - the table; @n receives the number of rows */
const struct guest_model *guest_models(unsigned int *n);

/* A CPU of the table as others spell it. */
struct guest_alias {
	const char *name, *model;
};

/** guest_aliases - QEMU's and libvirt's names; @n receives their number */
const struct guest_alias *guest_aliases(unsigned int *n);

/**
 * guest_cpu_parse - read "NAME[,+FEATURE|,-FEATURE]..."
 * @text: e.g. "icelake-server,-avx512f,+bhi_ctrl"; "host" is everything that KVM supports
 * NAME is one of the table, with -v1 for the first version if one likes, or as QEMU and libvirt
 * spell it (cpuid/guest_aliases.def), in capitals or not. Of two edits of one feature the last
 * counts. Return: 0, or -EINVAL with the word that is not known, and the known names, in @e
 */
int guest_cpu_parse(const char *text, struct guest_cpu *out, struct err *e);

/**
 * guest_cpu_apply - make @set, KVM's leaves, those of the guest
 * "host" with nothing taken away leaves @set as it is.
 * A model needs a host of its vendor that has all its features, less those taken away by "-". "+"
 * needs the host to have the feature, and the guest all that it builds on; "-" takes with it what
 * builds on the feature. Apart from its features a model's guest is shown controls of speculation
 * and timers that the host has. Family, model, stepping and the brand string become the model's;
 * leaves that tell one host from another, and the PMU's, go.
 * Topology and the VMM's own bits are set later: cpuid_set_topology(), cpuid_set_vmm_bits().
 * Return: 0; -ENOTSUP naming every feature that is missing, or the vendor; -EINVAL for "+" of a
 *         feature without what it builds on; -ENOSPC
 */
int guest_cpu_apply(const struct guest_cpu *cpu, struct cpuid_set *set, struct err *e);

/**
 * guest_cpu_check_edits - is every "+feature" in @set, and no "-feature"?
 * @set: what the guest is shown, with all that was set after guest_cpu_apply()
 * Return: 0; -EINVAL naming the first edit that something else overruled, and what decides instead
 */
int guest_cpu_check_edits(const struct guest_cpu *cpu, struct cpuid_set *set, struct err *e);

#endif
