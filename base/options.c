#include "base/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
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

int options_wrong(const char *help, const struct option *longs, char *const *argv, int value,
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
