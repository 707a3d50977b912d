/*
 * The mitigation engine at work: what the guest was shown, what each vCPU reported, what was
 * decided (msr/decide.h) and what the back end (vmm/hold/backend.h) really holds. It outlives the
 * machine: a reset of the guest keeps the contract of its first boot.
 *
 * Locks: each vCPU's state has one, held for short; the VM's filter has another, taken with a
 * vCPU's held, never the other way round. Listeners are called with none held.
 */
#ifndef VMM_HOLD_MITIGATION_H
#define VMM_HOLD_MITIGATION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "msr/decide.h"
#include "msr/pool.h"
#include "msr/virt_msr.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/barrier.h"
#include "vmm/kvm/msr_filter.h"

struct cpuid_set;
struct err;
struct log_lines;
struct kvm;
struct kvm_run;
struct vm;

/* What the run was asked for. */
struct mitigation_options {
	struct mitigation_policy policy;
	struct pool_level pool;		/* may be filled in until the contract is made */
	const struct host_facts *facts; /* instead of what this host says; NULL: ask the host */
	uint32_t force_cap;
	/* what the user's choice of CPU changes in ARCH_CAPABILITIES */
	uint64_t arch_cap_clear, arch_cap_set;
	bool observe_ibpb; /* find out whether the guest ever uses PRED_CMD */
};

enum mitigation_change {
	MITIGATION_STARTED,   /* bits are held for the first time */
	MITIGATION_REPORTED,  /* a report changed what is held */
	MITIGATION_GUEST,     /* the guest changed its own bits; what is forced stayed */
	MITIGATION_LOST,      /* KVM had lost the bits; they are held again */
	MITIGATION_IBPB_SEEN, /* the guest used PRED_CMD for the first time */
	MITIGATION_REBUILT,   /* the VM was built anew, to hold what a report asks for */
	MITIGATION_FAILED,    /* the back end did not take or keep a value */
};

/* One vCPU's side of it. */
struct mitigation_vcpu {
	pthread_mutex_t lock;
	uint32_t id;
	int fd; /* -1: no vCPU now */
	struct vcpu_msrs msrs;
	struct mitigation_promise promise; /* of the host that it came from */
	uint64_t held_there;		   /* bits at 1, by the host that it came from */
	bool came; /* report, value and promise came from another host: the next VM keeps them */
	struct mitigation_decision decision;
	struct backend_held held;
	bool failed;	  /* the last apply did; the log knows */
	bool ibpb_issued; /* by the guest on this vCPU, here or on an earlier host, as last known */
	struct barrier_stats barriers;
	/* counters: written by the vCPU's thread, read by any (atomic) */
	uint64_t exits_spec_ctrl, exits_virtual, exits_efer, exits_pred_cmd;
	uint64_t lost;	       /* times that held bits were found missing */
	uint64_t changes;      /* of the effective forced bits */
	uint64_t rate_base;    /* exits_spec_ctrl at the last look of the rate guard */
	uint64_t rate_per_sec; /* highest seen */
	bool rate_warned;
};

struct mitigation_listener {
	struct mitigation_listener *next;
	/**
	 * changed - on the vCPU's thread, or the one that sets up; may be called often: be brief
	 */
	void (*changed)(struct mitigation_listener *l, uint32_t vcpu, enum mitigation_change what);
};

struct mitigation {
	char source_name[160], destination_name[160]; /* hosts in words; "": unnamed */
	struct mitigation_options options;
	struct host_facts host;
	struct backend backend;
	/* the back end in use: none where there is nothing that 0x48 is to be denied for */
	const struct backend_ops *active;
	struct guest_contract contract;
	bool contract_made;
	bool answers_arch_cap;		  /* KVM does not keep the contract's ARCH_CAPABILITIES */
	bool told;			  /* the log knows what is held */
	bool nested;			  /* the guest is shown VMX or SVM */
	bool nx, long_mode;		  /* the guest is shown them: what it may set in EFER */
	bool sbpb;			  /* and this: what it may write to PRED_CMD */
	uint64_t fixed_mask, fixed_value; /* by the back end's vm_setup, for the VM's life */
	struct barrier_plan barrier;
	struct mitigation_decision start; /* what was decided before the first vCPU */
	/*
	 * how the guest got here: its first VM is set up for what it brought, later ones are boots
	 */
	enum mitigation_origin { MITIGATION_BOOTED, MITIGATION_COMING, MITIGATION_CAME } origin;

	pthread_mutex_t filter_lock;
	struct msr_filter filter; /* the VM's now */
	int vm_fd;
	uint64_t efer_exits;
	bool ends_answers; /* INIT ends what a vCPU answered, and is seen by the write of EFER */
	bool answered;	   /* one did, in this VM or before it: filter_lock, once vCPUs run */
	bool ibpb_seen;	   /* since the guest's boot */
	bool ibpb_told, denial_told; /* the log knows */
	uint64_t rebuilds;	     /* of the VM under the running guest, atomic */

	uint32_t n_vcpus;
	struct mitigation_vcpu *vcpu;
	struct mitigation_listener *listeners;
};

/**
 * mitigation_init - read the host's facts, probe the back ends
 * Return: 0 or -errno; @m may be given to mitigation_fini() in any case
 */
int mitigation_init(struct mitigation *m, const struct mitigation_options *options,
		    const struct kvm *kvm, uint32_t n_vcpus, struct err *e);
void mitigation_fini(struct mitigation *m);

