#include "migration/description/dtb.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

/* ---- header, 5.2: big-endian 32-bit words ---- */

enum {
	MAGIC = 0,
	TOTAL_SIZE = 4,
	OFF_STRUCT = 8,
	OFF_STRINGS = 12,
	OFF_RESERVED = 16,
	VERSION = 20,
	LAST_COMP_VERSION = 24,
	/* 28: number of the CPU that boots */
	SIZE_STRINGS = 32,
	SIZE_STRUCT = 36,
	HEADER_BYTES = 40,
};

#define DTB_MAGIC      0xd00dfeed
#define DTB_VERSION    17
#define RESERVED_BYTES 16 /* of one reservation: address and size, 5.3 */

/* ---- tokens of the structure block, 5.4.1 ---- */

enum {
	TOKEN_BYTES = 4,
	TOKEN_BEGIN_NODE = 1, /* a name with its NUL, padded */
	TOKEN_END_NODE = 2,
	TOKEN_PROP = 3, /* length and name's offset, a cell each; then the value, padded */
	TOKEN_NOP = 4,
	TOKEN_END = 9,
	PROP_BYTES = 8,
};

static uint32_t get_be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static int bad(struct err *e, size_t at, const char *what)
{
	return err_set(e, -EINVAL,
		       "the device tree is not whole: byte %zu: %s; was it damaged on its way?", at,
		       what);
}

struct block {
	const uint8_t *p;
	uint32_t at, len; /* bytes; @at: of @p in the blob */
};

struct walk {
	struct block tree, strings;
	uint32_t pos; /* in the tree; always a multiple of 4, and so is tree.len */
	unsigned int depth;
	bool root_seen;
	bool in_nodes; /* the node at hand has nodes in it: no property may follow */
	struct err *e;
};

static int bad_here(const struct walk *w, const char *what)
{
	return bad(w->e, (size_t)w->tree.at + w->pos, what);
}

static uint32_t rest(const struct walk *w)
{
	return w->tree.len - w->pos;
}

/* @len bytes of what rest() has, and the padding, for which there is room, as both are aligned. */
static void skip(struct walk *w, uint32_t len)
{
	w->pos += (uint32_t)align_up(len, TOKEN_BYTES);
}

/* Is there a name at @at of @b? Return: its bytes without NUL, or -1 */
static int name_length(const struct block *b, uint32_t at)
{
	const uint32_t room = b->len - at;
	const size_t max = room < DTB_NAME_MAX + 1 ? room : DTB_NAME_MAX + 1;
	const size_t n = strnlen((const char *)b->p + at, max);

	return n < max ? (int)n : -1;
}

static int begin_node(struct walk *w)
{
	const int n = name_length(&w->tree, w->pos);

	if (n < 0)
		return bad_here(w, "a node's name does not end");
	if (w->root_seen && !w->depth)
		return bad_here(w, "there is a second root");
	if ((n == 0) != (w->depth == 0))
		return bad_here(w, n ? "the root has a name" : "a node has no name");
	if (w->depth == DTB_DEPTH_MAX)
		return bad_here(w, "nodes lie too deep in each other");
	w->root_seen = true;
	w->in_nodes = false;
	w->depth++;
	skip(w, (uint32_t)n + 1);
	return 0;
}

static int end_node(struct walk *w)
{
	if (!w->depth)
		return bad_here(w, "a node ends that did not begin");
	w->depth--;
	w->in_nodes = true;
	return 0;
}

static int property(struct walk *w)
{
	const uint8_t *p = w->tree.p + w->pos;
	uint32_t len, name;

	if (!w->depth || w->in_nodes)
		return bad_here(w, "a property stands outside of the front of a node");
	if (rest(w) < PROP_BYTES)
		return bad_here(w, "a property is cut short");
	len = get_be32(p);
	name = get_be32(p + 4);
	if (len > rest(w) - PROP_BYTES)
		return bad_here(w, "a property's value leaves the structure block");
	if (name >= w->strings.len || name_length(&w->strings, name) < 0)
		return bad_here(w, "a property's name leaves the strings block or does not end");
	w->pos += PROP_BYTES;
	skip(w, len);
	return 0;
}

