/*
 * The back end on stock KVM: the MSR filter denies 0x48 to the guest, the VMM keeps the guest's
 * value and gives KVM the guest's value with the forced bits in it. KVM then loads that at each
 * entry. KVM_GET_MSRS gives what is in effect here, not the guest's view.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/backend.h"
#include "vmm/kvm/kvm.h"

/*
 * KVM tries the value on the processor; whether it was kept is another question: read it back.
 * Return: KVM took @value; @kept: what it then had of it
 */
static bool try_value(int vcpu_fd, uint64_t value, uint64_t *kept)
{
	uint64_t seen = 0;

	if (backend_set_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, value) < 0)
		return false;
	if (backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &seen) < 0 || seen & ~value)
		seen = 0; /* what is not ours there is not to be trusted */
	*kept = seen;
	return true;
}

/* All bits at once, which answers for a KVM that keeps all or none; else one by one. */
static void try_bits(struct backend *b, int vcpu_fd, struct backend_trial *t)
{
	uint64_t dropped = 0, kept = 0, left;

	if (try_value(vcpu_fd, SPEC_CTRL_ALL, &kept) && (!kept || kept == SPEC_CTRL_ALL)) {
		b->can_force = kept;
		dropped = SPEC_CTRL_ALL & ~kept;
	} else {
		for (left = SPEC_CTRL_ALL; left; left &= left - 1) {
			const uint64_t bit = left & -left;

			if (!try_value(vcpu_fd, bit, &kept))
				continue;
			b->can_force |= kept;
			dropped |= bit & ~kept;
		}
	}
	if (b->can_force)
		snprintf(t->why, sizeof(t->why),
			 "KVM keeps what is written to SPEC_CTRL (read back); each access of the "
			 "guest to it leaves KVM");
	else if (dropped)
		snprintf(t->why, sizeof(t->why),
			 "KVM accepts %#llx for SPEC_CTRL but does not keep it (reads back 0): "
			 "nothing can be held",
			 (unsigned long long)dropped);
	else
		snprintf(t->why, sizeof(t->why), "KVM accepts no bit of SPEC_CTRL on this host");
}

static int probe_filter(struct backend *b, const struct kvm *kvm, struct backend_trial *t)
{
	struct backend_scratch s = {-1, -1};
	int ret;

	if (!b->msr_exits) {
		snprintf(t->why, sizeof(t->why), "this KVM has no MSR filter; it came with 5.10");
		return -ENOTSUP;
	}
	ret = scratch_open_vm(&s, kvm);
	if (!ret)
		ret = scratch_open_vcpu(&s);
	if (!ret)
		try_bits(b, s.vcpu_fd, t);
	scratch_retire(b, &s);
	if (ret < 0)
		return ret;
	b->run_time_bits = ~UINT64_C(0);
	return b->can_force ? 0 : -ENOTSUP;
}

static void filter_read(int vcpu_fd, struct backend_held *held)
{
	held->known = held->read_back =
		backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &held->effective) == 0;
}

static bool was_verified(const struct backend_held *held, uint64_t value)
{
	unsigned int i;

	for (i = 0; i < held->n_verified; i++)
		if (held->verified[i] == value)
			return true;
	return false;
}

static int verify(int vcpu_fd, uint64_t want, struct backend_held *held, struct err *e)
{
	filter_read(vcpu_fd, held);
	if (!held->known || held->effective != want)
		return err_set(e, -EBADE,
			       "SPEC_CTRL reads back %#llx after a write of %#llx: this KVM does "
			       "not hold it",
			       (unsigned long long)held->effective, (unsigned long long)want);
	if (held->n_verified < ARRAY_SIZE(held->verified))
		held->verified[held->n_verified++] = want;
	return 0;
}

static int filter_apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
			uint64_t guest, struct backend_held *held, struct err *e)
{
	const uint64_t want = (guest & ~mask) | value;
	int ret = backend_set_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, want);

	(void)b;
	if (ret < 0)
		return err_set(e, -EIO, "KVM refuses SPEC_CTRL = %#llx: %s",
			       (unsigned long long)want, strerror(-ret));
	if (!was_verified(held, want))
		ret = verify(vcpu_fd, want, held, e);
	held->effective = ret ? held->effective : want;
	held->guest = guest;
	held->mask = mask;
	held->value = value;
	return ret;
}

const struct backend_ops backend_filter = {
	.kind = BACKEND_MSR_FILTER,
	.denies_spec_ctrl = true,
	.init_clears = true,
	.probe = probe_filter,
	.vcpu_apply = filter_apply,
	.vcpu_read = filter_read,
};
