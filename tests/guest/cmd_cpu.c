/* cpuid leaf= subleaf=, rdmsr idx=, wrmsr idx= value=: one look at the processor. */
#include "tests/guest/guest.h"

const char *cmd_cpuid(void)
{
	uint32_t leaf = (uint32_t)opt_u64("leaf", 0), subleaf = (uint32_t)opt_u64("subleaf", 0);
	struct cpuid_regs r = cpuid(leaf, subleaf);

	print("cpuid leaf=0x%x subleaf=0x%x eax=0x%08x ebx=0x%08x ecx=0x%08x edx=0x%08x\n", leaf,
	      subleaf, r.eax, r.ebx, r.ecx, r.edx);
	return NULL;
}

const char *cmd_rdmsr(void)
{
	uint32_t index = (uint32_t)opt_u64("idx", 0);
	uint64_t value;

	if (rdmsr_safe(index, &value))
		print("rdmsr idx=0x%x value=0x%lx\n", index, value);
	else
		print("rdmsr idx=0x%x fault\n", index);
	return NULL;
}

const char *cmd_wrmsr(void)
{
	uint32_t index = (uint32_t)opt_u64("idx", 0);
	uint64_t value = opt_u64("value", 0);

	if (wrmsr_safe(index, value))
		print("wrmsr idx=0x%x value=0x%lx ok\n", index, value);
	else
		print("wrmsr idx=0x%x value=0x%lx fault\n", index, value);
	return cmd_rdmsr();
}
