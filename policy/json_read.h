/*
 * Reading JSON strictly: objects whose keys must all be known, numbers with a range, and messages
 * that name the place. Shared by the readers of fact files and CPU templates.
 */
#ifndef POLICY_JSON_READ_H
#define POLICY_JSON_READ_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_READ_DEPTH_MAX 16 /* objects and arrays in each other; our files have 4 */

struct err;

/* Where messages say that the trouble is: "host facts h.json: facts.model: ..." */
struct json_place {
	const char *what; /* "host facts" */
	const char *name; /* the file */
	struct err *e;
};

/**
 * json_read_text - parse a whole document, which must be an object of up to @max bytes and
 *                  JSON_READ_DEPTH_MAX levels: jansson sees no other
 * Return: a reference of the caller's, or NULL with *ret and the message set
 */
json_t *json_read_text(const struct json_place *at, const char *text, size_t len, size_t max,
		       int *ret);

/**
 * json_read_known - refuse a key of @object that is not among @known, a list that NULL ends
 * @path: where @object is, "" at the top, else with a dot at the end: "facts."
 * Return: 0 or -EINVAL
 */
int json_read_known(const struct json_place *at, const char *path, json_t *object,
		    const char *const *known);

/**
 * json_read_number - a whole number, as JSON number or as string "0x..." or decimal
 * @value: NULL when the key is missing, which is refused
 * Return: 0 or -EINVAL
 */
int json_read_number(const struct json_place *at, const char *path, const char *key, json_t *value,
		     uint64_t max, uint64_t *out);

/** json_read_bad - refuse what stands at @path@key: "... is not a value; give @legal" */
int json_read_bad(const struct json_place *at, const char *path, const char *key, json_t *value,
		  const char *legal);

#endif
