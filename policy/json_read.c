#include "policy/json_read.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/num.h"
#include "base/text.h"

/*
 * jansson goes down into a document by recursion. Up to the first error that it would find, strings
 * and brackets are all that counts.
 */
static bool is_too_deep(const char *text, size_t len)
{
	unsigned int depth = 0;
	bool in_string = false;
	size_t i;

	for (i = 0; i < len; i++) {
		const char c = text[i];

		if (in_string) {
			in_string = c != '"';
			i += c == '\\';
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > JSON_READ_DEPTH_MAX)
				return true;
		} else if (depth && (c == '}' || c == ']')) {
			depth--;
		}
	}
	return false;
}

json_t *json_read_text(const struct json_place *at, const char *text, size_t len, size_t max,
		       int *ret)
{
	json_error_t why;
	json_t *root;

	*ret = -EFBIG;
	if (len > max) {
		err_set(at->e, *ret, "%s %s: larger than %zu bytes; is it the right file?",
			at->what, at->name, max);
		return NULL;
	}
	*ret = -EINVAL;
	if (is_too_deep(text, len)) {
		err_set(at->e, *ret,
			"%s %s: brackets in more than %d levels; is it the right file?", at->what,
			at->name, JSON_READ_DEPTH_MAX);
		return NULL;
	}
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!root) {
		if (json_error_code(&why) == json_error_out_of_memory)
			*ret = -ENOMEM;
		err_set(at->e, *ret, "%s %s: line %d: %s; give one JSON object", at->what, at->name,
			why.line > 0 ? why.line : 1, text_clean(why.text).s);
	} else if (!json_is_object(root)) {
		err_set(at->e, *ret, "%s %s: not a JSON object; is it the right file?", at->what,
			at->name);
		json_decref(root);
		root = NULL;
	}
	return root;
}

int json_read_known(const struct json_place *at, const char *path, json_t *object,
		    const char *const *known)
{
	char legal[512] = "";
	const char *key;
	json_t *value;
	size_t i;

	json_object_foreach(object, key, value)
	{
		for (i = 0; known[i] && strcmp(known[i], key) != 0; i++)
			;
		if (known[i])
			continue;
		for (i = 0; known[i]; i++)
			if (known[i + 1])
				text_list_add(legal, sizeof(legal), known[i]);
			else
				text_list_end(legal, sizeof(legal), known[i]);
		return err_set(at->e, -EINVAL, "%s %s: %s%s is not a key; give %s", at->what,
			       at->name, path, text_quote(key, strlen(key)).s, legal);
	}
	return 0;
}

static struct text_quote value_quote(json_t *value)
{
	char number[32];

	switch (value ? json_typeof(value) : JSON_NULL) {
	case JSON_STRING:
		return text_quote(json_string_value(value), json_string_length(value));
	case JSON_INTEGER:
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		return text_quote(number, strlen(number));
	case JSON_REAL:
		snprintf(number, sizeof(number), "%g", json_real_value(value));
		return text_quote(number, strlen(number));
	case JSON_OBJECT:
		return (struct text_quote) {"an object"};
	case JSON_ARRAY:
		return (struct text_quote) {"an array"};
	case JSON_TRUE:
		return (struct text_quote) {"true"};
	case JSON_FALSE:
		return (struct text_quote) {"false"};
	default:
		return (struct text_quote) {"null"};
	}
}

int json_read_bad(const struct json_place *at, const char *path, const char *key, json_t *value,
		  const char *legal)
{
	if (!value)
		return err_set(at->e, -EINVAL, "%s %s: %s%s is missing; give %s", at->what,
			       at->name, path, key, legal);
	return err_set(at->e, -EINVAL, "%s %s: %s%s: %s is not a value; give %s", at->what,
		       at->name, path, key, value_quote(value).s, legal);
}

int json_read_number(const struct json_place *at, const char *path, const char *key, json_t *value,
		     uint64_t max, uint64_t *out)
{
	char legal[96];
	uint64_t v;

	snprintf(legal, sizeof(legal), "a number from 0 to %#llx, or a string such as \"0x1f\"",
		 (unsigned long long)max);
	if (json_is_integer(value) && json_integer_value(value) >= 0 &&
	    (uint64_t)json_integer_value(value) <= max) {
		*out = (uint64_t)json_integer_value(value);
		return 0;
	}
	if (json_is_string(value) &&
	    num_parse_u64("", json_string_value(value), 0, max, &v, NULL) == 0) {
		*out = v;
		return 0;
	}
	return json_read_bad(at, path, key, value, legal);
}
