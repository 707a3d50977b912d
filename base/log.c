#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/text.h"

static enum log_level log_max = LOG_INFO;

static const char *const level_word[] = {
	[LOG_ERR] = "error: ",
	[LOG_WARN] = "warning: ",
	[LOG_INFO] = "",
	[LOG_DEBUG] = "debug: ",
};

void log_set_level(enum log_level level)
{
	log_max = level;
}

int log_enabled(enum log_level level)
{
	return level <= log_max;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	char line[1280];
	size_t len;
	va_list ap;
	int n;

	if (!log_enabled(level))
		return;
	n = snprintf(line, sizeof(line), "testudo: %s", level_word[level]);
	len = n > 0 ? (size_t)n : 0;
	va_start(ap, fmt);
	n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	if (n > 0)
		len += (size_t)n < sizeof(line) - len - 1 ? (size_t)n : sizeof(line) - len - 2;
	line[len] = '\0';
	text_printable(line);
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody is left to tell */
}

void log_add(struct log_lines *l, enum log_level level, const char *fmt, ...)
{
	va_list ap;

	if (!log_enabled(level) || l->n == ARRAY_SIZE(l->line))
		return;
	l->line[l->n].level = level;
	va_start(ap, fmt);
	vsnprintf(l->line[l->n].text, sizeof(l->line[l->n].text), fmt, ap);
	va_end(ap);
	l->n++;
}

void log_lines_say(const struct log_lines *l)
{
	unsigned int i;

	for (i = 0; i < l->n; i++)
		log_msg(l->line[i].level, "%s", l->line[i].text);
}
