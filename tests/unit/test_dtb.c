#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/description/dtb.h"
#include "tests/unit/description_sample.h"
#include "tests/unit/mutate.h"

/*
 * A tree made by hand of 32-bit words, so that each may be wrong. In words: 10 of header, 4 of
 * reservations, the structure from STRUCT on, the strings after it.
 */
enum {
	TOTAL = 1,
	OFF_STRUCT = 2,
	OFF_STRINGS = 3,
	OFF_RESERVED = 4,
	VERSION = 5,
	LAST_COMP = 6,
	SIZE_STRINGS = 8,
	SIZE_STRUCT = 9,
	RESERVED = 10,
	STRUCT = 14,
};
#define BEGIN 1
#define ENDS  2
#define PROP  3
#define NOP   4
#define END   9
#define NODE  BEGIN, 0x61000000 /* "a" */
#define ROOT  BEGIN, 0
#define FLAG  PROP, 0, 0 /* the name is "b" */
#define WORDS 64

struct hand {
	uint32_t tree[32];
	unsigned int n;
};
#define TREE(...)                                                     \
	{                                                             \
		{__VA_ARGS__}, sizeof((uint32_t[]) {__VA_ARGS__}) / 4 \
	}

static const uint32_t strings[] = {0x62006364}; /* "b", then one without an end */

static void put_be32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

/* Return: a block of exactly *@len bytes, so that a sanitizer sees what is read behind it */
static uint8_t *make(const struct hand *h, unsigned int word, uint32_t value, size_t *len)
{
	uint32_t w[WORDS] = {0}, n = STRUCT + h->n, i;
	uint8_t *blob;

	memcpy(w + STRUCT, h->tree, h->n * 4);
	memcpy(w + n, strings, sizeof(strings));
	w[0] = 0xd00dfeed;
	w[OFF_STRUCT] = STRUCT * 4;
	w[OFF_STRINGS] = n * 4;
	w[OFF_RESERVED] = RESERVED * 4;
	w[VERSION] = 17;
	w[LAST_COMP] = 16;
	w[SIZE_STRINGS] = sizeof(strings);
	w[SIZE_STRUCT] = h->n * 4;
	n += ARRAY_SIZE(strings);
	w[TOTAL] = n * 4;
	if (word < WORDS)
		w[word] = value;
	*len = n * 4;
	blob = malloc(*len);
	for (i = 0; i < n; i++)
		put_be32(blob + i * 4, w[i]);
	return blob;
}

static void expect(const void *blob, size_t len, const char *says)
{
	struct err e = {0};
	const int ret = dtb_check(blob, len, &e);

	if (!says) {
		if (ret)
			fail_msg("%s", e.text);
		assert_int_equal(fdt_check_full(blob, len), 0);
		return;
	}
	assert_int_equal(ret, -EINVAL);
	if (!strstr(e.text, says))
		fail_msg("'%s' is not in: %s", says, e.text);
	assert_null(strchr(e.text, '\n'));
}

static const struct {
	const char *name;
	struct hand hand;
	const char *says; /* NULL: it is whole */
} trees[] = {
	{"smallest", TREE(ROOT, ENDS, END), NULL},
	{"NOPs", TREE(ROOT, NOP, FLAG, NOP, NODE, NOP, ENDS, NOP, ENDS, END), NULL},
	{"NOP before the root", TREE(NOP, ROOT, ENDS, END), "NOP stands outside"},
	{"NOP behind the root", TREE(ROOT, ENDS, NOP, END), "NOP stands outside"},
	{"all tokens", TREE(ROOT, FLAG, NODE, FLAG, ENDS, NODE, ENDS, ENDS, END), NULL},
	{"a value of five bytes", TREE(ROOT, PROP, 5, 0, 1, 2, ENDS, END), NULL},
	{"no root", TREE(END), "has none"},
	{"no end", TREE(ROOT, ENDS), "has no end"},
	{"end within a node", TREE(ROOT, END), "ends within a node"},
	{"more behind the end", TREE(ROOT, ENDS, END, NOP), "goes on"},
	{"two ends", TREE(ROOT, ENDS, END, END), "goes on"},
	{"too many nodes end", TREE(ROOT, ENDS, ENDS, END), "did not begin"},
	{"two roots", TREE(ROOT, ENDS, ROOT, ENDS, END), "second root"},
	{"named root", TREE(NODE, ENDS, END), "root has a name"},
	{"nameless node", TREE(ROOT, ROOT, ENDS, ENDS, END), "has no name"},
	{"name up to the end", TREE(ROOT, BEGIN, 0x61616161), "name does not end"},
	{"name missing", TREE(ROOT, BEGIN), "name does not end"},
	{"property before the root", TREE(FLAG, ROOT, ENDS, END), "outside of the front"},
	{"property behind the root", TREE(ROOT, ENDS, FLAG, END), "outside of the front"},
	{"property behind a node", TREE(ROOT, NODE, ENDS, FLAG, ENDS, END), "outside of the front"},
	{"half a property", TREE(ROOT, PROP, 0), "cut short"},
	{"value too long", TREE(ROOT, PROP, 9, 0, ENDS, END), "leaves the structure"},
	{"value that wraps", TREE(ROOT, PROP, 0xfffffffd, 0, ENDS, END), "leaves the structure"},
	{"value that is all", TREE(ROOT, PROP, 8, 0, ENDS, END), "has no end"},
	{"name outside", TREE(ROOT, PROP, 0, 4, ENDS, END), "leaves the strings"},
	{"name far outside", TREE(ROOT, PROP, 0, 0xffffffff, ENDS, END), "leaves the strings"},
	{"name without end", TREE(ROOT, PROP, 0, 2, ENDS, END), "leaves the strings"},
	{"empty name", TREE(ROOT, PROP, 0, 1, ENDS, END), NULL},
	{"token 0", TREE(ROOT, 0, ENDS, END), "no token"},
	{"token 5", TREE(ROOT, 5, ENDS, END), "no token"},
	{"token of other order", TREE(ROOT, 0x02000000, END), "no token"},
};

