#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/state/section.h"
#include "migration/state/state.h"

struct inner {
	uint16_t a, b;
};

struct sample {
	uint8_t flag, pad[3];
	uint32_t words[4];
	uint8_t blob[8];
	struct inner inner[2];
};

static const struct state_field inner_rows[] = {
	STATE(struct inner, a),
	STATE(struct inner, b),
	STATE_END,
};

static const struct state_field inner_gap[] = {
	STATE(struct inner, b),
	STATE_END,
};

static const struct state_field good[] = {
	STATE(struct sample, flag),
	STATE_PAD(struct sample, pad),
	STATE_ARRAY(struct sample, words),
	STATE_BYTES(struct sample, blob),
	STATE_STRUCT_ARRAY(struct sample, inner, inner_rows),
	STATE_END,
};

static const struct state_field gap[] = {
	STATE(struct sample, flag),
	STATE_ARRAY(struct sample, words),
	STATE_END,
};

static const struct state_field short_end[] = {
	STATE(struct sample, flag),
	STATE_PAD(struct sample, pad),
	STATE_ARRAY(struct sample, words),
	STATE_END,
};

static const struct state_field twice[] = {
	STATE(struct sample, flag),
	STATE(struct sample, flag),
	STATE_END,
};

static const struct state_field odd_integer[] = {
	STATE(struct sample, flag),
	STATE(struct sample, pad),
	STATE_END,
};

static const struct state_field bad_inner[] = {
	STATE(struct sample, flag),
	STATE_PAD(struct sample, pad),
	STATE_ARRAY(struct sample, words),
	STATE_BYTES(struct sample, blob),
	STATE_STRUCT_ARRAY(struct sample, inner, inner_gap),
	STATE_END,
};

static const struct {
	const char *name;
	const struct state_field *rows;
	const char *says; /* NULL: accepted */
} cases[] = {
	{"complete", good, NULL},
	{"a member left out in the middle", gap, "'words' is at offset 4"},
	{"members left out at the end", short_end, "end at offset 20"},
	{"a member twice", twice, "'flag' is at offset 0"},
	{"an integer of three bytes", odd_integer, "integer of 3 bytes"},
	{"a gap in a sub-table", bad_inner, "'b' is at offset 2"},
};

static void test_tiling(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err e = {0};
		int ret = state_check_tiling(cases[i].rows, sizeof(struct sample), &e);

		if ((ret == 0) != !cases[i].says || (ret && !strstr(e.text, cases[i].says)))
			fail_msg("%s: ret %d, '%s'", cases[i].name, ret, e.text);
	}
}

static int refuse_flag_2(const void *regs, struct err *e)
{
	const struct sample *s = regs;

	return s->flag == 2 ? err_set(e, -EINVAL, "flag is 2; 0 or 1 are legal") : 0;
}

static void test_codec(void **state)
{
	const struct state_desc desc = {
		.size = sizeof(struct sample), .fields = good, .check = refuse_flag_2};
	struct sample out, in = {
				   .flag = 1,
				   .pad = {9, 9, 9},
				   .words = {1, 2, 3, 0xdeadbeef},
				   .blob = {1, 2, 3, 4, 5, 6, 7, 8},
				   .inner = {{0x1234, 5}, {6, 7}},
			   };
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;
	size_t i;

	(void)state;
	state_encode(&desc, &in, &w);
	assert_int_equal(w.len, 1 + 16 + 8 + 8);
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_decode(&desc, "sample", 1, &r, &out, &e), 0);
	assert_int_equal(rbuf_left(&r), 0);
	memset(in.pad, 0, sizeof(in.pad));
	assert_memory_equal(&in, &out, sizeof(in));
	for (i = 0; i < w.len; i++) {
		e.code = 0;
		r = rbuf_of(w.data, i);
		assert_int_equal(state_decode(&desc, "sample", 1, &r, &out, &e), -EINVAL);
		assert_non_null(strstr(e.text, "sample"));
	}
	w.data[0] = 2;
	e.code = 0;
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_decode(&desc, "sample", 1, &r, &out, &e), -EINVAL);
	assert_non_null(strstr(e.text, "flag is 2"));
	wbuf_fini(&w);
}

/* ---- a device through three versions: what it had, and what came to be sent in its padding ---- */

struct part {
	uint16_t a, b;
};

struct grown {
	uint8_t flag, mode, pad[2]; /* mode since 2 */
	uint32_t speed[2];	    /* since 3 */
	uint8_t blob[4];	    /* since 3 */
	struct part part[2];	    /* b since 2 */
	struct part later[1];	    /* since 3 */
};

static const struct state_field part_v1[] = {
	STATE(struct part, a),
	STATE_PAD(struct part, b),
	STATE_END,
};

static const struct state_field part_rows[] = {
	STATE(struct part, a),
	STATE_SINCE(struct part, b, 2, 0x1234),
	STATE_END,
};

/* As it was: what came later is padding that is not sent. */
static const struct state_field grown_v1[] = {
	STATE(struct grown, flag),	STATE_PAD(struct grown, mode),
	STATE_PAD(struct grown, pad),	STATE_PAD(struct grown, speed),
	STATE_PAD(struct grown, blob),	STATE_STRUCT_ARRAY(struct grown, part, part_v1),
	STATE_PAD(struct grown, later), STATE_END,
};

