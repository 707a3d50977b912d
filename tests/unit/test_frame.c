#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/wire/frame.h"

/* One line, not empty, names @word. */
static void expect_text(const struct err *e, const char *word)
{
	assert_non_null(strstr(e->text, word));
	assert_null(strchr(e->text, '\n'));
}

static void stream_head_round_trip(void **state)
{
	uint8_t raw[STREAM_HEAD_SIZE];
	struct stream_head h;

	(void)state;
	stream_head_encode(3, raw);
	assert_memory_equal(raw, "TSTUDOMG\1\0\3\0\0\0\0\0", sizeof(raw));
	assert_int_equal(stream_head_decode(raw, &h, NULL), 0);
	assert_int_equal(h.version, 1);
	assert_int_equal(h.channel, 3);
}

static const struct {
	const char *name;
	unsigned int at;
	uint8_t value;
	int ret;
	const char *says;
} bad_stream_heads[] = {
	{"magic, first byte", 0, 'X', -EPROTO,
	 "no migration stream of testudo: it begins with 58535455"},
	{"magic, last byte", 7, 'X', -EPROTO, "no migration stream"},
	{"version", 8, 2, -EPROTONOSUPPORT, "version 2"},
	{"version, high byte", 9, 1, -EPROTONOSUPPORT, "version 257"},
	{"channel", 10, STREAM_CHANNELS_MAX + 1, -EPROTO, "channel 17"},
	{"reserved", 12, 1, -EPROTO, "0x00000001"},
	{"reserved, last byte", 15, 0x80, -EPROTO, "0x80000000"},
};

static void stream_head_refuses(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad_stream_heads); i++) {
		uint8_t raw[STREAM_HEAD_SIZE];
		struct stream_head h;
		struct err e = {0};

		print_message("%s\n", bad_stream_heads[i].name);
		stream_head_encode(0, raw);
		raw[bad_stream_heads[i].at] = bad_stream_heads[i].value;
		assert_int_equal(stream_head_decode(raw, &h, &e), bad_stream_heads[i].ret);
		expect_text(&e, bad_stream_heads[i].says);
	}
}

/* The numbers on the wire are for ever. */
static void table_is_sound(void **state)
{
	static const char *const names[] = {"hello",	 "description", "verdict", "memory",
					    "round-end", "state",	"finish",  "ready",
					    "commit",	 "ack",		"fail",	   NULL,
					    "checksums", "clock"};
	const struct frame_kind *k;
	unsigned int n, i;

	(void)state;
	k = frame_kinds(&n);
	assert_int_equal(n, ARRAY_SIZE(names) - 1);
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!names[i]) { /* a number that is not given away again */
			assert_null(frame_kind_of((uint16_t)(i + 1)));
			continue;
		}
		assert_int_equal(k->type, i + 1);
		assert_string_equal(k->name, names[i]);
		assert_true(k->min_len <= k->max_len);
		assert_true(k->since >= 1 && k->since <= STREAM_VERSION);
		assert_ptr_equal(frame_kind_of((uint16_t)k->type), k);
		k++;
	}
	assert_null(frame_kind_of(0));
	assert_string_equal(frame_type_name(999), "unknown");
}

/* A head with any fields and the right checksum. */
static void make_head(uint16_t type, uint16_t flags, uint32_t len, uint8_t *raw)
{
	put_le16(raw, type);
	put_le16(raw + 2, flags);
	put_le32(raw + 4, len);
	put_le32(raw + 8, 0);
	put_le32(raw + 12, crc32c(0, raw, 12));
}