static int end(const struct walk *w)
{
	if (!w->root_seen || w->depth)
		return bad_here(w, "the structure ends within a node, or has none");
	if (rest(w))
		return bad_here(w, "the structure goes on after its end");
	return 0;
}

static int check_structure(struct walk *w)
{
	while (rest(w)) {
		const uint32_t token = get_be32(w->tree.p + w->pos);
		int ret = 0;

		w->pos += TOKEN_BYTES;
		switch (token) {
		case TOKEN_BEGIN_NODE:
			ret = begin_node(w);
			break;
		case TOKEN_END_NODE:
			ret = end_node(w);
			break;
		case TOKEN_PROP:
			ret = property(w);
			break;
		case TOKEN_NOP: /* libfdt looks for the root in front, and for the end behind it */
			if (!w->depth)
				ret = bad_here(w, "a NOP stands outside of the root");
			break;
		case TOKEN_END:
			return end(w);
		default:
			ret = bad_here(w, "no token of a device tree");
		}
		if (ret < 0)
			return ret;
	}
	return bad_here(w, "the structure has no end");
}

/* From @at up to the structure block: entries, the last one of zeroes. */
static int check_reserved(const uint8_t *blob, uint32_t at, uint32_t end, struct err *e)
{
	static const uint8_t last[RESERVED_BYTES];

	for (; end - at >= RESERVED_BYTES; at += RESERVED_BYTES)
		if (memcmp(blob + at, last, sizeof(last)) == 0)
			return 0;
	return bad(e, at, "the memory reservations have no end");
}

int dtb_check(const void *blob, size_t len, struct err *e)
{
	const uint8_t *p = blob;
	struct walk w = {.e = e};
	uint32_t reserved;
	int ret;

	assert((uintptr_t)blob % 8 == 0);
	if (len > DTB_SIZE_MAX)
		return err_set(e, -E2BIG, "a device tree of %zu bytes; legal is up to %u", len,
			       DTB_SIZE_MAX);
	if (len < HEADER_BYTES)
		return bad(e, len, "it ends within the header");
	if (get_be32(p + MAGIC) != DTB_MAGIC)
		return bad(e, MAGIC, "it does not begin as one");
	if (get_be32(p + TOTAL_SIZE) != len)
		return bad(e, TOTAL_SIZE, "its length is another one");
	if (get_be32(p + VERSION) != DTB_VERSION || get_be32(p + LAST_COMP_VERSION) > DTB_VERSION)
		return bad(e, VERSION, "it is of another version than 17");

	reserved = get_be32(p + OFF_RESERVED);
	w.tree = (struct block) {.at = get_be32(p + OFF_STRUCT), .len = get_be32(p + SIZE_STRUCT)};
	w.strings =
		(struct block) {.at = get_be32(p + OFF_STRINGS), .len = get_be32(p + SIZE_STRINGS)};
	/* differences of what is known to be smaller, no sums: nothing wraps */
	if (w.strings.at > len || w.strings.len > len - w.strings.at)
		return bad(e, OFF_STRINGS, "the strings block leaves it");
	if (w.tree.at > w.strings.at || w.tree.len > w.strings.at - w.tree.at)
		return bad(e, OFF_STRUCT, "the structure block is not before the strings");
	if (reserved < HEADER_BYTES || reserved > w.tree.at)
		return bad(e, OFF_RESERVED, "the memory reservations are not before the structure");
	if (reserved % 8 || w.tree.at % TOKEN_BYTES || w.tree.len % TOKEN_BYTES) /* 5.6 */
		return bad(e, OFF_STRUCT, "a block is not aligned");
	w.tree.p = p + w.tree.at;
	w.strings.p = p + w.strings.at;

	ret = check_reserved(p, reserved, w.tree.at, e);
	return ret ? ret : check_structure(&w);
}
