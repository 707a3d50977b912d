/* What a guest is offered of the virtual mitigation MSRs at its first boot. PURE. */
#ifndef MSR_ADVERTISE_H
#define MSR_ADVERTISE_H

#include "msr/input.h"

/**
 * mitigation_advertise - what to offer to a guest at its first boot
 * @guest: CPUID bits are in; arch_cap comes as KVM offers it; VIRTUAL_ENUM in it, virt_enum and
 *         mitigation_enum are set. Never called again for the guest's life.
 */
void mitigation_advertise(const struct host_facts *host, const struct backend_facts *backend,
			  const struct mitigation_policy *policy, const struct pool_facts *pool,
			  struct guest_contract *guest);

#endif