static void structures(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(trees); i++) {
		size_t len;
		uint8_t *blob = make(&trees[i].hand, WORDS, 0, &len);

		print_message("%s\n", trees[i].name);
		expect(blob, len, trees[i].says);
		free(blob);
	}
}

/* The smallest tree, one word of it another one. */
static const struct {
	const char *name;
	unsigned int word;
	uint32_t value;
	const char *says;
} headers[] = {
	{"magic", 0, 0xedfe0dd0, "does not begin"},
	{"longer than it is", TOTAL, 80, "length"},
	{"length of nothing", TOTAL, 0, "length"},
	{"version 16", VERSION, 16, "version"},
	{"version 7", VERSION, 7, "version"}, /* the structure block has no length */
	{"version 18", VERSION, 18, "version"},
	{"for readers of 18", LAST_COMP, 18, "version"},
	{"older libfdt's own", LAST_COMP, 2, NULL},
	{"structure in the reservations", OFF_STRUCT, RESERVED * 4, "have no end"},
	{"structure in the header", OFF_STRUCT, 4, "reservations are not before"},
	{"structure at 1", OFF_STRUCT, STRUCT * 4 - 1, "not aligned"},
	{"structure outside", OFF_STRUCT, 0xfffffff0, "not before the strings"},
	{"structure into the strings", SIZE_STRUCT, 20, "not before the strings"},
	{"structure that wraps", SIZE_STRUCT, 0xfffffffc, "not before the strings"},
	{"structure of odd length", SIZE_STRUCT, 15, "not aligned"},
	{"structure of nothing", SIZE_STRUCT, 0, "has no end"},
	{"structure cut", SIZE_STRUCT, 12, "has no end"},
	{"strings in the structure", OFF_STRINGS, STRUCT * 4, "not before the strings"},
	{"strings outside", OFF_STRINGS, 0x7fffffff, "strings block leaves"},
	{"strings to the end", OFF_STRINGS, STRUCT * 4 + 16 + 4, "strings block leaves"},
	{"strings too long", SIZE_STRINGS, 5, "strings block leaves"},
	{"strings that wrap", SIZE_STRINGS, 0xffffffff, "strings block leaves"},
	{"no strings", SIZE_STRINGS, 0, NULL},
	{"reservations in the header", OFF_RESERVED, 32, "reservations are not before"},
	{"reservations in the strings", OFF_RESERVED, 72, "reservations are not before"},
	{"reservations not aligned", OFF_RESERVED, RESERVED * 4 + 4, "not aligned"},
	{"reservations without room", OFF_RESERVED, STRUCT * 4, "have no end"},
	{"reservations without end", RESERVED + 3, 1, "have no end"},
};

static void blocks(void **state)
{
	static const struct hand smallest = TREE(ROOT, ENDS, END);
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(headers); i++) {
		size_t len;
		uint8_t *blob = make(&smallest, headers[i].word, headers[i].value, &len);

		print_message("%s\n", headers[i].name);
		expect(blob, len, headers[i].says);
		free(blob);
	}
}

