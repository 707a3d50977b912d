/* Payloads of the small frames, field by field in the order of their structs. */
#include <errno.h>
#include <string.h>

#include "base/guest_mem.h"
#include "migration/state/buf.h"
#include "migration/wire/frame.h"

/* ---- texts: u16 length, bytes; cut to the room of the struct member on both sides ---- */

static void put_text(struct wbuf *w, const char *text, size_t size)
{
	size_t len = strnlen(text, size - 1);

	wbuf_u16(w, (uint16_t)len);
	wbuf_bytes(w, text, len);
}

/* Text of another machine lands in one-line messages and on terminals. */
static bool get_text(struct rbuf *r, char *to, size_t size)
{
	size_t len = rbuf_u16(r), i;
	const uint8_t *p;

	if (len >= size)
		return false;
	p = rbuf_bytes(r, len);
	if (!p)
		return false;
	for (i = 0; i < len; i++)
		to[i] = p[i] >= ' ' && p[i] <= '~' ? (char)p[i] : '?';
	to[len] = '\0';
	return true;
}

/* ---- errors ---- */

static int bad_field(const struct frame *f, const char *field, unsigned long long value,
		     const char *legal, struct err *e)
{
	return err_set(e, -EPROTO, "frame %s: %s is %llu; legal is %s", frame_type_name(f->type),
		       field, value, legal);
}

/* The end of a payload: everything was there, and nothing more. */
static int end(const struct frame *f, const struct rbuf *r, struct err *e)
{
	if (r->failed || rbuf_left(r))
		return err_set(e, -EPROTO,
			       "frame %s: its %u bytes %s; the other side speaks another version",
			       frame_type_name(f->type), f->len,
			       r->failed ? "end too early" : "hold more than its fields");
	return 0;
}

static int bad_text(const struct frame *f, const char *field, struct err *e)
{
	return err_set(e, -EPROTO,
		       "frame %s: the text %s is too long or ends too early; the other side speaks "
		       "another version",
		       frame_type_name(f->type), field);
}

/* ---- hello ---- */

void frame_hello_encode(const struct frame_hello *v, struct wbuf *w)
{
	wbuf_u16(w, v->version_min);
	wbuf_u16(w, v->version_max);
	wbuf_u32(w, v->features);
	wbuf_u64(w, v->session);
	wbuf_u16(w, v->n_data);
	wbuf_u16(w, v->flags);
	put_text(w, v->program, sizeof(v->program));
}

int frame_hello_decode(const struct frame *f, struct frame_hello *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	*v = (struct frame_hello) {
		.version_min = rbuf_u16(&r),
	};
	v->version_max = rbuf_u16(&r);
	v->features = rbuf_u32(&r);
	v->session = rbuf_u64(&r);
	v->n_data = rbuf_u16(&r);
	v->flags = rbuf_u16(&r);
	if (!get_text(&r, v->program, sizeof(v->program)))
		return bad_text(f, "program", e);
	if (v->version_min > STREAM_VERSION || v->version_max < STREAM_VERSION)
		return err_set(e, -EPROTO,
			       "frame hello: %s speaks stream versions %u to %u, this testudo %d; "
			       "use testudos that share one",
			       v->program[0] ? v->program : "the source", v->version_min,
			       v->version_max, STREAM_VERSION);
	if (v->n_data > STREAM_CHANNELS_MAX)
		return bad_field(f, "the number of data channels", v->n_data, "0 to 16", e);
	if (v->flags & ~FRAME_HELLO_FLAGS)
		return bad_field(f, "the flag word", v->flags, "0 to 7", e);
	return end(f, &r, e);
}

/* ---- verdict ---- */

void frame_verdict_encode(const struct frame_verdict *v, struct wbuf *w)
{
	wbuf_u16(w, v->code);
	wbuf_u16(w, 0);
	wbuf_u32(w, v->features);
	put_text(w, v->text, sizeof(v->text));
	wbuf_u32(w, 0);
}

int frame_verdict_decode(const struct frame *f, struct frame_verdict *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);
	uint32_t reserved;

	*v = (struct frame_verdict) {
		.code = rbuf_u16(&r),
	};
	reserved = rbuf_u16(&r);
	v->features = rbuf_u32(&r);
	if (!get_text(&r, v->text, sizeof(v->text)))
		return bad_text(f, "of the reason", e);
	reserved |= rbuf_u32(&r);
	if (v->code >= FRAME_CODE_END)
		return bad_field(f, "the code", v->code, "0 to 5", e);
	if (reserved)
		return bad_field(f, "a reserved field", reserved, "0", e);
	if (v->features & ~FRAME_FEATURES)
		return bad_field(f, "the feature word", v->features, "what hello offered", e);
	return end(f, &r, e);
}

/* ---- memory ---- */

void frame_memory_encode(const struct frame_memory *v, struct wbuf *w)
{
	wbuf_u16(w, v->how);
	wbuf_u16(w, v->n_fds);
	wbuf_u64(w, v->size);
	wbuf_u64(w, v->offset);
}

