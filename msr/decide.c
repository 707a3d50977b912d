/*
 * The decision: the operator's own bits, the tables of BHI and RRSBA, and last, over whatever they
 * said, what a guest was promised on an earlier host. All of it is in the tables of rules.h; this is
 * the order in which they are asked.
 */
#include "msr/decide.h"

#include <string.h>

#include "msr/rules.h"

/*
 * The policy does not force for this guest, but an earlier host did and the bit stays held: nothing
 * to warn of.
 */
static struct rule kept_by_promise(const struct facts *f, const struct rule *r, uint64_t bit)
{
	struct rule kept = *r;

	if (r->then == TELL && rule_keeps(r) == BROKEN && (f->promised & f->can & bit)) {
		kept.then = LEAVE;
		kept.reason =
			"the policy does not hold the bit for this guest; an earlier host did";
	}
	return kept;
}

static const struct rule *ask(struct mitigation_decision *d, const struct facts *f,
			      enum decision_table table, const struct rule *rules, uint64_t bit)
{
	const struct rule *r = rules_find(rules, f);
	const struct rule kept = kept_by_promise(f, r, bit);

	rules_apply(d, f, table, &kept, bit);
	return r;
}

/* Would BHI_DIS_S be held for this guest on a host with a long BHB that can hold it? */
static bool bhi_held_elsewhere(const struct mitigation_input *in)
{
	struct mitigation_input there = *in;
	struct facts f;

	/* any such part: the rows look at what it has */
	there.host = (struct host_facts) {.vendor_id = "GenuineIntel", .family = 6, .model = 0x8f};
	there.host.leaf7_0_edx = CPUID_BIT(7_0_EDX, spec_ctrl);
	there.host.leaf7_2_edx = CPUID_BIT(7_2_EDX, bhi_ctrl) | CPUID_BIT(7_2_EDX, rrsba_ctrl);
	/* RRSBA_DIS_S as well: where it cannot be held, BHI_DIS_S is held in its place */
	there.backend =
		(struct backend_facts) {.kind = BACKEND_FORCE_VCPU, .can_force = BHI | RRSBA};
	rules_init(&f, &there);
	return rules_find(bhi_rules, &f)->then == HOLD;
}

/* Does every host where the guest may come to run make the short sequence enough? */
static bool pool_makes_short_adequate(const struct mitigation_input *in)
{
	const struct pool_facts *pool = &in->pool;

	return pool->n_hosts <= 1 || pool->all_atom_or_short ||
	       (pool->long_can_force_bhi && bhi_held_elsewhere(in));
}

static bool short_adequate(const struct facts *f, const struct mitigation_decision *d)
{
	const bool here = f->short_enough || (f->bhi->is & IMMUNE) || (d->value & BHI);

	return here && f->intel && !f->sees_bhi_ctrl && f->policy.bhi != POLICY_OFF &&
	       d->verdict != VERDICT_REFUSE && pool_makes_short_adequate(f->in);
}

void mitigation_decide(const struct mitigation_input *in, struct mitigation_decision *out)
{
	struct facts f;

	memset(out, 0, sizeof(*out));
	rules_init(&f, in);
	f.so_far = out;
	rules_tell(out, &f, &raw_table);
	f.bhi = ask(out, &f, TABLE_BHI, bhi_rules, BHI);
	f.rsb = ask(out, &f, TABLE_RRSBA, rrsba_rules, RRSBA);
	rules_tell(out, &f, &nested_table);
	rules_tell(out, &f, &migration_table);
	rules_tell(out, &f, &pool_table);
	rules_tell(out, &f, &barrier_table);
	out->short_adequate = short_adequate(&f, out);
}

/* @reason: NULL for the rule's own */
static void refuse(struct mitigation_decision *d, const struct rule *r, uint64_t bits,
		   uint64_t at_1, const char *reason)
{
	const struct decision_step s = {
		.table = TABLE_MIGRATION,
		.row = r->row,
		.bit = bits,
		.at_1 = at_1,
		.verdict = VERDICT_REFUSE,
		.reason = reason ? reason : r->reason,
		.source = r->source,
		.cure = r->cure->of_refusal[0], /* no setting lets it run */
	};

	decision_add(d, &s);
}

uint64_t mitigation_expect(const struct mitigation_decision *d, enum backend_kind kind,
			   uint64_t shadow)
{
	return kind == BACKEND_MSR_FILTER ? (shadow & ~d->mask) | d->value : shadow;
}

bool mitigation_check_applied(struct mitigation_decision *d, enum backend_kind kind,
			      uint64_t shadow, bool accepted, uint64_t read_back)
{
	const uint64_t expected = mitigation_expect(d, kind, shadow);
	const uint64_t lost = read_back ^ expected;

	if (!accepted)
		refuse(d, &applied_rules[NOT_TAKEN], expected, expected, NULL);
	else if (lost)
		refuse(d, &applied_rules[NOT_KEPT], lost, lost & expected, NULL);
	return accepted && !lost;
}

void mitigation_add_cpu(struct mitigation_decision *d, const char *missing)
{
	refuse(d, &applied_rules[NO_CPU], 0, 0, missing);
	d->short_adequate = false;
}
