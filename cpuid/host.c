/*
 * The table of Intel models, and what a host's raw facts mean in its light.
 */
#include "cpuid/host.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "cpuid/arch_cap.h"
#include "cpuid/feature_bits.h"

/* Controls that came with Golden Cove and Gracemont; no older part has one. */
#define NEWER_7_2_EDX                                                      \
	(CPUID_BIT(7_2_EDX, ipred_ctrl) | CPUID_BIT(7_2_EDX, rrsba_ctrl) | \
	 CPUID_BIT(7_2_EDX, ddpd_u) | CPUID_BIT(7_2_EDX, bhi_ctrl))

#define SRC_OLD	    "Linux intel-family.h; no eIBRS: Intel 758359, affected processors"
#define SRC_INORDER "Linux common.c, cpu_vuln_whitelist: NO_SPECULATION"
#define SRC_RSBA    "Linux intel-family.h; RSBA: Intel 'Retpoline' (Skylake to Cannon Lake)"
#define SRC_SHORT   "Linux intel-family.h; before Golden Cove: Intel 758359"
#define SRC_ITS	    "Linux hw-vuln/indirect-target-selection.rst: eIBRS before Alder Lake"
#define SRC_LONG    "Linux hw-vuln/vmscape.rst, BHI variants; Golden Cove on: Intel 758359"
#define SRC_NEW	    "Linux intel-family.h; newer than Golden Cove: Intel 758359"
#define SRC_ATOM    "Linux hw-vuln/vmscape.rst; Atom-only is exempt: Intel 758359, VMM guidance"

static const struct cpu_model models[] = {
#define MODEL(family, model, first, last, name, bhb, eibrs, rrsba, rsba, atom, source) \
	{family, model, first, last, name, bhb, eibrs, rrsba, rsba, atom, source},
#include "cpuid/models.def"
#undef MODEL
};

const struct cpu_model *cpu_model_find(uint32_t family, uint32_t model, uint32_t stepping)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(models); i++) {
		const struct cpu_model *m = &models[i];

		if (m->family == family && m->model == model && stepping >= m->stepping_min &&
		    stepping <= m->stepping_max)
			return m;
	}
	return NULL;
}

enum cpu_vendor cpu_vendor_from_id(const char *vendor_id)
{
	static const struct {
		const char id[13];
		enum cpu_vendor vendor;
	} vendors[] = {
		{"GenuineIntel", CPU_VENDOR_INTEL},   {"AuthenticAMD", CPU_VENDOR_AMD},
		{"HygonGenuine", CPU_VENDOR_HYGON},   {"CentaurHauls", CPU_VENDOR_ZHAOXIN},
		{"  Shanghai  ", CPU_VENDOR_ZHAOXIN},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(vendors); i++)
		if (!strncmp(vendor_id, vendors[i].id, 13))
			return vendors[i].vendor;
	return CPU_VENDOR_OTHER;
}

/* CPUID.(7,2).EDX exists only where CPUID.(7,0).EAX says that sub-leaf 2 does */
static uint32_t leaf7_2_edx(struct cpuid_set *set)
{
	const struct cpuid_leaf *l0 = cpuid_find(set, 7, 0), *l2 = cpuid_find(set, 7, 2);

	return l0 && l0->eax >= 2 && l2 ? l2->edx : 0;
}

void host_facts_from_cpuid(struct host_facts *f, struct cpuid_set *raw, struct cpuid_set *kvm)
{
	const struct cpuid_leaf *l = cpuid_find(raw, 0, 0);
	const uint64_t arch_cap = f->kvm_arch_cap;
	uint32_t max = 0;

	memset(f, 0, sizeof(*f));
	f->kvm_arch_cap = arch_cap;
	if (l) {
		max = l->eax;
		put_le32(f->vendor_id, l->ebx);
		put_le32(f->vendor_id + 4, l->edx);
		put_le32(f->vendor_id + 8, l->ecx);
	}
	l = cpuid_find(raw, 1, 0);
	if (l) {
		f->stepping = l->eax & 0xf;
		f->model = l->eax >> 4 & 0xf;
		f->family = l->eax >> 8 & 0xf;
		if (f->family == 6 || f->family == 0xf)
			f->model |= (l->eax >> 16 & 0xf) << 4;
		if (f->family == 0xf)
			f->family += l->eax >> 20 & 0xff;
		f->hypervisor = l->ecx & CPUID_BIT(1_0_ECX, hypervisor);
	}
	l = cpuid_find(raw, 7, 0);
	if (l && max >= 7) {
		f->leaf7_0_ecx = l->ecx;
		f->leaf7_0_edx = l->edx;
		f->leaf7_2_edx = leaf7_2_edx(raw);
	}
	l = cpuid_find(kvm, 7, 0);
	if (l) {
		f->kvm_leaf7_0_edx = l->edx;
		f->kvm_leaf7_2_edx = leaf7_2_edx(kvm);
	}
}

