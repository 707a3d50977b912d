/*
 * The back end on a KVM_CAP_FORCE_SPEC_CTRL that can be enabled for a vCPU at any time, as KVM's
 * maintainers asked for in 2024 (Zmh8NSzd5xK-6urr@google.com) and as our own series has it
 * (kernel/). KVM holds the bits without an exit, both ways, and keeps the guest's value.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "msr/msr.h"
#include "vmm/hold/backend_force.h"

/* The vCPU was made with all bits held for its VM: it must take less, and more again. */
static int try_vcpu(const struct backend *b, int vcpu_fd, struct backend_trial *t)
{
	uint64_t seen = 0;
	int ret = force_enable(b, vcpu_fd, 0, 0);

	if (!ret)
		ret = force_keeps_rules(b, vcpu_fd, b->can_force);
	if (ret < 0) {
		snprintf(t->why, sizeof(t->why),
			 "KVM takes capability %u for a VM only, before its first vCPU",
			 b->force_cap);
		return -ENOTSUP;
	}
	ret = backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &seen);
	if (!ret && !seen)
		return 0;
	t->suspect = true;
	snprintf(t->why, sizeof(t->why),
		 "KVM took capability %u for a vCPU, but its SPEC_CTRL changed from 0 to %#llx "
		 "(%s): the guest would see it",
		 b->force_cap, (unsigned long long)seen, ret ? strerror(-ret) : "no error");
	return -ENOTSUP;
}

static int probe_vcpu(struct backend *b, const struct kvm *kvm, struct backend_trial *t)
{
	struct backend_scratch s = {-1, -1};
	int ret = force_probe(b, kvm, &s, t);

	if (!ret)
		ret = try_vcpu(b, s.vcpu_fd, t);
	scratch_retire(b, &s);
	if (ret < 0)
		return ret;
	b->run_time_bits = ~UINT64_C(0);
	snprintf(t->why, sizeof(t->why),
		 "KVM holds the bits per vCPU and at any time by capability %u; SPEC_CTRL reads "
		 "back as the guest's view",
		 b->force_cap);
	return 0;
}

static int vcpu_apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
		      uint64_t guest, struct backend_held *held, struct err *e)
{
	int ret = force_enable(b, vcpu_fd, mask, value);

	if (ret < 0)
		return err_set(e, -EIO,
			       "KVM refuses to hold SPEC_CTRL bits %#llx at %#llx for a vCPU "
			       "(capability %u): %s; it can hold %#llx",
			       (unsigned long long)mask, (unsigned long long)value, b->force_cap,
			       strerror(-ret), (unsigned long long)b->can_force);
	held->mask = mask;
	held->value = value;
	force_read(vcpu_fd, held);
	if (held->known && held->guest != guest)
		ret = force_write_guest(vcpu_fd, guest, held, e);
	held->effective = (held->guest & ~mask) | value;
	return ret;
}

const struct backend_ops backend_force_vcpu = {
	.kind = BACKEND_FORCE_VCPU,
	.probe = probe_vcpu,
	.vcpu_apply = vcpu_apply,
	.vcpu_read = force_read,
};
