#include "migration/wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "migration/wire/stranger.h"

#define TEXT_LEN (2 + ERR_TEXT_MAX) /* the longest text of a payload */

static const struct frame_kind kinds[] = {
	{FRAME_HELLO, "hello", FRAME_FROM_SOURCE, true, 1, 22, 22 + 63},
	{FRAME_DESCRIPTION, "description", FRAME_FROM_SOURCE, true, 1, 40, 1 << 20},
	{FRAME_VERDICT, "verdict", FRAME_FROM_DESTINATION, true, 1, 14, 12 + TEXT_LEN},
	{FRAME_MEMORY, "memory", FRAME_FROM_SOURCE, true, 1, 20, 20},
	{FRAME_ROUND_END, "round-end", FRAME_FROM_SOURCE, true, 1, 20, 20},
	/* 255 vCPUs with AMX's 8 KiB of tiles are 5 MiB */
	{FRAME_STATE, "state", FRAME_FROM_SOURCE, true, 1, 1, 16 << 20},
	{FRAME_FINISH, "finish", FRAME_FROM_SOURCE, true, 1, 21, 21},
	{FRAME_READY, "ready", FRAME_FROM_DESTINATION, true, 1, 10, 8 + TEXT_LEN},
	{FRAME_COMMIT, "commit", FRAME_FROM_SOURCE, true, 1, 8, 8},
	{FRAME_ACK, "ack", FRAME_FROM_DESTINATION, true, 1, 8, 8},
	{FRAME_FAIL, "fail", FRAME_FROM_BOTH, true, 1, 4, 2 + TEXT_LEN},
	{FRAME_CHECKSUMS, "checksums", FRAME_FROM_SOURCE, true, 1, 4, 4 << 20},
	{FRAME_CLOCK, "clock", FRAME_FROM_BOTH, false, 1, 30, 30},
};

const struct frame_kind *frame_kinds(unsigned int *n)
{
	*n = ARRAY_SIZE(kinds);
	return kinds;
}

const struct frame_kind *frame_kind_of(uint16_t type)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

const char *frame_type_name(uint16_t type)
{
	const struct frame_kind *k = frame_kind_of(type);

	return k ? k->name : "unknown";
}

enum frame_code frame_code_of(int ret)
{
	switch (ret) {
	case -ECANCELED:
		return FRAME_CODE_CANCELLED;
	case -EPERM:
		return FRAME_CODE_POLICY;
	case -EBADMSG:
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return FRAME_CODE_PROTOCOL;
	default:
		return FRAME_CODE_FAILED;
	}
}

void frame_fini(struct frame *f)
{
	free(f->payload);
	*f = (struct frame) {0};
}

/* head of a stream: 0 magic, 8 version, 10 channel, 12 reserved */
void stream_head_encode(uint16_t channel, uint8_t out[STREAM_HEAD_SIZE])
{
	memcpy(out, STREAM_MAGIC, 8);
	put_le16(out + 8, STREAM_VERSION);
	put_le16(out + 10, channel);
	put_le32(out + 12, 0);
}

int stream_head_decode(const uint8_t in[STREAM_HEAD_SIZE], struct stream_head *h, struct err *e)
{
	char came[STRANGER_MAX];

	if (memcmp(in, STREAM_MAGIC, 8) != 0) {
		stranger_describe(in, STREAM_HEAD_SIZE, came);
		return err_set(e, -EPROTO,
			       "it is no migration stream of testudo: it begins with %s; let "
			       "testudo migrate connect",
			       came);
	}
	h->version = get_le16(in + 8);
	h->channel = get_le16(in + 10);
	if (h->version != STREAM_VERSION)
		return err_set(
			e, -EPROTONOSUPPORT,
			"the stream has version %u, this testudo reads version %d; use testudos of "
			"one stream version on both sides",
			h->version, STREAM_VERSION);
	if (h->channel > STREAM_CHANNELS_MAX)
		return err_set(e, -EPROTO, "the stream says it is channel %u; there are 0 to %d",
			       h->channel, STREAM_CHANNELS_MAX);
	if (get_le32(in + 12) != 0)
		return err_set(e, -EPROTO,
			       "the reserved field of the stream's head is 0x%08x; version %d has "
			       "0 there",
			       get_le32(in + 12), STREAM_VERSION);
	return 0;
}

/* head of a frame: 0 type, 2 flags, 4 length, 8 checksum of the payload, 12 of the 12 bytes */
void frame_head_encode(enum frame_type type, const void *payload, uint32_t len,
		       uint8_t out[FRAME_HEAD_SIZE])
{
	const struct frame_kind *k = frame_kind_of((uint16_t)type);

	put_le16(out, (uint16_t)type);
	put_le16(out + 2, !k || k->critical ? FRAME_FLAG_CRITICAL : 0);
	put_le32(out + 4, len);
	put_le32(out + 8, crc32c(0, payload, len));
	put_le32(out + 12, crc32c(0, out, 12));
}

static const char *side_name(enum frame_side side)
{
	return side == FRAME_FROM_SOURCE ? "source" : "destination";
}

int frame_head_decode(const uint8_t in[FRAME_HEAD_SIZE], enum frame_side from, struct frame_head *h,
		      struct err *e)
{
	const struct frame_kind *k;

	if (get_le32(in + 12) != crc32c(0, in, 12))
		return err_set(e, -EBADMSG,
			       "a frame's head has checksum %08x, its bytes give %08x; the stream "
			       "was damaged on its way",
			       get_le32(in + 12), crc32c(0, in, 12));
	*h = (struct frame_head) {
		.type = get_le16(in),
		.flags = get_le16(in + 2),
		.len = get_le32(in + 4),
		.payload_crc = get_le32(in + 8),
	};
	h->kind = k = frame_kind_of(h->type);
	if (h->flags & ~FRAME_FLAG_CRITICAL)
		return err_set(e, -EPROTO,
			       "frame %s (type %u) has flags 0x%x; this testudo knows only 0x%x",
			       frame_type_name(h->type), h->type, h->flags, FRAME_FLAG_CRITICAL);
	if (!k) {
		if (h->flags & FRAME_FLAG_CRITICAL)
			return err_set(
				e, -EPROTO,
				"frame of type %u is not known to the receiver and must not be "
				"skipped; the sender is newer: use one version on both",
				h->type);
		if (h->len > FRAME_UNKNOWN_MAX)
			return err_set(e, -EPROTO,
				       "frame of unknown type %u has %u bytes; up to %u are "
				       "skipped",
				       h->type, h->len, FRAME_UNKNOWN_MAX);
		return 0;
	}
	if (!(k->from & from))
		return err_set(e, -EPROTO, "the %s sent a %s frame, which only the %s may send",
			       side_name(from), k->name, side_name(k->from));
	if (h->len < k->min_len || h->len > k->max_len)
		return err_set(e, -EPROTO, "frame %s has %u bytes; it has %u to %u", k->name,
			       h->len, k->min_len, k->max_len);
	return 0;
}

int frame_check_payload(const struct frame_head *h, const void *payload, struct err *e)
{
	uint32_t found = crc32c(0, payload, h->len);

	if (found != h->payload_crc)
		return err_set(e, -EBADMSG,
			       "frame %s should have checksum %08x, its %u bytes give %08x; the "
			       "stream was damaged on its way",
			       frame_type_name(h->type), h->payload_crc, h->len, found);
	return 0;
}
