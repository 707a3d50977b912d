/* The ways to hold bits of SPEC_CTRL, and what one of them can do on a host, as values. PURE. */
#ifndef MSR_BACKEND_KIND_H
#define MSR_BACKEND_KIND_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/barrier.h"

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
	struct barrier_facts barrier;
};

/** backend_name - for reports and fact files: "force-spec-ctrl", ...; never NULL */
const char *backend_name(enum backend_kind kind);

#endif
