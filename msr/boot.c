#include "msr/msr.h"

unsigned int msr_boot_values(struct msr_value *out)
{
	unsigned int n = 0;

	out[n++] = (struct msr_value) {MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING};
	out[n++] = (struct msr_value) {MSR_IA32_MTRR_DEF_TYPE,
				       MTRR_DEF_TYPE_ENABLE | MTRR_DEF_TYPE_WRITE_BACK};
	return n;
}
