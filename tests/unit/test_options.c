#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/options.h"

static const struct option longs[] = {{"name", required_argument, NULL, 300},
				      {"policy", required_argument, NULL, 301},
				      {"paused", no_argument, NULL, 'S'},
				      {"no-rng", no_argument, NULL, 302},
				      {"no-reboot", no_argument, NULL, 303},
				      {"verbose", no_argument, NULL, 'v'},
				      {0}};

static const struct {
	const char *words[3]; /* after the program's name */
	const char *text;
} rows[] = {
	{{"--foo"}, "option '--foo' is unknown; see HELP"},
	{{"--polcy"}, "option '--polcy' is unknown; the nearest is --policy; see HELP"},
	{{"--polcy=x"}, "option '--polcy=x' is unknown; the nearest is --policy; see HELP"},
	{{"--nane", "x"}, "option '--nane' is unknown; the nearest is --name; see HELP"},
	{{"--no"}, "option '--no' is not unique: --no-rng or --no-reboot; see HELP"},
	{{"--no-r"}, "option '--no-r' is not unique: --no-rng or --no-reboot; see HELP"},
	{{"--p=1"}, "option '--p' is not unique: --policy or --paused; see HELP"},
	{{"--paused=1"}, "option '--paused=1': --paused takes no value; leave out '=1'"},
	{{"--verb=1"}, "option '--verb=1': --verbose takes no value; leave out '=1'"},
	{{"--name"}, "option '--name' wants a value; see HELP"},
	{{"-k"}, "option '-k' wants a value; see HELP"},
	{{"-z"}, "option '-z' is unknown; see HELP"},
	{{"-vz"}, "option '-z' is unknown; see HELP"},
	{{"-zv"}, "option '-z' is unknown; see HELP"},
	{{"--verbose", "-zv"}, "option '-z' is unknown; see HELP"},
	{{"--name=x", "-zv"}, "option '-z' is unknown; see HELP"},
	{{"-policy", "x"}, "option '-p' is unknown; give --policy; see HELP"},
	{{"--\x1b[1m"}, "option '--?[1m' is unknown; see HELP"},
	{{"--=x"}, "option '--=x' is unknown; see HELP"},
};

static void test_wrong(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		char words[4][32] = {"testudo"};
		char *argv[5] = {words[0]};
		struct err e = {0};
		int argc = 1, value;

		for (; argc < 4 && rows[i].words[argc - 1]; argc++) {
			snprintf(words[argc], sizeof(words[0]), "%s", rows[i].words[argc - 1]);
			argv[argc] = words[argc];
		}
		optind = 0;
		opterr = 0;
		do
			value = getopt_long(argc, argv, ":k:Sv", longs, NULL);
		while (value != -1 && value != '?' && value != ':');
		assert_int_not_equal(value, -1);
		assert_int_equal(options_wrong("HELP", longs, argv, value, &e), -EINVAL);
		assert_string_equal(e.text, rows[i].text);
	}
}

static void test_nearest(void **state)
{
	static const char *const names[] = {"list", "stat", "stop"};
	static const struct {
		const char *word, *name;
	} near[] = {
		{"lsit", "list"}, {"stpo", "stop"}, {"list", "list"}, {"xyzq", NULL}, {"", NULL}};
	char longest[200];
	struct nearest n;
	unsigned int i, k;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(near); i++) {
		n = (struct nearest) {.word = near[i].word};
		for (k = 0; k < ARRAY_SIZE(names); k++)
			nearest_try(&n, names[k]);
		if (near[i].name)
			assert_string_equal(n.name, near[i].name);
		else
			assert_null(n.name);
	}
	memset(longest, 'l', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	n = (struct nearest) {.word = longest};
	nearest_try(&n, "list");
	assert_null(n.name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_nearest),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
