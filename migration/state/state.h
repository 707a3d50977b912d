/*
 * State tables: what of a device migrates, said once, field by field, beside the device.
 *
 * A device keeps everything that the guest can see in one struct of its own ("regs"); a const
 * table of struct state_field describes that struct completely. The tables are data: encoding,
 * decoding, printing and comparing builds all walk the same rows. state_check_tiling() proves that
 * the rows cover the struct without a gap or an overlap, so a member that was forgotten is a
 * failing unit test and not a guest that wakes up wrong.
 *
 * A row that comes later says since which version of the section it is sent, and what stands in its
 * place when an older section has none: what every guest had before there was such a field. Rows
 * are never taken away and never change their size: docs/migration.md, Versions.
 *
 * PURE: values in, verdict out.
 */
#ifndef MIGRATION_STATE_STATE_H
#define MIGRATION_STATE_STATE_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct rbuf;
struct wbuf;

enum state_kind {
	STATE_KIND_END,
	STATE_KIND_UINT,   /* one unsigned integer of @size bytes, or @count of them */
	STATE_KIND_BYTES,  /* @size * @count opaque bytes, always all of them */
	STATE_KIND_PAD,	   /* explicit padding: not sent, zero after load */
	STATE_KIND_STRUCT, /* @count structs of @size bytes, described by @sub */
};

struct state_field {
	const char *name;
	enum state_kind kind;
	uint32_t offset;
	uint32_t size;	/* bytes of one element */
	uint32_t count; /* elements */
	const struct state_field *sub;
	uint32_t since;	 /* version of the section that brought the row, from 1 */
	uint64_t before; /* of STATE_KIND_UINT: each element's value from an older section */
};

/* Describes one device's migratable struct; part of its device_ops. */
struct state_desc {
	uint32_t offset;		  /* of the struct inside the device's own struct */
	uint32_t size;			  /* of the struct */
	uint32_t version;		  /* the newest of its rows' @since */
	const struct state_field *fields; /* ends with STATE_END */
	/**
	 * check - would these values be legal after a guest's own writes?
	 * Called on loaded values before anything is applied; NULL when every value is legal.
	 * Return: 0, or -EINVAL naming the field in @e.
	 */
	int (*check)(const void *regs, struct err *e);
};

#define STATE_MEMBER_SIZE(type, member) sizeof(((type *)0)->member)

/* an unsigned integer member */
#define STATE(type, member) STATE_SINCE(type, member, 1, 0)
#define STATE_SINCE(type, member, version, value)                                           \
	{                                                                                   \
		.name = #member, .kind = STATE_KIND_UINT, .offset = offsetof(type, member), \
		.size = STATE_MEMBER_SIZE(type, member), .count = 1, .since = version,      \
		.before = value,                                                            \
	}
/* an array of unsigned integers, sent whole */
#define STATE_ARRAY(type, member) STATE_ARRAY_SINCE(type, member, 1, 0)
#define STATE_ARRAY_SINCE(type, member, version, value)                                        \
	{                                                                                      \
		.name = #member, .kind = STATE_KIND_UINT, .offset = offsetof(type, member),    \
		.size = STATE_MEMBER_SIZE(type, member[0]),                                    \
		.count = STATE_MEMBER_SIZE(type, member) / STATE_MEMBER_SIZE(type, member[0]), \
		.since = version, .before = value,                                             \
	}
/* opaque bytes; zeroes from an older section */
#define STATE_BYTES(type, member) STATE_BYTES_SINCE(type, member, 1)
#define STATE_BYTES_SINCE(type, member, version)                                             \
	{                                                                                    \
		.name = #member, .kind = STATE_KIND_BYTES, .offset = offsetof(type, member), \
		.size = STATE_MEMBER_SIZE(type, member), .count = 1, .since = version,       \
	}
/* explicit padding; a later member may take of it */
#define STATE_PAD(type, member)                                                            \
	{                                                                                  \
		.name = #member, .kind = STATE_KIND_PAD, .offset = offsetof(type, member), \
		.size = STATE_MEMBER_SIZE(type, member), .count = 1, .since = 1,           \
	}
/* an array of structs, each described by the table @rows, with the versions of this section */
#define STATE_STRUCT_ARRAY(type, member, rows) STATE_STRUCT_ARRAY_SINCE(type, member, rows, 1)
#define STATE_STRUCT_ARRAY_SINCE(type, member, rows, version)                                  \
	{                                                                                      \
		.name = #member, .kind = STATE_KIND_STRUCT, .offset = offsetof(type, member),  \
		.size = STATE_MEMBER_SIZE(type, member[0]),                                    \
		.count = STATE_MEMBER_SIZE(type, member) / STATE_MEMBER_SIZE(type, member[0]), \
		.sub = rows, .since = version,                                                 \
	}
#define STATE_END            \
	{                    \
		.name = NULL \
	}

/**
 * state_check_tiling - do the rows of @fields cover a struct of @size bytes exactly, in order?
 * Sub-tables are checked against their element size.
 * Return: 0, or -EINVAL with the row and the offset of the gap or overlap in @e
 */
int state_check_tiling(const struct state_field *fields, uint32_t size, struct err *e);

/**
 * state_check_desc - do the rows tile the struct, and is the newest of them the section's version?
 * Return: 0, or -EINVAL with the row and what is wrong in @e
 */
int state_check_desc(const struct state_desc *desc, struct err *e);

/**
 * state_encode - append @regs, row by row, integers little-endian, padding left out
 * All rows: what is written is always of the newest version.
 */
void state_encode(const struct state_desc *desc, const void *regs, struct wbuf *w);

/**
 * state_decode - read what state_encode() wrote into @regs, then let the device judge it
 * @regs: desc->size bytes; holds garbage after an error: decode into a copy, not into a device
 * @name: of the device, for messages
 * @version: of the section, 1 to desc->version; rows that are newer get their @before
 * Return: 0; -EINVAL when bytes are missing or desc->check() refuses the values, with device and
 * field in @e
 */
int state_decode(const struct state_desc *desc, const char *name, uint32_t version, struct rbuf *r,
		 void *regs, struct err *e);

/** state_save - append @regs as the section @name @instance */
void state_save(const struct state_desc *desc, const char *name, uint16_t instance,
		const void *regs, struct wbuf *w);

/**
 * state_load - the next section of @r must be @name @instance, of a version up to desc->version
 * Else as state_decode(). All of the section must have been read.
 */
int state_load(const struct state_desc *desc, const char *name, uint16_t instance, struct rbuf *r,
	       void *regs, struct err *e);

#endif
