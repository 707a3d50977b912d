#include "migration/state/state.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "migration/state/buf.h"

int state_check_tiling(const struct state_field *fields, uint32_t size, struct err *e)
{
	const struct state_field *f;
	uint64_t next = 0;

	for (f = fields; f->kind != STATE_KIND_END; f++) {
		if (f->offset != next)
			return err_set(
				e, -EINVAL,
				"state row '%s' is at offset %u, the rows before it end at %llu; "
				"list every member once, in order, padding included",
				f->name, f->offset, (unsigned long long)next);
		if (f->kind == STATE_KIND_STRUCT) {
			int ret = state_check_tiling(f->sub, f->size, e);

			if (ret)
				return ret;
		}
		if (f->kind == STATE_KIND_UINT && f->size != 1 && f->size != 2 && f->size != 4 &&
		    f->size != 8)
			return err_set(e, -EINVAL,
				       "state row '%s' is an integer of %u bytes; use STATE_BYTES",
				       f->name, f->size);
		next += (uint64_t)f->size * f->count;
	}
	if (next != size)
		return err_set(
			e, -EINVAL,
			"the state rows end at offset %llu, the struct has %u bytes; the last "
			"members have no row",
			(unsigned long long)next, size);
	return 0;
}

static void encode_uint(const uint8_t *p, uint32_t size, struct wbuf *w)
{
	switch (size) { /* state_check_tiling() allows no other */
	case 1:
		wbuf_u8(w, *p);
		break;
	case 2:
		wbuf_u16(w, *(const uint16_t *)(const void *)p);
		break;
	case 4:
		wbuf_u32(w, *(const uint32_t *)(const void *)p);
		break;
	case 8:
		wbuf_u64(w, *(const uint64_t *)(const void *)p);
		break;
	}
}

static void decode_uint(uint8_t *p, uint32_t size, struct rbuf *r)
{
	switch (size) {
	case 1:
		*p = rbuf_u8(r);
		break;
	case 2:
		*(uint16_t *)(void *)p = rbuf_u16(r);
		break;
	case 4:
		*(uint32_t *)(void *)p = rbuf_u32(r);
		break;
	case 8:
		*(uint64_t *)(void *)p = rbuf_u64(r);
		break;
	}
}

static void encode_rows(const struct state_field *f, const uint8_t *base, struct wbuf *w)
{
	uint32_t i;

	for (; f->kind != STATE_KIND_END; f++)
		for (i = 0; i < f->count; i++) {
			const uint8_t *p = base + f->offset + (size_t)i * f->size;

			if (f->kind == STATE_KIND_UINT)
				encode_uint(p, f->size, w);
			else if (f->kind == STATE_KIND_BYTES)
				wbuf_bytes(w, p, f->size);
			else if (f->kind == STATE_KIND_STRUCT)
				encode_rows(f->sub, p, w);
		}
}

/* Return: the first row whose bytes were missing, or NULL */
static const struct state_field *decode_rows(const struct state_field *f, uint8_t *base,
					     struct rbuf *r)
{
	uint32_t i;

	for (; f->kind != STATE_KIND_END; f++)
		for (i = 0; i < f->count; i++) {
			uint8_t *p = base + f->offset + (size_t)i * f->size;

			if (f->kind == STATE_KIND_UINT) {
				decode_uint(p, f->size, r);
			} else if (f->kind == STATE_KIND_BYTES) {
				const uint8_t *from = rbuf_bytes(r, f->size);

				if (from)
					memcpy(p, from, f->size);
			} else if (f->kind == STATE_KIND_STRUCT) {
				const struct state_field *bad = decode_rows(f->sub, p, r);

				if (bad)
					return bad;
			}
			if (r->failed)
				return f;
		}
	return NULL;
}

void state_encode(const struct state_desc *desc, const void *regs, struct wbuf *w)
{
	encode_rows(desc->fields, regs, w);
}

int state_decode(const struct state_desc *desc, const char *name, struct rbuf *r, void *regs,
		 struct err *e)
{
	const struct state_field *bad;

	memset(regs, 0, desc->size);
	bad = decode_rows(desc->fields, regs, r);
	if (bad)
		return err_set(e, -EINVAL,
			       "state of %s ends before its field '%s'; the stream is damaged or "
			       "comes from another version",
			       name, bad->name);
	return desc->check ? desc->check(regs, e) : 0;
}
