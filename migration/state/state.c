#include "migration/state/state.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/state/section.h"

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

/* Return: the newest version of all rows; 0 when one has none, which names @bad */
static uint32_t newest(const struct state_field *f, const struct state_field **bad)
{
	uint32_t version = 1;

	for (; f->kind != STATE_KIND_END; f++) {
		const uint32_t sub = f->kind == STATE_KIND_STRUCT ? newest(f->sub, bad) : 1;
		const uint32_t here = f->since > sub ? f->since : sub;

		if (!f->since)
			*bad = f;
		if (!f->since || !sub)
			return 0;
		version = here > version ? here : version;
	}
	return version;
}

int state_check_desc(const struct state_desc *desc, struct err *e)
{
	const struct state_field *bad = NULL;
	const uint32_t version = newest(desc->fields, &bad);
	int ret = state_check_tiling(desc->fields, desc->size, e);

	if (ret)
		return ret;
	if (!version)
		return err_set(e, -EINVAL,
			       "state row '%s' says not since which version it is; use the macros "
			       "of state.h",
			       bad->name);
	if (desc->version != version || version > UINT16_MAX)
		return err_set(e, -EINVAL,
			       "the newest state row came with version %u, the section has version "
			       "%u; raise it with the row",
			       version, desc->version);
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

/* What an older section does not have; @base is all zeroes. */
static void default_row(const struct state_field *f, uint8_t *base)
{
	const struct state_field *sub;
	uint32_t i;

	for (i = 0; i < f->count; i++) {
		uint8_t *p = base + f->offset + (size_t)i * f->size;

		if (f->kind == STATE_KIND_UINT)
			memcpy(p, &f->before, f->size); /* both little-endian */
		for (sub = f->sub; sub && sub->kind != STATE_KIND_END; sub++)
			default_row(sub, p);
	}
}

static const struct state_field *decode_rows(const struct state_field *f, uint32_t version,
					     uint8_t *base, struct rbuf *r);

/* Return: the first row whose bytes were missing, or NULL */
static const struct state_field *decode_row(const struct state_field *f, uint32_t version,
					    uint8_t *base, struct rbuf *r)
{
	const struct state_field *bad = NULL;
	uint32_t i;

	for (i = 0; i < f->count && !bad; i++) {
		uint8_t *p = base + f->offset + (size_t)i * f->size;

		if (f->kind == STATE_KIND_UINT) {
			decode_uint(p, f->size, r);
		} else if (f->kind == STATE_KIND_BYTES) {
			const uint8_t *from = rbuf_bytes(r, f->size);

			if (from)
				memcpy(p, from, f->size);
		} else if (f->kind == STATE_KIND_STRUCT) {
			bad = decode_rows(f->sub, version, p, r);
		}
		if (!bad && r->failed)
			bad = f;
	}
	return bad;
}

static const struct state_field *decode_rows(const struct state_field *f, uint32_t version,
					     uint8_t *base, struct rbuf *r)
{
	const struct state_field *bad = NULL;

	for (; f->kind != STATE_KIND_END && !bad; f++)
		if (f->since > version)
			default_row(f, base);
		else
			bad = decode_row(f, version, base, r);
	return bad;
}

void state_encode(const struct state_desc *desc, const void *regs, struct wbuf *w)
{
	encode_rows(desc->fields, regs, w);
}

int state_decode(const struct state_desc *desc, const char *name, uint32_t version, struct rbuf *r,
		 void *regs, struct err *e)
{
	const struct state_field *bad;

	memset(regs, 0, desc->size);
	bad = decode_rows(desc->fields, version, regs, r);
	if (bad)
		return err_set(e, -EINVAL,
			       "state of %s ends before its field '%s'; the stream is damaged or "
			       "comes from another version",
			       name, bad->name);
	return desc->check ? desc->check(regs, e) : 0;
}

void state_save(const struct state_desc *desc, const char *name, uint16_t instance,
		const void *regs, struct wbuf *w)
{
	struct wbuf body = {0};

	state_encode(desc, regs, &body);
	section_put(w, name, instance, (uint16_t)desc->version, &body);
	wbuf_fini(&body);
}

int state_load(const struct state_desc *desc, const char *name, uint16_t instance, struct rbuf *r,
	       void *regs, struct err *e)
{
	struct section s;
	int ret = section_expect(r, name, instance, (uint16_t)desc->version, &s, e);

	if (!ret)
		ret = state_decode(desc, name, s.version, &s.body, regs, e);
	return ret ? ret : section_end(&s, e);
}
