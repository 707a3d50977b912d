/*
 * The machine's state as a row of sections: a name, an instance, a version, bytes. They stand in
 * one fixed order, so that a reader asks for the next one by name: what is missing, unknown, twice
 * there or of another version is the same mistake and is refused by the same line.
 *
 *   u16 length of the name, name, u16 instance, u16 version, u32 length, bytes
 *
 * PURE apart from the heap. What is read comes from another machine and is judged here.
 */
#ifndef MIGRATION_STATE_SECTION_H
#define MIGRATION_STATE_SECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/state/buf.h"

struct err;

#define SECTION_NAME_MAX 31	      /* bytes: a-z, 0-9 and '-' */
#define SECTION_SIZE_MAX (256 * 1024) /* bytes of one section; the largest real one has 11 KiB */

struct section {
	char name[SECTION_NAME_MAX + 1];
	uint16_t instance, version;
	struct rbuf body; /* borrowed from what is read */
};

/**
 * section_put - append a section
 * @name: up to SECTION_NAME_MAX bytes of a-z, 0-9 and '-'
 * @body: its bytes, up to SECTION_SIZE_MAX; a body that failed makes @w fail
 */
void section_put(struct wbuf *w, const char *name, uint16_t instance, uint16_t version,
		 const struct wbuf *body);

/**
 * section_next - whatever section comes next
 * Return: 1 with @s; 0 at the end of @r; -EINVAL when what is there is no section
 */
int section_next(struct rbuf *r, struct section *s, struct err *e);

/**
 * section_expect - the next section must be this one
 * @version: the highest that the caller understands; versions count from 1
 * Return: 0 with @s; -EINVAL naming what was expected and what is there
 */
int section_expect(struct rbuf *r, const char *name, uint16_t instance, uint16_t version,
		   struct section *s, struct err *e);

/** section_end - was all of @s read, and no more? Return: 0, or -EINVAL with both lengths */
int section_end(const struct section *s, struct err *e);

/** section_finish - is @r at its end? Return: 0, or -EINVAL naming the section that is too many */
int section_finish(struct rbuf *r, struct err *e);

#endif
