/*
 * Several hosts as one: what a guest that may move among them can be shown and what can be done for
 * it on each. PURE: facts in, facts out.
 */
#ifndef MSR_POOL_H
#define MSR_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"
#include "cpuid/merge.h"
#include "msr/decide.h"

/* One bit of IA32_ARCH_CAPABILITIES (msr/arch_caps.def). */
struct arch_cap_bit {
	const char *name;
	unsigned int bit;
	enum merge_rule merge;
	const char *why, *source;
};

/** arch_cap_bits - the table; @n receives the number of rows */
const struct arch_cap_bit *arch_cap_bits(unsigned int *n);

/**
 * arch_cap_merge - level two values of IA32_ARCH_CAPABILITIES
 * A bit that the table does not know is not passed on.
 */
uint64_t arch_cap_merge(uint64_t a, uint64_t b);

/** arch_cap_warnings - the bits that are levelled by OR: a guest may be shown them on any host */
uint64_t arch_cap_warnings(void);

/** arch_cap_lost - what a guest that was shown @guest cannot be shown on a host that has @host */
uint64_t arch_cap_lost(uint64_t guest, uint64_t host);

struct pool_host {
	struct host_facts host;
	struct backend_facts backend;
};

struct pool_level {
	struct pool_facts facts;
	enum cpu_vendor vendor;
	bool one_vendor;      /* false: no guest can move over the whole pool */
	uint64_t arch_cap;    /* as KVM can show it on every host; VIRTUAL_ENUM is not in it */
	uint32_t leaf7_0_edx; /* of KVM's, the bits that every host has */
	uint32_t leaf7_2_edx;
};

/**
 * pool_level - level @n hosts
 * @policy: trust_model and bhi_no_is_enough count
 * No host gives an empty level: n_hosts 0, nothing promised.
 */
void pool_level(const struct pool_host *hosts, unsigned int n,
		const struct mitigation_policy *policy, struct pool_level *out);

/**
 * pool_level_guest - let a guest see what all hosts of the pool can keep, before its first boot
 * @g: leaf7_0_edx, leaf7_2_edx and arch_cap as this host and the user's choice of CPU offer them
 * Of controls and immunities those stay that every host has; RSBA, RRSBA and the like are shown
 * where one host has them. A pool of one host changes nothing, but that RSBA and RRSBA are shown
 * where the part has them and they cannot be turned off; one of none changes nothing at all.
 * Source: Xen cpufeatureset.h, the rules of msr/arch_caps.def
 */
void pool_level_guest(const struct pool_level *l, struct guest_contract *g);

#endif
