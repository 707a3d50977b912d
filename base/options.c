#include "base/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/num.h"
#include "base/std_fds.h"
#include "base/text.h"

#define WORD_MAX 40 /* of a word that is compared; no name is longer */

static size_t min3(size_t a, size_t b, size_t c)
{
	const size_t least = a < b ? a : b;

	return least < c ? least : c;
}

/* Letters to be put in, taken out, changed or swapped with the next to make one of the other. */
static size_t distance(const char *a, const char *b)
{
	const size_t n_a = strlen(a), n_b = strlen(b);
	size_t rows[3][WORD_MAX + 1], i, k;

	for (i = 0; i <= n_a; i++) {
		size_t *now = rows[i % 3];
		const size_t *above = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];

		now[0] = i;
		for (k = 1; k <= n_b; k++) {
			if (!i) {
				now[k] = k;
				continue;
			}
			now[k] = min3(above[k] + 1, now[k - 1] + 1,
				      above[k - 1] + (a[i - 1] != b[k - 1]));
			if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1] &&
			    before[k - 2] + 1 < now[k])
				now[k] = before[k - 2] + 1;
		}
	}
	return rows[n_a % 3][n_b];
}

void nearest_try(struct nearest *n, const char *name)
{
	const size_t n_word = strlen(n->word), n_name = strlen(name);
	size_t d;

	if (!n_word || n_word > WORD_MAX || n_name > WORD_MAX)
		return;
	d = distance(n->word, name);
	/* with more than half of it changed it is another word */
	if (2 * d > (n_word > n_name ? n_word : n_name) + 1 || (n->name && d >= n->distance))
		return;
	n->name = name;
	n->distance = d;
}

static bool begins(const char *name, const char *word, size_t len)
{
	return strncmp(name, word, len) == 0;
}

/* @word without its dashes, its first @len bytes being the name */
static int wrong_long(const char *help, const struct option *longs, const char *word, size_t len,
		      struct err *e)
{
	char name[WORD_MAX + 1] = "", fits[256] = "", dashed[WORD_MAX + 3];
	struct nearest n = {.word = name};
	const struct option *o, *last = NULL;

	for (o = longs; o->name; o++) {
		if (!begins(o->name, word, len))
			continue;
		if (last) {
			snprintf(dashed, sizeof(dashed), "--%s", last->name);
			text_list_add(fits, sizeof(fits), dashed);
		}
		last = o;
	}
	if (last && len) {
		snprintf(dashed, sizeof(dashed), "--%s", last->name);
		text_list_end(fits, sizeof(fits), dashed);
		return err_set(e, -EINVAL, "option '--%.*s' is not unique: %s; see %s", (int)len,
			       word, fits, help);
	}
	if (len <= WORD_MAX)
		snprintf(name, sizeof(name), "%.*s", (int)len, word);
	for (o = longs; o->name && name[0]; o++)
		nearest_try(&n, o->name);
	return err_set(e, -EINVAL, "option '--%s' is unknown; %s%s%ssee %s", text_clean(word).s,
		       n.name ? "the nearest is --" : "", n.name ? n.name : "", n.name ? "; " : "",
		       help);
}

/* Is "-name" a long option with one dash? */
static const char *one_dash(const struct option *longs, const char *word)
{
	if (!word || word[0] != '-' || !word[1] || !word[2])
		return NULL;
	for (; longs->name; longs++)
		if (strcmp(longs->name, word + 1) == 0)
			return longs->name;
	return NULL;
}

static int wrong_letter(const char *help, const struct option *longs, char *const *argv,
			struct err *e)
{
	const char letter[] = {(char)optopt, '\0'};
	const char *name = one_dash(longs, argv[optind]);

	if (!name)
		name = one_dash(longs, argv[optind - 1]);
	return err_set(e, -EINVAL, "option '-%s' is unknown; %s%s%ssee %s", text_clean(letter).s,
		       name ? "give --" : "", name ? name : "", name ? "; " : "", help);
}

/* Why getopt_long(3) returned @value, '?' or ':'. Return: -EINVAL */
static int wrong(const char *help, const struct option *longs, char *const *argv, int value,
		 struct err *e)
{
	const char *word = argv[optind - 1], *end;
	const bool is_long = strncmp(word, "--", 2) == 0;
	const struct option *o;

	if (value == ':')
		return err_set(e, -EINVAL, "option '%s' wants a value; see %s", text_clean(word).s,
			       help);
	end = is_long ? word + 2 + strcspn(word + 2, "=") : word;
	if (!optopt && is_long)
		return wrong_long(help, longs, word + 2, (size_t)(end - word - 2), e);
	/* one that takes no value leaves its own number behind, as a wrong letter does */
	for (o = longs; is_long && *end == '=' && o->name; o++)
		if (o->val == optopt && o->has_arg == no_argument &&
		    begins(o->name, word + 2, (size_t)(end - word - 2)))
			return err_set(e, -EINVAL, "option %s: --%s takes no value; leave out %s",
				       text_quote(word, strlen(word)).s, o->name,
				       text_quote(end, strlen(end)).s);
	return wrong_letter(help, longs, argv, e);
}

