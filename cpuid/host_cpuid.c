/* A host that is only a fact file, as leaves that a guest's CPU can be chosen from. */
#include "cpuid/host.h"

#include <string.h>

#include "base/bytes.h"
#include "cpuid/feature.h"

static void put_leaf(struct cpuid_set *set, const struct cpuid_leaf *l)
{
	if (!cpuid_find(set, l->leaf, l->subleaf))
		cpuid_add(set, l); /* the table has far fewer leaves than a set has room for */
}

void host_facts_to_cpuid(const struct host_facts *f, struct cpuid_set *set)
{
	const struct cpuid_leaf basic = {
		.leaf = 0,
		.eax = 0x1f,
		.ebx = get_le32(f->vendor_id),
		.edx = get_le32(f->vendor_id + 4),
		.ecx = get_le32(f->vendor_id + 8),
	};
	const struct cpuid_leaf leaf7 = {.leaf = 7, .indexed = true, .eax = 2};
	const struct cpuid_leaf leaf7_2 = {.leaf = 7, .subleaf = 2, .indexed = true};
	const struct cpuid_leaf extended = {.leaf = 0x80000000, .eax = 0x80000021};
	const struct cpuid_leaf xsave = {.leaf = 0xd, .indexed = true, .eax = UINT32_MAX};
	const struct cpu_feature *feature;
	unsigned int n, i;

	memset(set, 0, sizeof(*set));
	put_leaf(set, &basic);
	put_leaf(set, &leaf7);
	put_leaf(set, &leaf7_2);
	put_leaf(set, &extended);
	put_leaf(set, &xsave);
	feature = cpu_features(&n);
	for (i = 0; i < n; i++) {
		const struct cpuid_leaf l = {
			.leaf = feature[i].leaf,
			.subleaf = feature[i].subleaf,
			.indexed = feature[i].leaf == 7 || feature[i].leaf == 0xd ||
				   feature[i].leaf == 0x14,
		};

		put_leaf(set, &l);
		cpu_feature_put(set, &feature[i], true);
	}
	cpuid_find(set, 7, 0)->edx = f->kvm_leaf7_0_edx;
	cpuid_find(set, 7, 2)->edx = f->kvm_leaf7_2_edx;
}
