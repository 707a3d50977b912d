/*
 * libyaml's events are walked over a table of keys. libcyaml, which builds on libyaml and has
 * schemas, was tried first: it takes any word for a boolean, ignores anchors and second documents
 * silently, reads 010 as eight, and its messages lack the legal set and, for an unknown key, the
 * right line.
 */
#include "policy/policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/text.h"
#include "msr/spec_ctrl.h"

static const struct policy_choice switch3[] = {
	{"auto", POLICY_AUTO}, {"on", POLICY_ON}, {"off", POLICY_OFF}, {NULL, 0}};
static const struct policy_choice on_off[] = {{"on", true}, {"off", false}, {NULL, 0}};
static const struct policy_choice reports[] = {{"both", REPORT_BOTH},
					       {"tighten", REPORT_TIGHTEN},
					       {"relax", REPORT_RELAX},
					       {"ignore", REPORT_IGNORE},
					       {NULL, 0}};
static const struct policy_choice cannots[] = {
	{"refuse", CANNOT_REFUSE}, {"warn", CANNOT_WARN}, {NULL, 0}};
static const struct policy_choice mixed[] = {
	{"level", MIXED_LEVEL}, {"warn", MIXED_WARN}, {"refuse", MIXED_REFUSE}, {NULL, 0}};
static const struct policy_choice pools[] = {{"this-host", POOL_THIS_HOST},
					     {"short-bhb", POOL_SHORT_BHB},
					     {"long-bhb", POOL_LONG_BHB},
					     {"mixed", POOL_MIXED},
					     {"any", POOL_ANY},
					     {NULL, 0}};
static const struct policy_choice nestings[] = {{"hidden", false}, {"shown", true}, {NULL, 0}};
static const struct policy_choice branches[] = {{"default", false}, {"isolate", true}, {NULL, 0}};
static const struct policy_choice only_off[] = {{"off", 0}, {NULL, 0}};

/* What a raw bit may be; values are private to set_bit(). */
enum raw_bit { RAW_GUEST, RAW_ON, RAW_OFF };
static const struct policy_choice raw_bits[] = {
	{"on", RAW_ON}, {"off", RAW_OFF}, {"guest", RAW_GUEST}, {NULL, 0}};

#define MEMBER(m) offsetof(struct policy, m), sizeof(((struct policy *)0)->m)

static const struct policy_key keys[] = {
	{NULL, "version", KEY_VERSION, NULL, 0, 0},
	{NULL, "bhi", KEY_CHOICE, switch3, MEMBER(mitigation.bhi)},
	{NULL, "rrsba", KEY_CHOICE, switch3, MEMBER(mitigation.rrsba)},
	{NULL, "honour-report", KEY_CHOICE, reports, MEMBER(mitigation.honour_report)},
	{NULL, "strict", KEY_TRUTH, on_off, MEMBER(mitigation.strict)},
	{NULL, "bhi-no-is-enough", KEY_TRUTH, on_off, MEMBER(mitigation.bhi_no_is_enough)},
	{NULL, "force-unaware", KEY_TRUTH, on_off, MEMBER(mitigation.force_unaware)},
	{NULL, "force-when-shown", KEY_TRUTH, on_off, MEMBER(mitigation.force_when_shown)},
	{NULL, "trust-model", KEY_TRUTH, on_off, MEMBER(mitigation.trust_model)},
	{NULL, "spec-ctrl", KEY_BITS, raw_bits, 0, 0},
	{NULL, "virtual-msrs", KEY_CHOICE, on_off, MEMBER(mitigation.virtual_msrs)},
	{NULL, "cannot", KEY_CHOICE, cannots, MEMBER(mitigation.cannot)},
	{NULL, "incoming-cannot", KEY_CHOICE, cannots, MEMBER(mitigation.incoming_cannot)},
	{NULL, "pool", KEY_POOL, pools, MEMBER(pool)},
	{NULL, "mixed-pool", KEY_CHOICE, mixed, MEMBER(mitigation.mixed_pool)},
	{NULL, "nested", KEY_CHOICE, nestings, MEMBER(nested_shown)},
	{NULL, "isolation", KEY_MAP, NULL, 0, 0},
	{"isolation", "indirect-branch", KEY_CHOICE, branches,
	 MEMBER(isolation.isolate_indirect_branch)},
	{"isolation", "core-scheduling", KEY_CHOICE, on_off, MEMBER(isolation.core_scheduling)},
	{"isolation", "vcpu-pinning", KEY_CPUS, only_off, 0, 0},
	{"isolation", "observe-ibpb", KEY_CHOICE, on_off, MEMBER(isolation.observe_ibpb)},
};

