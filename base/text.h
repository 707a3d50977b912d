/* Bits of foreign text inside one-line messages: quoted safely, and lists as people write them. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stddef.h>

#define TEXT_QUOTE_MAX 80

/* Text of somebody else, fit for a message. */
struct text_quote {
	char s[TEXT_QUOTE_MAX];
};

/**
 * text_quote - @len bytes at @s, cut to what fits ("..." at the end), in single quotes
 * Whatever is not printable ASCII becomes '?': a message stays one line, whatever the file holds.
 */
struct text_quote text_quote(const char *s, size_t len);

/** text_clean - the same for all of @s, without the quotes */
struct text_quote text_clean(const char *s);

/**
 * text_printable - replace by '?' what a terminal might obey, in place: control characters, also
 * those of two bytes (U+0080 to U+009F), newlines among them, and what is no UTF-8
 * Every message passes here, in err_set() and log_msg(): paths, names and what another side says
 * may be in it.
 */
void text_printable(char *s);

/** text_say - print one line to standard output, without the newline in @fmt, made printable */
void text_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/**
 * text_list_add - append @word to the list in @buf, "a", "a, b", ...
 * A list that does not fit into @size bytes is cut off.
 */
void text_list_add(char *buf, size_t size, const char *word);

/** text_list_end - append the last word: "a", "a or b", "a, b or c" */
void text_list_end(char *buf, size_t size, const char *word);

#endif
