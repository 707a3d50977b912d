#include "migration/state/section.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"

void section_put(struct wbuf *w, const char *name, uint16_t instance, uint16_t version,
		 const struct wbuf *body)
{
	const size_t name_len = strlen(name);

	if (body->failed || body->len > SECTION_SIZE_MAX || name_len > SECTION_NAME_MAX)
		w->failed = true;
	wbuf_u16(w, (uint16_t)name_len);
	wbuf_bytes(w, name, name_len);
	wbuf_u16(w, instance);
	wbuf_u16(w, version);
	wbuf_u32(w, (uint32_t)body->len);
	wbuf_bytes(w, body->data, body->len);
}

/* What is shown in messages comes from outside: nothing but harmless letters is a name. */
static bool name_is_good(const uint8_t *name, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') &&
		    name[i] != '-')
			return false;
	return len > 0;
}

int section_next(struct rbuf *r, struct section *s, struct err *e)
{
	const size_t start = r->at;
	const uint8_t *name, *body;
	uint16_t name_len;
	uint32_t len;

	if (!r->failed && !rbuf_left(r))
		return 0;
	memset(s, 0, sizeof(*s));
	name_len = rbuf_u16(r);
	if (name_len > SECTION_NAME_MAX)
		return err_set(e, -EINVAL,
			       "state: the section at byte %zu has a name of %u bytes, at most %d "
			       "are possible; the stream is damaged",
			       start, name_len, SECTION_NAME_MAX);
	name = rbuf_bytes(r, name_len);
	s->instance = rbuf_u16(r);
	s->version = rbuf_u16(r);
	len = rbuf_u32(r);
	if (!r->failed && !name_is_good(name, name_len))
		return err_set(e, -EINVAL,
			       "state: the section at byte %zu has no proper name; the stream is "
			       "damaged",
			       start);
	if (!r->failed)
		memcpy(s->name, name, name_len);
	if (!r->failed && len > SECTION_SIZE_MAX)
		return err_set(e, -EINVAL,
			       "state: section '%s' %u has %u bytes, at most %d are possible; the "
			       "stream is damaged",
			       s->name, s->instance, len, SECTION_SIZE_MAX);
	body = rbuf_bytes(r, len);
	if (r->failed)
		return err_set(e, -EINVAL,
			       "state: it ends inside the section at byte %zu; the stream is cut "
			       "short",
			       start);
	s->body = rbuf_of(body, len);
	return 1;
}

int section_expect(struct rbuf *r, const char *name, uint16_t instance, uint16_t version,
		   struct section *s, struct err *e)
{
	int ret = section_next(r, s, e);

	if (ret < 0)
		return ret;
	if (!ret)
		return err_set(e, -EINVAL,
			       "state: section '%s' %u is missing at the end; both sides must be "
			       "the same version of testudo with the same devices",
			       name, instance);
	if (strcmp(s->name, name) != 0 || s->instance != instance)
		return err_set(e, -EINVAL,
			       "state: section '%s' %u stands where '%s' %u belongs; both sides "
			       "must be the same version of testudo with the same devices",
			       s->name, s->instance, name, instance);
	if (!s->version || s->version > version)
		return err_set(e, -EINVAL,
			       "state: section '%s' %u has version %u, this testudo reads 1 to %u; "
			       "use a newer one at the destination",
			       name, instance, s->version, version);
	return 0;
}

int section_end(const struct section *s, struct err *e)
{
	if (!s->body.failed && !rbuf_left(&s->body))
		return 0;
	return err_set(e, -EINVAL,
		       "state: section '%s' %u has %zu bytes, %s than its version %u has; the "
		       "stream is damaged",
		       s->name, s->instance, s->body.len, s->body.failed ? "fewer" : "more",
		       s->version);
}

int section_finish(struct rbuf *r, struct err *e)
{
	struct section s;
	int ret = section_next(r, &s, e);

	if (ret <= 0)
		return ret;
	return err_set(
		e, -EINVAL,
		"state: section '%s' %u is unknown to the destination; both sides must be the same "
		"version of testudo with the same devices",
		s.name, s.instance);
}
