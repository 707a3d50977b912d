/*
 * A subcommand's options as a table: one row says how an option is called, what --help tells of it
 * and where its value goes. And what is wrong with a word that no table has.
 */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct err;

enum option_kind {
	OPTION_SET,    /* takes no value: @set goes into the member */
	OPTION_TEXT,   /* a char pointer; the string is borrowed from argv */
	OPTION_NUMBER, /* @min to @max, as num_parse_u64() */
	OPTION_SIZE,   /* bytes, as num_parse_size() */
	OPTION_CALL,   /* @take knows */
	OPTION_QUIET,  /* nothing but errors is logged from here on */
	OPTION_HELP    /* ends the parsing */
};

/* A member of the structure that options are read into: a bool or enum, a pointer, a 32 or 64 bit
 * number. Of no size: none. */
struct option_member {
	size_t offset, size;
};

struct option_row {
	const char *name;
	char letter;	  /* 0: none */
	const char *arg;  /* what --help calls the value; NULL: takes none */
	const char *help; /* several lines with newlines between them */
	enum option_kind kind;
	struct option_member at;
	uint64_t set, min, max;
	/* @into: the structure; @value may be cut up. Return: 0; negative with the text in @e */
	int (*take)(void *into, char *value, struct err *e);
	struct option_member given; /* a bool that tells that the option was there */
};

/* The end of a row: what is stored, and in which member of which structure. */
#define OPTION_MEMBER(type, member)                                    \
	{                                                              \
		offsetof(type, member), sizeof(((type *)NULL)->member) \
	}
#define OPTION_SETS(type, member, value) \
	.kind = OPTION_SET, .at = OPTION_MEMBER(type, member), .set = (value)
#define OPTION_TEXT_IN(type, member) .kind = OPTION_TEXT, .at = OPTION_MEMBER(type, member)
#define OPTION_NUMBER_IN(type, member, least, most) \
	.kind = OPTION_NUMBER, .at = OPTION_MEMBER(type, member), .min = (least), .max = (most)
#define OPTION_SIZE_IN(type, member)  .kind = OPTION_SIZE, .at = OPTION_MEMBER(type, member)
#define OPTION_CALLS(function)	      .kind = OPTION_CALL, .take = (function)
#define OPTION_GIVEN_IN(type, member) .given = OPTION_MEMBER(type, member)

#define OPTION_HELP_ROW                                             \
	{                                                           \
		"help", 'h', NULL, "this text", .kind = OPTION_HELP \
	}
#define OPTION_QUIET_ROW(text)                                 \
	{                                                      \
		"quiet", 'q', NULL, text, .kind = OPTION_QUIET \
	}

#define OPTIONS_MAX 64 /* rows of a table */

/* One command line. */
struct options {
	const char *see;  /* where --help is: "testudo run --help" */
	const char *head; /* of --help, up to the first option; @tail: after the last */
	const struct option_row *rows;
	size_t n_rows;
	const char *tail;
	unsigned int indent; /* of an option without a letter, in --help */
};

/* @rows and @n_rows of a table that is not too long */
#define OPTIONS_TABLE(table) \
	.rows = (table),     \
	.n_rows = ARRAY_SIZE(table) + 0 * sizeof(char[ARRAY_SIZE(table) <= OPTIONS_MAX ? 1 : -1])

/**
 * options_parse - read the options of @argv, which is reordered: plain words stand at its end
 * @into: the structure that the rows' members belong to
 * Return: where in @argv the plain words begin, 1 or more; 0: --help was asked for; negative with
 * the option in @e: one that is unknown (with the nearest), not unique (with those that it may be),
 * takes no value, lacks its value (all -EINVAL), or has a wrong one
 */
int options_parse(const struct options *o, void *into, int argc, char **argv, struct err *e);

/** options_print_help - to standard output. Return: did all of it get there? */
bool options_print_help(const struct options *o);

/** options_one_too_many - say that @word has no place. Return: -EINVAL */
int options_one_too_many(const struct options *o, const char *word, struct err *e);

/* The nearest of several names to a word, by the letters to be changed. */
struct nearest {
	const char *word;
	const char *name; /* NULL: none has anything in common with it */
	size_t distance;
};

/** nearest_try - is @name nearer than those before? @n->word is set, the rest zeroed at first */
void nearest_try(struct nearest *n, const char *name);

#endif