const struct policy_key *policy_keys(unsigned int *n)
{
	*n = ARRAY_SIZE(keys);
	return keys;
}

#define N_RAW_BITS 64

struct reader {
	const char *name;
	const char *text;
	size_t len;
	yaml_parser_t yaml;
	yaml_event_t event; /* the one being looked at */
	bool have_event;
	struct policy *p;
	unsigned int seen_line[ARRAY_SIZE(keys)]; /* where the key was given; 0: not yet */
	unsigned int bit_line[N_RAW_BITS];	  /* the same for the bits of spec-ctrl */
	struct err *e;
};

static unsigned int event_line(const struct reader *r)
{
	return (unsigned int)r->event.start_mark.line + 1;
}

/* libyaml tells the reader's errors (encoding) by offset, all others by line. */
static int yaml_error(struct reader *r)
{
	const yaml_parser_t *y = &r->yaml;
	size_t line = y->problem_mark.line + 1, i;

	if (y->error == YAML_MEMORY_ERROR)
		return err_set(r->e, -ENOMEM, "out of memory");
	if (y->error == YAML_READER_ERROR)
		for (line = 1, i = 0; i < y->problem_offset && i < r->len; i++)
			line += r->text[i] == '\n';
	return err_set(r->e, -EINVAL, "policy %s: line %zu: not YAML: %s; give 'key: value' lines",
		       r->name, line, y->problem ? y->problem : "cannot be read");
}

/*
 * The next event. Anchors, aliases and tags are refused here, for every place: a policy has no use
 * for them, and aliases are the way to make a small file large.
 */
static int next_event(struct reader *r)
{
	const unsigned char *anchor = NULL, *tag = NULL;

	if (r->have_event)
		yaml_event_delete(&r->event);
	r->have_event = false;
	if (!yaml_parser_parse(&r->yaml, &r->event))
		return yaml_error(r);
	r->have_event = true;
	switch (r->event.type) {
	case YAML_ALIAS_EVENT:
		anchor = r->event.data.alias.anchor;
		break;
	case YAML_SCALAR_EVENT:
		anchor = r->event.data.scalar.anchor;
		tag = r->event.data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = r->event.data.sequence_start.anchor;
		tag = r->event.data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = r->event.data.mapping_start.anchor;
		tag = r->event.data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: anchor or alias %s; write the value out",
			       r->name, event_line(r),
			       text_quote((const char *)anchor, strlen((const char *)anchor)).s);
	if (tag)
		return err_set(r->e, -EINVAL, "policy %s: line %u: tag %s; leave it out", r->name,
			       event_line(r),
			       text_quote((const char *)tag, strlen((const char *)tag)).s);
	return 0;
}

/* Quoted for a message: the value that stands there, or what kind of thing it is. */
static struct text_quote event_quote(const struct reader *r)
{
	struct text_quote q = {"the end of the file"};

	switch (r->event.type) {
	case YAML_SCALAR_EVENT:
		return text_quote((const char *)r->event.data.scalar.value,
				  r->event.data.scalar.length);
	case YAML_SEQUENCE_START_EVENT:
		q = (struct text_quote) {"a list"};
		break;
	case YAML_MAPPING_START_EVENT:
		q = (struct text_quote) {"a map"};
		break;
	default:
		break;
	}
	return q;
}

static bool is_scalar(const struct reader *r)
{
	return r->event.type == YAML_SCALAR_EVENT;
}

