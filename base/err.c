#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#undef err_set /* of the analyzer */
#undef err_no_memory
#undef err_is
#include "base/bytes.h"
#include "base/text.h"

static const struct {
	int error;
	const char *word, *cure; /* @word: of a text that has a cure of its own */
} limits[] = {
	{EMFILE, "ulimit -n", "raise the limit of open files (ulimit -n)"},
	{ENFILE, "file-max", "the host has too many open files (sysctl fs.file-max)"},
};

static void name_limit(struct err *e)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		const char *words = strerror(limits[i].error);
		char *at = strstr(e->text, words);

		if (e->code != -limits[i].error || !at || strstr(e->text, limits[i].word))
			continue;
		at += strlen(words);
		snprintf(at, sizeof(e->text) - (size_t)(at - e->text), "; %s", limits[i].cure);
	}
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e || e->code)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	name_limit(e);
	text_printable(e->text);
	return code;
}

int err_no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory");
}

int err_is(struct err *e, enum err_class class, int ret)
{
	if (ret < 0 && e && e->class == ERR_HOST)
		e->class = class;
	return ret;
}