/* fuzz_description found it: libfdt 1.6.1 reads a tree of version 7 through a null pointer. */
static void found_by_fuzzing(void **state)
{
	FILE *f = fopen(SOURCE_ROOT "/tests/fuzz/corpus/description/version-7", "re");
	uint8_t *blob = malloc(4096);
	size_t len;

	(void)state;
	assert_non_null(f);
	len = fread(blob, 1, 4096, f);
	fclose(f);
	assert_int_equal(len, 3028);
	expect(blob, len, "length is another one");
	put_be32(blob + 4 * TOTAL, (uint32_t)len);
	expect(blob, len, "version");
	free(blob);
}

/* By libfdt, as large as asked for: @depth nodes, and names of @name bytes. */
static void *build(unsigned int depth, unsigned int name, size_t *len)
{
	void *blob = malloc(16 * KiB);
	char text[256] = "";
	unsigned int i;

	memset(text, 'n', name);
	assert_int_equal(fdt_create(blob, 16 * KiB), 0);
	assert_int_equal(fdt_finish_reservemap(blob), 0);
	for (i = 0; i < depth; i++) {
		assert_int_equal(fdt_begin_node(blob, i ? text : ""), 0);
		assert_int_equal(fdt_property(blob, text, NULL, 0), 0);
	}
	for (i = 0; i < depth; i++)
		assert_int_equal(fdt_end_node(blob), 0);
	assert_int_equal(fdt_finish(blob), 0);
	*len = fdt_totalsize(blob);
	return blob;
}

static const struct {
	unsigned int depth, name;
	const char *says;
} bounds[] = {
	{1, 1, NULL},	      {DTB_DEPTH_MAX, 1, NULL}, {DTB_DEPTH_MAX + 1, 1, "too deep"},
	{200, 1, "too deep"}, {2, DTB_NAME_MAX, NULL},	{2, DTB_NAME_MAX + 1, "does not end"},
};

static void own_bounds(void **state)
{
	struct err e = {0};
	unsigned int i;
	void *blob;
	size_t len;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bounds); i++) {
		blob = build(bounds[i].depth, bounds[i].name, &len);
		expect(blob, len, bounds[i].says);
		free(blob);
	}
	blob = calloc(1, DTB_SIZE_MAX + 1);
	assert_int_equal(dtb_check(blob, DTB_SIZE_MAX + 1, &e), -E2BIG);
	free(blob);
}

/* ---- what this check takes, libfdt takes, and neither reads a byte too far ---- */

static bool agree(const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	bool taken;

	memcpy(copy, bytes, len);
	taken = dtb_check(copy, len, NULL) == 0;
	if (taken)
		assert_int_equal(fdt_check_full(copy, len), 0);
	free(copy);
	return taken;
}

static void damaged(void **state)
{
	static const char *const words[] = {"\x01", "\x02", "\x03", "\x04", "\x09", "\xff", NULL};
	struct machine_description *d = description_sample(2);
	uint64_t random = 1, taken = 0;
	uint8_t *blob, *bytes;
	size_t len, i, n;
	unsigned int bit;

	(void)state;
	assert_int_equal(description_to_fdt(d, (void **)&blob, &len, NULL), 0);
	assert_true(agree(blob, len));
	for (i = 0; i < len; i++) {
		assert_false(agree(blob, i));
		for (bit = 0; bit < 8; bit++) {
			blob[i] ^= (uint8_t)(1u << bit);
			taken += agree(blob, len);
			blob[i] ^= (uint8_t)(1u << bit);
		}
		blob[i] ^= 0xff;
		taken += agree(blob, len);
		blob[i] ^= 0xff;
	}
	assert_true(taken > len); /* most bits are those of values */

	/* cut within, with a header that says so: what a sender would do */
	bytes = malloc(len + 64);
	for (i = 40; i < len; i++) {
		memcpy(bytes, blob, i);
		put_be32(bytes + 4 * TOTAL, (uint32_t)i);
		assert_false(agree(bytes, i));
	}
	for (i = 0; i < 20000; i++) {
		memcpy(bytes, blob, len);
		n = mutate((char *)bytes, len, len + 64, words, &random);
		if (n >= 4 * TOTAL + 4)
			put_be32(bytes + 4 * TOTAL, (uint32_t)n);
		agree(bytes, n);
	}
	free(bytes);
	free(blob);
	description_free(d);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(structures),	    cmocka_unit_test(blocks),
		cmocka_unit_test(found_by_fuzzing), cmocka_unit_test(own_bounds),
		cmocka_unit_test(damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
