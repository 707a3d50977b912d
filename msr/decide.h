/*
 * The decision that this program exists for: which bits of IA32_SPEC_CTRL to hold for a vCPU,
 * against what it writes itself, and whether a guest may run on a host at all. One pure function
 * over plain values: no ioctl, no clock, no log, so that it can be asked about hosts that are not
 * here and walked through its whole input space by a test.
 */
#ifndef MSR_DECIDE_H
#define MSR_DECIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"
#include "msr/spec_ctrl.h"

/* ---- what the operator wants: the policy file as values ---- */

enum policy_switch { POLICY_AUTO, POLICY_ON, POLICY_OFF };

/* What a guest's report may do to the default of rows 9 to 12. */
enum policy_report {
	REPORT_BOTH,	/* tighten and relax (default) */
	REPORT_TIGHTEN, /* a report may add a bit, never remove one */
	REPORT_RELAX,	/* a report may remove a bit, never add one */
	REPORT_IGNORE,
};

/* What to do where the host cannot do what is needed. */
enum policy_cannot { CANNOT_WARN, CANNOT_REFUSE };

/* What a pool that mixes short and long branch history buffers is. */
enum policy_mixed {
	MIXED_LEVEL, /* served: what is offered is levelled over all hosts (default) */
	MIXED_WARN,
	MIXED_REFUSE,
};

struct mitigation_policy {
	enum policy_switch bhi, rrsba;
	enum policy_report honour_report;
	bool strict;	       /* refuse whatever would leave a guest weaker than it may be */
	bool bhi_no_is_enough; /* BHI_NO on the host ends the matter (default yes) */
	bool force_when_shown; /* force BHI_DIS_S on a report even where the guest sees BHI_CTRL
				  (RFC: yes) */
	uint64_t raw_mask, raw_value; /* operator's own bits; value is inside mask */
	uint64_t raw_guest;	      /* bits that the operator leaves to the guest, not in mask */
	bool virtual_msrs;	      /* offer 0x50000000-2 */
	enum policy_cannot cannot;
	enum policy_cannot incoming_cannot; /* the same for a guest that arrives from another host,
					       unless it says that it does not need the bit
					       (default refuse) */
	bool force_unaware; /* force for a guest that reports nothing (default yes; RFC: left to
			       the VMM, stock KVM: no); strict always does */
	bool rebuild;	    /* where the back end's mask is frozen: do not hold in advance what a
			       report may ask for, but build the VM anew when it does */
	bool trust_model;   /* believe the model of a host that is itself a guest (default no) */
	enum policy_mixed mixed_pool;
};

/**
 * mitigation_policy_default - auto, not strict, reports honoured, virtual MSRs offered; warn where
 * a bit cannot be had at first boot, refuse where it cannot be had after migration
 */
void mitigation_policy_default(struct mitigation_policy *p);

/* ---- what there is to work with ---- */

enum backend_kind {
	BACKEND_NONE,
	BACKEND_MSR_FILTER,	    /* stock KVM: 0x48 denied, held by the VMM */
	BACKEND_FORCE_SPEC_CTRL,    /* the RFC's capability: VM-wide, frozen at the first vCPU */
	BACKEND_FORCE_SPEC_CTRL_VM, /* the same with the virtual MSRs inside KVM: per vCPU at run
				       time */
	BACKEND_FORCE_VCPU,	    /* a vCPU ioctl at any time, as asked for in 2024 */
};

struct backend_facts {
	enum backend_kind kind;
	uint64_t can_force; /* bits that it can hold at 1 on this host */
	bool no_msr_exits;  /* this KVM has no MSR filter: nobody can answer the virtual MSRs */
};

/* What the guest was shown at its first boot, unchanged over any number of hosts. */
struct guest_contract {
	enum cpu_vendor vendor; /* CPU_VENDOR_OTHER: not known, not compared with a host */
	uint32_t leaf7_0_edx, leaf7_2_edx;
	uint32_t leaf80000008_ebx; /* AMD's enumeration of SPEC_CTRL */
	uint64_t arch_cap;	   /* as the guest reads it, VIRTUAL_ENUM included when offered */
	uint64_t virt_enum;	   /* MSR 0x50000000 */
	uint64_t mitigation_enum;  /* MSR 0x50000001 */
};

/**
 * contract_read_cpuid - the part of a guest's CPUID that decisions look at
 * @g: leaf7_0_edx, leaf7_2_edx and leaf80000008_ebx are set: what the guest can reach of them
 * @nested: receives whether it is shown VMX or SVM
 */
void contract_read_cpuid(struct guest_contract *g, bool *nested, struct cpuid_set *cpuid);

