/* The policy file as a map of keys, walked over the table of policy_keys.c. */
#include "policy/policy.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/text.h"
#include "msr/spec_ctrl.h"
#include "policy/policy_reader.h"

static bool is_below(const struct policy_key *k, const char *parent)
{
	return parent ? k->parent && strcmp(k->parent, parent) == 0 : !k->parent;
}

static int unknown_key(struct policy_reader *r, const char *parent)
{
	char legal[512] = "";
	unsigned int n, i, last = 0;
	const struct policy_key *keys = policy_keys(&n);

	for (i = 0; i < n; i++)
		if (is_below(&keys[i], parent))
			last = i;
	for (i = 0; i < last; i++)
		if (is_below(&keys[i], parent))
			text_list_add(legal, sizeof(legal), keys[i].name);
	text_list_end(legal, sizeof(legal), keys[last].name);
	return err_set(r->e, -EINVAL, "policy %s: line %u: %s%s%s is not a key; give %s", r->name,
		       reader_line(r), parent ? parent : "", parent ? ": " : "", reader_quote(r).s,
		       legal);
}

/* Is the present word what @name was called before? */
static bool is_earlier(const struct policy_reader *r, const char *name)
{
	static const struct {
		const char *earlier, *name;
	} renamed[] = {{"force-unaware", "hold-unaware"}, {"force-when-shown", "hold-when-shown"}};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(renamed); i++)
		if (strcmp(renamed[i].name, name) == 0)
			return reader_is(r, renamed[i].earlier);
	return false;
}

/*
 * The keys below @parent, NULL for those at the top. Each level of nesting is a row of the table.
 */
static int read_map(struct policy_reader *r, const struct policy_key *parent)
{
	const char *name = parent ? parent->name : NULL;
	unsigned int n, i;
	const struct policy_key *keys = policy_keys(&n);
	char path[64];
	int ret;

	if (r->event.type != YAML_MAPPING_START_EVENT)
		return parent ? reader_bad_value(r, parent, NULL)
			      : err_set(r->e, -EINVAL,
					"policy %s: line %u: %s where keys should be; give 'key: "
					"value' lines, 'version: %d' among them",
					r->name, reader_line(r), reader_quote(r).s, POLICY_VERSION);
	while ((ret = reader_next(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
		const struct policy_key *k = NULL;
		unsigned int *line;

		for (i = 0; i < n && !k; i++)
			if (is_below(&keys[i], name) &&
			    (reader_is(r, keys[i].name) || is_earlier(r, keys[i].name)))
				k = &keys[i];
		if (!k)
			return unknown_key(r, name);
		line = &r->seen_line[k - keys];
		if (*line)
			return err_set(
				r->e, -EINVAL,
				"policy %s: line %u: %s: given on line %u already; leave one out",
				r->name, reader_line(r), reader_key_path(k, path, sizeof(path)),
				*line);
		*line = reader_line(r);
		ret = reader_next(r);
		if (ret == 0)
			ret = k->type == KEY_MAP ? read_map(r, k) : value_read(r, k);
		if (ret < 0)
			return ret;
	}
	return ret;
}

static unsigned int line_of(const struct policy_reader *r, const char *name)
{
	unsigned int n, i;
	const struct policy_key *keys = policy_keys(&n);

	for (i = 0; i < n; i++)
		if (!keys[i].parent && strcmp(keys[i].name, name) == 0)
			return r->seen_line[i];
	return 0;
}

/*
 * A bit of spec-ctrl wins over bhi and rrsba; a file that says on and something else, or both on
 * and off, is a mistake.
 */
static int check_contradictions(struct policy_reader *r)
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
		const bool raw_on = m->raw_value & pairs[i].bit;
		const bool guest = m->raw_guest & pairs[i].bit;

		if (!((m->raw_mask | m->raw_guest) & pairs[i].bit) || pairs[i].how == POLICY_AUTO ||
		    (pairs[i].how == POLICY_ON) == raw_on)
			continue;
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: spec-ctrl.%s: '%s' contradicts '%s: %s' on "
			       "line %u; leave one out",
			       r->name, r->bit_line[__builtin_ctzll(pairs[i].bit)],
			       spec_ctrl_bit_name(pairs[i].bit),
			       guest	? "guest"
			       : raw_on ? "on"
					: "off",
			       pairs[i].key, raw_on ? "off" : "on", line_of(r, pairs[i].key));
	}
	return 0;
}

static int read_file(struct policy_reader *r)
{
	int ret = reader_next(r); /* the stream's start */

	if (!ret)
		ret = reader_next(r);
	if (ret < 0)
		return ret;
	if (r->event.type == YAML_STREAM_END_EVENT)
		return err_set(r->e, -EINVAL,
			       "policy %s: line 1: the file is empty; give at least 'version: %d'",
			       r->name, POLICY_VERSION);
	ret = reader_next(r); /* what the document consists of */
	if (!ret)
		ret = read_map(r, NULL);
	if (ret < 0)
		return ret;
	if (!line_of(r, "version"))
		return err_set(r->e, -EINVAL,
			       "policy %s: line 1: version is missing; give 'version: %d'", r->name,
			       POLICY_VERSION);
	ret = reader_next(r); /* the document's end */
	if (!ret)
		ret = reader_next(r);
	if (ret < 0)
		return ret;
	if (r->event.type != YAML_STREAM_END_EVENT)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: a second document begins; give one a file",
			       r->name, reader_line(r));
	return check_contradictions(r);
}

int policy_parse(const char *name, const char *text, size_t len, struct policy *p, struct err *e)
{
	struct policy_reader r = {.name = name, .text = text, .len = len, .p = p, .e = e};
	int ret;

	policy_default(p);
	if (len > POLICY_SIZE_MAX)
		return err_set(e, -EFBIG, "policy %s: larger than %d bytes; is it the right file?",
			       name, POLICY_SIZE_MAX);
	if (!yaml_parser_initialize(&r.yaml))
		return err_no_memory(e);
	/* the encoding is not guessed: UTF-16 is for other programs */
	yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, len);
	ret = read_file(&r);
	if (r.have_event)
		yaml_event_delete(&r.event);
	yaml_parser_delete(&r.yaml);
	return ret;
}
