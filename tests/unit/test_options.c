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
#include "base/log.h"
#include "base/options.h"

struct values {
	const char *name, *policy;
	bool paused, no_rng, no_reboot, size_given;
	uint8_t verbose;
	uint32_t kernels;
	uint64_t timeout, size;
	char *word;
};

static int take_word(void *into, char *value, struct err *e)
{
	struct values *v = into;

	v->word = value;
	return strcmp(value, "bad") == 0 ? err_set(e, -EDOM, "a bad word") : 0;
}

static const struct option_row rows[] = {
	{"name", 0, "NAME", "what it is called", OPTION_TEXT_IN(struct values, name)},
	{"policy", 0, "FILE", "in two\nlines", OPTION_TEXT_IN(struct values, policy)},
	{"paused", 'S', NULL, "waits", OPTION_SETS(struct values, paused, true)},
	{"no-rng", 0, NULL, "without", OPTION_SETS(struct values, no_rng, true)},
	{"no-reboot", 0, NULL, "once", OPTION_SETS(struct values, no_reboot, true)},
	{"verbose", 'v', NULL, "says more", OPTION_SETS(struct values, verbose, 3)},
	{"kernels", 'k', "N", "how many", OPTION_NUMBER_IN(struct values, kernels, 1, UINT32_MAX)},
	{"timeout", 0, "N", "how long", OPTION_NUMBER_IN(struct values, timeout, 0, 60)},
	{"size", 'm', "SIZE", "how much", OPTION_SIZE_IN(struct values, size),
	 OPTION_GIVEN_IN(struct values, size_given)},
	{"word", 0, "WORD", "any but bad", OPTION_CALLS(take_word)},
	OPTION_QUIET_ROW("says less"),
	OPTION_HELP_ROW,
};

static const struct options options = {OPTIONS_TABLE(rows), .see = "HELP", .head = "Usage\n",
				       .tail = "\nThe end\n", .indent = 4};

/* @argv: room for a reordered copy of @words, which begins with the command's name */
static int parse(struct values *v, char **argv, char words[][32], int argc, struct err *e)
{
	int i;

	for (i = 0; i < argc; i++)
		argv[i] = words[i];
	argv[argc] = NULL;
	memset(v, 0, sizeof(*v));
	*e = (struct err) {0};
	return options_parse(&options, v, argc, argv, e);
}

static const struct {
	const char *words[3]; /* after the program's name */
	const char *text;
} wrong[] = {
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
	{{"-k", "0"}, "-k: '0' is not a number from 1 to 4294967295; give one in that range"},
	{{"--timeout=61"}, "--timeout: '61' is not a number from 0 to 60; give one in that range"},
	{{"--word", "bad"}, "a bad word"},
	{{"--\x1b[1m"}, "option '--?[1m' is unknown; see HELP"},
	{{"--=x"}, "option '--=x' is unknown; see HELP"},
};

static void test_wrong(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		char words[4][32] = {"testudo"};
		struct values v;
		char *argv[5];
		struct err e;
		int argc = 1;

		for (; argc < 4 && wrong[i].words[argc - 1]; argc++)
			snprintf(words[argc], sizeof(words[0]), "%s", wrong[i].words[argc - 1]);
		assert_true(parse(&v, argv, words, argc, &e) < 0);
		assert_string_equal(e.text, wrong[i].text);
	}
}

static void test_values(void **state)
{
	char words[][32] = {"testudo",	 "plain", "--name",	"n",  "-Sv",
			    "--no-rng",	 "-k",	  "0xffffffff", "-m", "2G",
			    "--timeout", "60",	  "--word=w",	"--", "-v"};
	char *argv[ARRAY_SIZE(words) + 1];
	struct values v;
	struct err e;
	int first;

	(void)state;
	first = parse(&v, argv, words, ARRAY_SIZE(words), &e);
	assert_int_equal(first, ARRAY_SIZE(words) - 2);
	assert_string_equal(argv[first], "plain");
	assert_string_equal(argv[first + 1], "-v");
	assert_string_equal(v.name, "n");
	assert_null(v.policy);
	assert_true(v.paused && v.no_rng && v.size_given);
	assert_false(v.no_reboot);
	assert_int_equal(v.verbose, 3);
	assert_int_equal(v.kernels, UINT32_MAX);
	assert_int_equal(v.timeout, 60);
	assert_int_equal(v.size, 2 * GiB);
	assert_string_equal(v.word, "w");
}

static void test_quiet(void **state)
{
	char words[][32] = {"testudo", "-q"};
	char *argv[ARRAY_SIZE(words) + 1];
	struct values v;
	struct err e;

	(void)state;
	assert_true(log_enabled(LOG_INFO));
	assert_int_equal(parse(&v, argv, words, ARRAY_SIZE(words), &e), 2);
	assert_false(log_enabled(LOG_INFO));
	log_set_level(LOG_INFO);
}

/* What comes after it is not looked at, what is wrong before it is said. */
static void test_help_ends(void **state)
{
	char helped[][32] = {"testudo", "-S", "--he", "--foo"};
	char wrong_before[][32] = {"testudo", "-z", "--help"};
	char *argv[5];
	struct values v;
	struct err e;

	(void)state;
	assert_int_equal(parse(&v, argv, helped, ARRAY_SIZE(helped), &e), 0);
	assert_true(v.paused);
	assert_int_equal(parse(&v, argv, wrong_before, ARRAY_SIZE(wrong_before), &e), -EINVAL);
}

static void test_print_help(void **state)
{
	static const char wanted[] = "Usage\n"
				     "    --name NAME\n        what it is called\n"
				     "    --policy FILE\n        in two\n        lines\n"
				     "  -S, --paused\n        waits\n"
				     "    --no-rng\n        without\n";
	FILE *file = tmpfile(), *out = stdout;
	char text[1024] = "";
	const size_t end = strlen("\nThe end\n");
	size_t n;

	(void)state;
	assert_non_null(file);
	stdout = file; /* glibc */
	options_print_help(&options);
	stdout = out;
	rewind(file);
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	assert_memory_equal(text, wanted, strlen(wanted));
	assert_true(n > end);
	assert_string_equal(text + n - end, "\nThe end\n");
	assert_non_null(strstr(text, "  -h, --help\n        this text\n\nThe end"));
}

static void test_one_too_many(void **state)
{
	struct err e = {0};

	(void)state;
	assert_int_equal(options_one_too_many(&options, "w", &e), -EINVAL);
	assert_string_equal(e.text, "'w' is one word too many; see HELP");
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
		cmocka_unit_test(test_wrong),	   cmocka_unit_test(test_values),
		cmocka_unit_test(test_quiet),	   cmocka_unit_test(test_help_ends),
		cmocka_unit_test(test_print_help), cmocka_unit_test(test_one_too_many),
		cmocka_unit_test(test_nearest),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