static bool event_is(const struct reader *r, const char *word)
{
	return is_scalar(r) && strlen(word) == r->event.data.scalar.length &&
	       memcmp(word, r->event.data.scalar.value, strlen(word)) == 0;
}

/* "isolation.core-scheduling" */
static const char *key_path(const struct policy_key *k, char *buf, size_t size)
{
	snprintf(buf, size, "%s%s%s", k->parent ? k->parent : "", k->parent ? "." : "", k->name);
	return buf;
}

static void list_choices(const struct policy_choice *c, const char *more, char *buf, size_t size)
{
	for (; c && c->name; c++)
		if (c[1].name || more)
			text_list_add(buf, size, c->name);
		else
			text_list_end(buf, size, c->name);
	if (more)
		text_list_end(buf, size, more);
}

/* What may stand at @k, "auto, on or off". */
static void legal_values(const struct policy_key *k, char *buf, size_t size)
{
	buf[0] = '\0';
	switch (k->type) {
	case KEY_CHOICE:
	case KEY_BITS:
		list_choices(k->choices, NULL, buf, size);
		break;
	case KEY_TRUTH:
		text_list_add(buf, size, "on");
		text_list_add(buf, size, "off");
		text_list_add(buf, size, "true");
		text_list_end(buf, size, "false");
		break;
	case KEY_VERSION:
		snprintf(buf, size, "%d", POLICY_VERSION);
		break;
	case KEY_POOL:
		list_choices(k->choices, "a list of host fact files", buf, size);
		break;
	case KEY_CPUS:
		list_choices(k->choices, "a list of host CPUs", buf, size);
		break;
	case KEY_MAP:
		snprintf(buf, size, "a map of its keys");
		break;
	}
}

static int bad_value(struct reader *r, const struct policy_key *k, const char *below)
{
	char path[64], legal[256];

	legal_values(k, legal, sizeof(legal));
	return err_set(r->e, -EINVAL, "policy %s: line %u: %s%s%s: %s is not a value; give %s",
		       r->name, event_line(r), key_path(k, path, sizeof(path)), below ? "." : "",
		       below ? below : "", event_quote(r).s, legal);
}

static const struct policy_choice *find_choice(const struct reader *r, const struct policy_key *k)
{
	const struct policy_choice *c;

	for (c = k->choices; c->name; c++)
		if (event_is(r, c->name))
			return c;
	return NULL;
}

/* The members are bool or an enum, which has the size of an int. */
static void store(struct policy *p, const struct policy_key *k, int value)
{
	char *at = (char *)p + k->offset;

	if (k->size == sizeof(bool))
		*(bool *)at = value;
	else
		memcpy(at, &value, sizeof(value));
}

static int read_choice(struct reader *r, const struct policy_key *k)
{
	const struct policy_choice *c = find_choice(r, k);

	if (c)
		store(r->p, k, c->value);
	else if (k->type == KEY_TRUTH && event_is(r, "true"))
		store(r->p, k, true);
	else if (k->type == KEY_TRUTH && event_is(r, "false"))
		store(r->p, k, false);
	else
		return bad_value(r, k, NULL);
	return 0;
}

static int read_version(struct reader *r, const struct policy_key *k)
{
	char known[16];

	snprintf(known, sizeof(known), "%d", POLICY_VERSION);
	return event_is(r, known) ? 0 : bad_value(r, k, NULL);
}

