/* What a table of rules does: which of them applies, and what follows from it. */
#include "msr/rules.h"

#include <stddef.h>

static bool applies(const struct rule *r, const struct facts *f)
{
	return !r->when || r->when(f);
}

/* Is @r of a table that is not asked about this guest? */
static bool is_for_others(enum decision_table table, const struct rule *r, const struct facts *f)
{
	return table == TABLE_MIGRATION && !f->incoming && !(r->is & AT_BOOT);
}

const struct rule *rules_find(const struct rule *rules, const struct facts *f)
{
	while (!applies(rules, f))
		rules++; /* the last row of a table always holds */
	return rules;
}

/* It is this guest that goes without, if the operator says so. */
static void facts_want(struct facts *f)
{
	struct facts silent = *f;
	const struct rule *bhi;

	silent.policy.bhi = POLICY_AUTO;
	silent.policy.rrsba = POLICY_AUTO;
	silent.policy.raw_mask = 0;
	silent.policy.raw_guest = 0;
	bhi = rules_find(bhi_rules, &silent);
	f->bhi_wanted = bhi->is & WANTED;
	f->bhi_doubtful = !f->bhi_wanted && (bhi->is & LACKING || bhi->then == UNSURE);
	f->rsb_wanted = rules_find(rrsba_rules, &silent)->is & WANTED;
}

void rules_init(struct facts *f, const struct mitigation_input *in)
{
	facts_init(f, in);
	facts_want(f);
}

enum keep rule_keeps(const struct rule *r)
{
	if (r->then == HOLD)
		return KEPT;
	if (r->is & OVERRIDES)
		return OVERRIDDEN;
	return r->is & ENDS_NEED ? NOT_NEEDED : BROKEN;
}

/* What is set to refuse, CURE_*, of what counts in @table. */
static unsigned int refusals(const struct mitigation_policy *p, enum decision_table table)
{
	const enum policy_cannot cannot = table == TABLE_MIGRATION ? p->incoming_cannot : p->cannot;

	return (p->strict ? CURE_STRICT : 0) | (cannot == CANNOT_REFUSE ? CURE_CANNOT : 0);
}

static enum verdict verdict_of(enum outcome o, unsigned int refuses)
{
	switch (o) {
	case LEAVE:
		return VERDICT_ALLOW;
	case HOLD:
	case CLEAR:
		return VERDICT_ALLOW_FORCED;
	case TELL:
		return VERDICT_WARN;
	case CLEAR_WARN:
	case GIVEN_UP:
	case UNSURE:
		return refuses & CURE_STRICT ? VERDICT_REFUSE : VERDICT_WARN;
	case CANNOT:
		return refuses ? VERDICT_REFUSE : VERDICT_WARN;
	case NEVER:
		break;
	}
	return VERDICT_REFUSE;
}

static const char *cure_of(const struct rule *r, enum verdict verdict, unsigned int refuses)
{
	if (verdict < VERDICT_WARN || !r->cure)
		return NULL;
	return verdict == VERDICT_WARN ? r->cure->of_warning : r->cure->of_refusal[refuses];
}

/* of @bits, those that @r is about holding at 1 */
static uint64_t at_1(const struct facts *f, const struct rule *r, uint64_t bits)
{
	if (r->is & AS_POLICY)
		return bits & f->policy.raw_value;
	return r->is & AS_PROMISED ? bits & f->in->promise.value : bits;
}

void rules_apply(struct mitigation_decision *d, const struct facts *f, enum decision_table table,
		 const struct rule *r, uint64_t bits)
{
	const unsigned int refuses = refusals(&f->policy, table);
	const enum verdict verdict = verdict_of(r->then, refuses);
	const struct decision_step s = {
		.table = table,
		.row = r->row,
		.bit = bits,
		.at_1 = at_1(f, r, bits),
		.verdict = verdict,
		.reason = r->reason,
		.source = r->source,
		.cure = cure_of(r, verdict, refuses),
		.wanted = r->is & WANTED,
		.lacking = r->is & LACKING,
	};

	if (r->then == HOLD || r->then == CLEAR || r->then == CLEAR_WARN) {
		d->mask |= bits;
		d->value |= s.at_1;
	}
	decision_add(d, &s);
}

void rules_tell(struct mitigation_decision *d, const struct facts *f, const struct told_table *t)
{
	unsigned int i;

	for (i = 0; i < t->n; i++) {
		const struct told_rule *told = &t->rules[i];
		uint64_t bits;

		if (is_for_others(t->table, &told->rule, f) || !applies(&told->rule, f))
			continue;
		bits = told->bits ? told->bits(f) : 0;
		if (told->bits && !bits)
			continue;
		rules_apply(d, f, t->table, &told->rule, bits);
		if (told->rule.is & LAST)
			return;
	}
}
