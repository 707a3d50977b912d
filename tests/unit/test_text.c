#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

static void test_quote(void **state)
{
	char longest[TEXT_QUOTE_MAX - 2], longer[TEXT_QUOTE_MAX - 1];
	struct text_quote q;

	(void)state;
	assert_string_equal(text_quote("on", 2).s, "'on'");
	assert_string_equal(text_quote("only", 2).s, "'on'");
	assert_string_equal(text_quote("", 0).s, "''");
	assert_string_equal(text_quote("a\nb\0c\x7f\xc3\xa4", 8).s, "'a?b?c?\?\?'");
	assert_string_equal(text_clean("a\tb").s, "a?b");

	memset(longest, 'x', sizeof(longest));
	q = text_quote(longest, sizeof(longest) - 1);
	assert_int_equal(strlen(q.s), TEXT_QUOTE_MAX - 1);
	assert_null(strchr(q.s, '.'));
	memset(longer, 'x', sizeof(longer));
	q = text_quote(longer, sizeof(longer) - 1);
	assert_int_equal(strlen(q.s), TEXT_QUOTE_MAX - 1);
	assert_string_equal(q.s + TEXT_QUOTE_MAX - 6, "x...'");
}

static void test_list(void **state)
{
	char buf[64] = "", tight[8] = "";

	(void)state;
	text_list_end(buf, sizeof(buf), "on");
	assert_string_equal(buf, "on");
	text_list_end(buf, sizeof(buf), "off");
	assert_string_equal(buf, "on or off");
	buf[0] = '\0';
	text_list_add(buf, sizeof(buf), "a");
	text_list_add(buf, sizeof(buf), "b");
	text_list_end(buf, sizeof(buf), "c");
	assert_string_equal(buf, "a, b or c");
	text_list_add(tight, sizeof(tight), "abcdef");
	text_list_add(tight, sizeof(tight), "ghi");
	text_list_end(tight, sizeof(tight), "jkl");
	assert_string_equal(tight, "abcdef,");
}

static void test_printable(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"", ""},
		{"plain text ~", "plain text ~"},
		{"a\x1b[2Jb", "a?[2Jb"},
		{"\r\n\t\a\x7f\x01", "??????"},
		{"Gr\xc3\xbc\xc3\x9f"
		 "e",
		 "Gr\xc3\xbc\xc3\x9f"
		 "e"},
		{"\xe2\x82\xac \xf0\x9f\x90\xa2", "\xe2\x82\xac \xf0\x9f\x90\xa2"},
		{"\xc2\x9b"
		 "31m \xc2\xa0",
		 "\?\?31m \xc2\xa0"}, /* CSI in one character; no-break space */
		{"\x9b"
		 "31m",
		 "?31m"},
		{"\xc3", "?"},		/* cut */
		{"\xe2\x82", "\?\?"},	/* cut */
		{"\xe2\x1b[", "\?\?["}, /* ESC where the rest of a character is due */
		{"\xc0\x9b", "\?\?"},	/* overlong ESC */
		{"\xe0\x82\x9b", "\?\?\?"},
		{"\xed\xa0\x80", "\?\?\?"},	  /* a surrogate */
		{"\xf4\x90\x80\x80", "\?\?\?\?"}, /* behind the last */
		{"\xff\xfe", "\?\?"},
	};
	struct err e = {0};
	char buf[64];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(buf, sizeof(buf), "%s", cases[i].text);
		text_printable(buf);
		assert_string_equal(buf, cases[i].want);
	}
	err_set(&e, -EINVAL, "disk '%s': %s", "a\x1b]0;b\a", "no\nline");
	assert_string_equal(e.text, "disk 'a?]0;b?': no?line");
}

/* What log_msg() writes is one line. */
static void test_log(void **state)
{
	int pipes[2], before = dup(STDERR_FILENO);
	char line[64] = "";

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	dup2(pipes[1], STDERR_FILENO);
	log_warn("guest '%s' said %s", "\x1b[1m", "a\r\nb");
	dup2(before, STDERR_FILENO);
	assert_true(read(pipes[0], line, sizeof(line) - 1) > 0);
	assert_string_equal(line, "testudo: warning: guest '?[1m' said a\?\?b\n");
	close(before);
	close(pipes[0]);
	close(pipes[1]);
}

/* A file of @len bytes. */
static const char *make(char *dir, size_t len)
{
	static char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/f", dir);
	unlink(path);
	f = fopen(path, "w");
	assert_non_null(f);
	while (len--)
		fputc('x', f);
	fclose(f);
	return path;
}

static void test_file(void **state)
{
	char dir[] = "/tmp/testudo-text-XXXXXX", line[4];
	static const struct {
		const char *name;
		size_t len;
		int ret;
		const char *says;
	} rows[] = {
		{"empty", 0, 0, ""},
		{"as large as allowed", 10, 0, ""},
		{"larger", 11, -EFBIG, "thing %s: larger than 10 bytes; is it the right file?"},
	};
	struct err e;
	char *out;
	size_t i, len;

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *path = make(dir, rows[i].len);
		char says[128];
		int ret;

		memset(&e, 0, sizeof(e));
		ret = file_read("thing", path, 10, &out, &len, &e);
		if (ret != rows[i].ret)
			fail_msg("%s: %d, %s", rows[i].name, ret, e.text);
		if (ret == 0) {
			assert_int_equal(len, rows[i].len);
			assert_int_equal(out[len], 0);
			free(out);
			continue;
		}
		snprintf(says, sizeof(says), "%s", rows[i].says);
		if (strncmp(e.text, "thing ", 6) != 0 || !strstr(e.text, strchr(says + 8, ':')) ||
		    !strstr(e.text, path))
			fail_msg("%s: %s", rows[i].name, e.text);
	}
	memset(&e, 0, sizeof(e));
	assert_int_equal(file_read("thing", dir, 10, &out, &len, &e), -EINVAL);
	memset(&e, 0, sizeof(e));
	assert_int_equal(file_read("thing", "/nowhere/x", 10, &out, &len, &e), -ENOENT);
	assert_string_equal(e.text, "thing /nowhere/x: No such file or directory; give a file that "
				    "can be read");

	assert_int_equal(file_read_line(make(dir, 9), line, sizeof(line)), 0);
	assert_string_equal(line, "xxx");
	assert_int_equal(file_read_line("/nowhere/x", line, sizeof(line)), -ENOENT);
	assert_string_equal(line, "");
	assert_int_equal(file_read_line(dir, line, sizeof(line)), -EISDIR);
	assert_string_equal(line, "");
	unlink(make(dir, 0));
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quote),	  cmocka_unit_test(test_list),
		cmocka_unit_test(test_printable), cmocka_unit_test(test_log),
		cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
