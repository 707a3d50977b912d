/*
 * The back ends on the RFC's KVM_CAP_FORCE_SPEC_CTRL (v3,
 * 20240410143446.797262-2-chao.gao@intel.com): KVM holds the bits by the processor's "virtualize
 * IA32_SPEC_CTRL", without an exit. The capability covers the whole VM and freezes at the first
 * vCPU. A kernel that also has the virtual MSRs (patches 7 to 10) forces BHI_DIS_S and RRSBA_DIS_S
 * per vCPU at any time, by a write of 0x50000002 with the host's right: that is how we ask for them
 * there, while the guest's own accesses to these MSRs come to us through the MSR filter.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/hold/backend_force.h"
#include "base/bytes.h"
#include "base/err.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/host_facts.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/msr_list.h"
#include "vmm/kvm/vm.h"

/* of the RFC only; 0xe4 is free in every other kernel */
#define KVM_GET_SUPPORTED_FORCE_SPEC_CTRL _IOR(KVMIO, 0xe4, uint64_t)

/*
 * The numbers that the capability is known by: the RFC's, and that of our own series for kernels in
 * which mainline gave the RFC's to another (kernel/6.12).
 */
static const uint32_t known_numbers[] = {BACKEND_FORCE_CAP, 0x5343};

/* RFC v3 patch 1: the only bits that it ever supports */
#define RFC_BITS                                                                     \
	(SPEC_CTRL_IBRS | SPEC_CTRL_STIBP | SPEC_CTRL_SSBD | SPEC_CTRL_RRSBA_DIS_S | \
	 SPEC_CTRL_BHI_DIS_S)

int force_enable(const struct backend *b, int fd, uint64_t mask, uint64_t value)
{
	const struct kvm_enable_cap cap = {.cap = b->force_cap, .args = {mask, value}};

	return ioctl(fd, KVM_ENABLE_CAP, &cap) < 0 ? -errno : 0;
}

int force_keeps_rules(const struct backend *b, int fd, uint64_t bits)
{
	if (force_enable(b, fd, 0, bits) != -EINVAL) /* a value outside of its mask */
		return -EINVAL;
	return force_enable(b, fd, bits, bits);
}

/*
 * Which number is it here? One that the operator named is taken as it is; of ours, the one that
 * KVM has and that keeps the capability's rules. On return the scratch VM has the bits held.
 */
static int find_number(struct backend *b, const struct kvm *kvm, int vm_fd, uint64_t bits)
{
	int ret = -EINVAL;
	size_t i;

	if (b->force_cap)
		return force_keeps_rules(b, vm_fd, bits);
	for (i = 0; i < ARRAY_SIZE(known_numbers) && ret == -EINVAL; i++) {
		b->force_cap = known_numbers[i];
		if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, (unsigned long)b->force_cap) > 0)
			ret = force_keeps_rules(b, vm_fd, bits);
	}
	if (ret == -EINVAL)
		b->force_cap = 0;
	return ret;
}

static int no_number(const struct backend *b, uint64_t bits, struct backend_trial *t)
{
	char which[64] = "it under each number that testudo knows";

	if (b->force_cap)
		snprintf(which, sizeof(which), "capability %u", b->force_cap);
	snprintf(t->why, sizeof(t->why),
		 "KVM answers the query of KVM_CAP_FORCE_SPEC_CTRL (bits %#llx) but refuses %s: it "
		 "has another number on this kernel; name it with --kvm-cap-force-spec-ctrl",
		 (unsigned long long)bits, which);
	return -ENOTSUP;
}

/*
 * The query is code of the system descriptor; the RFC's documentation calls it a VM ioctl. A kernel
 * that follows the text is asked, too, but a VM, whose end takes a millisecond, is made only where
 * something has the capability's number.
 */
static int query(const struct backend *b, const struct kvm *kvm, struct backend_scratch *s,
		 uint64_t *bits)
{
	const unsigned long number = b->force_cap ? b->force_cap : BACKEND_FORCE_CAP;
	int ret;

	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_FORCE_SPEC_CTRL, bits) < 0 &&
	    ioctl(kvm->fd, KVM_CHECK_EXTENSION, number) <= 0)
		return -ENOTSUP;
	ret = scratch_open_vm(s, kvm);
	if (!ret && !*bits && ioctl(s->vm_fd, KVM_GET_SUPPORTED_FORCE_SPEC_CTRL, bits) < 0 &&
	    ioctl(kvm->fd, KVM_GET_SUPPORTED_FORCE_SPEC_CTRL, bits) < 0)
		ret = -ENOTSUP;
	return ret;
}

