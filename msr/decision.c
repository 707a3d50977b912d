#include "msr/decision.h"

void decision_add(struct mitigation_decision *d, const struct decision_step *s)
{
	if (s->verdict > d->verdict)
		d->verdict = s->verdict;
	if (d->n_steps < DECISION_STEPS_MAX)
		d->step[d->n_steps++] = *s;
}

bool mitigation_left_weak(const struct mitigation_decision *d)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == TABLE_BHI && d->step[i].lacking)
			return true;
	return false;
}

const char *verdict_name(enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_ALLOW:
		return "allow";
	case VERDICT_ALLOW_FORCED:
		return "allow, with held bits";
	case VERDICT_WARN:
		return "warn";
	case VERDICT_REFUSE:
		break;
	}
	return "refuse";
}

const char *decision_table_name(enum decision_table table)
{
	switch (table) {
	case TABLE_BHI:
		return "bhi";
	case TABLE_RRSBA:
		return "rrsba";
	case TABLE_RAW:
		return "raw";
	case TABLE_MIGRATION:
		return "migration";
	case TABLE_POOL:
		return "pool";
	case TABLE_NESTED:
		return "nested";
	case TABLE_BARRIER:
		break;
	}
	return "barrier";
}
