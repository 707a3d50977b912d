#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "migration/state/buf.h"

static void test_what_goes_in_comes_out(void **state)
{
	static const uint8_t raw[] = {0x11, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 0xff, 0xee,
				      0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 'a',	'b'};
	struct wbuf w = {0};
	struct rbuf r;

	(void)state;
	wbuf_u8(&w, 0x11);
	wbuf_u16(&w, 0x2233);
	wbuf_u32(&w, 0x44556677);
	wbuf_u64(&w, 0x8899aabbccddeeff);
	wbuf_bytes(&w, "ab", 2);
	assert_false(w.failed);
	assert_int_equal(w.len, sizeof(raw));
	assert_memory_equal(w.data, raw, sizeof(raw));
	r = rbuf_of(w.data, w.len);
	assert_int_equal(rbuf_u8(&r), 0x11);
	assert_int_equal(rbuf_u16(&r), 0x2233);
	assert_int_equal(rbuf_u32(&r), 0x44556677);
	assert_int_equal(rbuf_u64(&r), 0x8899aabbccddeeff);
	assert_memory_equal(rbuf_bytes(&r, 2), "ab", 2);
	assert_int_equal(rbuf_left(&r), 0);
	assert_false(r.failed);
	wbuf_fini(&w);
}

static void test_reading_past_the_end_sticks(void **state)
{
	static const uint8_t raw[] = {1, 2, 3};
	struct rbuf r = rbuf_of(raw, sizeof(raw));

	(void)state;
	assert_int_equal(rbuf_u16(&r), 0x0201);
	assert_int_equal(rbuf_u32(&r), 0);
	assert_true(r.failed);
	assert_int_equal(rbuf_u8(&r), 0); /* though one byte would have been left */
	assert_null(rbuf_bytes(&r, 0));
	assert_int_equal(rbuf_left(&r), 0);
	r = rbuf_of(raw, sizeof(raw));
	assert_null(rbuf_bytes(&r, SIZE_MAX));
}

static void test_impossible_growth_fails(void **state)
{
	struct wbuf w = {0};

	(void)state;
	wbuf_u8(&w, 1);
	assert_null(wbuf_reserve(&w, SIZE_MAX - 1));
	assert_true(w.failed);
	wbuf_u8(&w, 2); /* and nothing after it */
	assert_int_equal(w.len, 1);
	wbuf_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_goes_in_comes_out),
		cmocka_unit_test(test_reading_past_the_end_sticks),
		cmocka_unit_test(test_impossible_growth_fails),
	};

	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
