/*
 * MSRs of the host that is laid over this one: which of them KVM lists there, and those that not
 * every machine has, kept in a book of each vCPU. The guest's own accesses come here too, by the
 * filter. 0x48 is not among them: see shim_spec_ctrl.c.
 */
#include <string.h>

#include "base/bytes.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "shim.h"

#define INTEL 1u
#define AMD   2u

#define MSR_IA32_FEATURE_CONTROL 0x3a
#define MSR_IA32_FLUSH_CMD	 0x10b
#define MSR_IA32_TSX_CTRL	 0x122
#define MSR_AMD_HWCR		 0xc0010015
#define MSR_AMD_DE_CFG		 0xc0011029

#define ARCH_CAP_TSX_CTRL (UINT64_C(1) << 7)
#define PRED_CMD_SBPB	  (UINT64_C(1) << 7)

/* SDM vol.4; APM vol.2; what arch/x86/kvm takes of each */
static const struct row {
	uint32_t index;
	unsigned int of; /* vendors */
	uint64_t reset, bits;
	bool by_guest; /* may it write, too? */
	bool listed, feature;
} rows[] = {
	{MSR_IA32_FEATURE_CONTROL, INTEL, 0, 0x100005, true, true, false},
	{MSR_IA32_PRED_CMD, INTEL | AMD, 0, 0, true, false, false}, /* may_command() */
	{MSR_IA32_ARCH_CAPABILITIES, INTEL | AMD, 0, UINT64_MAX, false, true, true},
	{MSR_IA32_FLUSH_CMD, INTEL, 0, 0, true, false, false},
	{MSR_IA32_TSX_CTRL, INTEL, 0, 3, true, true, false},
	{MSR_AMD_HWCR, AMD, 0, 0x1040000, true, true, false},
	{MSR_AMD_DE_CFG, AMD, 2, 2, false, true, true},
};
_Static_assert(ARRAY_SIZE(rows) <= SHIM_HOST_MAX, "room in struct shim_vcpu");

/*
 * Lists have these on one vendor's machines only: they are a host's, or its performance counters'
 */
static const struct {
	uint32_t first, last;
} not_everywhere[] = {
	{0x3a, 0x3a},	{0xc1, 0xc8},	{0x10a, 0x10b},		  {0x122, 0x122}, {0x186, 0x18d},
	{0x309, 0x30c}, {0x345, 0x345}, {0x38d, 0x390},		  {0x3f1, 0x3f2}, {0x480, 0x4ff},
	{0x560, 0x587}, {0x600, 0x600}, {0xc0010000, 0xc001ffff},
};

static unsigned int vendor(void)
{
	const enum cpu_vendor v = cpu_vendor_from_id(shim.host.facts.vendor_id);

	return v == CPU_VENDOR_AMD || v == CPU_VENDOR_HYGON ? AMD : INTEL;
}

static const struct row *find(uint32_t index)
{
	size_t i;

	for (i = 0; shim.has_host && i < ARRAY_SIZE(rows); i++)
		if (rows[i].index == index)
			return &rows[i];
	return NULL;
}

static bool is_here(const struct row *r)
{
	if (r->index == MSR_IA32_TSX_CTRL && !(shim.arch_cap & ARCH_CAP_TSX_CTRL))
		return false;
	return r->of & vendor();
}

bool host_owns(uint32_t index)
{
	return find(index);
}

static uint64_t reset_value(const struct row *r)
{
	return r->index == MSR_IA32_ARCH_CAPABILITIES ? shim.arch_cap : r->reset;
}

void host_reset_msrs(struct shim_vcpu *v)
{
	size_t i;

	for (i = 0; shim.has_host && i < ARRAY_SIZE(rows); i++)
		v->host_msr[i] = reset_value(&rows[i]);
	if (shim.has_host)
		v->arch_cap = shim.arch_cap;
}

/* Commands do something and keep nothing: the guest's CPUID says which bits there are. */
static uint64_t may_command(const struct shim_vcpu *v, uint32_t index)
{
	uint64_t bits = 0;

	if (index == MSR_IA32_FLUSH_CMD)
		return !!(v->leaf7_0_edx & CPUID_BIT(7_0_EDX, flush_l1d));
	if (v->leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl) ||
	    v->leaf80000008_ebx & CPUID_BIT(80000008_0_EBX, ibpb))
		bits |= PRED_CMD_IBPB;
	if (v->leaf80000021_eax & CPUID_BIT(80000021_0_EAX, sbpb))
		bits |= PRED_CMD_SBPB;
	return bits;
}

static bool is_command(const struct row *r)
{
	return !r->bits;
}

bool host_set(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	const struct row *r = find(index);

	if (!is_here(r))
		return false;
	if (is_command(r))
		return may_command(v, index) && !(data & ~may_command(v, index));
	if (data & ~r->bits)
		return false;
	v->host_msr[r - rows] = data;
	if (index == MSR_IA32_ARCH_CAPABILITIES)
		v->arch_cap = data;
	return true;
}

bool host_get(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	const struct row *r = find(index);

	*data = v->host_msr[r - rows];
	return is_here(r) && !is_command(r);
}

bool host_guest_read(const struct shim_vcpu *v, uint32_t index, uint64_t *data)
{
	if (index == MSR_IA32_ARCH_CAPABILITIES &&
	    !(v->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)))
		return false;
	return host_get(v, index, data);
}

bool host_guest_write(struct shim_vcpu *v, uint32_t index, uint64_t data)
{
	return find(index)->by_guest && host_set(v, index, data);
}

static bool is_everywhere(uint32_t index)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(not_everywhere); i++)
		if (index >= not_everywhere[i].first && index <= not_everywhere[i].last)
			return false;
	return true;
}

uint32_t host_lay_msrs(uint32_t *index, uint32_t n, bool features)
{
	uint32_t i, k = 0;

	for (i = 0; i < n; i++)
		if (is_everywhere(index[i]))
			index[k++] = index[i];
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		if (is_here(&rows[i]) && (features ? rows[i].feature : rows[i].listed))
			index[k++] = rows[i].index;
	return k;
}

bool host_feature_msr(uint32_t index, uint64_t *data)
{
	const struct row *r = find(index);

	if (!r || !r->feature || !is_here(r))
		return false;
	*data = reset_value(r);
	return true;
}

unsigned int host_deny(struct kvm_msr_filter_range *range, uint8_t *bitmap)
{
	unsigned int i, n = 0;

	for (i = 0; shim.has_host && i < ARRAY_SIZE(rows); i++)
		range[n++] = (struct kvm_msr_filter_range) {
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = rows[i].index,
			.nmsrs = 1,
			.bitmap = bitmap,
		};
	return n;
}