static const struct {
	const char *name;
	uint16_t type, flags;
	uint32_t len;
	enum frame_side from;
	int ret;
	const char *says; /* NULL: taken */
} heads[] = {
	{"ready", FRAME_READY, 1, 10, FRAME_FROM_DESTINATION, 0, NULL},
	{"ready from the source", FRAME_READY, 1, 10, FRAME_FROM_SOURCE, -EPROTO,
	 "the source sent a ready frame"},
	{"commit from the destination", FRAME_COMMIT, 1, 8, FRAME_FROM_DESTINATION, -EPROTO,
	 "only the source"},
	{"fail from the source", FRAME_FAIL, 1, 4, FRAME_FROM_SOURCE, 0, NULL},
	{"fail from the destination", FRAME_FAIL, 1, 4, FRAME_FROM_DESTINATION, 0, NULL},
	{"too short", FRAME_READY, 1, 9, FRAME_FROM_DESTINATION, -EPROTO, "ready has 9 bytes"},
	{"too long", FRAME_ACK, 1, 9, FRAME_FROM_DESTINATION, -EPROTO, "ack has 9 bytes"},
	{"description at the bound", FRAME_DESCRIPTION, 1, 1 << 20, FRAME_FROM_SOURCE, 0, NULL},
	{"description above it", FRAME_DESCRIPTION, 1, (1 << 20) + 1, FRAME_FROM_SOURCE, -EPROTO,
	 "description has 1048577"},
	{"length of 4 GiB", FRAME_STATE, 1, UINT32_MAX, FRAME_FROM_SOURCE, -EPROTO, "4294967295"},
	{"unknown, to be skipped", 77, 0, 100, FRAME_FROM_SOURCE, 0, NULL},
	{"unknown and critical", 77, 1, 100, FRAME_FROM_SOURCE, -EPROTO, "type 77 is not known"},
	{"unknown and too long", 77, 0, FRAME_UNKNOWN_MAX + 1, FRAME_FROM_SOURCE, -EPROTO,
	 "are skipped"},
	{"unknown flag", FRAME_READY, 3, 10, FRAME_FROM_DESTINATION, -EPROTO, "flags 0x3"},
	{"type 0", 0, 1, 0, FRAME_FROM_SOURCE, -EPROTO, "type 0"},
};

static void head_is_judged(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(heads); i++) {
		uint8_t raw[FRAME_HEAD_SIZE];
		struct frame_head h;
		struct err e = {0};

		print_message("%s\n", heads[i].name);
		make_head(heads[i].type, heads[i].flags, heads[i].len, raw);
		assert_int_equal(frame_head_decode(raw, heads[i].from, &h, &e), heads[i].ret);
		if (heads[i].says)
			expect_text(&e, heads[i].says);
		else
			assert_int_equal(h.kind != NULL, frame_kind_of(heads[i].type) != NULL);
	}
}

