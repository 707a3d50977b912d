/* IA32_SPEC_CTRL: the names of its bits, and which of them a CPU enumerates. */
#include "msr/spec_ctrl.h"

#include <stddef.h>

#include "base/bytes.h"
#include "msr/decide.h"
#include "msr/virt_msr.h"

static const struct {
	uint64_t bit;
	const char *name;
} names[] = {
	{SPEC_CTRL_IBRS, "IBRS"},
	{SPEC_CTRL_STIBP, "STIBP"},
	{SPEC_CTRL_SSBD, "SSBD"},
	{SPEC_CTRL_IPRED_DIS_U, "IPRED_DIS_U"},
	{SPEC_CTRL_IPRED_DIS_S, "IPRED_DIS_S"},
	{SPEC_CTRL_RRSBA_DIS_U, "RRSBA_DIS_U"},
	{SPEC_CTRL_RRSBA_DIS_S, "RRSBA_DIS_S"},
	{SPEC_CTRL_PSFD, "PSFD"},
	{SPEC_CTRL_DDPD_U, "DDPD_U"},
	{SPEC_CTRL_BHI_DIS_S, "BHI_DIS_S"},
};

/* SDM vol.4 MSR 48H: what enumerates each bit on Intel. AMD's enumeration has the same bits. */
static const struct {
	uint32_t cpuid;
	uint64_t bits;
} by_7_0_edx[] =
	{
		/* STIBP may be written, to no effect, wherever the MSR exists */
		{CPUID_BIT(7_0_EDX, spec_ctrl), SPEC_CTRL_IBRS | SPEC_CTRL_STIBP},
		{CPUID_BIT(7_0_EDX, stibp), SPEC_CTRL_STIBP},
		{CPUID_BIT(7_0_EDX, ssbd), SPEC_CTRL_SSBD},
},
  by_7_2_edx[] =
	  {
		  {CPUID_BIT(7_2_EDX, psfd), SPEC_CTRL_PSFD},
		  {CPUID_BIT(7_2_EDX, ipred_ctrl), SPEC_CTRL_IPRED_DIS_U | SPEC_CTRL_IPRED_DIS_S},
		  {CPUID_BIT(7_2_EDX, rrsba_ctrl), SPEC_CTRL_RRSBA_DIS_U | SPEC_CTRL_RRSBA_DIS_S},
		  {CPUID_BIT(7_2_EDX, ddpd_u), SPEC_CTRL_DDPD_U},
		  {CPUID_BIT(7_2_EDX, bhi_ctrl), SPEC_CTRL_BHI_DIS_S},
},
  by_80000008_ebx[] = {
	  {CPUID_BIT(80000008_0_EBX, ibrs), SPEC_CTRL_IBRS},
	  {CPUID_BIT(80000008_0_EBX, amd_stibp), SPEC_CTRL_STIBP},
	  {CPUID_BIT(80000008_0_EBX, amd_ssbd), SPEC_CTRL_SSBD},
	  {CPUID_BIT(80000008_0_EBX, amd_psfd), SPEC_CTRL_PSFD},
};

static uint64_t enumerated(uint32_t leaf7_0_edx, uint32_t leaf7_2_edx, uint32_t leaf80000008_ebx)
{
	uint64_t bits = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(by_7_0_edx); i++)
		bits |= leaf7_0_edx & by_7_0_edx[i].cpuid ? by_7_0_edx[i].bits : 0;
	for (i = 0; i < ARRAY_SIZE(by_7_2_edx); i++)
		bits |= leaf7_2_edx & by_7_2_edx[i].cpuid ? by_7_2_edx[i].bits : 0;
	for (i = 0; i < ARRAY_SIZE(by_80000008_ebx); i++)
		bits |= leaf80000008_ebx & by_80000008_ebx[i].cpuid ? by_80000008_ebx[i].bits : 0;
	return bits;
}

uint64_t spec_ctrl_legal(const struct guest_contract *guest)
{
	/* The MSR exists by KVM's rule: IBRS on Intel, any of three bits on AMD. */
	const uint32_t amd = CPUID_BIT(80000008_0_EBX, ibrs) |
			     CPUID_BIT(80000008_0_EBX, amd_stibp) |
			     CPUID_BIT(80000008_0_EBX, amd_ssbd);

	if (!(guest->leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl)) &&
	    !(guest->leaf80000008_ebx & amd))
		return 0;
	return enumerated(guest->leaf7_0_edx, guest->leaf7_2_edx, guest->leaf80000008_ebx);
}

uint64_t spec_ctrl_host_bits(const struct host_facts *host)
{
	return enumerated(host->leaf7_0_edx, host->leaf7_2_edx, 0);
}

const char *spec_ctrl_bit_name(uint64_t bit)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].bit == bit)
			return names[i].name;
	return NULL;
}
