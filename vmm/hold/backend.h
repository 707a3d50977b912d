/*
 * The ways to hold bits of IA32_SPEC_CTRL for a vCPU against what its guest writes: one row of
 * operations each, and the choice of the best one that this host's KVM really has. What a back end
 * can hold is found by trying it on a throw-away VM, never taken from a capability number: mainline
 * gave the RFC's number to something else, and a KVM may accept the MSR and keep nothing.
 */
#ifndef VMM_HOLD_BACKEND_H
#define VMM_HOLD_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/decide.h"
#include "vmm/kvm/closer.h"

struct cpuid_set;
struct err;
struct kvm;
struct vm;

/* The RFC's number of KVM_CAP_FORCE_SPEC_CTRL; mainline has KVM_CAP_PRE_FAULT_MEMORY there. */
#define BACKEND_FORCE_CAP 236
#define BACKEND_FIND_CAP  0 /* try the numbers that we know */
#define BACKEND_ROWS	  5
#define BACKEND_TRIALS	  (BACKEND_ROWS + 1) /* barriers are tried on a VM of their own */
#define BACKEND_WHY_MAX	  256

/* What the trial of one back end found. */
struct backend_trial {
	const char *name;
	bool usable;
	bool suspect; /* KVM says two things about itself: the operator should know */
	uint64_t can_force;
	char why[BACKEND_WHY_MAX]; /* one sentence, also when usable */
};

/* A VM with one vCPU that never runs, for trials. Zeroed with descriptors at -1 is empty. */
struct backend_scratch {
	int vm_fd, vcpu_fd;
};

struct backend {
	const struct backend_ops *ops; /* the chosen one; never NULL after backend_probe() */
	uint64_t can_force;	       /* bits that it can hold at 1 */
	uint64_t run_time_bits; /* bits whose holding at 1 may change while vCPUs exist; the others
				   are fixed by vm_setup */
	uint32_t force_cap;	/* number of the capability on this kernel, 0: not found */
	bool msr_exits;		/* KVM has the MSR filter: virtual MSRs can be offered */
	unsigned int n_trials;
	struct backend_trial trial[BACKEND_ROWS];
	struct barrier_facts barrier; /* which back end is used does not matter for these */
	/* VMs of trials that are over, still open: see scratch_retire() */
	unsigned int n_retired;
	struct backend_scratch retired[BACKEND_TRIALS];
	struct closer closer; /* of these */
};

/* What is held for one vCPU, as far as it can be known. */
struct backend_held {
	uint64_t mask, value;
	uint64_t guest;	    /* what the guest reads from 0x48 */
	uint64_t effective; /* what the processor has while the guest runs */
	bool read_back;	    /* effective was read from KVM; else it follows from how KVM works */
	bool known;	    /* false: KVM has no 0x48 at all */
	/* values that were read back once: a guest that toggles a bit need not pay for it again */
	unsigned int n_verified;
	uint64_t verified[2];
};

struct backend_ops {
	enum backend_kind kind;
	bool denies_spec_ctrl; /* the guest's accesses to 0x48 come to us */
	bool init_clears;      /* INIT of a vCPU drops the forced bits without telling us */

	/**
	 * probe - is it here, and what can it hold? Fills in can_force and run_time_bits of @b.
	 * Return: 0, or -ENOTSUP; @t->why is set in either case. NULL: nothing to ask
	 */
	int (*probe)(struct backend *b, const struct kvm *kvm, struct backend_trial *t);

	/** vm_setup - before the first vCPU: fix what cannot change later. May be NULL. */
	int (*vm_setup)(const struct backend *b, struct vm *vm, uint64_t mask, uint64_t value,
			struct err *e);

	/**
	 * vcpu_apply - hold @value in @mask from the next entry on; the guest's own value is
	 * @guest. @held comes with what vm_setup fixed in mask and value, and is filled in.
	 * Return: 0; -EIO when KVM did not take it, -EBADE when it does not read back
	 */
	int (*vcpu_apply)(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
			  uint64_t guest, struct backend_held *held, struct err *e);

	/** vcpu_read - fill in guest, effective, read_back and known from KVM; the vCPU stands */
	void (*vcpu_read)(int vcpu_fd, struct backend_held *held);
};

extern const struct backend_ops backend_force_vcpu, backend_force_vm, backend_force, backend_filter,
	backend_none;

/**
 * backend_probe - try all, choose the first that is usable and can hold anything
 * @force_cap: number of the RFC's capability, or BACKEND_FIND_CAP
 * A back end that is not there is no error; only a host out of memory or descriptors is. Whatever
 * is returned, backend_fini() has to follow.
 */
int backend_probe(struct backend *b, const struct kvm *kvm, uint32_t force_cap, struct err *e);

/** backend_get_msr, backend_set_msr - one MSR of a vCPU, by the host's right. Return: 0 or -errno;
 * -ENXIO when KVM refuses this MSR or value */
int backend_get_msr(int vcpu_fd, uint32_t index, uint64_t *value);
int backend_set_msr(int vcpu_fd, uint32_t index, uint64_t value);

/**
 * backend_try_barriers - what this host says of itself, and whether KVM has KVM_CAP_X86_VCPU_IBPB
 * Its number alone proves nothing: a VM for trials must refuse the mode that does not exist, and
 * its vCPU must have the attribute. Part of backend_probe(). Return: 0, or -errno: no VM
 */
int backend_try_barriers(struct backend *b, const struct kvm *kvm);

/** backend_facts - of a probed one, as the decision sees it */
struct backend_facts backend_facts(const struct backend *b);

/**
 * backend_keeps - will a vCPU with @cpuid keep @value in MSR @index?
 * Tried on a VM of the trials. Return: false, too, where it cannot be tried
 */
bool backend_keeps(const struct backend *b, const struct cpuid_set *cpuid, uint32_t index,
		   uint64_t value);

/**
 * scratch_open_vm, scratch_open_vcpu - two steps, since a capability may have to go between
 * Without CPUID: KVM_SET_MSRS of 0x48 by the host does not ask for it. Return: 0 or -errno
 */
int scratch_open_vm(struct backend_scratch *s, const struct kvm *kvm);
int scratch_open_vcpu(struct backend_scratch *s);

/**
 * scratch_retire - done with it, but close it later
 * It may be asked more, by backend_keeps(); and its end need not delay the guest's start: closer.h.
 */
void scratch_retire(struct backend *b, struct backend_scratch *s);

/** backend_close_scratch - close what trials left open, beside the caller: the guest runs now */
void backend_close_scratch(struct backend *b);

/** backend_fini - the same, and wait for it */
void backend_fini(struct backend *b);

#endif