/*
 * With the capability on, 0x48 is the guest's view: after a write of 0 it must read 0. A kernel
 * that shows the forced bits there, or refuses the enabling, is not what its query said.
 */
static int try_force(struct backend *b, const struct kvm *kvm, struct backend_scratch *s,
		     uint64_t bits, struct backend_trial *t)
{
	uint64_t seen = 0;
	int ret = find_number(b, kvm, s->vm_fd, bits);

	t->suspect = true;
	if (ret == -EINVAL)
		return no_number(b, bits, t);
	if (!ret)
		ret = scratch_open_vcpu(s);
	if (!ret)
		ret = backend_set_msr(s->vcpu_fd, MSR_IA32_SPEC_CTRL, 0);
	if (!ret)
		ret = backend_get_msr(s->vcpu_fd, MSR_IA32_SPEC_CTRL, &seen);
	if (!ret && !seen) {
		t->suspect = false;
		return 0;
	}
	snprintf(t->why, sizeof(t->why),
		 "KVM took capability %u, but SPEC_CTRL of a vCPU is then %#llx after a write of 0 "
		 "(%s): it does not virtualize the MSR",
		 b->force_cap, (unsigned long long)seen, ret ? strerror(-ret) : "no error");
	return -ENOTSUP;
}

int force_probe(struct backend *b, const struct kvm *kvm, struct backend_scratch *s,
		struct backend_trial *t)
{
	uint64_t bits = 0;
	int ret;

	ret = query(b, kvm, s, &bits);
	if (ret < 0) {
		snprintf(t->why, sizeof(t->why),
			 "this KVM has no KVM_CAP_FORCE_SPEC_CTRL (its query ioctl is unknown)");
		return ret;
	}
	if (bits & ~RFC_BITS) {
		t->suspect = true;
		snprintf(t->why, sizeof(t->why),
			 "the query ioctl answers with bits %#llx, which the RFC does not know: it "
			 "is another kernel's ioctl",
			 (unsigned long long)bits);
		return -ENOTSUP;
	}
	if (!bits) {
		snprintf(t->why, sizeof(t->why),
			 "KVM has KVM_CAP_FORCE_SPEC_CTRL, the processor does not virtualize "
			 "IA32_SPEC_CTRL");
		return -ENOTSUP;
	}
	ret = try_force(b, kvm, s, bits, t);
	if (ret < 0)
		return ret;
	b->can_force = bits;
	return 0;
}

static int probe_force(struct backend *b, const struct kvm *kvm, struct backend_trial *t)
{
	struct backend_scratch s = {-1, -1};
	int ret = force_probe(b, kvm, &s, t);

	scratch_retire(b, &s);
	if (!ret)
		snprintf(t->why, sizeof(t->why),
			 "KVM holds the bits for the whole VM by capability %u; SPEC_CTRL reads "
			 "back as the guest's view",
			 b->force_cap);
	return ret;
}

/* Patches 9 and 10: what KVM makes of a report depends on what the host has. */
static uint64_t forced_by_report(const struct kvm *kvm, uint64_t can_force)
{
	const uint64_t caps = host_arch_cap(kvm);
	uint64_t bits = 0;

	if (!(caps & ARCH_CAP_BHI_NO))
		bits |= SPEC_CTRL_BHI_DIS_S;
	if (caps & ARCH_CAP_RRSBA)
		bits |= SPEC_CTRL_RRSBA_DIS_S;
	return bits & can_force;
}

static int probe_force_vm(struct backend *b, const struct kvm *kvm, struct backend_trial *t)
{
	int ret;

	if (!msr_list_has(kvm, MSR_VIRTUAL_ENUMERATION)) {
		snprintf(t->why, sizeof(t->why),
			 "this KVM has no virtual mitigation MSRs (%#x is not in its list)",
			 MSR_VIRTUAL_ENUMERATION);
		return -ENOTSUP;
	}
	if (!b->msr_exits) {
		snprintf(t->why, sizeof(t->why),
			 "this KVM has no MSR filter, by which testudo sees the guest's reports");
		return -ENOTSUP;
	}
	ret = probe_force(b, kvm, t);
	if (ret < 0)
		return ret;
	b->run_time_bits = forced_by_report(kvm, b->can_force);
	snprintf(t->why, sizeof(t->why),
		 "KVM holds the bits; %#llx of them per vCPU at any time through its virtual MSRs, "
		 "the others for the whole VM by capability %u",
		 (unsigned long long)b->run_time_bits, b->force_cap);
	return 0;
}

static int force_setup(const struct backend *b, struct vm *vm, uint64_t mask, uint64_t value,
		       struct err *e)
{
	int ret = mask ? force_enable(b, vm->fd, mask, value) : 0;

