#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "control/qmp_scan.h"

#define DEEP16 "[[[[[[[[[[[[[[[["

/* What the scan says of a whole text: o for an object, g for garbage, d for too deep. */
static const struct {
	const char *name, *text, *said, *last; /* last: the last object */
} cases[] = {
	{"nothing", "", "", ""},
	{"blanks", " \t\r\n ", "", ""},
	{"object", "{}", "o", "{}"},
	{"two", "{}{\"a\":1}", "oo", "{\"a\":1}"},
	{"lines", "{}\r\n{}\n", "oo", "{}"},
	{"nested", "{\"a\":[{},{\"b\":[]}]}", "o", "{\"a\":[{},{\"b\":[]}]}"},
	{"brace in a string", "{\"}\":\"{\"}", "o", "{\"}\":\"{\"}"},
	{"quote in a string", "{\"\\\"}\":1}", "o", "{\"\\\"}\":1}"},
	{"backslash before the end", "{\"\\\\\":1}{}", "oo", "{}"},
	{"brackets that do not match", "{]{}", "oo", "{}"},
	{"begun", "{\"a\":", "", ""},
	{"in a string", "{\"a\":\"}", "", ""},
	{"word", "stop\n{}", "go", "{}"},
	{"array", "[{}]\n{}", "go", "{}"},
	{"closing", "}\n{}", "go", "{}"},
	{"garbage without an end", "x{}{}", "g", ""},
	{"garbage after an object", "{}x{}\n{}", "ogo", "{}"},
	{"not ASCII", "\xff\xfe\n{}", "go", "{}"},
	{"deep enough", "{\"a\":" DEEP16 "]]]]]]]]]]]]]]]]}", "o", NULL},
	{"too deep", "{\"a\":" DEEP16 DEEP16, "d", ""},
};

/* Feed @text in pieces of @piece bytes through a buffer of little room, as the server does. */
static void feed(const char *text, size_t piece, char *said, char *last)
{
	struct qmp_scan s = {0};
	char buf[256];
	size_t len = 0, fed = 0, total = strlen(text);

	*said = *last = '\0';
	while (fed < total) {
		const size_t n = total - fed < piece ? total - fed : piece;
		enum qmp_scan_result r;
		size_t drop;

		assert_true(len + n <= sizeof(buf));
		memcpy(buf + len, text + fed, n);
		len += n;
		fed += n;
		while ((r = qmp_scan_next(&s, buf, len)) != QMP_SCAN_MORE) {
			static const char letters[] = {[QMP_SCAN_OBJECT] = 'o',
						       [QMP_SCAN_GARBAGE] = 'g',
						       [QMP_SCAN_TOO_DEEP] = 'd'};

			strncat(said, &letters[r], 1);
			if (r == QMP_SCAN_TOO_DEEP)
				return;
			if (r == QMP_SCAN_OBJECT) {
				assert_true(s.start < s.pos && s.pos <= len);
				memcpy(last, buf + s.start, s.pos - s.start);
				last[s.pos - s.start] = '\0';
			}
		}
		drop = qmp_scan_drop(&s);
		assert_true(drop <= len);
		len -= drop;
		memmove(buf, buf + drop, len);
	}
}

static void test_cases_in_any_pieces(void **state)
{
	char said[16], last[256];
	size_t i, piece;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		for (piece = 1; piece <= strlen(cases[i].text) + 1; piece++) {
			feed(cases[i].text, piece, said, last);
			if (strcmp(said, cases[i].said) != 0 ||
			    (cases[i].last && strcmp(last, cases[i].last) != 0))
				fail_msg("%s, pieces of %zu: said '%s', object '%s'", cases[i].name,
					 piece, said, last);
		}
	}
}

/* A text may be gone over only once: the position never moves back. */
static void test_each_byte_once(void **state)
{
	struct qmp_scan s = {0};
	char buf[4096];
	size_t i;

	(void)state;
	memset(buf, 'x', sizeof(buf));
	buf[0] = '{';
	buf[1] = '"';
	for (i = 1; i <= sizeof(buf); i++) {
		assert_int_equal(qmp_scan_next(&s, buf, i), QMP_SCAN_MORE);
		assert_int_equal(s.pos, i);
	}
	assert_int_equal(qmp_scan_drop(&s), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases_in_any_pieces),
		cmocka_unit_test(test_each_byte_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
