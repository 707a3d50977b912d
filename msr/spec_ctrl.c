/* IA32_SPEC_CTRL: the names of its bits, and which of them a CPU enumerates. */
#include "msr/spec_ctrl.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "msr/contract.h"

#define BIT(name)   SPEC_CTRL_##name, #name
#define EDX_0(name) CPUID_BIT(7_0_EDX, name)
#define EDX_2(name) CPUID_BIT(7_2_EDX, name)
#define EBX_8(name) CPUID_BIT(80000008_0_EBX, name)

/*
 * One row for each bit: its name, and what of CPUID says that it is there, any of the three. SDM
 * vol.4 MSR 48H for leaf 7; AMD APM vol.3 appendix E for 8000_0008H, where AMD enumerates the same
 * bits. A new bit's enumeration is a line of cpuid/features.def first.
 */
static const struct {
	uint64_t bit;
	const char *name;
	uint32_t leaf7_0_edx, leaf7_2_edx, leaf80000008_ebx;
} bits[] = {
	{BIT(IBRS), EDX_0(spec_ctrl), 0, EBX_8(ibrs)},
	/* may be written, to no effect, wherever the MSR exists */
	{BIT(STIBP), EDX_0(spec_ctrl) | EDX_0(stibp), 0, EBX_8(amd_stibp)},
	{BIT(SSBD), EDX_0(ssbd), 0, EBX_8(amd_ssbd)},
	{BIT(IPRED_DIS_U), 0, EDX_2(ipred_ctrl), 0},
	{BIT(IPRED_DIS_S), 0, EDX_2(ipred_ctrl), 0},
	{BIT(RRSBA_DIS_U), 0, EDX_2(rrsba_ctrl), 0},
	{BIT(RRSBA_DIS_S), 0, EDX_2(rrsba_ctrl), 0},
	{BIT(PSFD), 0, EDX_2(psfd), EBX_8(amd_psfd)},
	{BIT(DDPD_U), 0, EDX_2(ddpd_u), 0},
	{BIT(BHI_DIS_S), 0, EDX_2(bhi_ctrl), 0},
};

static uint64_t enumerated(uint32_t leaf7_0_edx, uint32_t leaf7_2_edx, uint32_t leaf80000008_ebx)
{
	uint64_t found = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bits); i++)
		if ((leaf7_0_edx & bits[i].leaf7_0_edx) || (leaf7_2_edx & bits[i].leaf7_2_edx) ||
		    (leaf80000008_ebx & bits[i].leaf80000008_ebx))
			found |= bits[i].bit;
	return found;
}

uint64_t spec_ctrl_legal(const struct guest_contract *guest)
{
	/* The MSR exists by KVM's rule: IBRS on Intel, any of three bits on AMD. */
	const uint32_t amd = EBX_8(ibrs) | EBX_8(amd_stibp) | EBX_8(amd_ssbd);

	if (!(guest->leaf7_0_edx & EDX_0(spec_ctrl)) && !(guest->leaf80000008_ebx & amd))
		return 0;
	return enumerated(guest->leaf7_0_edx, guest->leaf7_2_edx, guest->leaf80000008_ebx);
}

uint64_t spec_ctrl_shown(const struct guest_contract *guest)
{
	const bool stibp =
		(guest->leaf7_0_edx & EDX_0(stibp)) || (guest->leaf80000008_ebx & EBX_8(amd_stibp));

	return spec_ctrl_legal(guest) & ~(stibp ? 0 : SPEC_CTRL_STIBP);
}

uint64_t spec_ctrl_host_bits(const struct host_facts *host)
{
	return enumerated(host->leaf7_0_edx, host->leaf7_2_edx, 0);
}

const char *spec_ctrl_bit_name(uint64_t bit)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bits); i++)
		if (bits[i].bit == bit)
			return bits[i].name;
	return NULL;
}
