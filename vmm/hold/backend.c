#include "vmm/hold/backend.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "msr/msr.h"
#include "vmm/kvm/kvm.h"

/* Best first. */
static const struct backend_ops *const rows[BACKEND_ROWS] = {
	&backend_force_vcpu, &backend_force_vm, &backend_force, &backend_filter, &backend_none,
};

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int backend_get_msr(int vcpu_fd, uint32_t index, uint64_t *value)
{
	struct one_msr m = {.head.nmsrs = 1, .entry.index = index};
	int ret = ioctl(vcpu_fd, KVM_GET_MSRS, &m);

	if (ret < 0)
		return -errno;
	if (ret != 1)
		return -ENXIO;
	*value = m.entry.data;
	return 0;
}

int backend_set_msr(int vcpu_fd, uint32_t index, uint64_t value)
{
	struct one_msr m = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
	int ret = ioctl(vcpu_fd, KVM_SET_MSRS, &m);

	if (ret < 0)
		return -errno;
	return ret == 1 ? 0 : -ENXIO;
}

int scratch_open_vm(struct backend_scratch *s, const struct kvm *kvm)
{
	/* a vCPU without a local APIC makes KVM patch its own code, which takes milliseconds */
	const struct kvm_enable_cap lapic = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	s->vcpu_fd = -1;
	do
		s->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (s->vm_fd < 0 && errno == EINTR);
	if (s->vm_fd < 0)
		return -errno;
	(void)!ioctl(s->vm_fd, KVM_ENABLE_CAP, &lapic); /* slower without, no more */
	return 0;
}

int scratch_open_vcpu(struct backend_scratch *s)
{
	s->vcpu_fd = ioctl(s->vm_fd, KVM_CREATE_VCPU, 0);
	return s->vcpu_fd < 0 ? -errno : 0;
}

void scratch_retire(struct backend *b, struct backend_scratch *s)
{
	if (s->vm_fd >= 0) /* one of each trial at most, so there is room */
		b->retired[b->n_retired++] = *s;
	s->vm_fd = s->vcpu_fd = -1;
}

void backend_close_scratch(struct backend *b)
{
	int fds[2 * BACKEND_TRIALS];
	unsigned int n = 0;

	while (b->n_retired) {
		const struct backend_scratch *s = &b->retired[--b->n_retired];

		if (s->vcpu_fd >= 0)
			fds[n++] = s->vcpu_fd;
		fds[n++] = s->vm_fd;
	}
	if (n)
		closer_close(&b->closer, fds, n);
}

void backend_fini(struct backend *b)
{
	backend_close_scratch(b);
	closer_wait(&b->closer);
}

struct backend_facts backend_facts(const struct backend *b)
{
	return (struct backend_facts) {
		.kind = b->ops->kind,
		.can_force = b->can_force,
		.no_msr_exits = !b->msr_exits,
		.barrier = b->barrier,
	};
}

bool backend_keeps(const struct backend *b, const struct cpuid_set *cpuid, uint32_t index,
		   uint64_t value)
{
	AUTO_FREE struct kvm_cpuid2 *c = kvm_cpuid_from_set(cpuid);
	uint64_t seen = ~value;
	int vcpu_fd = -1;
	unsigned int i;

	for (i = 0; i < b->n_retired && vcpu_fd < 0; i++)
		vcpu_fd = b->retired[i].vcpu_fd;
	return c && vcpu_fd >= 0 && ioctl(vcpu_fd, KVM_SET_CPUID2, c) == 0 &&
	       backend_set_msr(vcpu_fd, index, value) == 0 &&
	       backend_get_msr(vcpu_fd, index, &seen) == 0 && seen == value;
}

static bool has_msr_exits(const struct kvm *kvm)
{
	return ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_USER_SPACE_MSR) > 0 &&
	       ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_MSR_FILTER) > 0;
}

static const char *no_vm_cure(int ret)
{
	return ret == -EMFILE ? "raise the limit of open files (ulimit -n)"
			      : "see the kernel's log";
}

static int try_barriers(struct backend *b, const struct kvm *kvm, struct err *e)
{
	const int ret = backend_try_barriers(b, kvm);

	return ret < 0 ? err_set(e, ret, "probing barriers between vCPUs: %s; %s", strerror(-ret),
				 no_vm_cure(ret))
		       : 0;
}

int backend_probe(struct backend *b, const struct kvm *kvm, uint32_t force_cap, struct err *e)
{
	size_t i;

	memset(b, 0, sizeof(*b));
	b->force_cap = force_cap;
	b->msr_exits = has_msr_exits(kvm);
	for (i = 0; i < ARRAY_SIZE(rows) && !b->ops; i++) {
		struct backend_trial *t = &b->trial[b->n_trials++];
		int ret;

		t->name = backend_name(rows[i]->kind);
		b->can_force = b->run_time_bits = 0;
		ret = rows[i]->probe ? rows[i]->probe(b, kvm, t) : 0;
		if (ret < 0 && ret != -ENOTSUP)
			return err_set(e, ret, "probing back end %s: %s; %s", t->name,
				       strerror(-ret), no_vm_cure(ret));
		t->usable = ret == 0;
		t->can_force = b->can_force;
		if (t->usable)
			b->ops = rows[i];
	}
	return try_barriers(b, kvm, e);
}

/* ---- none: SPEC_CTRL is the guest's own ---- */

static int none_apply(const struct backend *b, int vcpu_fd, uint64_t mask, uint64_t value,
		      uint64_t guest, struct backend_held *held, struct err *e)
{
	(void)b;
	(void)mask;
	(void)value;
	(void)e;
	held->guest = guest;
	backend_none.vcpu_read(vcpu_fd, held);
	return 0;
}

static void none_read(int vcpu_fd, struct backend_held *held)
{
	held->known = held->read_back =
		backend_get_msr(vcpu_fd, MSR_IA32_SPEC_CTRL, &held->guest) == 0;
	held->effective = held->guest;
}

const struct backend_ops backend_none = {
	.kind = BACKEND_NONE,
	.vcpu_apply = none_apply,
	.vcpu_read = none_read,
};
