/* Which of our kinds of text file one is: policies, fact files and CPU templates are mixed up. */
#ifndef POLICY_TEXT_KIND_H
#define POLICY_TEXT_KIND_H

#include <stddef.h>

struct err;

enum text_kind { TEXT_POLICY, TEXT_FACTS, TEXT_TEMPLATE, TEXT_REPORT };

/**
 * text_kind_check - refuse a file that is surely of another kind, or no text at all
 * @what, @name: what is wanted and the file, for messages: "policy", "fleet.yaml"
 * @text: of @len bytes and a NUL
 * What is damaged or of no known kind passes: its parser knows better what is wrong.
 * Return: 0; -EINVAL with what it is and where it belongs in @e
 */
int text_kind_check(const char *what, const char *name, const char *text, size_t len,
		    enum text_kind wanted, struct err *e);

#endif