static void flipped_bytes_are_found(void **state)
{
	static const uint8_t payload[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint8_t raw[FRAME_HEAD_SIZE], copy[8];
	struct frame_head h;
	unsigned int i, bit;

	(void)state;
	frame_head_encode(FRAME_COMMIT, payload, sizeof(payload), raw);
	for (i = 0; i < 8 * sizeof(raw); i++) {
		raw[i / 8] ^= (uint8_t)(1u << i % 8);
		assert_int_equal(frame_head_decode(raw, FRAME_FROM_SOURCE, &h, NULL), -EBADMSG);
		raw[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	assert_int_equal(frame_head_decode(raw, FRAME_FROM_SOURCE, &h, NULL), 0);
	assert_int_equal(frame_check_payload(&h, payload, NULL), 0);
	for (bit = 0; bit < 64; bit++) {
		struct err e = {0};

		memcpy(copy, payload, sizeof(copy));
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(frame_check_payload(&h, copy, &e), -EBADMSG);
		expect_text(&e, "commit");
	}
}

/* ---- payloads ---- */

static struct frame frame_of(enum frame_type type, struct wbuf *w)
{
	const struct frame_kind *k = frame_kind_of((uint16_t)type);

	assert_false(w->failed);
	assert_in_range(w->len, k->min_len, k->max_len);
	return (struct frame) {.type = (uint16_t)type, .len = (uint32_t)w->len, .payload = w->data};
}

static struct frame_hello good_hello(void)
{
	return (struct frame_hello) {
		.version_min = 1,
		.version_max = 3,
		.session = 0x1122334455667788,
		.n_data = 2,
		.flags = FRAME_HELLO_DRY_RUN,
		.program = "testudo 0.1.0",
	};
}

static void hello_round_trip(void **state)
{
	struct frame_hello in = good_hello(), out;
	struct wbuf w = {0};
	struct frame f;

	(void)state;
	frame_hello_encode(&in, &w);
	f = frame_of(FRAME_HELLO, &w);
	assert_int_equal(frame_hello_decode(&f, &out, NULL), 0);
	assert_int_equal(out.version_max, 3);
	assert_int_equal(out.session, in.session);
	assert_int_equal(out.n_data, 2);
	assert_int_equal(out.flags, FRAME_HELLO_DRY_RUN);
	assert_string_equal(out.program, in.program);
	wbuf_fini(&w);
}

static void hello_refuses(void **state)
{
	static const struct {
		const char *name;
		unsigned int at;
		uint8_t value;
		const char *says;
	} rows[] = {
		{"version too new", 0, 2, "speaks stream versions 2 to 3"},
		{"version too old", 2, 0, "speaks stream versions 1 to 0"},
		{"data channels", 16, 17, "data channels is 17"},
		{"flags", 18, 8, "flag word is 8"},
		{"text longer than the frame", 20, 63, "program"},
		{"text longer than the member", 20, 64, "program"},
		{"text shorter", 20, 3, "hold more"},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct frame_hello in = good_hello(), out;
		struct wbuf w = {0};
		struct err e = {0};
		struct frame f;

		print_message("%s\n", rows[i].name);
		frame_hello_encode(&in, &w);
		w.data[rows[i].at] = rows[i].value;
		f = frame_of(FRAME_HELLO, &w);
		assert_int_equal(frame_hello_decode(&f, &out, &e), -EPROTO);
		expect_text(&e, rows[i].says);
		wbuf_fini(&w);
	}
}

static void verdict_round_trip(void **state)
{
	struct frame_verdict in = {.code = FRAME_CODE_POLICY}, out;
	struct wbuf w = {0};
	struct err e = {0};
	struct frame f;

	(void)state;
	strcpy(in.text, "no\nway \x1b[2J");
	frame_verdict_encode(&in, &w);
	f = frame_of(FRAME_VERDICT, &w);
	assert_int_equal(frame_verdict_decode(&f, &out, NULL), 0);
	assert_int_equal(out.code, FRAME_CODE_POLICY);
	assert_string_equal(out.text, "no?way ?[2J"); /* fit for a terminal */
	f.len--;
	assert_int_equal(frame_verdict_decode(&f, &out, &e), -EPROTO);
	expect_text(&e, "verdict");
	f.len++;
	w.data[0] = FRAME_CODE_END;
	assert_int_equal(frame_verdict_decode(&f, &out, NULL), -EPROTO);
	w.data[0] = 0;
	w.data[4] = 0x80; /* a feature that nobody offered */
	assert_int_equal(frame_verdict_decode(&f, &out, NULL), -EPROTO);
	w.data[4] = 0;
	assert_int_equal(frame_verdict_decode(&f, &out, NULL), 0);
	w.data[w.len - 1] = 1;
	e = (struct err) {0};
	assert_int_equal(frame_verdict_decode(&f, &out, &e), -EPROTO);
	expect_text(&e, "reserved");
	wbuf_fini(&w);
}

static void longest_verdict_fits(void **state)
{
	struct frame_verdict in = {.code = FRAME_CODE_OK};
	struct wbuf w = {0};

	(void)state;
	memset(in.text, 'x', sizeof(in.text)); /* without its NUL */
	frame_verdict_encode(&in, &w);
	frame_of(FRAME_VERDICT, &w);
	wbuf_fini(&w);
}

static void memory_is_judged(void **state)
{
	static const struct {
		const char *name;
		struct frame_memory v;
		int ret;
	} rows[] = {
		{"passed", {FRAME_MEMORY_PASSED, 1, 1 << 20, 0}, 0},
		{"in a file", {FRAME_MEMORY_IN_FILE, 0, 1 << 20, 8192}, 0},
		{"neither", {2, 0, 1 << 20, 0}, -EPROTO},
		{"passed without a descriptor", {FRAME_MEMORY_PASSED, 0, 1 << 20, 0}, -EPROTO},
		{"two descriptors", {FRAME_MEMORY_PASSED, 2, 1 << 20, 0}, -EPROTO},
		{"a descriptor for a file", {FRAME_MEMORY_IN_FILE, 1, 1 << 20, 0}, -EPROTO},
		{"empty", {FRAME_MEMORY_PASSED, 1, 0, 0}, -EPROTO},
		{"half a page", {FRAME_MEMORY_PASSED, 1, 2048, 0}, -EPROTO},
		{"offset within a page", {FRAME_MEMORY_IN_FILE, 0, 4096, 100}, -EPROTO},
		{"passed with an offset", {FRAME_MEMORY_PASSED, 1, 4096, 4096}, -EPROTO},
		{"end beyond what a file can have",
		 {FRAME_MEMORY_IN_FILE, 0, 1ULL << 62, 1ULL << 62},
		 -EPROTO},
		{"size beyond it", {FRAME_MEMORY_IN_FILE, 0, 1ULL << 63, 0}, -EPROTO},
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct frame_memory out;
		struct wbuf w = {0};
		struct frame f;

		print_message("%s\n", rows[i].name);
		frame_memory_encode(&rows[i].v, &w);
		f = frame_of(FRAME_MEMORY, &w);
		assert_int_equal(frame_memory_decode(&f, &out, NULL), rows[i].ret);
		if (!rows[i].ret) {
			assert_int_equal(out.size, rows[i].v.size);
			assert_int_equal(out.offset, rows[i].v.offset);
		}
		wbuf_fini(&w);
	}
}

static void small_frames_round_trip(void **state)
{
	struct frame_round_end round = {7, 1234, 1ULL << 40}, round2;
	struct frame_finish finish = {9, 8, 7, true}, finish2;
	struct frame_ready ready = {55, "BHI_DIS_S was not forced"}, ready2;
	struct frame_commit commit = {~0ULL}, commit2;
	struct frame_ack ack = {66}, ack2;
	struct frame_fail fail = {FRAME_CODE_MISMATCH, "disk"}, fail2;
	struct frame_clock clock = {FRAME_CLOCK_APART, ~0ULL, 1ULL << 63, ~0u, -5}, clock2;
	struct wbuf w = {0};
	struct frame f;

	(void)state;
	frame_round_end_encode(&round, &w);
	f = frame_of(FRAME_ROUND_END, &w);
	assert_int_equal(frame_round_end_decode(&f, &round2, NULL), 0);
	assert_int_equal(round2.round, 7);
	assert_int_equal(round2.data_pages, 1234);
	assert_int_equal(round2.zero_pages, 1ULL << 40);
	wbuf_fini(&w);

	frame_finish_encode(&finish, &w);
	f = frame_of(FRAME_FINISH, &w);
	assert_int_equal(frame_finish_decode(&f, &finish2, NULL), 0);
	assert_int_equal(finish2.data_pages, 9);
	assert_int_equal(finish2.zero_pages, 8);
	assert_int_equal(finish2.rounds, 7);
	assert_true(finish2.running);
	f.payload[20] = 2;
	assert_int_equal(frame_finish_decode(&f, &finish2, NULL), -EPROTO);
	wbuf_fini(&w);

	frame_clock_encode(&clock, &w);
	f = frame_of(FRAME_CLOCK, &w);
	assert_int_equal(frame_clock_decode(&f, &clock2, NULL), 0);
	assert_int_equal(clock2.what, FRAME_CLOCK_APART);
	assert_true(clock2.mono_ns == ~0ULL && clock2.wall_ns == 1ULL << 63);
	assert_true(clock2.tsc_khz == ~0u && clock2.apart_ns == -5);
	f.payload[0] = FRAME_CLOCK_APART + 1;
	assert_int_equal(frame_clock_decode(&f, &clock2, NULL), -EPROTO);
	wbuf_fini(&w);

	frame_ready_encode(&ready, &w);
	f = frame_of(FRAME_READY, &w);
	assert_int_equal(frame_ready_decode(&f, &ready2, NULL), 0);
	assert_int_equal(ready2.load_ns, 55);
	assert_string_equal(ready2.change, ready.change);
	wbuf_fini(&w);

	frame_commit_encode(&commit, &w);
	f = frame_of(FRAME_COMMIT, &w);
	assert_int_equal(frame_commit_decode(&f, &commit2, NULL), 0);
	assert_int_equal(commit2.session, ~0ULL);
	f.len = 7;
	assert_int_equal(frame_commit_decode(&f, &commit2, NULL), -EPROTO);
	wbuf_fini(&w);

	frame_ack_encode(&ack, &w);
	f = frame_of(FRAME_ACK, &w);
	assert_int_equal(frame_ack_decode(&f, &ack2, NULL), 0);
	assert_int_equal(ack2.resume_ns, 66);
	wbuf_fini(&w);

	frame_fail_encode(&fail, &w);
	f = frame_of(FRAME_FAIL, &w);
	assert_int_equal(frame_fail_decode(&f, &fail2, NULL), 0);
	assert_int_equal(fail2.code, FRAME_CODE_MISMATCH);
	assert_string_equal(fail2.text, "disk");
	f.payload[0] = FRAME_CODE_OK;
	assert_int_equal(frame_fail_decode(&f, &fail2, NULL), -EPROTO);
	wbuf_fini(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream_head_round_trip),  cmocka_unit_test(stream_head_refuses),
		cmocka_unit_test(table_is_sound),	   cmocka_unit_test(head_is_judged),
		cmocka_unit_test(flipped_bytes_are_found), cmocka_unit_test(hello_round_trip),
		cmocka_unit_test(hello_refuses),	   cmocka_unit_test(verdict_round_trip),
		cmocka_unit_test(longest_verdict_fits),	   cmocka_unit_test(memory_is_judged),
		cmocka_unit_test(small_frames_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
