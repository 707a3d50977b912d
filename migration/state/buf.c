#include "migration/state/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

uint8_t *wbuf_reserve(struct wbuf *w, size_t len)
{
	uint8_t *p;

	if (w->failed)
		return NULL;
	if (len > w->room - w->len) {
		size_t room = w->room ? w->room : 256;

		while (room - w->len < len && room <= SIZE_MAX / 2)
			room *= 2;
		p = room - w->len < len ? NULL : realloc(w->data, room);
		if (!p) {
			w->failed = true;
			return NULL;
		}
		w->data = p;
		w->room = room;
	}
	p = w->data + w->len;
	memset(p, 0, len);
	w->len += len;
	return p;
}

void wbuf_bytes(struct wbuf *w, const void *p, size_t len)
{
	uint8_t *to = len ? wbuf_reserve(w, len) : NULL;

	if (to)
		memcpy(to, p, len);
}

void wbuf_u8(struct wbuf *w, uint8_t v)
{
	wbuf_bytes(w, &v, sizeof(v));
}

void wbuf_u16(struct wbuf *w, uint16_t v)
{
	uint8_t raw[sizeof(v)];

	put_le16(raw, v);
	wbuf_bytes(w, raw, sizeof(raw));
}

void wbuf_u32(struct wbuf *w, uint32_t v)
{
	uint8_t raw[sizeof(v)];

	put_le32(raw, v);
	wbuf_bytes(w, raw, sizeof(raw));
}

void wbuf_u64(struct wbuf *w, uint64_t v)
{
	uint8_t raw[sizeof(v)];

	put_le64(raw, v);
	wbuf_bytes(w, raw, sizeof(raw));
}

void wbuf_fini(struct wbuf *w)
{
	free(w->data);
	*w = (struct wbuf) {0};
}

const uint8_t *rbuf_bytes(struct rbuf *r, size_t len)
{
	const uint8_t *p;

	if (r->failed || len > r->len - r->at) {
		r->failed = true;
		return NULL;
	}
	p = r->data + r->at;
	r->at += len;
	return p;
}

uint8_t rbuf_u8(struct rbuf *r)
{
	const uint8_t *p = rbuf_bytes(r, 1);

	return p ? *p : 0;
}

uint16_t rbuf_u16(struct rbuf *r)
{
	const uint8_t *p = rbuf_bytes(r, 2);

	return p ? get_le16(p) : 0;
}

uint32_t rbuf_u32(struct rbuf *r)
{
	const uint8_t *p = rbuf_bytes(r, 4);

	return p ? get_le32(p) : 0;
}

uint64_t rbuf_u64(struct rbuf *r)
{
	const uint8_t *p = rbuf_bytes(r, 8);

	return p ? get_le64(p) : 0;
}