/* What one vCPU said since its last reset. */
struct vcpu_report {
	bool aware;	/* it read 0x50000000 or 0x50000001, or wrote 0x50000002 */
	bool enum_read; /* it read 0x50000001: a bit left clear in ctrl is an answer */
	bool written;	/* it wrote 0x50000002 */
	uint64_t ctrl;	/* MSR 0x50000002 */
};

/* What an earlier host held for this vCPU. */
struct mitigation_promise {
	bool valid; /* false: first boot */
	uint64_t mask, value;
	bool weak; /* that host needed to hold BHI_DIS_S and could not: mitigation_left_weak() */
};

/* The hosts that the guest may move to, this one included. All false and n_hosts 0: only this one.
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

struct mitigation_input {
	struct host_facts host;
	struct backend_facts backend;
	struct guest_contract guest;
	struct vcpu_report report;
	struct mitigation_policy policy;
	struct mitigation_promise promise;
	struct pool_facts pool;
	bool nested;	 /* the guest is shown VMX or SVM */
	uint64_t shadow; /* the guest's own value of SPEC_CTRL; checked when it comes from
			    another host */
};

/* ---- what comes out ---- */

enum verdict { VERDICT_ALLOW, VERDICT_ALLOW_FORCED, VERDICT_WARN, VERDICT_REFUSE };

enum decision_table {
	TABLE_BHI,
	TABLE_RRSBA,
	TABLE_RAW,
	TABLE_MIGRATION,
	TABLE_POOL,
	TABLE_NESTED
};

/* One row of docs/mitigation.md's tables that fired. */
struct decision_step {
	enum decision_table table;
	unsigned int row; /* numbered from 1, as in the tables */
	uint64_t bit;	  /* of SPEC_CTRL, one or several; 0 when the row is about none */
	uint64_t at_1;	  /* of @bit, those that the row wants or finds at 1; the others at 0 */
	enum verdict verdict;
	const char *reason; /* what was found and what follows */
	const char *source; /* where the rule comes from */
	unsigned int set;   /* what of the policy is set that its cure is about */
};

/* decision_step.set: switches that are to refuse, bits of spec-ctrl: that cover @bit, bhi: on */
enum {
	STEP_STRICT = 1,
	STEP_CANNOT = 2,
	STEP_INCOMING_CANNOT = 4,
	STEP_RAW = 8,
	STEP_BHI_ON = 16,
};

#define DECISION_STEPS_MAX 24

struct mitigation_decision {
	uint64_t mask, value; /* held: (guest & ~mask) | value */
	enum verdict verdict; /* the worst of the steps */
	bool short_adequate;  /* "the short sequence is adequate for this vCPU", computed, not yet
				 told */
	unsigned int n_steps;
	struct decision_step step[DECISION_STEPS_MAX];
};

/**
 * mitigation_decide - which bits to hold for one vCPU on this host, and may it run here
 * Never forces a bit that the back end cannot hold; under a strict policy never allows a guest that
 * it would leave weaker than the tables require.
 */
void mitigation_decide(const struct mitigation_input *in, struct mitigation_decision *out);

/**
 * mitigation_left_weak - did @d leave the guest without BHI_DIS_S for want of the bit? BHI rows 13
 * and 14. What that host promises to the next one says so: a guest that is no worse off there need
 * not be refused.
 */
bool mitigation_left_weak(const struct mitigation_decision *d);

/**
 * mitigation_advertise - what to offer to a guest at its first boot
 * @guest: CPUID bits are in; arch_cap comes as KVM offers it; VIRTUAL_ENUM in it, virt_enum and
 *         mitigation_enum are set. Never called again for the guest's life.
 */
void mitigation_advertise(const struct host_facts *host, const struct backend_facts *backend,
			  const struct mitigation_policy *policy, const struct pool_facts *pool,
			  struct guest_contract *guest);

/**
 * mitigation_expect - what KVM_GET_MSRS of 0x48 returns when the decision is applied
 * @shadow: the guest's own value
 * The filter back end reads back the effective value, the others the guest's own (section 1.3).
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

/**
 * decision_cure - what an operator can do about a step that warns or refuses; NULL for others
 * What only lets a guest run as it is is told where it is refused.
 */
const char *decision_cure(const struct decision_step *s);

/** spec_ctrl_host_bits - the bits of 0x48 that this Intel host's CPU has, by raw CPUID */
uint64_t spec_ctrl_host_bits(const struct host_facts *host);

/** names for reports: "force-spec-ctrl", "allow, with held bits", ... never NULL */
const char *backend_name(enum backend_kind kind);
const char *verdict_name(enum verdict verdict);
const char *decision_table_name(enum decision_table table); /* "bhi", "rrsba", ... */

/** spec_ctrl_bit_name - "BHI_DIS_S" for one bit of 0x48; NULL for a reserved one or several */
const char *spec_ctrl_bit_name(uint64_t bit);

#endif
