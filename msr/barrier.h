/*
 * Branch predictor barriers (IBPB) that KVM issues when vCPUs change: what a policy asks for, what a
 * host can be told, and what the guest gets. rules_barrier.c has the table. PURE.
 */
#ifndef MSR_BARRIER_H
#define MSR_BARRIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpuid/host.h"

/* One vCPU of the guest runs where another one of the same guest ran before. */
enum barrier_switch {
	SWITCH_DEFAULT, /* as the host does it */
	SWITCH_ALWAYS,
	SWITCH_USED, /* once the guest has issued a barrier of its own */
	SWITCH_NEVER,
};

struct barrier_policy {
	enum barrier_switch on_switch;
	bool on_move; /* a vCPU runs on another CPU than before; false: as the host does it */
};

/* What a host says of itself in sysfs, vulnerabilities/spectre_v2. */
enum host_ibpb {
	HOST_IBPB_UNKNOWN,
	HOST_IBPB_OFF,	       /* it executes none */
	HOST_IBPB_CONDITIONAL, /* for processes that ask, and in KVM */
	HOST_IBPB_ALWAYS,
};

/* KVM_CAP_X86_VCPU_IBPB of kernel/: the bits of its args[0], all or none of them */
#define BARRIER_CAP_MODE 0x3
#define BARRIER_CAP_MOVE 0x4
#define BARRIER_CAP_ALL	 (BARRIER_CAP_MODE | BARRIER_CAP_MOVE)
/* beside them in what KVM_CHECK_EXTENSION gives; nothing that can be asked for */
#define BARRIER_CAP_NESTED_EXIT 0x8

/* What KVM says of a barrier between a guest and its own guests, if that guest is shown IBRS. */
enum nested_exit {
	NESTED_EXIT_UNSAID, /* as a KVM without the capability */
	NESTED_EXIT_BARE,
	NESTED_EXIT_BARRIER,
};

struct barrier_facts {
	bool driven; /* KVM has the capability, and it keeps its rules */
	enum host_ibpb ibpb;
	/* of the kernel's version; 0.0: not known; .0: the patch level is not */
	uint32_t major, minor, patch;
	enum nested_exit nested_exit;
};

enum barrier_got {
	BARRIER_UNKNOWN, /* nobody can tell */
	BARRIER_NONE,
	BARRIER_USED,
	BARRIER_EACH,
};

/* What a guest gets. */
struct barrier_plan {
	enum barrier_got on_switch, on_move;
	bool by_accident; /* on_move: a side effect of how this kernel loads a vCPU */
	bool drive;	  /* KVM is to be told */
	uint32_t args;	  /* with that: args[0] of the capability */
};

/** barrier_facts_known - does a host tell anything at all? An earlier release's fact file does not */
bool barrier_facts_known(const struct barrier_facts *facts);

/** barrier_plan - what @policy comes to on a host with @facts */
void barrier_plan(const struct barrier_facts *facts, enum cpu_vendor vendor,
		  const struct barrier_policy *policy, struct barrier_plan *plan);

/** host_ibpb_name, barrier_got_name - for reports: "conditional", "each"; never NULL */
const char *host_ibpb_name(enum host_ibpb ibpb);
const char *barrier_got_name(enum barrier_got got);

/**
 * barrier_kernel - the version of the kernel
 * @release: as uname -r has it. Of "6.1.0-56-amd64" the last number is a place holder: a vendor
 *	tells what its kernel is made of elsewhere
 * @told: there, in words: uname -v, "#1 SMP Debian 6.1.192-2 (2026-11-01)", or Ubuntu's
 *	version_signature, "Ubuntu 5.15.0-91.101-generic 5.15.131"; may be ""
 */
void barrier_kernel(struct barrier_facts *facts, const char *release, const char *told);

/** barrier_kernel_before - is it known, and older than @major.@minor? */
bool barrier_kernel_before(const struct barrier_facts *facts, uint32_t major, uint32_t minor);

/** barrier_kernel_name - "6.12.118", "6.12" where nothing more is known; "0.0" is nothing */
void barrier_kernel_name(const struct barrier_facts *facts, char *text, size_t size);

/** host_ibpb_from_sysfs - from a line such as "Mitigation: ...; IBPB: conditional; ..." */
enum host_ibpb host_ibpb_from_sysfs(const char *line);

#endif
