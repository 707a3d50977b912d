/* A policy as canonical text: the table of keys walked the other way round. */
#include <jansson.h>
#include <string.h>

#include "policy/policy.h"

static json_t *format_choice(const struct policy *p, const struct policy_key *k)
{
	const char *at = (const char *)p + k->offset;
	const struct policy_choice *c;
	int value = 0;

	if (k->size == sizeof(bool))
		value = *(const bool *)at;
	else
		memcpy(&value, at, sizeof(value));
	for (c = k->choices; c->name; c++)
		if (c->value == value)
			return json_string(c->name);
	return NULL;
}

static json_t *format_bits(const struct mitigation_policy *m)
{
	json_t *o = json_object();
	unsigned int shift;

	for (shift = 0; o && shift < 64; shift++) {
		const uint64_t bit = 1ULL << shift;
		const char *name = spec_ctrl_bit_name(bit);

		if (name && (m->raw_mask | m->raw_guest) & bit)
			json_object_set_new(o, name,
					    json_string(m->raw_guest & bit   ? "guest"
							: m->raw_value & bit ? "on"
									     : "off"));
	}
	return o;
}

static json_t *format_pool(const struct policy *p, const struct policy_key *k)
{
	json_t *a;
	unsigned int i;

	if (p->pool != POOL_FILES)
		return format_choice(p, k);
	a = json_array();
	for (i = 0; a && i < p->n_pool_paths; i++)
		json_array_append_new(a, json_string(p->pool_path[i]));
	return a;
}

static json_t *format_value(const struct policy *p, const struct policy_key *k)
{
	switch (k->type) {
	case KEY_CHOICE:
	case KEY_TRUTH:
		return format_choice(p, k);
	case KEY_VERSION:
		return json_integer(POLICY_VERSION);
	case KEY_BITS:
		return format_bits(&p->mitigation);
	case KEY_POOL:
		return format_pool(p, k);
	case KEY_MAP:
		return json_object();
	case KEY_CPUS:
		break;
	}
	return NULL;
}

char *policy_format(const struct policy *p)
{
	json_t *root = json_object(), *at;
	const struct policy_key *k;
	unsigned int n, i;
	bool ok = root;
	char *text;

	k = policy_keys(&n);
	for (i = 0; ok && i < n; i++) {
		if (k[i].type == KEY_CPUS)
			continue;
		at = k[i].parent ? json_object_get(root, k[i].parent) : root;
		ok = json_object_set_new(at, k[i].name, format_value(p, &k[i])) == 0;
	}
	text = ok ? json_dumps(root, JSON_ENSURE_ASCII) : NULL;
	json_decref(root);
	return text;
}