/*
 * Model numbers are not in order of age, but the highest of family 6 is among the latest. Other
 * families up to 17 are older, or no Xeon or Core at all; new parts begin at 18.
 */
static bool newer_than_table(uint32_t family, uint32_t model)
{
	uint32_t highest = 0;
	size_t i;

	if (family != 6)
		return family >= 18;
	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (models[i].family == 6 && models[i].model > highest)
			highest = models[i].model;
	return model > highest;
}

/* Tiger and Rocket Lake have BUS_LOCK_DETECT too: there it says nothing about the generation. */
static bool has_bus_lock_of_its_own(const struct cpu_model *row)
{
	return row && row->family == 6 &&
	       (row->model == 0x8c || row->model == 0x8d || row->model == 0xa7);
}

static enum bhb_kind bhb_of_intel(const struct host_facts *f, const struct cpu_model *row)
{
	const bool newer_ctrl = f->leaf7_2_edx & NEWER_7_2_EDX;
	const bool newer_hint = (f->leaf7_0_ecx & CPUID_BIT(7_0_ECX, bus_lock_detect)) &&
				!has_bus_lock_of_its_own(row);

	if (row && row->atom_only && !(f->leaf7_0_edx & CPUID_BIT(7_0_EDX, hybrid_cpu)))
		return row->bhb;
	if (row && row->bhb == BHB_LONG)
		return BHB_LONG;
	if (f->leaf7_2_edx & CPUID_BIT(7_2_EDX, bhi_ctrl))
		return BHB_LONG;
	/* a nested host dressed as an older part may still show what the real one can do */
	if ((!row || f->hypervisor) && (newer_ctrl || newer_hint))
		return BHB_LONG;
	if (row)
		return BHB_SHORT;
	return newer_than_table(f->family, f->model) ? BHB_LONG : BHB_UNKNOWN;
}

void host_traits_derive(const struct host_facts *f, struct host_traits *t)
{
	static const char *const names[] = {
		[CPU_VENDOR_OTHER] = "unknown vendor",
		[CPU_VENDOR_INTEL] = "unknown Intel part",
		[CPU_VENDOR_AMD] = "AMD",
		[CPU_VENDOR_HYGON] = "Hygon",
		[CPU_VENDOR_ZHAOXIN] = "Zhaoxin",
	};

	memset(t, 0, sizeof(*t));
	t->vendor = cpu_vendor_from_id(f->vendor_id);
	t->name = names[t->vendor];
	/*
	 * Linux knows family 7 of both of Zhaoxin's strings, and nothing of VIA's and IDT's parts
	 */
	if (t->vendor == CPU_VENDOR_ZHAOXIN && f->family != 7) {
		t->vendor = CPU_VENDOR_OTHER;
		t->name = strcmp(f->vendor_id, "CentaurHauls") ? "unknown Zhaoxin part"
							       : "VIA or IDT";
	}
	t->model_may_lie = f->hypervisor;
	t->hybrid = f->leaf7_0_edx & CPUID_BIT(7_0_EDX, hybrid_cpu);
	if (t->vendor != CPU_VENDOR_INTEL) {
		/* nothing to clear on the vendors that Linux lists as not affected */
		t->bhb = t->vendor == CPU_VENDOR_OTHER ? BHB_UNKNOWN : BHB_SHORT;
		return;
	}

	t->row = cpu_model_find(f->family, f->model, f->stepping);
	if (t->row)
		t->name = t->row->name;
	t->bhb = bhb_of_intel(f, t->row);
	t->atom_only = t->row && t->row->atom_only && !t->hybrid;
	t->bhi_ctrl = f->leaf7_2_edx & CPUID_BIT(7_2_EDX, bhi_ctrl);
	t->rrsba_ctrl = f->leaf7_2_edx & CPUID_BIT(7_2_EDX, rrsba_ctrl);
	t->eibrs = (f->kvm_arch_cap & ARCH_CAP_IBRS_ALL) || (t->row && t->row->eibrs);
	t->rrsba = (f->kvm_arch_cap & ARCH_CAP_RRSBA) || (t->row ? t->row->rrsba : t->eibrs);
	t->rsba = (f->kvm_arch_cap & ARCH_CAP_RSBA) || (t->row && t->row->rsba);
	t->bhi_no = f->kvm_arch_cap & ARCH_CAP_BHI_NO;
}

bool host_facts_same(const struct host_facts *a, const struct host_facts *b)
{
	return strcmp(a->vendor_id, b->vendor_id) == 0 && a->family == b->family &&
	       a->model == b->model && a->stepping == b->stepping &&
	       a->hypervisor == b->hypervisor && a->leaf7_0_ecx == b->leaf7_0_ecx &&
	       a->leaf7_0_edx == b->leaf7_0_edx && a->leaf7_2_edx == b->leaf7_2_edx &&
	       a->kvm_leaf7_0_edx == b->kvm_leaf7_0_edx &&
	       a->kvm_leaf7_2_edx == b->kvm_leaf7_2_edx && a->kvm_arch_cap == b->kvm_arch_cap;
}
