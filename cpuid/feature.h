/*
 * CPUID features by name: what `--cpu ...,+avx2` means in bits. PURE: a table, and operations on a
 * struct cpuid_set.
 */
#ifndef CPUID_FEATURE_H
#define CPUID_FEATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpuid/cpuid.h"
#include "cpuid/merge.h"

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* One line of cpuid/features.def. */
struct cpu_feature {
	const char *name;
	uint32_t leaf, subleaf;
	enum cpuid_reg reg;
	unsigned int bit;
	enum merge_rule merge;
	const char *source;
};

/* FEATURE_avx2: the row of avx2 */
enum cpu_feature_id {
#define FEATURE(name, leaf, subleaf, reg, bit, merge, source) FEATURE_##name,
#include "cpuid/features.def"
#undef FEATURE
	CPU_FEATURES, /* how many there are */
};

/* XSAVE state components whose feature is in the table (SDM vol.1 table 13-1) */
#define XSAVE_COMPONENTS_KNOWN 0xedfffULL

/** cpu_features - the table; @n receives the number of rows, CPU_FEATURES */
const struct cpu_feature *cpu_features(unsigned int *n);

/** cpu_feature - one row of it */
const struct cpu_feature *cpu_feature(enum cpu_feature_id id);

/**
 * cpu_feature_find - look a name up
 * @name: @len bytes; '-' and '.' are read as '_', and QEMU's names that differ are known too
 * Return: NULL when there is none
 */
const struct cpu_feature *cpu_feature_find(const char *name, size_t len);

/** cpuid_reg - the register of a leaf */
uint32_t *cpuid_reg(struct cpuid_leaf *leaf, enum cpuid_reg reg);

/** cpu_feature_has - is it set in @set? */
bool cpu_feature_has(struct cpuid_set *set, const struct cpu_feature *f);

/** cpu_feature_shown - is it, where software that goes by CPUID can reach it? cpuid_reach() */
bool cpu_feature_shown(struct cpuid_set *set, const struct cpu_feature *f);

/** cpu_feature_put - set or clear it. Return: 0, or -ENOENT when @set has no such leaf */
int cpu_feature_put(struct cpuid_set *set, const struct cpu_feature *f, bool on);

/**
 * cpu_feature_needs - what a feature cannot do without
 * @i: 0, 1, ...
 * Return: the feature, or NULL when there is no @i-th
 */
const struct cpu_feature *cpu_feature_needs(const struct cpu_feature *f, unsigned int i);

/**
 * cpu_features_close - clear every feature that lacks one that it needs
 * Then leaves that describe what is gone are dropped, and leaf 0DH is made to say what XCR0 and
 * IA32_XSS may hold.
 * Source: SDM vol.1 ch.13 and the feature's own chapter; Linux cpuid-deps.c
 */
void cpu_features_close(struct cpuid_set *set);

/**
 * cpu_features_hide_amx - without the tiles' state in XCR0, nothing of AMX
 * KVM lists the features of such a part to a process that has no permission for the state
 * (Documentation/arch/x86/xstate.rst of Linux, "Dynamic features for virtual machines").
 */
void cpu_features_hide_amx(struct cpuid_set *set);

#endif