static const struct state_field grown_v3[] = {
	STATE(struct grown, flag),
	STATE_SINCE(struct grown, mode, 2, 7),
	STATE_PAD(struct grown, pad),
	STATE_ARRAY_SINCE(struct grown, speed, 3, 0xdeadbeef),
	STATE_BYTES_SINCE(struct grown, blob, 3),
	STATE_STRUCT_ARRAY(struct grown, part, part_rows),
	STATE_STRUCT_ARRAY_SINCE(struct grown, later, part_rows, 3),
	STATE_END,
};

static const struct state_desc as_v1 = {
	.size = sizeof(struct grown), .version = 1, .fields = grown_v1};
static const struct state_desc as_v3 = {
	.size = sizeof(struct grown), .version = 3, .fields = grown_v3};

static const struct grown grown_full = {
	.flag = 1,
	.mode = 2,
	.speed = {3, 4},
	.blob = {5, 6, 7, 8},
	.part = {{9, 10}, {11, 12}},
	.later = {{13, 14}},
};

static void test_old_section(void **state)
{
	const struct grown wanted = {
		.flag = 1,
		.mode = 7,
		.speed = {0xdeadbeef, 0xdeadbeef},
		.part = {{9, 0x1234}, {11, 0x1234}},
		.later = {{0, 0x1234}},
	};
	struct grown out;
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;

	(void)state;
	state_save(&as_v1, "grown", 4, &grown_full, &w);
	r = rbuf_of(w.data, w.len);
	memset(&out, 0xff, sizeof(out));
	if (state_load(&as_v3, "grown", 4, &r, &out, &e) != 0)
		fail_msg("%s", e.text);
	assert_memory_equal(&out, &wanted, sizeof(out));
	assert_int_equal(section_finish(&r, &e), 0);
	wbuf_fini(&w);
}

/* By hand, since no table writes it any more: flag, mode, part a and b. */
static void test_middle_section(void **state)
{
	static const uint8_t bytes[] = {1, 2, 9, 0, 10, 0, 11, 0, 12, 0};
	const struct grown wanted = {
		.flag = 1,
		.mode = 2,
		.speed = {0xdeadbeef, 0xdeadbeef},
		.part = {{9, 10}, {11, 12}},
		.later = {{0, 0x1234}},
	};
	struct rbuf r = rbuf_of(bytes, sizeof(bytes));
	struct err e = {0};
	struct grown out;
	size_t i;

	(void)state;
	if (state_decode(&as_v3, "grown", 2, &r, &out, &e) != 0)
		fail_msg("%s", e.text);
	assert_int_equal(rbuf_left(&r), 0);
	assert_memory_equal(&out, &wanted, sizeof(out));
	for (i = 0; i < sizeof(bytes); i++) {
		r = rbuf_of(bytes, i);
		e = (struct err) {0};
		assert_int_equal(state_decode(&as_v3, "grown", 2, &r, &out, &e), -EINVAL);
		assert_non_null(strstr(e.text, "grown"));
	}
}

static void test_newest_section(void **state)
{
	struct grown out;
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;

	(void)state;
	state_save(&as_v3, "grown", 0, &grown_full, &w);
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_load(&as_v3, "grown", 0, &r, &out, &e), 0);
	assert_memory_equal(&out, &grown_full, sizeof(out));

	/* an older testudo says one line, with both versions and what to do */
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_load(&as_v1, "grown", 0, &r, &out, &e), -EINVAL);
	assert_string_equal(e.text,
			    "state: section 'grown' 0 has version 3, this testudo reads 1 to "
			    "1; use a newer one at the destination");
	wbuf_fini(&w);
}

/* A section that has the bytes of another version than it says is damaged. */
static void test_wrong_version(void **state)
{
	const struct state_desc lies = {
		.size = sizeof(struct grown), .version = 1, .fields = grown_v3};
	struct grown out;
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;

	(void)state;
	state_save(&lies, "grown", 0, &grown_full, &w);
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_load(&as_v3, "grown", 0, &r, &out, &e), -EINVAL);
	assert_non_null(strstr(e.text, "more than its version 1 has"));
	wbuf_fini(&w);
}

static void test_desc(void **state)
{
	static const struct state_field no_since[] = {
		{.name = "flag", .kind = STATE_KIND_UINT, .size = 1, .count = 1},
		STATE_END,
	};
	const struct {
		const char *name;
		struct state_desc desc;
		const char *says; /* NULL: accepted */
	} rows[] = {
		{"first version", as_v1, NULL},
		{"third version", as_v3, NULL},
		{"no rows", {.version = 1, .fields = &grown_v1[7]}, NULL},
		{"a row without its version",
		 {.size = sizeof(struct grown), .version = 2, .fields = grown_v3},
		 "came with version 3, the section has version 2"},
		{"a version without a row",
		 {.size = sizeof(struct grown), .version = 2, .fields = grown_v1},
		 "came with version 1, the section has version 2"},
		{"a version in a sub-table only",
		 {.size = sizeof(struct part), .version = 1, .fields = part_rows},
		 "came with version 2"},
		{"a row by hand", {.size = 1, .version = 1, .fields = no_since}, "'flag' says not"},
		{"a gap", {.size = 1000, .version = 1, .fields = grown_v1}, "rows end at offset"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct err e = {0};
		int ret = state_check_desc(&rows[i].desc, &e);

		if ((ret == 0) != !rows[i].says || (ret && !strstr(e.text, rows[i].says)))
			fail_msg("%s: ret %d, '%s'", rows[i].name, ret, e.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_old_section),    cmocka_unit_test(test_middle_section),
		cmocka_unit_test(test_newest_section), cmocka_unit_test(test_wrong_version),
		cmocka_unit_test(test_desc),	       cmocka_unit_test(test_codec),
		cmocka_unit_test(test_tiling),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