int frame_memory_decode(const struct frame *f, struct frame_memory *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	*v = (struct frame_memory) {
		.how = rbuf_u16(&r),
	};
	v->n_fds = rbuf_u16(&r);
	v->size = rbuf_u64(&r);
	v->offset = rbuf_u64(&r);
	if (v->how > FRAME_MEMORY_IN_FILE)
		return bad_field(f, "the way", v->how, "0 (passed) or 1 (in the file)", e);
	if (v->n_fds != (v->how == FRAME_MEMORY_PASSED))
		return bad_field(f, "the number of descriptors", v->n_fds,
				 "1 when memory is passed, else 0", e);
	if (!v->size || v->size % GUEST_PAGE || v->size > INT64_MAX)
		return bad_field(f, "the size", v->size, "a multiple of 4096 bytes, not 0", e);
	if (v->offset % GUEST_PAGE || v->offset > (uint64_t)INT64_MAX - v->size ||
	    (v->how == FRAME_MEMORY_PASSED && v->offset))
		return bad_field(f, "the offset", v->offset,
				 "a multiple of 4096 bytes, and 0 when memory is passed", e);
	return end(f, &r, e);
}

/* ---- the rest ---- */

void frame_round_end_encode(const struct frame_round_end *v, struct wbuf *w)
{
	wbuf_u32(w, v->round);
	wbuf_u64(w, v->data_pages);
	wbuf_u64(w, v->zero_pages);
}

int frame_round_end_decode(const struct frame *f, struct frame_round_end *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	v->round = rbuf_u32(&r);
	v->data_pages = rbuf_u64(&r);
	v->zero_pages = rbuf_u64(&r);
	return end(f, &r, e);
}

void frame_finish_encode(const struct frame_finish *v, struct wbuf *w)
{
	wbuf_u64(w, v->data_pages);
	wbuf_u64(w, v->zero_pages);
	wbuf_u32(w, v->rounds);
	wbuf_u8(w, v->running);
}

int frame_finish_decode(const struct frame *f, struct frame_finish *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);
	uint8_t running;

	v->data_pages = rbuf_u64(&r);
	v->zero_pages = rbuf_u64(&r);
	v->rounds = rbuf_u32(&r);
	running = rbuf_u8(&r);
	v->running = running;
	if (running > 1)
		return bad_field(f, "'running'", running, "0 or 1", e);
	return end(f, &r, e);
}

void frame_ready_encode(const struct frame_ready *v, struct wbuf *w)
{
	wbuf_u64(w, v->load_ns);
	put_text(w, v->change, sizeof(v->change));
}

int frame_ready_decode(const struct frame *f, struct frame_ready *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	v->load_ns = rbuf_u64(&r);
	if (!get_text(&r, v->change, sizeof(v->change)))
		return bad_text(f, "of the change", e);
	return end(f, &r, e);
}

void frame_commit_encode(const struct frame_commit *v, struct wbuf *w)
{
	wbuf_u64(w, v->session);
}

int frame_commit_decode(const struct frame *f, struct frame_commit *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	v->session = rbuf_u64(&r);
	return end(f, &r, e);
}

void frame_ack_encode(const struct frame_ack *v, struct wbuf *w)
{
	wbuf_u64(w, v->resume_ns);
}

int frame_ack_decode(const struct frame *f, struct frame_ack *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	v->resume_ns = rbuf_u64(&r);
	return end(f, &r, e);
}

void frame_fail_encode(const struct frame_fail *v, struct wbuf *w)
{
	wbuf_u16(w, v->code);
	put_text(w, v->text, sizeof(v->text));
}

int frame_fail_decode(const struct frame *f, struct frame_fail *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	*v = (struct frame_fail) {
		.code = rbuf_u16(&r),
	};
	if (!get_text(&r, v->text, sizeof(v->text)))
		return bad_text(f, "of the reason", e);
	if (v->code == FRAME_CODE_OK || v->code >= FRAME_CODE_END)
		return bad_field(f, "the code", v->code, "1 to 5", e);
	return end(f, &r, e);
}

void frame_clock_encode(const struct frame_clock *v, struct wbuf *w)
{
	wbuf_u16(w, v->what);
	wbuf_u64(w, v->mono_ns);
	wbuf_u64(w, v->wall_ns);
	wbuf_u32(w, v->tsc_khz);
	wbuf_u64(w, (uint64_t)v->apart_ns);
}

int frame_clock_decode(const struct frame *f, struct frame_clock *v, struct err *e)
{
	struct rbuf r = rbuf_of(f->payload, f->len);

	v->what = rbuf_u16(&r);
	v->mono_ns = rbuf_u64(&r);
	v->wall_ns = rbuf_u64(&r);
	v->tsc_khz = rbuf_u32(&r);
	v->apart_ns = (int64_t)rbuf_u64(&r);
	if (v->what > FRAME_CLOCK_APART)
		return bad_field(f, "the kind", v->what, "0 to 2", e);
	return end(f, &r, e);
}
