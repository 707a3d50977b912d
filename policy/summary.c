#include "policy/summary.h"

#include <stdio.h>
#include <string.h>

#include "policy/explain.h"

#define ITEMS_MAX 16
#define FIXED	  "what is held was fixed when the VM was made"
#define NOT_KEPT  "KVM did not take or keep it"

/* Bits of which the same is to be said. */
struct item {
	uint64_t bits;
	bool at_1, wanted, held;
	const char *reason;
	const char *needs_it; /* the host that does, by name; NULL */
};

/* The row that had the bit held; else the worst that is about it. */
static const struct decision_step *step_of(const struct mitigation_decision *d, uint64_t bit)
{
	const struct decision_step *found = NULL;
	unsigned int i;

	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];

		if (!(s->bit & bit))
			continue;
		if (d->mask & bit && s->verdict == VERDICT_ALLOW_FORCED)
			return s;
		if (!found || s->verdict > found->verdict)
			found = s;
	}
	return found;
}

static const struct decision_step *worst(const struct mitigation_decision *d)
{
	const struct decision_step *found = NULL;
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (!found || d->step[i].verdict > found->verdict)
			found = &d->step[i];
	return found;
}

/* The first row of BHI says why this part needs nothing; that of the raw bits is about others. */
static const char *why_nothing(const struct mitigation_decision *d)
{
	unsigned int i;

	for (i = 0; i < d->n_steps; i++)
		if (d->step[i].table == TABLE_BHI)
			return d->step[i].reason;
	return "nothing is to be held";
}

static struct item item_of(const struct host_traits *t, const struct mitigation_decision *d,
			   const struct summary_held *h, uint64_t bit)
{
	const struct decision_step *s = step_of(d, bit);
	const bool same = !((d->value ^ h->value) & bit);
	struct item i = {
		.bits = bit,
		.wanted = d->mask & bit,
		.held = h->mask & bit,
		.reason = s ? s->reason : "the policy says so",
	};

	i.at_1 = (i.wanted ? d->value : h->value) & bit;
	if (i.wanted && i.held && !same)
		i.held = false;
	if (i.wanted != i.held)
		i.reason = h->failed ? NOT_KEPT : FIXED;
	else if (s && s->table == TABLE_BHI && s->verdict == VERDICT_ALLOW_FORCED && s->wanted &&
		 i.at_1)
		i.needs_it = t->name;
	return i;
}

static bool belongs(const struct item *a, const struct item *b)
{
	return a->at_1 == b->at_1 && a->wanted == b->wanted && a->held == b->held &&
	       strcmp(a->reason, b->reason) == 0;
}

/* Return: how many; 0: nothing is wanted or held */
static unsigned int find_items(const struct host_traits *t, const struct mitigation_decision *d,
			       const struct summary_held *h, struct item *items)
{
	const uint64_t all = d->mask | h->mask;
	unsigned int n = 0, k, shift;

	for (shift = 0; shift < 64; shift++) {
		struct item i;

		if (!(all & 1ULL << shift))
			continue;
		i = item_of(t, d, h, 1ULL << shift);
		for (k = 0; k < n && !belongs(&items[k], &i); k++)
			;
		if (k < n)
			items[k].bits |= i.bits;
		else if (n < ITEMS_MAX)
			items[n++] = i;
	}
	return n;
}

static const char *state_of(const struct item *i)
{
	if (i->held && i->wanted)
		return i->at_1 ? "held" : "held at 0";
	if (i->held)
		return "held though not wanted now";
	return i->at_1 ? "wanted, not held" : "wanted at 0, not held";
}

static void append(char *buf, size_t size, const char *separator, const char *text)
{
	const size_t at = strlen(buf);

	snprintf(buf + at, size - at, "%s%s", at ? separator : "", text);
}

const char *summary_text(const struct host_facts *host, const struct mitigation_decision *d,
			 const struct summary_held *held, char *buf, size_t size)
{
	const struct decision_step *w = worst(d);
	struct item items[ITEMS_MAX];
	struct host_traits t;
	char bits[256], text[640];
	unsigned int n, k;

	host_traits_derive(host, &t);
	n = find_items(&t, d, held, items);
	buf[0] = '\0';
	if (d->verdict == VERDICT_REFUSE && w) {
		snprintf(text, sizeof(text), "refused: %s", w->reason);
		append(buf, size, "", text);
	}
	for (k = 0; k < n; k++) {
		snprintf(text, sizeof(text), "%s %s: %s%s%s%s",
			 explain_bits(items[k].bits, bits, sizeof(bits)), state_of(&items[k]),
			 items[k].reason, items[k].needs_it ? ", " : "",
			 items[k].needs_it ? items[k].needs_it : "",
			 items[k].needs_it ? " needs it" : "");
		append(buf, size, "; ", text);
	}
	if (!n) {
		snprintf(text, sizeof(text), "nothing held: %s",
			 d->verdict == VERDICT_WARN && w ? w->reason : why_nothing(d));
		append(buf, size, "; ", d->verdict == VERDICT_REFUSE ? "nothing held" : text);
	} else if (d->verdict == VERDICT_WARN && w) {
		snprintf(text, sizeof(text), "warning: %s", w->reason);
		append(buf, size, "; ", text);
	}
	return buf;
}

json_t *summary_json(const struct host_facts *host, const struct mitigation_decision *d,
		     const struct summary_held *held)
{
	const struct decision_step *w = worst(d);
	struct item items[ITEMS_MAX];
	struct host_traits t;
	json_t *list = json_array();
	unsigned int n, k;

	host_traits_derive(host, &t);
	n = find_items(&t, d, held, items);
	if (!n) {
		items[0] = (struct item) {
			.reason = d->verdict >= VERDICT_WARN && w ? w->reason : why_nothing(d)};
		n = 1;
	}
	for (k = 0; k < n; k++)
		json_array_append_new(list, json_pack("{s:o, s:b, s:b, s:s}", "bits",
						      explain_names_json(items[k].bits), "wanted",
						      items[k].wanted, "held", items[k].held,
						      "reason", items[k].reason));
	return list;
}
