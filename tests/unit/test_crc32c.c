#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/guest_mem.h"

/* RFC 3720 appendix B.4, and the check value of the polynomial's usual description */
static void test_known_answers(void **state)
{
	uint8_t zeros[32] = {0}, ones[32], up[32];
	size_t i;

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (i = 0; i < sizeof(up); i++)
		up[i] = (uint8_t)i;
	const struct {
		const void *data;
		size_t len;
		uint32_t crc;
	} cases[] = {
		{"", 0, 0},
		{"123456789", 9, 0xe3069283},
		{zeros, sizeof(zeros), 0x8a9136aa},
		{ones, sizeof(ones), 0x62a8ab43},
		{up, sizeof(up), 0x46dd794e},
	};
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(crc32c(0, cases[i].data, cases[i].len), cases[i].crc);
		assert_int_equal(crc32c_portable(0, cases[i].data, cases[i].len), cases[i].crc);
	}
}

static void test_parts_give_the_whole(void **state)
{
	uint8_t data[257];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 131 + 7);
	for (i = 0; i <= sizeof(data); i++) {
		const uint32_t first = crc32c(0, data, i);

		assert_int_equal(crc32c(first, data + i, sizeof(data) - i),
				 crc32c_portable(0, data, sizeof(data)));
	}
}

/* Against its definition, for every number of pages that is left over by the fast way */
static void test_pages(void **state)
{
	static uint8_t pages[8 * GUEST_PAGE];
	uint32_t sums[8];
	size_t i, n;

	(void)state;
	for (i = 0; i < sizeof(pages); i++)
		pages[i] = (uint8_t)(i * 167 + i / 251);
	for (i = 0; i < ARRAY_SIZE(sums); i++)
		sums[i] = crc32c_portable(0, pages + i * GUEST_PAGE, GUEST_PAGE);
	for (n = 0; n <= ARRAY_SIZE(sums); n++) {
		const uint32_t want = crc32c_portable(0, sums, n * sizeof(*sums));

		assert_int_equal(crc32c_pages(pages, n), want);
		assert_int_equal(crc32c_pages_narrow(pages, n), want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_answers),
		cmocka_unit_test(test_parts_give_the_whole),
		cmocka_unit_test(test_pages),
	};

	return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