	if (!ret)
		return 0;
	return err_set(e, ret,
		       "KVM refuses to hold SPEC_CTRL bits %#llx at %#llx (capability %u): %s; it "
		       "can hold %#llx",
		       (unsigned long long)mask, (unsigned long long)value, b->force_cap,
		       strerror(-ret), (unsigned long long)b->can_force);
}

void force_read(int vcpu_fd, struct backend_held *held)
{
	held->read_back = false;
	held->known = backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &held->guest) == 0;
	held->effective = (held->guest & ~held->mask) | held->value;
}

int force_write_guest(int vcpu_fd, uint64_t guest, struct backend_held *held, struct err *e)
{
	uint64_t seen = 0;
	int ret = backend_set_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, guest);

	if (!ret)
		ret = backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &seen);
	if (ret < 0)
		return err_set(e, -EIO, "KVM refuses SPEC_CTRL = %#llx of the guest: %s",
			       (unsigned long long)guest, strerror(-ret));
	if (seen != guest)
		return err_set(e, -EBADE,
			       "SPEC_CTRL reads back %#llx after a write of %#llx: this KVM does "
			       "not hold it",
			       (unsigned long long)seen, (unsigned long long)guest);
	held->guest = seen;
	return 0;
}

/* Nothing changes after vm_setup; the caller sees in @held what it got. */
static int force_apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
		       uint64_t guest, struct backend_held *held, struct err *e)
{
	int ret = 0;

	(void)b;
	(void)mask;
	(void)value;
	force_read(vcpu_fd, held);
	/*
	 * The RFC's setter ORs the forced value in without clearing the masked bits: a bit that is
	 * to be off must not be in what is written, or it is on until the guest's next write.
	 */
	if (held->known && held->guest != guest)
		ret = force_write_guest(vcpu_fd, guest & ~(held->mask & ~held->value), held, e);
	held->effective = (held->guest & ~held->mask) | held->value;
	return ret;
}

/* In the order of a restore: each MSR is refused while the one before it says no. */
static int write_report(int vcpu_fd, uint64_t ctrl, struct err *e)
{
	const struct msr_value seq[] = {
		{MSR_VIRTUAL_ENUMERATION, VIRT_ENUM_MITIGATION},
		{MSR_VIRTUAL_MITIGATION_ENUM, MITIGATION_ALL},
		{MSR_VIRTUAL_MITIGATION_CTRL, ctrl},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(seq); i++) {
		uint64_t seen = 0;
		int ret = backend_set_msr(vcpu_fd, seq[i].index, seq[i].value);

		if (!ret)
			ret = backend_get_msr(vcpu_fd, seq[i].index, &seen);
		if (ret < 0)
			return err_set(e, -EIO, "KVM refuses virtual MSR %#x = %#llx: %s",
				       seq[i].index, (unsigned long long)seq[i].value,
				       strerror(-ret));
		if (seen != seq[i].value)
			return err_set(e, -EBADE,
				       "virtual MSR %#x reads back %#llx after a write of %#llx",
				       seq[i].index, (unsigned long long)seen,
				       (unsigned long long)seq[i].value);
	}
	return 0;
}

static int force_vm_apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
			  uint64_t guest, struct backend_held *held, struct err *e)
{
	const uint64_t fixed_mask = held->mask, fixed_value = held->value;
	const uint64_t extra = mask & value & b->run_time_bits & ~fixed_mask;
	uint64_t ctrl = 0;
	int ret;

	if (extra & SPEC_CTRL_BHI_DIS_S)
		ctrl |= MITIGATION_BHB_CLEAR_SEQ_S;
	if (extra & SPEC_CTRL_RRSBA_DIS_S)
		ctrl |= MITIGATION_RETPOLINE_S;
	ret = write_report(vcpu_fd, ctrl, e);
	if (ret < 0)
		return ret;
	held->mask = fixed_mask | extra;
	held->value = fixed_value | extra;
	return force_apply(b, vcpu_fd, mask, value, guest, held, e);
}

const struct backend_ops backend_force = {
	.kind = BACKEND_FORCE_SPEC_CTRL,
	.probe = probe_force,
	.vm_setup = force_setup,
	.vcpu_apply = force_apply,
	.vcpu_read = force_read,
};

const struct backend_ops backend_force_vm = {
	.kind = BACKEND_FORCE_SPEC_CTRL_VM,
	.probe = probe_force_vm,
	.vm_setup = force_setup,
	.vcpu_apply = force_vm_apply,
	.vcpu_read = force_read,
};
