/*
 * Several hosts as one: what a guest that may move among them can be shown and what can be done for
 * it on each. PURE: facts in, facts out.
 */
#ifndef MSR_POOL_H
#define MSR_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"
#include "msr/backend_kind.h"
#include "msr/contract.h"
#include "msr/mitigation_policy.h"

/*
 * The hosts that the guest may move to, this one included. All false and n_hosts 0: only this one.
 */
struct pool_facts {
	unsigned int n_hosts;
	bool any_long_bhb;
	bool all_atom_or_short;	 /* every host is Atom-only or has a short BHB */
	bool long_can_force_bhi; /* every host with a long BHB can force BHI_DIS_S per vCPU */
	bool any_rsba; /* a host where returns use other predictors, which no bit turns off */
	bool any_rrsba;
	bool rrsba_can_force; /* every RRSBA host can force RRSBA_DIS_S per vCPU */
	bool rrsba_ctrl_idle; /* a host has RRSBA_CTRL and yet cannot force it */
	bool mixed;	      /* short and long branch history buffers in one pool */
	bool no_msr_exits;    /* a host cannot answer the virtual MSRs */
};

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