/* A bit's name, all capitals as in the SDM or all small; 0 when it is none. */
static uint64_t find_bit(const struct reader *r)
{
	unsigned int shift;

	for (shift = 0; shift < N_RAW_BITS; shift++) {
		const char *name = spec_ctrl_bit_name(1ULL << shift);
		char small[32];
		size_t i;

		if (!name)
			continue;
		for (i = 0; name[i] && i < sizeof(small) - 1; i++)
			small[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a')
								    : name[i];
		small[i] = '\0';
		if (event_is(r, name) || event_is(r, small))
			return 1ULL << shift;
	}
	return 0;
}

static int unknown_bit(struct reader *r, const struct policy_key *k)
{
	char legal[256] = "";
	const char *name, *last = NULL;
	unsigned int shift;

	for (shift = 0; shift < N_RAW_BITS; shift++) {
		name = spec_ctrl_bit_name(1ULL << shift);
		if (name && last)
			text_list_add(legal, sizeof(legal), last);
		if (name)
			last = name;
	}
	text_list_end(legal, sizeof(legal), last ? last : "");
	return err_set(r->e, -EINVAL,
		       "policy %s: line %u: %s: %s is not a bit; give %s, or the same in small "
		       "letters",
		       r->name, event_line(r), k->name, event_quote(r).s, legal);
}

static void set_bit(struct mitigation_policy *m, uint64_t bit, int how)
{
	if (how != RAW_GUEST)
		m->raw_mask |= bit;
	if (how == RAW_ON)
		m->raw_value |= bit;
}

static int read_bits(struct reader *r, const struct policy_key *k)
{
	int ret;

	if (r->event.type != YAML_MAPPING_START_EVENT)
		return err_set(
			r->e, -EINVAL,
			"policy %s: line %u: %s: %s is not a value; give a map of bits, such "
			"as 'BHI_DIS_S: on'",
			r->name, event_line(r), k->name, event_quote(r).s);
	while ((ret = next_event(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
		const struct policy_choice *c;
		unsigned int *line;
		uint64_t bit = find_bit(r);

		if (!bit)
			return unknown_bit(r, k);
		line = &r->bit_line[__builtin_ctzll(bit)];
		if (*line)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s.%s: given on line %u already; leave "
				       "one out",
				       r->name, event_line(r), k->name, spec_ctrl_bit_name(bit),
				       *line);
		*line = event_line(r);
		ret = next_event(r);
		if (ret < 0)
			return ret;
		c = find_choice(r, k);
		if (!c)
			return bad_value(r, k, spec_ctrl_bit_name(bit));
		set_bit(&r->p->mitigation, bit, c->value);
	}
	return ret;
}

static int read_pool(struct reader *r, const struct policy_key *k)
{
	struct policy *p = r->p;
	const unsigned int start = event_line(r);
	int ret;

	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return read_choice(r, k);
	p->pool = POOL_FILES;
	while ((ret = next_event(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
		size_t len = is_scalar(r) ? r->event.data.scalar.length : 0;

		if (len == 0 || len >= POLICY_PATH_MAX ||
		    memchr(r->event.data.scalar.value, '\0', len))
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: %s is not a path; give a host fact "
				       "file of at most %d bytes",
				       r->name, event_line(r), k->name, event_quote(r).s,
				       POLICY_PATH_MAX - 1);
		if (p->n_pool_paths == POLICY_POOL_MAX)
			return err_set(
				r->e, -EINVAL,
				"policy %s: line %u: %s: more than %d files; leave out hosts "
				"that are like another one",
				r->name, event_line(r), k->name, POLICY_POOL_MAX);
		memcpy(p->pool_path[p->n_pool_paths], r->event.data.scalar.value, len);
		p->pool_path[p->n_pool_paths++][len] = '\0';
	}
	if (!ret && !p->n_pool_paths)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: an empty list; name host fact files, or "
			       "give this-host",
			       r->name, start, k->name);
	return ret;
}

/* "3" or "3-7". Digits only, so neither signs nor octal numbers. */
static int parse_cpus(const char *s, size_t len, unsigned int *first, unsigned int *last)
{
	unsigned int n[2] = {0, 0}, part = 0, digits = 0;
	size_t i;

	for (i = 0; i < len; i++) {
		if (s[i] == '-' && part == 0 && digits) {
			part = 1;
			digits = 0;
			continue;
		}
		if (s[i] < '0' || s[i] > '9' || ++digits > 5)
			return -EINVAL;
		n[part] = 10 * n[part] + (unsigned int)(s[i] - '0');
	}
	if (!digits)
		return -EINVAL;
	*first = n[0];
	*last = part ? n[1] : n[0];
	return *first <= *last && *last < POLICY_CPU_LIMIT ? 0 : -EINVAL;
}

/* Two vCPUs on one CPU would see each other's predictors: what pinning is there to prevent. */
static int add_pin(struct reader *r, const struct policy_key *k, unsigned int cpu)
{
	struct isolation_policy *iso = &r->p->isolation;
	char path[64];
	unsigned int i;

	key_path(k, path, sizeof(path));
	for (i = 0; i < iso->n_pins; i++)
		if (iso->pin[i] == cpu)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: CPU %u is given twice; each vCPU "
				       "needs one of its own",
				       r->name, event_line(r), path, cpu);
	if (iso->n_pins == POLICY_PIN_MAX)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: more than %d CPUs; a guest has no more "
			       "vCPUs than that",
			       r->name, event_line(r), path, POLICY_PIN_MAX);
	iso->pin[iso->n_pins++] = (uint16_t)cpu;
	return 0;
}

