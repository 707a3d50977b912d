#include "vmm/machine/cpu_msrs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/backend.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/msr_list.h"

#define HEX(x) ((unsigned long long)(x))

/* What is somebody else's. */
static const struct {
	uint32_t first, last;
	const char *cure;
} owned[] = {
	{MSR_IA32_TSC, MSR_IA32_TSC, "it counts; take it out"},
	{MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_ADJUST, "the guest's clock counts by it; take it out"},
	{MSR_IA32_MPERF, MSR_IA32_APERF, "it counts; take it out"},
	{MSR_IA32_TSC_DEADLINE, MSR_IA32_TSC_DEADLINE, "it is the guest's timer; take it out"},
	{MSR_IA32_APIC_BASE, MSR_IA32_APIC_BASE, "testudo sets it; take it out"},
	{MSR_IA32_SPEC_CTRL, MSR_IA32_SPEC_CTRL,
	 "it is the guest's and the mitigation's; name its bits in spec-ctrl of a policy"},
	/* the same register by another name */
	{MSR_AMD_VIRT_SPEC_CTRL, MSR_AMD_VIRT_SPEC_CTRL,
	 "it is the guest's and the mitigation's; name its bits in spec-ctrl of a policy"},
	{MSR_IA32_PRED_CMD, MSR_IA32_PRED_CMD, "it is a command; take it out"},
	{MSR_IA32_FLUSH_CMD, MSR_IA32_FLUSH_CMD, "it is a command; take it out"},
	{MSR_EFER, MSR_EFER, "the boot protocol sets it; take it out"},
	{MSR_VIRTUAL_ENUMERATION, MSR_VIRTUAL_MITIGATION_CTRL,
	 "the mitigation answers it; see virtual-msrs of a policy"},
	/* Hyper-V's and KVM's own: addresses in the guest's memory among them */
	{0x40000000, 0x400001ff, "the guest sets it up with KVM; take it out"},
	{0x4b564d00, 0x4b564dff, "the guest sets it up with KVM; take it out"},
};

static int check(const char *name, uint32_t index, const struct kvm *kvm, struct err *e)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(owned); i++)
		if (index >= owned[i].first && index <= owned[i].last)
			return err_set(e, -EINVAL,
				       "--cpu %s: msr_modifiers: addr %#x is not a template's to "
				       "set: %s",
				       name, index, owned[i].cure);
	if (!kvm || msr_list_has(kvm, index) || msr_list_has_feature(kvm, index))
		return 0;
	return err_set(e, -ENOTSUP,
		       "--cpu %s: msr_modifiers: addr %#x: this host's KVM does not list this MSR; "
		       "take it out, or use a host that has it",
		       name, index);
}

int cpu_msrs_init(struct cpu_msrs *m, const char *name, const struct msr_template_op *op,
		  unsigned int n, const struct kvm *kvm, struct err *e)
{
	unsigned int i;
	int ret;

	memset(m, 0, sizeof(*m));
	if (!n)
		return 0;
	m->name = strdup(name);
	m->op = calloc(n, sizeof(*m->op));
	if (!m->name || !m->op)
		return err_no_memory(e);
	for (i = 0; i < n; i++) {
		if (op[i].index == MSR_IA32_ARCH_CAPABILITIES)
			continue;
		ret = check(name, op[i].index, kvm, e);
		if (ret < 0)
			return ret;
		m->op[m->n++] = op[i];
	}
	return 0;
}

void cpu_msrs_fini(struct cpu_msrs *m)
{
	free(m->name);
	free(m->op);
	memset(m, 0, sizeof(*m));
}

/* A write of what is there already is skipped: not every MSR that can be read takes one. */
static int set_one(const struct cpu_msrs *m, const struct msr_template_op *op, uint32_t id,
		   int vcpu_fd, struct err *e)
{
	uint64_t old = 0, seen = 0, want;
	int ret = backend_get_msr(vcpu_fd, op->index, &old);

	want = template_apply_msr(op, 1, op->index, old);
	if (!ret && want == old)
		return 0;
	if (!ret)
		ret = backend_set_msr(vcpu_fd, op->index, want);
	if (!ret)
		ret = backend_get_msr(vcpu_fd, op->index, &seen);
	if (ret < 0)
		return err_set(e, -ENOTSUP,
			       "--cpu %s: msr_modifiers: addr %#x: KVM does not take %#llx on vCPU "
			       "%u; give bits that this host has",
			       m->name, op->index, HEX(want), id);
	if (seen != want)
		return err_set(e, -ENOTSUP,
			       "--cpu %s: msr_modifiers: addr %#x: KVM does not keep %#llx on vCPU "
			       "%u (reads back %#llx); give bits that this host has",
			       m->name, op->index, HEX(want), id, HEX(seen));
	return 0;
}

int cpu_msrs_apply(const struct cpu_msrs *m, uint32_t id, int vcpu_fd, struct err *e)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < m->n; i++)
		ret = set_one(m, &m->op[i], id, vcpu_fd, e);
	return ret;
}
