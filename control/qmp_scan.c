#include "control/qmp_scan.h"

#include <string.h>

static void scan_string(struct qmp_scan *s, char c)
{
	if (s->escaped)
		s->escaped = false;
	else if (c == '\\')
		s->escaped = true;
	else if (c == '"')
		s->in_string = false;
}

enum qmp_scan_result qmp_scan_next(struct qmp_scan *s, const char *buf, size_t len_bytes)
{
	while (s->pos < len_bytes) {
		const char c = buf[s->pos++];

		if (s->skipping) {
			s->skipping = c != '\n';
		} else if (s->in_string) {
			scan_string(s, c);
		} else if (c == '{' || (c == '[' && s->depth)) {
			if (!s->depth)
				s->start = s->pos - 1;
			if (++s->depth > QMP_DEPTH_MAX)
				return QMP_SCAN_TOO_DEEP;
		} else if (!s->depth) {
			if (c && strchr(" \t\r\n", c))
				continue;
			s->skipping = true;
			return QMP_SCAN_GARBAGE;
		} else if (c == '"') {
			s->in_string = true;
		} else if ((c == '}' || c == ']') && --s->depth == 0) {
			return QMP_SCAN_OBJECT;
		}
	}
	return QMP_SCAN_MORE;
}

size_t qmp_scan_drop(struct qmp_scan *s)
{
	const size_t n = s->depth ? s->start : s->pos;

	s->pos -= n;
	s->start = 0;
	return n;
}
