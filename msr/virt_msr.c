/*
 * The guest's accesses to IA32_SPEC_CTRL and the virtual mitigation MSRs. The rules for #GP are
 * those of the RFC's KVM, but a CTRL bit is legal when it was offered, not when KVM knows it: a
 * guest that follows the enumeration cannot tell, one that does not is told.
 */
#include "msr/virt_msr.h"

#include <string.h>

#include "msr/msr.h"
#include "msr/spec_ctrl.h"

/* Reading the enumeration is how a guest without anything to report shows that it looked. */
static enum msr_result mark(struct vcpu_report *r, bool enum_read)
{
	const struct vcpu_report old = *r;

	r->aware = true;
	r->enum_read |= enum_read;
	return old.aware == r->aware && old.enum_read == r->enum_read ? MSR_OK : MSR_CHANGED;
}

enum msr_result vcpu_msrs_read(struct vcpu_msrs *m, const struct guest_contract *guest,
			       uint32_t index, uint64_t *value)
{
	const bool offered = guest->virt_enum & VIRT_ENUM_MITIGATION;

	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		if (!spec_ctrl_legal(guest))
			return MSR_GP;
		*value = m->spec_ctrl;
		return MSR_OK;
	case MSR_VIRTUAL_ENUMERATION:
		if (!(guest->arch_cap & ARCH_CAP_VIRTUAL_ENUM))
			return MSR_GP;
		*value = guest->virt_enum;
		return mark(&m->report, false);
	case MSR_VIRTUAL_MITIGATION_ENUM:
		if (!offered)
			return MSR_GP;
		*value = guest->mitigation_enum;
		return mark(&m->report, true);
	case MSR_VIRTUAL_MITIGATION_CTRL:
		if (!offered)
			return MSR_GP;
		*value = m->report.ctrl;
		return MSR_OK;
	default:
		return MSR_UNKNOWN;
	}
}

static enum msr_result write_spec_ctrl(struct vcpu_msrs *m, const struct guest_contract *guest,
				       uint64_t value)
{
	const uint64_t legal = spec_ctrl_legal(guest);

	if (!legal || (value & ~(legal | m->spec_ctrl)))
		return MSR_GP;
	m->spec_ctrl = value;
	return MSR_CHANGED;
}

static enum msr_result write_ctrl(struct vcpu_msrs *m, const struct guest_contract *guest,
				  uint64_t value)
{
	struct vcpu_report *r = &m->report;
	const struct vcpu_report old = *r;

	if (!(guest->virt_enum & VIRT_ENUM_MITIGATION) || (value & ~guest->mitigation_enum))
		return MSR_GP;
	r->aware = true;
	r->written = true;
	r->ctrl = value;
	return old.aware && old.written && old.ctrl == value ? MSR_OK : MSR_CHANGED;
}

enum msr_result vcpu_msrs_write(struct vcpu_msrs *m, const struct guest_contract *guest,
				uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		return write_spec_ctrl(m, guest, value);
	case MSR_VIRTUAL_ENUMERATION:
	case MSR_VIRTUAL_MITIGATION_ENUM:
		return MSR_GP; /* read-only */
	case MSR_VIRTUAL_MITIGATION_CTRL:
		return write_ctrl(m, guest, value);
	default:
		return MSR_UNKNOWN;
	}
}

uint64_t pred_cmd_legal(const struct guest_contract *guest, bool sbpb)
{
	const bool ibpb = guest->leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl) ||
			  guest->leaf80000008_ebx & CPUID_BIT(80000008_0_EBX, ibpb);

	return (ibpb ? PRED_CMD_IBPB : 0) | (sbpb ? PRED_CMD_SBPB : 0);
}

void vcpu_msrs_reset(struct vcpu_msrs *m)
{
	memset(m, 0, sizeof(*m));
}

void vcpu_msrs_init(struct vcpu_msrs *m)
{
	m->spec_ctrl = 0;
	vcpu_msrs_starts(m);
}

void vcpu_msrs_starts(struct vcpu_msrs *m)
{
	m->report.enum_read = false;
}