/** mitigation_backend_facts - the back end as the decision sees it */
struct backend_facts mitigation_backend_facts(const struct mitigation *m);

/** mitigation_listen - before the first vCPU runs; storage stays the caller's */
void mitigation_listen(struct mitigation *m, struct mitigation_listener *l);

/**
 * mitigation_make_contract - what the guest is shown, at its first boot only
 * @cpuid: the guest's; what not every host of the pool can keep is taken out of it
 * Decides for the first time. Return: 0; -EPERM when the policy refuses this host, with reasons
 */
int mitigation_make_contract(struct mitigation *m, struct cpuid_set *cpuid, struct err *e);

/** mitigation_setup_vm - filter and capability of a new VM; first of all, see vm.h */
int mitigation_setup_vm(struct mitigation *m, struct vm *vm, struct err *e);

/**
 * mitigation_setup_vcpu - MSRs of a new vCPU, after its CPUID; forgets what the last one reported
 */
int mitigation_setup_vcpu(struct mitigation *m, uint32_t id, int vcpu_fd, struct err *e);

/**
 * mitigation_exit_rdmsr, mitigation_exit_wrmsr - KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR
 * On the vCPU's thread. @run gets the answer: data, or error for #GP.
 */
void mitigation_exit_rdmsr(struct mitigation *m, uint32_t id, struct kvm_run *run);
void mitigation_exit_wrmsr(struct mitigation *m, uint32_t id, struct kvm_run *run);

/**
 * mitigation_check_vcpu - compare what KVM has with what is to be held; put it right and count
 * The vCPU must stand: on its own thread, or when that has ended.
 */
void mitigation_check_vcpu(struct mitigation *m, uint32_t id);

/** mitigation_vcpu_starts - the same for a vCPU on its way up: vcpu_msrs_starts() */
void mitigation_vcpu_starts(struct mitigation *m, uint32_t id);

/** mitigation_check_rates - once a second: does a guest pay too much for accesses to 0x48? */
void mitigation_check_rates(struct mitigation *m);

/** mitigation_wants_checks - does what is held need looking after while the guest runs? After the
 * contract was made. */
bool mitigation_wants_checks(const struct mitigation *m);

/** mitigation_looks_for_barrier - would a barrier of the guest be seen while it runs? */
bool mitigation_looks_for_barrier(const struct mitigation *m);

/** mitigation_may_want_checks - now, or when the guest has reset itself */
bool mitigation_may_want_checks(const struct mitigation *m);

/**
 * mitigation_refused - is the verdict on vCPU @id refuse?
 * @why: receives the reasons, in one line; NULL: not wanted
 */
bool mitigation_refused(struct mitigation *m, uint32_t id, char *why, size_t size);

/** mitigation_started - the first vCPU runs: finish what could wait until then */
void mitigation_started(struct mitigation *m);

/** mitigation_forget_vm - after the vCPUs' last check, before their descriptors are closed */
void mitigation_forget_vm(struct mitigation *m);

/* ---- shared by mitigation.c, mitigation_exit.c and mitigation_state.c ---- */

/**
 * mitigation_read_issued - has the guest issued a barrier on @v? Asks KVM, where that knows
 * The vCPU must stand, and @v->lock is held.
 */
void mitigation_read_issued(struct mitigation *m, struct mitigation_vcpu *v);
/**
 * mitigation_give_issued - tell KVM that it has, if so; the vCPU must stand, and @v->lock is held
 * Return: 0, or -EIO with the text in @e
 */
int mitigation_give_issued(const struct mitigation *m, struct mitigation_vcpu *v, struct err *e);

/**
 * mitigation_saw_barrier - the guest has issued a barrier on vCPU @id; the first one since its boot
 * is told, and logged once. @what: how the log calls it
 */
void mitigation_saw_barrier(struct mitigation *m, uint32_t id, const char *what);

/** mitigation_redecide - @v->decision from @v's report, value and promise; @v->lock is held */
void mitigation_redecide(const struct mitigation *m, struct mitigation_vcpu *v);
/**
 * mitigation_give_value - where nothing is held, SPEC_CTRL is the guest's own and KVM has to be
 * told what it was on another host; @v->lock is held. Return: 0; -EIO when KVM does not keep it
 */
int mitigation_give_value(const struct mitigation *m, struct mitigation_vcpu *v, struct err *e);
/**
 * mitigation_try_arch_cap - does KVM keep the contract's ARCH_CAPABILITIES, or must we answer?
 * Before the first VM. @cpuid: the guest's
 */
void mitigation_try_arch_cap(struct mitigation *m, const struct cpuid_set *cpuid);
/** mitigation_read_cpuid - the part of the guest's CPUID that the engine looks at */
void mitigation_read_cpuid(struct mitigation *m, struct cpuid_set *cpuid);

/**
 * mitigation_apply - decide for @v again and hold the result; @v->lock is held
 * @why: what the log says about the cause
 * @said: what the caller is to log once it holds no lock
 * Return: does the caller owe listeners @*what?
 */
bool mitigation_apply(struct mitigation *m, struct mitigation_vcpu *v, const char *why,
		      enum mitigation_change *what, struct log_lines *said);
/**
 * mitigation_hold - as decided before, with the guest's present value; @v->lock is held
 * @said: as above; a failure is logged once
 * Return: 0 or -errno
 */
int mitigation_hold(struct mitigation *m, struct mitigation_vcpu *v, struct log_lines *said);
void mitigation_notify(struct mitigation *m, uint32_t id, enum mitigation_change what);

#endif
