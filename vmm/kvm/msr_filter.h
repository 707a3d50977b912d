/*
 * Which MSR accesses of the guest come to us instead of KVM: a plan, turned into KVM's MSR filter.
 */
#ifndef VMM_KVM_MSR_FILTER_H
#define VMM_KVM_MSR_FILTER_H

#include <stdbool.h>

struct err;

/* What is denied to the guest, so that it exits to us. All false: no filter. */
struct msr_filter {
	bool spec_ctrl; /* 0x48, both ways */
	bool virtual;	/* 0x50000000 to 2: also where KVM is told to ignore unknown MSRs */
	bool arch_cap;	/* reads of 0x10a, where KVM does not keep what the guest is shown */
	bool efer;	/* writes of EFER: a CPU that comes up from INIT must do one */
	bool pred_cmd;	/* writes of PRED_CMD, until the first */
};

/**
 * msr_filter_set - make @f the VM's filter; replaces the one before
 * A new VM's has to be whole and come first of all: see vm.h. May be called on a running VM: each
 * vCPU sees the old filter or the new one, and the caller waits some 15 ms on many hosts. Worth it
 * once, to be rid of a denial that costs more.
 * Source: KVM api.rst 4.97 KVM_X86_SET_MSR_FILTER, 7.21 KVM_CAP_X86_USER_SPACE_MSR
 * Return: 0 or -errno
 */
int msr_filter_set(const struct msr_filter *f, int vm_fd, struct err *e);

#endif
