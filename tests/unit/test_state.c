#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "migration/state/buf.h"
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
	assert_int_equal(state_decode(&desc, "sample", &r, &out, &e), 0);
	assert_int_equal(rbuf_left(&r), 0);
	memset(in.pad, 0, sizeof(in.pad));
	assert_memory_equal(&in, &out, sizeof(in));
	for (i = 0; i < w.len; i++) {
		e.code = 0;
		r = rbuf_of(w.data, i);
		assert_int_equal(state_decode(&desc, "sample", &r, &out, &e), -EINVAL);
		assert_non_null(strstr(e.text, "sample"));
	}
	w.data[0] = 2;
	e.code = 0;
	r = rbuf_of(w.data, w.len);
	assert_int_equal(state_decode(&desc, "sample", &r, &out, &e), -EINVAL);
	assert_non_null(strstr(e.text, "flag is 2"));
	wbuf_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_codec),
		cmocka_unit_test(test_tiling),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
