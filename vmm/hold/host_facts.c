#include "vmm/hold/host_facts.h"

#include <cpuid.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "msr/msr.h"
#include "vmm/kvm/kvm.h"

uint64_t host_arch_cap(const struct kvm *kvm)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry.index = MSR_IA32_ARCH_CAPABILITIES};

	return ioctl(kvm->fd, KVM_GET_MSRS, &m) == 1 ? m.entry.data : 0;
}

/* Each leaf costs a VM exit where this host is a guest itself: no more than are looked at. */
static void read_raw(struct cpuid_set *raw)
{
	static const struct {
		uint32_t leaf, subleaf;
		bool indexed;
	} wanted[] = {{0, 0, false}, {1, 0, false}, {7, 0, true}, {7, 2, true}};
	uint32_t max = 0;
	size_t i;

	memset(raw, 0, sizeof(*raw));
	for (i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct cpuid_leaf l = {
			.leaf = wanted[i].leaf,
			.subleaf = wanted[i].subleaf,
			.indexed = wanted[i].indexed,
		};

		if (l.leaf > max)
			continue;
		if (!host_cpuid_of_test || !host_cpuid_of_test(&l))
			__cpuid_count(l.leaf, l.subleaf, l.eax, l.ebx, l.ecx, l.edx);
		if (l.leaf == 0)
			max = l.eax;
		cpuid_add(raw, &l);
	}
}

void host_facts_read(struct host_facts *f, const struct kvm *kvm)
{
	struct cpuid_set raw, offered = kvm->cpuid;

	memset(f, 0, sizeof(*f));
	read_raw(&raw);
	host_facts_from_cpuid(f, &raw, &offered);
	f->kvm_arch_cap = host_arch_cap(kvm);
}
