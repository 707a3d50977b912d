/*
 * IA32_SPEC_CTRL (0x48) and the virtual mitigation MSRs as another kernel's KVM has them: the book
 * of guest view and hardware value of each vCPU, by the mode.
 */
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "shim.h"

bool spec_ctrl_has_rfc(void)
{
	return shim.mode == RFC || shim.mode == RFC_VIRTUAL || shim.mode == RENUMBERED ||
	       shim.mode == VCPU || shim.mode == BAD_CAP || shim.mode == LAX_CAP;
}

/* ---- the book of one vCPU ---- */

static uint64_t held_mask(const struct shim_vcpu *v)
{
	return v->mask | v->extra;
}

static uint64_t held_value(const struct shim_vcpu *v)
{
	return v->value | v->extra;
}

/*
 * RFC: the host's setter sets the shadow and ORs the forced value into the real one. The kernel
 * with the form for vCPUs clears the masked bits first.
 */
void spec_ctrl_set_by_host(struct shim_vcpu *v, uint64_t data)
{
	v->shadow = data;
	if (shim.mode == VCPU)
		data &= ~held_mask(v);
	v->real = spec_ctrl_has_rfc() ? data | held_value(v) : data;
}

/* The processor, with "virtualize IA32_SPEC_CTRL" or without. */
static void set_by_guest(struct shim_vcpu *v, uint64_t data)
{
	v->shadow = data;
	v->real = spec_ctrl_has_rfc() ? (data & ~held_mask(v)) | (v->real & held_mask(v)) : data;
}

/* Patches 9 and 10: what a report makes KVM force; the capability's bits stay the operator's. */
static void set_report(struct shim_vcpu *v, uint64_t ctrl)
{
	uint64_t extra = 0;

	if ((ctrl & MITIGATION_BHB_CLEAR_SEQ_S) && (shim.bits & SPEC_CTRL_BHI_DIS_S) &&
	    !(shim.arch_cap & ARCH_CAP_BHI_NO))
		extra |= SPEC_CTRL_BHI_DIS_S;
	if ((ctrl & MITIGATION_RETPOLINE_S) && (shim.bits & SPEC_CTRL_RRSBA_DIS_S) &&
	    (shim.arch_cap & ARCH_CAP_RRSBA))
		extra |= SPEC_CTRL_RRSBA_DIS_S;
	v->mitigation_ctrl = ctrl;
	v->extra = extra & ~v->mask;
	v->real = (v->shadow & ~held_mask(v)) | held_value(v);
}

/* ---- MSRs by the host's right: KVM_GET_MSRS and KVM_SET_MSRS. Return: taken? ---- */

static bool is_virtual(uint32_t index)
{
	return index >= MSR_VIRTUAL_ENUMERATION && index <= MSR_VIRTUAL_MITIGATION_CTRL;
}

bool spec_ctrl_owns(uint32_t index)
{
	return index == MSR_IA32_SPEC_CTRL || is_virtual(index);
}

bool spec_ctrl_host_set(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		if (shim.mode == MAINLINE)
			return false;
		if (shim.mode == DROPS)
			return true;
		/* KVM tries the value on the processor */
		if (data & ~shim.bits || (data == shim.refuses && v->real))
			return false;
		spec_ctrl_set_by_host(v, data);
		return true;
	case MSR_VIRTUAL_ENUMERATION:
		if (shim.mode != RFC_VIRTUAL || data & ~VIRT_ENUM_MITIGATION)
			return false;
		v->virt_enum = data;
		return true;
	case MSR_VIRTUAL_MITIGATION_ENUM:
		if (shim.mode != RFC_VIRTUAL || data & ~MITIGATION_ALL)
			return false;
		v->mitigation_enum = data;
		return true;
	case MSR_VIRTUAL_MITIGATION_CTRL:
		if (shim.mode != RFC_VIRTUAL || data & ~MITIGATION_ALL)
			return false;
		set_report(v, data);
		return true;
	default:
		return false;
	}
}

bool spec_ctrl_host_get(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	if (index == MSR_IA32_SPEC_CTRL) {
		*data = spec_ctrl_has_rfc() ? v->shadow : v->real;
		return shim.mode != MAINLINE;
	}
	if (shim.mode != RFC_VIRTUAL)
		return false;
	*data = index == MSR_VIRTUAL_ENUMERATION       ? v->virt_enum
		: index == MSR_VIRTUAL_MITIGATION_ENUM ? v->mitigation_enum
						       : v->mitigation_ctrl;
	return true;
}

/* ---- MSRs by the guest: what KVM and the processor do. Return: no #GP? ---- */

bool spec_ctrl_guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	switch (index) {
	case MSR_IA32_SPEC_CTRL:
		*data = spec_ctrl_has_rfc() ? v->shadow : v->real;
		return shim.mode != MAINLINE;
	case MSR_VIRTUAL_ENUMERATION:
		*data = v->virt_enum;
		return shim.mode == RFC_VIRTUAL && (v->arch_cap & ARCH_CAP_VIRTUAL_ENUM);
	case MSR_VIRTUAL_MITIGATION_ENUM:
		*data = v->mitigation_enum;
		return shim.mode == RFC_VIRTUAL && (v->virt_enum & VIRT_ENUM_MITIGATION);
	case MSR_VIRTUAL_MITIGATION_CTRL:
		*data = v->mitigation_ctrl;
		return shim.mode == RFC_VIRTUAL && (v->virt_enum & VIRT_ENUM_MITIGATION);
	default:
		return false;
	}
}

bool spec_ctrl_guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	if (index == MSR_IA32_SPEC_CTRL) {
		if (shim.mode == MAINLINE || data & ~shim.bits)
			return false;
		if (shim.mode != DROPS)
			set_by_guest(v, data);
		return true;
	}
	if (index != MSR_VIRTUAL_MITIGATION_CTRL || shim.mode != RFC_VIRTUAL ||
	    !(v->virt_enum & VIRT_ENUM_MITIGATION) || data & ~MITIGATION_ALL)
		return false;
	set_report(v, data);
	return true;
}
