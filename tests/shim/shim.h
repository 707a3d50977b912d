/*
 * What the parts of the preloaded library share: how it was asked to be (the environment), and what
 * it keeps of each VM and vCPU. kvm_shim.c is the door that every ioctl goes through.
 */
#ifndef SHIM_SHIM_H
#define SHIM_SHIM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpuid/host.h"
#include "policy/facts.h"

/* MSRs of the shim's own, for the guest to ask the hardware by: see kvm_shim.c */
#define MSR_SHIM_EFFECTIVE 0x5f000000
#define MSR_SHIM_INITS	   0x5f000001
#define MSR_SHIM_7_2_EDX   0x5f000002

#define SHIM_RANGES   KVM_MSR_FILTER_MAX_RANGES
#define SHIM_HOST_MAX 8 /* MSRs that a host laid over keeps for each vCPU */

#define SHIM_CAP_IBPB	 0x5344
#define SHIM_SPECULATION 0x5343 /* group of attributes of a vCPU */
#define SHIM_ATTR_ISSUED 1
#define BARRIER_COUNTS	 6

enum shim_mode {
	RFC,
	RFC_VIRTUAL,
	RENUMBERED,
	VCPU,
	FILTER,
	MAINLINE,
	DROPS,
	BAD_CAP,
	LAX_CAP,
	N_MODES
};

struct shim_range {
	uint32_t flags, base, n;
	uint8_t bitmap[0x600];
};

struct shim_vm {
	bool exits; /* KVM_MSR_EXIT_REASON_FILTER enabled by the program */
	bool default_deny;
	unsigned int n_ranges, n_vcpus;
	struct shim_range range[SHIM_RANGES];
	uint64_t mask, value; /* of the RFC's capability */
	uint64_t serial;      /* no two VMs have the same */
	uint32_t barriers;    /* args[0] of KVM_CAP_X86_VCPU_IBPB */
	bool issued;	      /* a barrier, by any vCPU's guest */
};

struct shim_vcpu {
	struct shim_vm *vm;
	struct kvm_run *run;
	uint64_t mask, value;  /* of the capability: the VM's, or its own */
	uint64_t shadow, real; /* of 0x48 */
	uint64_t extra;	       /* bits forced by a report inside KVM */
	uint64_t arch_cap, virt_enum, mitigation_enum, mitigation_ctrl;
	uint64_t inits;
	uint64_t serial, count[BARRIER_COUNTS];
	bool issued, ran;
	int cpu;			  /* where it ran last */
	int stats_fd;			  /* ours; 0: none */
	uint64_t host_msr[SHIM_HOST_MAX]; /* in the order of the table in shim_host_msrs.c */
	/* as the program set them for the guest */
	uint32_t leaf7_0_edx, leaf7_2_edx, leaf80000008_ebx, leaf80000021_eax;
};

typedef int (*ioctl_fn)(int, unsigned long, ...);

struct shim {
	pthread_once_t once;
	pthread_mutex_t lock;
	ioctl_fn real;
	enum shim_mode mode;
	uint64_t bits, arch_cap, refuses;
	uint32_t cap, leaf7_2_edx;
	bool look_for_init;
	bool ibpb, ibpb_bare, ibpb_lax; /* KVM_SHIM_IBPB */
	bool has_host;			/* KVM_SHIM_HOST */
	struct host_file host;
};

/* What the program is to find; the library's other names are its own. */
#define SHIM_EXPORT __attribute__((visibility("default")))

extern struct shim shim;

int shim_fail(int err); /* sets errno. Return: -1 */

/* ---- shim_system.c: ioctls of /dev/kvm, and the vCPU's CPUID ---- */

int system_cpuid(int fd, struct kvm_cpuid2 *c);
int system_msrs(int fd, struct kvm_msrs *m);
int system_msr_list(int fd, unsigned long request, struct kvm_msr_list *out);
int vcpu_set_cpuid(int fd, struct shim_vcpu *v, const struct kvm_cpuid2 *c);

/* ---- shim_spec_ctrl.c: 0x48 and the virtual MSRs. Lock held; return: taken, no #GP? ---- */

bool spec_ctrl_has_rfc(void);
bool spec_ctrl_owns(uint32_t index);
void spec_ctrl_set_by_host(struct shim_vcpu *v, uint64_t data);
bool spec_ctrl_host_set(struct shim_vcpu *v, uint32_t index, uint64_t data);
bool spec_ctrl_host_get(const struct shim_vcpu *v, uint32_t index, uint64_t *data);
bool spec_ctrl_guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data);
bool spec_ctrl_guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data);

/* ---- shim_barrier.c: branch predictor barriers per VM ---- */

int barrier_enable(struct shim_vm *vm, const struct kvm_enable_cap *cap);
int barrier_attr(struct shim_vcpu *v, unsigned long request, const struct kvm_device_attr *attr);
bool barrier_guest_write(struct shim_vcpu *v, uint64_t data); /* of PRED_CMD; lock held */
void barrier_load(struct shim_vcpu *v);
int barrier_stats_fd(struct shim_vcpu *v);

/* ---- shim_host.c: CPUID of the host ---- */

/** host_lay_cpuid - what KVM_GET_SUPPORTED_CPUID gives there, from what it gave here */
void host_lay_cpuid(struct cpuid_set *set);

/* ---- shim_host_msrs.c: MSRs of the host, and their book; nothing is owned without a host ---- */

bool host_owns(uint32_t index);
void host_reset_msrs(struct shim_vcpu *v);
bool host_set(struct shim_vcpu *v, uint32_t index, uint64_t data);
bool host_get(const struct shim_vcpu *v, uint32_t index, uint64_t *data);
bool host_guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data);
bool host_guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data);

/** host_lay_msrs - the list of @n MSRs as that host has it. Return: their number, up to @n +
 * SHIM_HOST_MAX */
uint32_t host_lay_msrs(uint32_t *index, uint32_t n, bool features);

/** host_feature_msr - a feature MSR of the system's KVM_GET_MSRS. Return: is it ours? */
bool host_feature_msr(uint32_t index, uint64_t *data);

/**
 * host_deny - ranges for the real filter, so that the guest's accesses come to us. Return: number
 */
unsigned int host_deny(struct kvm_msr_filter_range *range, uint8_t *bitmap);

#endif
