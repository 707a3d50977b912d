#include "msr/advertise.h"

#include <stddef.h>

#include "base/bytes.h"
#include "msr/rule_facts.h"

static bool raw_forbids(const struct facts *f, uint64_t bit)
{
	return facts_raw_left(f, bit) || (facts_raw_covers(f, bit) && !(f->policy.raw_value & bit));
}

static bool bhi_offered(const struct facts *f, const struct guest_contract *guest)
{
	const struct pool_facts *pool = &f->in->pool;
	const bool heard = f->adds || (f->policy.honour_report == REPORT_RELAX && f->unasked);
	const bool in_pool = !pool->n_hosts || !pool->any_long_bhb || pool->long_can_force_bhi;

	(void)guest;
	return f->policy.bhi != POLICY_OFF && !raw_forbids(f, BHI) && heard && in_pool &&
	       (f->short_enough || f->bhi_no_enough || (f->can & BHI));
}

/* Where there is no control, a guest that sees it does not rely on retpolines alone. */
static bool rsb_offered(const struct facts *f, const struct guest_contract *guest)
{
	const struct pool_facts *pool = &f->in->pool;
	const bool told_rrsba = guest->arch_cap & ARCH_CAP_RRSBA;
	const bool here = !f->rrsba_part || (f->can & RRSBA) || (!f->host.rrsba_ctrl && told_rrsba);
	const bool in_pool = !pool->n_hosts || !pool->any_rrsba || pool->rrsba_can_force ||
			     (!pool->rrsba_ctrl_idle && told_rrsba);
	const bool told_rsba =
		(!f->host.rsba && !pool->any_rsba) || (guest->arch_cap & ARCH_CAP_RSBA);

	return f->policy.rrsba != POLICY_OFF && !raw_forbids(f, RRSBA) && f->adds && here &&
	       in_pool && told_rsba;
}

/*
 * The bits of MSR 0x50000001, each offered when a guest that reports it is protected wherever it may
 * run. A new one is a row here, and a fact of what the guest reports in rule_facts.c.
 */
static const struct {
	uint64_t bit;
	bool (*offered)(const struct facts *f, const struct guest_contract *guest);
} offers[] = {
	{MITIGATION_BHB_CLEAR_SEQ_S, bhi_offered},
	{MITIGATION_RETPOLINE_S, rsb_offered},
};

void mitigation_advertise(const struct host_facts *host, const struct backend_facts *backend,
			  const struct mitigation_policy *policy, const struct pool_facts *pool,
			  struct guest_contract *guest)
{
	const struct mitigation_input in = {
		.host = *host, .backend = *backend, .policy = *policy, .pool = *pool};
	struct facts f;
	size_t i;

	facts_init(&f, &in);
	guest->vendor = f.host.vendor;
	guest->arch_cap &= ~ARCH_CAP_VIRTUAL_ENUM;
	guest->virt_enum = 0;
	guest->mitigation_enum = 0;
	if (!policy->virtual_msrs || !f.intel || backend->kind == BACKEND_NONE ||
	    backend->no_msr_exits || pool->no_msr_exits ||
	    !(guest->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)))
		return;
	guest->arch_cap |= ARCH_CAP_VIRTUAL_ENUM;
	guest->virt_enum = VIRT_ENUM_MITIGATION;
	for (i = 0; i < ARRAY_SIZE(offers); i++)
		if (offers[i].offered(&f, guest))
			guest->mitigation_enum |= offers[i].bit;
}
