/*
 * Inside of reading a policy file: the place in the file, its events, and the two halves of the
 * reader, keys (policy_parse.c) and values (policy_values.c). For policy/policy*.c and nobody else.
 */
#ifndef POLICY_POLICY_READER_H
#define POLICY_POLICY_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <yaml.h>

#include "base/text.h"
#include "policy/policy.h"

#define POLICY_KEYS_MAX 32

/* What a bit of spec-ctrl may be. */
enum raw_bit { RAW_GUEST, RAW_ON, RAW_OFF };

#define N_RAW_BITS 64

struct policy_reader {
	const char *name;
	const char *text;
	size_t len;
	yaml_parser_t yaml;
	yaml_event_t event; /* the one being looked at */
	bool have_event;
	struct policy *p;
	unsigned int seen_line[POLICY_KEYS_MAX]; /* where the key was given; 0: not yet */
	unsigned int bit_line[N_RAW_BITS];	 /* the same for the bits of spec-ctrl */
	struct err *e;
};

/**
 * reader_next - the next event, into @r->event
 * Anchors, aliases and tags are refused here, for every place: a policy has no use for them, and
 * aliases are the way to make a small file large.
 * Return: 0; -EINVAL or -ENOMEM with the line in @r->e, as all of these
 */
int reader_next(struct policy_reader *r);

/** reader_line - where the event is, from 1 */
unsigned int reader_line(const struct policy_reader *r);

/** reader_quote - for a message: the value that stands there, or what kind of thing it is */
struct text_quote reader_quote(const struct policy_reader *r);

bool reader_is_scalar(const struct policy_reader *r);
/** reader_is - is it this word? */
bool reader_is(const struct policy_reader *r, const char *word);

/** reader_key_path - "isolation.core-scheduling". Return: @buf */
const char *reader_key_path(const struct policy_key *k, char *buf, size_t size);

/** reader_find_choice - the word of @k that the event is. Return: NULL when it is none */
const struct policy_choice *reader_find_choice(const struct policy_reader *r,
					       const struct policy_key *k);

/** reader_bad_value - the error for the event at @k, with what may stand there; @below: under it */
int reader_bad_value(struct policy_reader *r, const struct policy_key *k, const char *below);

/** value_read - the value of @k, which is the event being looked at; not of a KEY_MAP */
int value_read(struct policy_reader *r, const struct policy_key *k);

#endif