static int read_cpus(struct reader *r, const struct policy_key *k)
{
	const unsigned int start = event_line(r);
	char path[64];
	int ret;

	key_path(k, path, sizeof(path));
	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return find_choice(r, k) ? 0 : bad_value(r, k, NULL);
	while ((ret = next_event(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
		unsigned int first, last;

		if (!is_scalar(r) || parse_cpus((const char *)r->event.data.scalar.value,
						r->event.data.scalar.length, &first, &last) < 0)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: %s is not a host CPU; give a "
				       "number below %d, or a range such as 4-7",
				       r->name, event_line(r), path, event_quote(r).s,
				       POLICY_CPU_LIMIT);
		for (; first <= last; first++) {
			ret = add_pin(r, k, first);
			if (ret < 0)
				return ret;
		}
	}
	if (!ret && !r->p->isolation.n_pins)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: an empty list; name host CPUs, or give off",
			       r->name, start, path);
	return ret;
}

static int read_map(struct reader *r, const struct policy_key *parent);

/* The value of @k is the event being looked at. */
static int read_value(struct reader *r, const struct policy_key *k)
{
	switch (k->type) {
	case KEY_CHOICE:
	case KEY_TRUTH:
		return read_choice(r, k);
	case KEY_VERSION:
		return read_version(r, k);
	case KEY_BITS:
		return read_bits(r, k);
	case KEY_POOL:
		return read_pool(r, k);
	case KEY_CPUS:
		return read_cpus(r, k);
	case KEY_MAP:
		return read_map(r, k);
	}
	return -EINVAL;
}

static bool is_below(const struct policy_key *k, const char *parent)
{
	return parent ? k->parent && strcmp(k->parent, parent) == 0 : !k->parent;
}

static int unknown_key(struct reader *r, const char *parent)
{
	char legal[512] = "";
	size_t i, last = 0;

	for (i = 0; i < ARRAY_SIZE(keys); i++)
		if (is_below(&keys[i], parent))
			last = i;
	for (i = 0; i < last; i++)
		if (is_below(&keys[i], parent))
			text_list_add(legal, sizeof(legal), keys[i].name);
	text_list_end(legal, sizeof(legal), keys[last].name);
	return err_set(r->e, -EINVAL, "policy %s: line %u: %s%s%s is not a key; give %s", r->name,
		       event_line(r), parent ? parent : "", parent ? ": " : "", event_quote(r).s,
		       legal);
}

/* The keys below @parent, NULL for those at the top. Each level of nesting is a row of the table.
 */
