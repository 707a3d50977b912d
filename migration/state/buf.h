/*
 * Bytes of a stream under construction, and bytes of a stream being read. Little-endian. Errors
 * stick: a caller may put or get a whole record and look at the end whether all of it was there.
 *
 * PURE apart from the heap.
 */
#ifndef MIGRATION_STATE_BUF_H
#define MIGRATION_STATE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Grows as needed. Zeroed is empty. */
struct wbuf {
	uint8_t *data;
	size_t len, room;
	bool failed; /* out of memory: everything after it is lost, too */
};

void wbuf_u8(struct wbuf *w, uint8_t v);
void wbuf_u16(struct wbuf *w, uint16_t v);
void wbuf_u32(struct wbuf *w, uint32_t v);
void wbuf_u64(struct wbuf *w, uint64_t v);
void wbuf_bytes(struct wbuf *w, const void *p, size_t len);
/** wbuf_reserve - @len zeroed bytes at the end. Return: where they are, or NULL (failed is set) */
uint8_t *wbuf_reserve(struct wbuf *w, size_t len);
void wbuf_fini(struct wbuf *w);

/* Borrowed bytes of somebody else; never read beyond @len. */
struct rbuf {
	const uint8_t *data;
	size_t len, at;
	bool failed; /* more was asked for than was there; every later get gives 0 */
};

static inline struct rbuf rbuf_of(const void *data, size_t len)
{
	return (struct rbuf) {.data = data, .len = len};
}

uint8_t rbuf_u8(struct rbuf *r);
uint16_t rbuf_u16(struct rbuf *r);
uint32_t rbuf_u32(struct rbuf *r);
uint64_t rbuf_u64(struct rbuf *r);
/** rbuf_bytes - the next @len bytes, in place. Return: NULL (failed is set) when fewer are left */
const uint8_t *rbuf_bytes(struct rbuf *r, size_t len);
static inline size_t rbuf_left(const struct rbuf *r)
{
	return r->failed ? 0 : r->len - r->at;
}

#endif
