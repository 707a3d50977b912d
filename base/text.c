#include "base/text.h"

#include <stdio.h>
#include <string.h>

/* @len bytes of @s between two @quote */
static struct text_quote clean(const char *s, size_t len, const char *quote)
{
	static const char dots[] = "...";
	struct text_quote q;
	const size_t room = sizeof(q.s) - 1 - 2 * strlen(quote);
	size_t n = len > room ? room - strlen(dots) : len, used, i;

	used = (size_t)snprintf(q.s, sizeof(q.s), "%s", quote);
	for (i = 0; i < n; i++)
		q.s[used++] = s[i] >= ' ' && s[i] <= '~' ? s[i] : '?';
	snprintf(q.s + used, sizeof(q.s) - used, "%s%s", n < len ? dots : "", quote);
	return q;
}

struct text_quote text_quote(const char *s, size_t len)
{
	return clean(s, len, "'");
}

struct text_quote text_clean(const char *s)
{
	return clean(s, strlen(s), "");
}

static void append(char *buf, size_t size, const char *separator, const char *word)
{
	size_t used = strlen(buf);

	snprintf(buf + used, size - used, "%s%s", used ? separator : "", word);
}

void text_list_add(char *buf, size_t size, const char *word)
{
	append(buf, size, ", ", word);
}

void text_list_end(char *buf, size_t size, const char *word)
{
	append(buf, size, " or ", word);
}
