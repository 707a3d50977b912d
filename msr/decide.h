/*
 * The decision that this program exists for: which bits of IA32_SPEC_CTRL to hold for a vCPU,
 * against what it writes itself, and whether a guest may run on a host at all. One pure function
 * over plain values: no ioctl, no clock, no log, so that it can be asked about hosts that are not
 * here and walked through its whole input space by a test. Its callers need no other header of it.
 */
#ifndef MSR_DECIDE_H
#define MSR_DECIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/advertise.h"
#include "msr/decision.h"
#include "msr/input.h"
#include "msr/spec_ctrl.h"

/**
 * mitigation_decide - which bits to hold for one vCPU on this host, and may it run here
 * Never forces a bit that the back end cannot hold; under a strict policy never allows a guest that
 * it would leave weaker than the tables require.
 */
void mitigation_decide(const struct mitigation_input *in, struct mitigation_decision *out);

/**
 * mitigation_expect - what KVM_GET_MSRS of 0x48 returns when the decision is applied
 * @shadow: the guest's own value
 * The filter back end reads back the effective value, the others the guest's own.
 */
uint64_t mitigation_expect(const struct mitigation_decision *d, enum backend_kind kind,
			   uint64_t shadow);

/**
 * mitigation_check_applied - was the decision taken by KVM? Adds a step when it was not.
 * @accepted: KVM_SET_MSRS of 0x48 took the value
 * @read_back: what KVM_GET_MSRS of 0x48 then returned; looked at only when @accepted
 * A value that KVM refuses or that does not read back is a refusal: a back end that drops bits
 * silently has been seen.
 * Return: true when it was
 */
bool mitigation_check_applied(struct mitigation_decision *d, enum backend_kind kind,
			      uint64_t shadow, bool accepted, uint64_t read_back);

/**
 * mitigation_add_cpu - the CPU that the guest was shown is not to be had on this host: a refusal
 * @missing: which part of it, in words that outlive @d
 */
void mitigation_add_cpu(struct mitigation_decision *d, const char *missing);

#endif
