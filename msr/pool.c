/* Levelling: the facts of several hosts as those of one host that a guest can count on. */
#include "msr/pool.h"

#include <string.h>

#include "msr/arch_caps.h"
#include "msr/spec_ctrl.h"

/*
 * What one host adds to the pool's facts. Unknown counts as long: nobody may rely on less.
 * @atom_idle: set when an Atom-only part has BHI_CTRL and cannot force it
 * Return: the short sequence works there.
 */
static bool add_facts(struct pool_facts *p, const struct pool_host *h, const struct host_traits *t,
		      const struct mitigation_policy *policy, bool *atom_idle)
{
	const bool trusted = !t->model_may_lie || policy->trust_model;
	const bool intel = t->vendor == CPU_VENDOR_INTEL;
	const bool is_short = t->bhb == BHB_SHORT && (trusted || !intel);
	const bool immune = t->bhi_no && policy->bhi_no_is_enough;
	const uint64_t can = intel && h->backend.kind != BACKEND_NONE
				     ? h->backend.can_force & spec_ctrl_host_bits(&h->host)
				     : 0;

	p->n_hosts++;
	p->no_msr_exits |= h->backend.no_msr_exits;
	if (!is_short) {
		p->any_long_bhb = true;
		p->all_atom_or_short = false;
		if (!immune && !(can & SPEC_CTRL_BHI_DIS_S))
			p->long_can_force_bhi = false;
	} else if (t->bhi_ctrl && !immune && !(can & SPEC_CTRL_BHI_DIS_S)) {
		*atom_idle = true;
	}
	p->any_rsba |= intel && t->rsba;
	if (intel && (t->rrsba || t->eibrs)) {
		p->any_rrsba = true;
		if (!(can & SPEC_CTRL_RRSBA_DIS_S))
			p->rrsba_can_force = false;
		if (t->rrsba_ctrl && !(can & SPEC_CTRL_RRSBA_DIS_S))
			p->rrsba_ctrl_idle = true;
	}
	return is_short;
}

void pool_level(const struct pool_host *hosts, unsigned int n,
		const struct mitigation_policy *policy, struct pool_level *out)
{
	bool any_short = false, atom_idle = false;
	unsigned int i;

	memset(out, 0, sizeof(*out));
	if (!n)
		return;
	out->one_vendor = true;
	out->facts.all_atom_or_short = true;
	out->facts.long_can_force_bhi = true;
	out->facts.rrsba_can_force = true;
	for (i = 0; i < n; i++) {
		const struct host_facts *h = &hosts[i].host;
		struct host_traits t;
		uint64_t arch_cap;

		host_traits_derive(h, &t);
		any_short |= add_facts(&out->facts, &hosts[i], &t, policy, &atom_idle);
		/* old microcode does not say what the part has (Xen's fix-up) */
		arch_cap = h->kvm_arch_cap | (t.rrsba || t.eibrs ? ARCH_CAP_RRSBA : 0) |
			   (t.rsba ? ARCH_CAP_RSBA : 0);
		if (i == 0) {
			out->vendor = t.vendor;
			out->arch_cap = arch_cap_merge(arch_cap, arch_cap);
			out->leaf7_0_edx = h->kvm_leaf7_0_edx;
			out->leaf7_2_edx = h->kvm_leaf7_2_edx;
			continue;
		}
		out->one_vendor &= t.vendor == out->vendor;
		out->arch_cap = arch_cap_merge(out->arch_cap, arch_cap);
		out->leaf7_0_edx &= h->kvm_leaf7_0_edx;
		out->leaf7_2_edx &= h->kvm_leaf7_2_edx;
	}
	/* beside long ones an Atom-only part is not exempt (row 8): it has to force like them */
	if (atom_idle && !out->facts.all_atom_or_short)
		out->facts.long_can_force_bhi = false;
	out->facts.mixed = any_short && out->facts.any_long_bhb;
}

/*
 * One host that has RSBA, or RRSBA and cannot turn it off, and may not say so: the guest is told.
 */
static void warn_guest(const struct pool_level *l, struct guest_contract *g)
{
	uint64_t warning = ARCH_CAP_RSBA;

	if (!l->facts.rrsba_can_force)
		warning |= ARCH_CAP_RRSBA;
	if (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities))
		g->arch_cap |= l->arch_cap & warning;
}

void pool_level_guest(const struct pool_level *l, struct guest_contract *g)
{
	if (l->facts.n_hosts <= 1) {
		warn_guest(l, g);
		return;
	}
	g->leaf7_0_edx &= l->leaf7_0_edx | ~SPECULATION_7_0_EDX;
	g->leaf7_2_edx &= l->leaf7_2_edx | ~SPECULATION_7_2_EDX;
	/* without the MSR its bits and their enumeration are nothing */
	if (!(l->leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl))) {
		g->leaf7_0_edx &= ~(CPUID_BIT(7_0_EDX, stibp) | CPUID_BIT(7_0_EDX, ssbd));
		g->leaf7_2_edx &= ~SPECULATION_7_2_EDX;
	}
	if (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities))
		g->arch_cap = (g->arch_cap & l->arch_cap) | (l->arch_cap & arch_cap_warnings());
	else
		g->arch_cap = 0;
}
