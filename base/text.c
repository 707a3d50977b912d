#include "base/text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

#define LINE_SIZE 8192 /* a path of PATH_MAX and words around it */

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

/* Return: bytes of the UTF-8 character at @s, 0 when it is none. The NUL ends every one. */
static size_t utf8_length(const unsigned char *s)
{
	static const struct {
		unsigned char mask, lead;
		uint32_t min;
	} forms[] = {{0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
	uint32_t c;
	size_t n, i;

	if (*s < 0x80)
		return 1;
	for (n = 0; n < ARRAY_SIZE(forms) && (*s & forms[n].mask) != forms[n].lead; n++)
		;
	if (n == ARRAY_SIZE(forms))
		return 0;
	c = *s & (unsigned char)~forms[n].mask;
	for (i = 1; i < n + 2; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	return c < forms[n].min || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n + 2;
}

void text_printable(char *text)
{
	unsigned char *s = (unsigned char *)text;

	while (*s) {
		const size_t n = utf8_length(s);
		const bool c1 = n == 2 && s[0] == 0xc2 && s[1] < 0xa0;

		if (n == 0 || c1 || *s < ' ' || *s == 0x7f) {
			if (c1)
				s[1] = '?';
			*s = '?';
		}
		s += n ? n : 1;
	}
}

void text_say(const char *fmt, ...)
{
	char line[LINE_SIZE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	text_printable(line);
	puts(line);
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
