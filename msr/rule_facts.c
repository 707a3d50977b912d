#include "msr/rule_facts.h"

#include <string.h>

static void facts_of_host(struct facts *f)
{
	const struct mitigation_input *in = f->in;
	const bool trusted = !f->host.model_may_lie || f->policy.trust_model;
	const struct pool_facts *pool = &in->pool;

	f->intel = f->host.vendor == CPU_VENDOR_INTEL;
	f->short_host = f->host.bhb == BHB_SHORT && trusted;
	f->exempt = f->host.atom_only && trusted && (!pool->n_hosts || pool->all_atom_or_short);
	f->short_enough = f->short_host && (!f->host.bhi_ctrl || f->exempt);
	f->bhi_no_enough = f->host.bhi_no && f->policy.bhi_no_is_enough;
	f->rrsba_part = f->host.rrsba || f->host.eibrs;
	if (in->backend.kind == BACKEND_NONE)
		return;
	f->can = in->backend.can_force &
		 (f->intel ? spec_ctrl_host_bits(&in->host) : SPEC_CTRL_COMMON);
	f->can_clear = true;
}

static void facts_of_guest(struct facts *f)
{
	const struct mitigation_input *in = f->in;
	const struct guest_contract *g = &in->guest;
	const struct vcpu_report *r = &in->report;
	const bool heard = f->policy.honour_report != REPORT_IGNORE;
	const bool looked = r->enum_read || r->written;
	const uint64_t offered = g->virt_enum & VIRT_ENUM_MITIGATION ? g->mitigation_enum : 0;
	const bool told_bhi = offered & MITIGATION_BHB_CLEAR_SEQ_S;
	const bool told_rsb = offered & MITIGATION_RETPOLINE_S;

	/* what is not enumerated, or without the MSR, is not the guest's to set or read */
	f->shown = spec_ctrl_shown(g);
	f->sees_bhi_ctrl = f->shown & BHI;
	f->sees_rrsba_ctrl = f->shown & RRSBA;
	f->sees_rrsba = (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
			(g->arch_cap & ARCH_CAP_RRSBA);
	f->sees_rsba = (g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) &&
		       (g->arch_cap & ARCH_CAP_RSBA);

	f->bhi_used = f->bhi_said = heard && (r->ctrl & MITIGATION_BHB_CLEAR_SEQ_S);
	f->rsb_used = f->rsb_said = heard && (r->ctrl & MITIGATION_RETPOLINE_S);
	f->bhi_aware = f->bhi_used || (heard && told_bhi && (r->aware || looked));
	/* without having read what 0 means, a 0 is no answer */
	f->bhi_answered = f->bhi_aware && !f->bhi_used && r->enum_read;
	f->bhi_early = f->bhi_aware && !f->bhi_used && !looked;
	f->rsb_answered = heard && told_rsb && !f->rsb_used && r->enum_read;
	if (f->rrsba_part && !(f->can & RRSBA) && !(f->sees_rrsba && f->sees_rrsba_ctrl))
		f->rsb_bare = f->rsb_said ? (f->adds || f->unasked) &&
						    (f->host.rrsba_ctrl || !f->sees_rrsba)
					  : f->unasked && !f->sees_rrsba &&
						    !(f->rsb_answered && f->answer_counts);

	/*
	 * The VM-wide mask is frozen before the guest can say anything: it covers what may come,
	 * unless the operator would rather have the VM built anew then.
	 */
	if (in->backend.kind == BACKEND_FORCE_SPEC_CTRL && f->adds && !f->policy.rebuild) {
		const bool by_report =
			!f->unasked || (f->sees_bhi_ctrl && f->policy.force_when_shown);

		f->bhi_used |= told_bhi && by_report && (f->can & BHI);
		f->bhi_aware |= f->bhi_used;
		f->rsb_used |= told_rsb && (f->can & RRSBA);
	}
}

void facts_init(struct facts *f, const struct mitigation_input *in)
{
	const struct mitigation_policy *p = &in->policy;
	const bool frozen = in->backend.kind == BACKEND_FORCE_SPEC_CTRL ||
			    in->backend.kind == BACKEND_FORCE_SPEC_CTRL_VM;

	memset(f, 0, sizeof(*f));
	f->in = in;
	f->policy = *p;
	f->adds = p->honour_report == REPORT_BOTH || p->honour_report == REPORT_TIGHTEN;
	f->answer_counts = p->honour_report == REPORT_BOTH || p->honour_report == REPORT_RELAX;
	f->removes = f->answer_counts && !frozen;
	f->unasked = p->force_unaware || p->strict;
	host_traits_derive(&in->host, &f->host);
	f->incoming = in->promise.valid;
	facts_of_host(f);
	facts_of_guest(f);
	barrier_plan(&in->backend.barrier, f->host.vendor, &p->barrier, &f->barrier);
	f->promised = f->incoming ? in->promise.mask & in->promise.value : 0;
}

bool facts_raw_covers(const struct facts *f, uint64_t bit)
{
	return f->policy.raw_mask & bit;
}

bool facts_raw_impossible(const struct facts *f, uint64_t bit)
{
	if (!facts_raw_covers(f, bit))
		return false;
	return f->policy.raw_value & bit ? !(f->can & bit) : !f->can_clear;
}

bool facts_raw_left(const struct facts *f, uint64_t bit)
{
	return f->policy.raw_guest & bit;
}