/* ---- the table ---- */

#define BEYOND_LETTERS 256 /* getopt's number of an option without one: this and its row's */

/* What getopt_long(3) wants to know, in its own words. */
struct getopt_tables {
	struct option longs[OPTIONS_MAX + 1];
	char letters[2 * OPTIONS_MAX + 2];
};

static void fill(struct getopt_tables *t, const struct options *o)
{
	size_t i, n = 0;

	memset(t, 0, sizeof(*t));
	t->letters[n++] = ':';
	for (i = 0; i < o->n_rows; i++) {
		const struct option_row *r = &o->rows[i];

		t->longs[i].name = r->name;
		t->longs[i].has_arg = r->arg ? required_argument : no_argument;
		t->longs[i].val = r->letter ? r->letter : BEYOND_LETTERS + (int)i;
		if (!r->letter)
			continue;
		t->letters[n++] = r->letter;
		if (r->arg)
			t->letters[n++] = ':';
	}
}

static const struct option_row *find_row(const struct options *o, int value)
{
	size_t i;

	if (value >= BEYOND_LETTERS)
		return &o->rows[value - BEYOND_LETTERS];
	for (i = 0; o->rows[i].letter != value; i++)
		;
	return &o->rows[i];
}

static void store(void *into, const struct option_member *m, uint64_t value)
{
	void *at = (char *)into + m->offset;

	if (m->size == sizeof(uint8_t))
		*(uint8_t *)at = (uint8_t)value;
	else if (m->size == sizeof(uint32_t))
		*(uint32_t *)at = (uint32_t)value;
	else if (m->size == sizeof(uint64_t))
		*(uint64_t *)at = value;
}

/* The name that messages have for it: "-m", "--ready-fd" */
static const char *name_of(const struct option_row *r, char *buf, size_t size)
{
	if (r->letter)
		snprintf(buf, size, "-%c", r->letter);
	else
		snprintf(buf, size, "--%s", r->name);
	return buf;
}

static int take(const struct option_row *r, void *into, char *value, struct err *e)
{
	char name[WORD_MAX + 3];
	uint64_t n;
	int ret = 0;

	store(into, &r->given, true);
	switch (r->kind) {
	case OPTION_SET:
		store(into, &r->at, r->set);
		break;
	case OPTION_TEXT:
		*(const char **)(void *)((char *)into + r->at.offset) = value;
		break;
	case OPTION_NUMBER:
		ret = num_parse_u64(name_of(r, name, sizeof(name)), value, r->min, r->max, &n, e);
		if (!ret)
			store(into, &r->at, n);
		break;
	case OPTION_SIZE:
		ret = num_parse_size(name_of(r, name, sizeof(name)), value, &n, e);
		if (!ret)
			store(into, &r->at, n);
		break;
	case OPTION_CALL:
		ret = r->take(into, value, e);
		break;
	case OPTION_QUIET:
		log_set_level(LOG_ERR);
		break;
	case OPTION_HELP:
		break;
	}
	return ret;
}

int options_parse(const struct options *o, void *into, int argc, char **argv, struct err *e)
{
	const struct option_row *r;
	struct getopt_tables t;
	int value, ret;

	fill(&t, o);
	optind = 0; /* glibc: start afresh */
	opterr = 0;
	while ((value = getopt_long(argc, argv, t.letters, t.longs, NULL)) != -1) {
		if (value == ':' || value == '?')
			return wrong(o->see, t.longs, argv, value, e);
		r = find_row(o, value);
		if (r->kind == OPTION_HELP)
			return 0;
		ret = take(r, into, optarg, e);
		if (ret < 0)
			return ret;
	}
	return optind;
}

bool options_print_help(const struct options *o)
{
	const struct option_row *r;
	const char *line, *end;

	fputs(o->head, stdout);
	for (r = o->rows; r < o->rows + o->n_rows; r++) {
		if (r->letter)
			printf("  -%c, --%s", r->letter, r->name);
		else
			printf("%*s--%s", (int)o->indent, "", r->name);
		printf("%s%s\n", r->arg ? " " : "", r->arg ? r->arg : "");
		for (line = r->help; line; line = *end ? end + 1 : NULL) {
			end = line + strcspn(line, "\n");
			printf("        %.*s\n", (int)(end - line), line);
		}
	}
	fputs(o->tail, stdout);
	return std_out_flush() == 0;
}

int options_one_too_many(const struct options *o, const char *word, struct err *e)
{
	return err_set(e, -EINVAL, "'%s' is one word too many; see %s", word, o->see);
}
