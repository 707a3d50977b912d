#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/num.h"

static const struct {
	const char *text;
	uint64_t bytes; /* 0: refused */
} sizes[] = {
	{"512", 512 * MiB},
	{"1", MiB},
	{"4096B", 4096},
	{"4k", 4096},
	{"4K", 4096},
	{"64G", 64 * GiB},
	{"64g", 64 * GiB},
	{"1t", 1024 * GiB},
	{"2P", 2ULL << 50},
	{"16383P", 16383ULL << 50},
	{"16384P", 0},
	{"17592186044415", 17592186044415ULL << 20},
	{"17592186044416", 0},
	{"18446744073709551616", 0},
	{"", 0},
	{"0", 0},
	{"-1", 0},
	{"+1", 0},
	{" 1", 0},
	{"1 ", 0},
	{"1.5G", 0},
	{"1GB", 0},
	{"1x", 0},
	{"0x10", 0},
	{"G", 0},
	{"512Mi", 0},
};

static void test_sizes(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct err e = {0};
		uint64_t got = 0;
		int ret = num_parse_size("-m", sizes[i].text, &got, &e);

		if (ret != (sizes[i].bytes ? 0 : -22) || got != sizes[i].bytes)
			fail_msg("'%s': ret %d, %llu bytes", sizes[i].text, ret,
				 (unsigned long long)got);
		if (ret)
			assert_non_null(strstr(e.text, sizes[i].text));
	}
}

static const struct {
	const char *text;
	int ok;
	uint64_t value;
} numbers[] = {
	{"1", 1, 1},	  {"255", 1, 255}, {"0x10", 1, 16},
	{"0xfF", 1, 255}, {"0", 0, 0},	   {"256", 0, 0},
	{"-1", 0, 0},	  {"", 0, 0},	   {"0x", 0, 0},
	{"1a", 0, 0},	  {"1 ", 0, 0},	   {" 1", 0, 0},
	{"+1", 0, 0},	  {"0x100", 0, 0}, {"18446744073709551617", 0, 0},
};

static void test_numbers(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct err e = {0};
		uint64_t got = 0;
		int ret = num_parse_u64("-c", numbers[i].text, 1, 255, &got, &e);

		if ((ret == 0) != numbers[i].ok || got != numbers[i].value)
			fail_msg("'%s': ret %d, value %llu", numbers[i].text, ret,
				 (unsigned long long)got);
		if (ret)
			assert_non_null(strstr(e.text, "1 to 255"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_numbers),
	};

	return cmocka_run_group_tests_name("num", tests, NULL, NULL);
}
