/*
 * A KVM that is none, for the fuzz target of a machine's saved state and for the program that makes
 * its first inputs: vmm's readers and writers of state are compiled with ioctl() renamed to
 * rig_ioctl(). It takes what it is told and returns it; what it refuses follows from a seed.
 */
#ifndef TESTS_FUZZ_STATE_RIG_H
#define TESTS_FUZZ_STATE_RIG_H

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/vcpu.h"
#include "vmm/machine/vcpu_state.h"
#include "vmm/machine/vm_state.h"
#include "vmm/machine/vm_time.h"

#define RIG_VCPUS    2
#define RIG_CALLS    40 /* different requests that keep something */
#define RIG_MSRS     1024
#define RIG_ROOM     4096 /* of the largest struct, but for MSRs */
#define RIG_KVM_FD   1000
#define RIG_VM_FD    1001
#define RIG_VCPU_FD  1002
#define RIG_LISTED   24
#define RIG_TSC_KHZ  2000000
#define RIG_REQUESTS (RIG_VCPU_FD - RIG_KVM_FD + RIG_VCPUS)

struct rig_kept {
	int fd;
	unsigned long request; /* the SET that matches a GET differs in it: its number is kept */
	uint32_t id;	       /* of a chip */
	uint8_t data[RIG_ROOM];
};

struct rig_kvm {
	uint8_t refuses; /* every n-th call; 0: none */
	unsigned int calls;
	unsigned int n_kept;
	struct rig_kept kept[RIG_CALLS];
	struct {
		int fd;
		uint32_t index;
		uint64_t value;
	} msr[RIG_MSRS];
	unsigned int n_msrs, next_msr; /* where the next one asked for is, as a rule */
};

/* One for the program: an ioctl has no place for a pointer to it. */
struct rig_kvm *rig_kvm(void);
int rig_ioctl(int fd, unsigned long request, ...);

static inline uint32_t rig_listed(unsigned int i)
{
	static const uint32_t indices[RIG_LISTED] = {
		0x10,	    0x48,	0x10a,	    0x174,	0x175,	    0x176,
		0x277,	    0x6e0,	0x38f,	    0x3a,	0x34,	    0x8b,
		0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100,
		0xc0000101, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01, 0x50000002,
	};

	return indices[i];
}

/* The size of what a GET fills and a SET is given, and one number for both. 0: keeps nothing */
static inline size_t rig_size(unsigned long request, unsigned long *both)
{
	static const struct {
		unsigned long get, set;
		size_t size;
	} pairs[] = {
		{KVM_GET_SREGS2, KVM_SET_SREGS2, sizeof(struct kvm_sregs2)},
		{KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs)},
		{KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(struct kvm_xsave)},
		{KVM_GET_XSAVE2, KVM_SET_XSAVE, sizeof(struct kvm_xsave)},
		{KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state)},
		{KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs)},
		{KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs)},
		{KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events)},
		{KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state)},
		{KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, sizeof(struct kvm_irqchip)},
		{KVM_GET_PIT2, KVM_SET_PIT2, sizeof(struct kvm_pit_state2)},
		{KVM_GET_CLOCK, KVM_SET_CLOCK, sizeof(struct kvm_clock_data)},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pairs); i++)
		if (pairs[i].get == request || pairs[i].set == request) {
			*both = pairs[i].set;
			return pairs[i].size;
		}
	return 0;
}

/* vCPUs of a VM, as they are before the state is loaded. */
static inline void rig_machine(struct vm *vm, struct vcpu *vcpus)
{
	uint32_t i;

	memset(vcpus, 0, RIG_VCPUS * sizeof(*vcpus));
	vm->fd = RIG_VM_FD;
	for (i = 0; i < RIG_VCPUS; i++) {
		vcpus[i].id = i;
		vcpus[i].fd = RIG_VCPU_FD + (int)i;
	}
}

#endif
