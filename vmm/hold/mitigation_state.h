/*
 * What of the mitigation engine travels with a guest: the contract of its first boot, and for each
 * vCPU what it reported, what was held for it, and its own value of SPEC_CTRL. It is taken in
 * twice: at the handshake, before the VM is built (mitigation_adopt), and again with the rest of
 * the state, when the guest stands still (mitigation_update). Both decide for every vCPU anew.
 */
#ifndef VMM_HOLD_MITIGATION_STATE_H
#define VMM_HOLD_MITIGATION_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "msr/decide.h"

struct cpuid_set;
struct err;
struct mitigation;
struct rbuf;
struct wbuf;

struct mitigation_saved_vcpu {
	struct vcpu_report report;
	struct mitigation_promise promise; /* what is held, and what an earlier host held */
	uint64_t held;			   /* bits at 1 there now, for the words only */
	uint64_t shadow;		   /* the guest's own SPEC_CTRL, never the effective one */
	bool ibpb_issued;		   /* by the guest on this vCPU, on any host */
};

struct mitigation_saved {
	enum backend_kind backend; /* of the host where this was saved */
	struct guest_contract contract;
	bool ibpb_seen;
	uint32_t n_vcpus;
	struct mitigation_saved_vcpu *vcpu; /* owned */
};

/** mitigation_saved_fini - accepts a zeroed one */
void mitigation_saved_fini(struct mitigation_saved *s);

/**
 * mitigation_save - copy what travels
 * @parked: all vCPUs are: KVM is asked for the guest's own value. Else it is the last one known.
 * SPEC_CTRL is normalised: KVM_GET_MSRS gives the guest's view under the RFC's capability and the
 * effective value under the MSR filter; @s has the guest's in either case.
 * Return: 0 or -ENOMEM; @s may be given to mitigation_saved_fini() in any case
 */
int mitigation_save(struct mitigation *m, bool parked, struct mitigation_saved *s, struct err *e);

/** mitigation_saved_encode - append section "mitigation" */
void mitigation_saved_encode(const struct mitigation_saved *s, struct wbuf *w);
/**
 * mitigation_saved_decode - read it; every value is checked against what it may be at all
 * Return: 0; -EINVAL, -ENOMEM; @s may be given to mitigation_saved_fini() in any case
 */
int mitigation_saved_decode(struct rbuf *r, struct mitigation_saved *s, struct err *e);

/** mitigation_saved_check - may these values be at all? Return: 0, or -EINVAL with one line */
int mitigation_saved_check(const struct mitigation_saved *s, struct err *e);

/**
 * mitigation_adopt - the next VM is for a guest that comes from another host
 * @cpuid: the guest's, without topology
 * Instead of mitigation_make_contract(), before mitigation_setup_vm(): the contract is taken as it
 * is, nothing is offered anew. Every vCPU is decided for from this host's facts, the policy, its
 * report and its promise. A later reset of the guest forgets report and promise, not the contract.
 * Return: 0; -EPERM when a vCPU may not run here: bits, both values, row and rule, and the cure, in
 * one line; -EINVAL when @s contradicts itself or @cpuid
 */
int mitigation_adopt(struct mitigation *m, struct cpuid_set *cpuid,
		     const struct mitigation_saved *s, struct err *e);

/**
 * mitigation_update - the newer reports and values, into vCPUs that were built after an adopt
 * Decides again and holds the result, read back.
 * Return: 0; -EPERM as above; -EAGAIN when a report that came in between needs bits that this VM
 * cannot take up any more: migrate again; -EIO when KVM does not hold a value
 */
int mitigation_update(struct mitigation *m, const struct mitigation_saved *s, struct err *e);

/**
 * mitigation_describe_change - what is held differently from where the guest came from, one line
 * @there, @here: names of the two hosts
 * After mitigation_adopt(): of a vCPU that does not exist yet it is what was decided. @text is ""
 * when all is held as it was.
 */
void mitigation_describe_change(struct mitigation *m, const char *there, const char *here,
				char *text, size_t len);

/**
 * mitigation_stay - the next VM is for this same guest, whose vCPUs are parked
 * What was reported here stays as it is; the VM is set up to hold what the reports now ask for, and
 * all that it held before: so a guest that changes its report for ever wants no more than one VM
 * for each bit.
 */
void mitigation_stay(struct mitigation *m);

/**
 * mitigation_wants_rebuild - does any vCPU's report ask for bits at 1 that are frozen otherwise?
 * Then a VM built anew around the same memory, machine_rebuild(), holds them. Any thread.
 */
bool mitigation_wants_rebuild(struct mitigation *m);

#endif
