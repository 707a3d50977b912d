/*
 * libyaml's events, one at a time, and messages about them. libcyaml, which builds on libyaml and
 * has schemas, was tried first: it takes any word for a boolean, ignores anchors and second
 * documents silently, reads 010 as eight, and its messages lack the legal set and, for an unknown
 * key, the right line.
 */
#include "policy/policy_reader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

unsigned int reader_line(const struct policy_reader *r)
{
	return (unsigned int)r->event.start_mark.line + 1;
}

/* libyaml tells the reader's errors (encoding) by offset, all others by line. */
static int yaml_error(struct policy_reader *r)
{
	const yaml_parser_t *y = &r->yaml;
	size_t line = y->problem_mark.line + 1, i;

	if (y->error == YAML_MEMORY_ERROR)
		return err_no_memory(r->e);
	if (y->error == YAML_READER_ERROR)
		for (line = 1, i = 0; i < y->problem_offset && i < r->len; i++)
			line += r->text[i] == '\n';
	return err_set(r->e, -EINVAL, "policy %s: line %zu: not YAML: %s; give 'key: value' lines",
		       r->name, line, y->problem ? y->problem : "cannot be read");
}

int reader_next(struct policy_reader *r)
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
			       r->name, reader_line(r),
			       text_quote((const char *)anchor, strlen((const char *)anchor)).s);
	if (tag)
		return err_set(r->e, -EINVAL, "policy %s: line %u: tag %s; leave it out", r->name,
			       reader_line(r),
			       text_quote((const char *)tag, strlen((const char *)tag)).s);
	return 0;
}

/* Quoted for a message: the value that stands there, or what kind of thing it is. */
struct text_quote reader_quote(const struct policy_reader *r)
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

bool reader_is_scalar(const struct policy_reader *r)
{
	return r->event.type == YAML_SCALAR_EVENT;
}

bool reader_is(const struct policy_reader *r, const char *word)
{
	return reader_is_scalar(r) && strlen(word) == r->event.data.scalar.length &&
	       memcmp(word, r->event.data.scalar.value, strlen(word)) == 0;
}

/* "isolation.core-scheduling" */
const char *reader_key_path(const struct policy_key *k, char *buf, size_t size)
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

int reader_bad_value(struct policy_reader *r, const struct policy_key *k, const char *below)
{
	char path[64], legal[256];

	legal_values(k, legal, sizeof(legal));
	return err_set(r->e, -EINVAL, "policy %s: line %u: %s%s%s: %s is not a value; give %s",
		       r->name, reader_line(r), reader_key_path(k, path, sizeof(path)),
		       below ? "." : "", below ? below : "", reader_quote(r).s, legal);
}

const struct policy_choice *reader_find_choice(const struct policy_reader *r,
					       const struct policy_key *k)
{
	const struct policy_choice *c;

	for (c = k->choices; c->name; c++)
		if (reader_is(r, c->name))
			return c;
	return NULL;
}
