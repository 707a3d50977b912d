/*
 * What a VMM can do for its guest against its neighbours on the same processors, by means that the
 * kernel documents: branch isolation of the process, one core-scheduling cookie a guest, and vCPUs
 * that never alternate on one CPU. Each is read back after it was asked for.
 */
#ifndef VMM_HOLD_ISOLATION_H
#define VMM_HOLD_ISOLATION_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/decide.h"

struct err;

#define ISOLATION_MAX_VCPUS 255

/* What the policy wants; all zero: nothing. */
struct isolation_options {
	bool indirect_branch; /* indirect-branch: isolate */
	bool core_scheduling;
	unsigned int n_pins;		   /* 0: vCPUs are not pinned */
	uint16_t pin[ISOLATION_MAX_VCPUS]; /* host CPU of vCPU n; all different */
	bool observe_ibpb; /* does the guest ever use IBPB? (mitigation.h does it) */
	bool nested;	   /* show VMX or SVM to the guest; hidden otherwise */
	enum policy_cannot cannot;
};

#define ISOLATION_NOTE_MAX 160

/* One of them, as it came out. */
struct isolation_item {
	bool wanted, held;
	char note[ISOLATION_NOTE_MAX]; /* how that is known, or why not */
};

struct isolation {
	struct isolation_options options;
	struct isolation_item indirect_branch, core_scheduling, pin_vcpus;
};

/**
 * isolation_enter - for this process and every thread that it makes later
 * Call it before the first thread and before the sandbox. Every CPU of the pins is tried.
 * Return: 0; -EPERM when something cannot be had and the policy refuses that
 * Source: Documentation/userspace-api/spec_ctrl.rst, admin-guide/hw-vuln/core-scheduling.rst
 */
int isolation_enter(struct isolation *iso, const struct isolation_options *options,
		    uint32_t n_vcpus, struct err *e);

/** isolation_pin_vcpu - the calling thread is vCPU @id. Return: 0, or -errno with the text in @e */
int isolation_pin_vcpu(const struct isolation *iso, uint32_t id, struct err *e);

#endif
