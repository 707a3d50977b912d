/* What is wrong with a word of the command line that getopt_long(3) or a table of words did not
 * take. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <getopt.h>
#include <stddef.h>

struct err;

/* The nearest of several names to a word, by the letters to be changed. */
struct nearest {
	const char *word;
	const char *name; /* NULL: none has anything in common with it */
	size_t distance;
};

/** nearest_try - is @name nearer than those before? @n->word is set, the rest zeroed at first */
void nearest_try(struct nearest *n, const char *name);

/**
 * options_wrong - say why getopt_long() returned @value
 * @help: "testudo run --help"
 * @longs, @argv: what it got; its short options begin with ':' and opterr is 0
 * @value: '?' or ':'
 * Return: -EINVAL: an option that is unknown (with the nearest), not unique (with those that it may
 * be), takes no value, or lacks its value
 */
int options_wrong(const char *help, const struct option *longs, char *const *argv, int value,
		  struct err *e);

#endif