static int read_map(struct reader *r, const struct policy_key *parent)
{
	const char *name = parent ? parent->name : NULL;
	char path[64];
	int ret;

	if (r->event.type != YAML_MAPPING_START_EVENT)
		return parent ? bad_value(r, parent, NULL)
			      : err_set(r->e, -EINVAL,
					"policy %s: line %u: %s where keys should be; give 'key: "
					"value' lines, 'version: %d' among them",
					r->name, event_line(r), event_quote(r).s, POLICY_VERSION);
	while ((ret = next_event(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
		const struct policy_key *k = NULL;
		unsigned int *line;
		size_t i;

		for (i = 0; i < ARRAY_SIZE(keys) && !k; i++)
			if (is_below(&keys[i], name) && event_is(r, keys[i].name))
				k = &keys[i];
		if (!k)
			return unknown_key(r, name);
		line = &r->seen_line[k - keys];
		if (*line)
			return err_set(
				r->e, -EINVAL,
				"policy %s: line %u: %s: given on line %u already; leave one "
				"out",
				r->name, event_line(r), key_path(k, path, sizeof(path)), *line);
		*line = event_line(r);
		ret = next_event(r);
		if (ret == 0)
			ret = read_value(r, k);
		if (ret < 0)
			return ret;
	}
	return ret;
}

static unsigned int line_of(const struct reader *r, const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(keys); i++)
		if (!keys[i].parent && strcmp(keys[i].name, name) == 0)
			return r->seen_line[i];
	return 0;
}

/* A bit of spec-ctrl wins over bhi and rrsba; a file that says both on and off is a mistake. */
static int check_contradictions(struct reader *r)
{
	const struct mitigation_policy *m = &r->p->mitigation;
	const struct {
		const char *key;
		enum policy_switch how;
		uint64_t bit;
	} pairs[] = {{"bhi", m->bhi, SPEC_CTRL_BHI_DIS_S},
		     {"rrsba", m->rrsba, SPEC_CTRL_RRSBA_DIS_S}};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pairs); i++) {
		bool raw_on = m->raw_value & pairs[i].bit;

		if (!(m->raw_mask & pairs[i].bit) || pairs[i].how == POLICY_AUTO ||
		    (pairs[i].how == POLICY_ON) == raw_on)
			continue;
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: spec-ctrl.%s: '%s' contradicts '%s: %s' on "
			       "line %u; leave one out",
			       r->name, r->bit_line[__builtin_ctzll(pairs[i].bit)],
			       spec_ctrl_bit_name(pairs[i].bit), raw_on ? "on" : "off",
			       pairs[i].key, raw_on ? "off" : "on", line_of(r, pairs[i].key));
	}
	return 0;
}

static int read_file(struct reader *r)
{
	int ret = next_event(r); /* the stream's start */

	if (!ret)
		ret = next_event(r);
	if (ret < 0)
		return ret;
	if (r->event.type == YAML_STREAM_END_EVENT)
		return err_set(r->e, -EINVAL,
			       "policy %s: line 1: the file is empty; give at least 'version: %d'",
			       r->name, POLICY_VERSION);
	ret = next_event(r); /* what the document consists of */
	if (!ret)
		ret = read_map(r, NULL);
	if (ret < 0)
		return ret;
	if (!line_of(r, "version"))
		return err_set(r->e, -EINVAL,
			       "policy %s: line 1: version is missing; give 'version: %d'", r->name,
			       POLICY_VERSION);
	ret = next_event(r); /* the document's end */
	if (!ret)
		ret = next_event(r);
	if (ret < 0)
		return ret;
	if (r->event.type != YAML_STREAM_END_EVENT)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: a second document begins; give one a file",
			       r->name, event_line(r));
	return check_contradictions(r);
}

void policy_default(struct policy *p)
{
	memset(p, 0, sizeof(*p));
	mitigation_policy_default(&p->mitigation);
}

int policy_parse(const char *name, const char *text, size_t len, struct policy *p, struct err *e)
{
	struct reader r = {.name = name, .text = text, .len = len, .p = p, .e = e};
	int ret;

	policy_default(p);
	if (len > POLICY_SIZE_MAX)
		return err_set(e, -EFBIG, "policy %s: larger than %d bytes; is it the right file?",
			       name, POLICY_SIZE_MAX);
	if (!yaml_parser_initialize(&r.yaml))
		return err_set(e, -ENOMEM, "out of memory");
	/* the encoding is not guessed: UTF-16 is for other programs */
	yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, len);
	ret = read_file(&r);
	if (r.have_event)
		yaml_event_delete(&r.event);
	yaml_parser_delete(&r.yaml);
	return ret;
}
