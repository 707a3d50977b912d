/*
 * KVM's branch predictor barriers when vCPUs change: telling KVM what the policy asks for
 * (KVM_CAP_X86_VCPU_IBPB of kernel/), and whether a guest has issued barriers of its own, with the
 * statistics that such a KVM keeps.
 */
#ifndef VMM_HOLD_BARRIER_H
#define VMM_HOLD_BARRIER_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/barrier.h"

struct err;

/*
 * our ABI: KVM_CHECK_EXTENSION gives BARRIER_CAP_ALL where it can be used, and
 * BARRIER_CAP_NESTED_EXIT with it where a barrier is between a guest and its own guests
 */
#define KVM_CAP_X86_VCPU_IBPB 0x5344
#define KVM_VCPU_SPECULATION  0x5343 /* group of attributes of a vCPU */
#define KVM_VCPU_IBPB_ISSUED  1	     /* u64, 0 or 1 */

/** barrier_enable - args[0] of the capability, for a VM. Return: 0 or -errno */
int barrier_enable(int vm_fd, uint32_t args);

/** barrier_drive - tell the VM's KVM, args[0] of the capability. Return: 0, or -errno with @e */
int barrier_drive(int vm_fd, uint32_t args, struct err *e);

/** barrier_has_issued - has this vCPU the attribute? */
bool barrier_has_issued(int vcpu_fd);

/**
 * barrier_get_issued, barrier_set_issued - has this vCPU's guest issued a barrier?
 * The vCPU must stand: KVM makes the caller wait for one that runs. Return: 0 or -errno
 */
int barrier_get_issued(int vcpu_fd, bool *issued);
int barrier_set_issued(int vcpu_fd);

enum barrier_stat {
	STAT_VCPU_SWITCHES,
	STAT_PCPU_MOVES,
	STAT_IBPB_OTHER_VM,
	STAT_IBPB_VCPU_SWITCH,
	STAT_IBPB_PCPU_MOVE,
	STAT_IBPB_NESTED_EXIT,
	BARRIER_STATS
};

/* Where KVM has them for one vCPU. Zeroed is "not open". */
struct barrier_stats {
	bool open;
	int fd;
	uint32_t at[BARRIER_STATS]; /* offsets; 0: this KVM has none of that name */
};

/**
 * barrier_stats_open - before the vCPU runs: KVM makes the caller wait for one that does
 * @vcpus_left: vCPUs that are still to be made, and want a descriptor, too
 * A KVM without them, or too few descriptors left, leaves it not open.
 */
void barrier_stats_open(struct barrier_stats *s, int vcpu_fd, unsigned int vcpus_left);
void barrier_stats_close(struct barrier_stats *s);

/** barrier_stats_read - any time, any thread. Return: false where KVM has no such number */
bool barrier_stats_read(const struct barrier_stats *s, enum barrier_stat which, uint64_t *value);

/** barrier_stat_name - for reports: "ibpb-vcpu-switch" */
const char *barrier_stat_name(enum barrier_stat which);

#endif
