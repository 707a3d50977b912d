/* Sections: what was put is what is read, and everything else is refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/state/section.h"

static void put(struct wbuf *w, const char *name, uint16_t instance, uint16_t version,
		const char *text)
{
	struct wbuf body = {0};

	wbuf_bytes(&body, text, strlen(text));
	section_put(w, name, instance, version, &body);
	wbuf_fini(&body);
}

static struct wbuf two(void)
{
	struct wbuf w = {0};

	put(&w, "first", 0, 1, "abc");
	put(&w, "second-2", 7, 2, "");
	assert_false(w.failed);
	return w;
}

static void test_round_trip(void **state)
{
	struct wbuf w = two();
	struct rbuf r = rbuf_of(w.data, w.len);
	struct err e = {0};
	struct section s;

	(void)state;
	assert_int_equal(section_expect(&r, "first", 0, 1, &s, &e), 0);
	assert_int_equal(s.body.len, 3);
	assert_memory_equal(rbuf_bytes(&s.body, 3), "abc", 3);
	assert_int_equal(section_end(&s, &e), 0);
	assert_int_equal(section_expect(&r, "second-2", 7, 2, &s, &e), 0);
	assert_int_equal(section_end(&s, &e), 0);
	assert_int_equal(section_finish(&r, &e), 0);
	wbuf_fini(&w);
}

/* Every shorter stream is refused at the section that is not whole. */
static void test_truncated(void **state)
{
	struct wbuf w = two();
	size_t len, whole = 2 + 5 + 2 + 2 + 4 + 3;

	(void)state;
	for (len = 0; len < w.len; len++) {
		struct rbuf r = rbuf_of(w.data, len);
		struct err e = {0};
		struct section s;
		int ret = section_expect(&r, "first", 0, 1, &s, &e);

		if (len >= whole) {
			assert_int_equal(ret, 0);
			ret = section_expect(&r, "second-2", 7, 2, &s, &e);
		}
		assert_int_equal(ret, -EINVAL);
		assert_non_null(
			strstr(e.text, len == 0 || len == whole ? "missing" : "ends inside"));
	}
	wbuf_fini(&w);
}

static void test_refused(void **state)
{
	static const struct {
		const char *name, *section;
		uint16_t instance, version, reads;
		const char *says;
	} cases[] = {
		{"another name", "third", 0, 1, 1, "'first' 0 stands where 'third' 0 belongs"},
		{"another instance", "first", 1, 1, 1, "'first' 0 stands where 'first' 1 belongs"},
		{"newer version", "first", 0, 3, 2, "has version 3, this testudo reads 1 to 2"},
		{"no version", "first", 0, 0, 1, "has version 0"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};
		struct wbuf w = {0};
		struct section s;
		struct rbuf r;

		put(&w, "first", 0, cases[i].version, "x");
		r = rbuf_of(w.data, w.len);
		print_message("case: %s\n", cases[i].name);
		assert_int_equal(section_expect(&r, cases[i].section, cases[i].instance,
						cases[i].reads, &s, &e),
				 -EINVAL);
		assert_non_null(strstr(e.text, cases[i].says));
		wbuf_fini(&w);
	}
}

static void test_heads(void **state)
{
	static const struct {
		const char *name;
		size_t at; /* of the byte that is changed in two() */
		uint8_t to;
		const char *says;
	} cases[] = {
		{"name too long", 0, 32, "a name of 32 bytes"},
		{"name empty", 0, 0, "no proper name"},
		{"name with a line break", 3, '\n', "no proper name"},
		{"section too long", 2 + 5 + 4 + 3, 0xff, "bytes, at most"},
		{"section longer than the rest", 2 + 5 + 4 + 1, 1, "ends inside"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wbuf w = two();
		struct rbuf r;
		struct err e = {0};
		struct section s;

		w.data[cases[i].at] = cases[i].to;
		r = rbuf_of(w.data, w.len);
		print_message("case: %s\n", cases[i].name);
		assert_int_equal(section_next(&r, &s, &e), -EINVAL);
		assert_non_null(strstr(e.text, cases[i].says));
		wbuf_fini(&w);
	}
}

static void test_lengths(void **state)
{
	struct wbuf w = two();
	struct rbuf r = rbuf_of(w.data, w.len);
	struct err e = {0};
	struct section s;

	(void)state;
	assert_int_equal(section_next(&r, &s, &e), 1);
	rbuf_u16(&s.body);
	assert_int_equal(section_end(&s, &e), -EINVAL);
	assert_non_null(strstr(e.text, "3 bytes, more than"));
	rbuf_u16(&s.body);
	e = (struct err) {0};
	assert_int_equal(section_end(&s, &e), -EINVAL);
	assert_non_null(strstr(e.text, "3 bytes, fewer than"));
	e = (struct err) {0};
	assert_int_equal(section_finish(&r, &e), -EINVAL);
	assert_non_null(strstr(e.text, "'second-2' 7 is unknown to the destination"));
	wbuf_fini(&w);
}

static void test_body_failed(void **state)
{
	struct wbuf w = {0}, body = {.failed = true};

	(void)state;
	section_put(&w, "first", 0, 1, &body);
	assert_true(w.failed);
	wbuf_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_refused),	   cmocka_unit_test(test_heads),
		cmocka_unit_test(test_lengths),	   cmocka_unit_test(test_body_failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
