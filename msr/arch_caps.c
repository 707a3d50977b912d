/* IA32_ARCH_CAPABILITIES bit by bit: the table of its bits, and levelling two values by it. */
#include "msr/arch_caps.h"

#include <stddef.h>

#include "base/bytes.h"

#define SRC_SDM "SDM vol.4 table 2-2, MSR 10AH"
#define SRC_XEN "Xen cpufeatureset.h: levelled by OR"
#define SRC_KVM "Linux arch/x86/kvm/x86.c, KVM_SUPPORTED_ARCH_CAP: never offered"
#define SRC_ITS "Linux hw-vuln/indirect-target-selection.rst: reserved for VMMs"
#define SRC_RFC "RFC v3, 20240410143446.797262-8-chao.gao@intel.com"

static const struct arch_cap_bit bits[] = {
#define ARCH_CAP(name, bit, merge, why, source) {#name, bit, merge, why, source},
#include "msr/arch_caps.def"
#undef ARCH_CAP
};

const struct arch_cap_bit *arch_cap_bits(unsigned int *n)
{
	*n = ARRAY_SIZE(bits);
	return bits;
}

static uint64_t bits_of(enum merge_rule merge)
{
	uint64_t mask = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bits); i++)
		if (bits[i].merge == merge)
			mask |= 1ULL << bits[i].bit;
	return mask;
}

uint64_t arch_cap_merge(uint64_t a, uint64_t b)
{
	return (a & b & bits_of(MERGE_AND)) | ((a | b) & bits_of(MERGE_OR));
}

uint64_t arch_cap_warnings(void)
{
	return bits_of(MERGE_OR);
}

uint64_t arch_cap_lost(uint64_t guest, uint64_t host)
{
	/* Warnings can be shown on any host; what is the VMM's own does not come from the host. */
	return guest & ~host & ~bits_of(MERGE_OR) & ~bits_of(MERGE_SPECIAL);
}
