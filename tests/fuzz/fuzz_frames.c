/*
 * Any bytes as what the other side sends (bit 0 of the first byte: who that is), in pieces of the
 * size that bits 4 to 7 say: every frame is refused with one line, or is what would be sent for its
 * values. With bit 1 set the checksums are made right first, which mutation alone would not find.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/wire/channel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
	struct transport t;
	const uint8_t *at;
	size_t left, piece;
};

static ssize_t memory_read(struct transport *t, void *buf, size_t len, short *wait)
{
	struct memory *m = container_of(t, struct memory, t);

	(void)wait;
	len = len < m->piece ? len : m->piece;
	len = len < m->left ? len : m->left;
	memcpy(buf, m->at, len);
	m->at += len;
	m->left -= len;
	return (ssize_t)len;
}

static ssize_t memory_writev(struct transport *t, const struct iovec *iov, int n, short *wait)
{
	(void)t;
	(void)iov;
	(void)n;
	(void)wait;
	abort(); /* nobody answers */
}

static void memory_close(struct transport *t)
{
	(void)t;
}

static const struct transport_ops memory_ops = {
	.ended = "the other side closed the connection",
	.read = memory_read,
	.writev = memory_writev,
	.close = memory_close,
};

static void fix_checksums(uint8_t *p, size_t size)
{
	while (size >= FRAME_HEAD_SIZE) {
		uint32_t len = get_le32(p + 4);

		if (len > size - FRAME_HEAD_SIZE)
			len = (uint32_t)(size - FRAME_HEAD_SIZE);
		put_le32(p + 8, crc32c(0, p + FRAME_HEAD_SIZE, len));
		put_le32(p + 12, crc32c(0, p, 12));
		p += FRAME_HEAD_SIZE + len;
		size -= FRAME_HEAD_SIZE + len;
	}
}

/* Read a payload and write it again. Return: 0 or what the reader said */
static int decode(const struct frame *f, struct wbuf *w, struct err *e)
{
	union {
		struct frame_hello hello;
		struct frame_verdict verdict;
		struct frame_memory memory;
		struct frame_round_end round_end;
		struct frame_finish finish;
		struct frame_ready ready;
		struct frame_commit commit;
		struct frame_ack ack;
		struct frame_fail fail;
		struct frame_clock clock;
	} v;
	int ret = 0;

#define ROW(TYPE, name)                                     \
	case TYPE:                                          \
		ret = frame_##name##_decode(f, &v.name, e); \
		if (!ret)                                   \
			frame_##name##_encode(&v.name, w);  \
		break
	switch (f->type) {
		ROW(FRAME_HELLO, hello);
		ROW(FRAME_VERDICT, verdict);
		ROW(FRAME_MEMORY, memory);
		ROW(FRAME_ROUND_END, round_end);
		ROW(FRAME_FINISH, finish);
		ROW(FRAME_READY, ready);
		ROW(FRAME_COMMIT, commit);
		ROW(FRAME_ACK, ack);
		ROW(FRAME_FAIL, fail);
		ROW(FRAME_CLOCK, clock);
	default:
		wbuf_bytes(w, f->payload, f->len);
	}
#undef ROW
	return ret;
}

/* Texts are made printable on the way; so twice is the same as once. */
static void check_frame(struct frame *f)
{
	struct wbuf once = {0}, twice = {0};
	struct err e = {0};
	struct frame again;

	if (decode(f, &once, &e) < 0) {
		if (!e.text[0] || strchr(e.text, '\n'))
			abort();
		return;
	}
	again = (struct frame) {.type = f->type, .len = (uint32_t)once.len, .payload = once.data};
	if (once.len != f->len || decode(&again, &twice, NULL) < 0 || twice.len != once.len ||
	    (once.len && memcmp(once.data, twice.data, once.len) != 0))
		abort();
	wbuf_fini(&once);
	wbuf_fini(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory m = {.t = {&memory_ops, -1}};
	struct stream_head head;
	struct channel ch;
	struct err e = {0};
	struct frame f;
	uint64_t session;
	uint8_t *copy;
	int ret;

	if (!size)
		return 0;
	copy = malloc(size);
	memcpy(copy, data, size);
	m.at = copy + 1;
	m.left = size - 1;
	m.piece = 1 + (size_t)(data[0] >> 4) * 100;
	channel_init_transport(&ch, &m.t, data[0] & 1 ? FRAME_FROM_SOURCE : FRAME_FROM_DESTINATION,
			       -1, 1000);
	ret = channel_recv_head(&ch, &head, &session, &e);
	if (data[0] & 2)
		fix_checksums(copy + size - m.left, m.left);
	while (!ret) {
		ret = channel_recv(&ch, &f, &e);
		if (!ret)
			check_frame(&f);
		frame_fini(&f);
	}
	if (!e.text[0] || strchr(e.text, '\n'))
		abort();
	channel_fini(&ch);
	free(copy);
	return 0;
}
