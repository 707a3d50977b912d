/*
 * Guest RAM on a data channel: frames of up to RAM_FRAME_PAGES pages.
 *
 *   head   RAM_HEAD_BYTES   le32 magic, le16 kind, le16 runs, le32 round, le32 pages,
 *                           le32 checksum of the table, le32 of the pages, le32 0, le32 of the head
 *   table  runs x RAM_RUN_BYTES   le64 first page (a multiple of 64), le64 data, le64 zero:
 *                           bit i of data: page first + i follows; of zero: it is all zeros
 *   pages  pages x GUEST_PAGE     in the order of the table
 *
 * Checksums are CRC-32C, that of the pages crc32c_pages(). Rounds count from 1, on all channels
 * alike; each ends with a RAM_ROUND_END or RAM_LAST_END frame on each channel, so that a page sent
 * again never meets its older self on another channel.
 */
#ifndef MIGRATION_RAM_FRAME_H
#define MIGRATION_RAM_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/guest_mem.h"

struct err;

#define RAM_MAGIC	  0x4d415254u /* "TRAM" */
#define RAM_HEAD_BYTES	  32
#define RAM_RUN_BYTES	  24
#define RAM_RUN_PAGES	  64
#define RAM_FRAME_PAGES	  64
#define RAM_FRAME_RUNS	  64
#define RAM_CHANNELS_MAX  16 /* staging of 4 MiB in all */
#define RAM_PAYLOAD_BYTES (RAM_FRAME_PAGES * GUEST_PAGE)

enum ram_kind {
	RAM_PAGES = 1,
	RAM_ROUND_END = 2,
	RAM_LAST_END = 3, /* of the last round: no frame follows on this channel */
};

struct ram_run {
	uint64_t first_page, data, zero;
};

struct ram_head {
	enum ram_kind kind;
	uint32_t round;
	unsigned int n_runs;
	unsigned int n_pages;
	uint32_t table_crc, pages_crc;
};

/** ram_head_put - encode */
void ram_head_put(uint8_t out[RAM_HEAD_BYTES], const struct ram_head *h);

/**
 * ram_head_get - decode and check all that can be checked of a head
 * Return: 0; -EPROTO, -EILSEQ (checksum) with the field and its value in @e
 */
int ram_head_get(struct ram_head *h, const uint8_t in[RAM_HEAD_BYTES], uint32_t round,
		 struct err *e);

/** ram_table_put - encode @n runs. Return: the table's checksum */
uint32_t ram_table_put(uint8_t *out, const struct ram_run *run, unsigned int n);

/**
 * ram_table_get - decode and check the table of @h
 * @n_ram_pages: of the guest; no run may name a page behind it
 * Return: 0; -EPROTO, -EILSEQ, -ERANGE with the field and its value in @e
 */
int ram_table_get(struct ram_run *run, const uint8_t *in, const struct ram_head *h,
		  uint64_t n_ram_pages, struct err *e);

/** ram_bits_next - cut the next group of neighbours off @bits: pages *at to *at + return - 1 */
static inline unsigned int ram_bits_next(uint64_t *bits, unsigned int *at)
{
	unsigned int n;

	*at = (unsigned int)__builtin_ctzll(*bits);
	n = *bits >> *at == UINT64_MAX ? 64 : (unsigned int)__builtin_ctzll(~(*bits >> *at));
	*bits &= n == 64 ? 0 : ~(((1ULL << n) - 1) << *at);
	return n;
}

/* Reading or writing data channels so that cancelling and a standstill end it. */
struct ram_io {
	int cancel_fd;	       /* readable: give up. -1: never */
	int stop_fd;	       /* the same, because another channel failed */
	unsigned int stall_ms; /* no byte moved for so long: give up */
	const char *peer;      /* in messages: "destination" */
};

/**
 * ram_io_init - for @n data channels; makes stop_fd, which is the owner's to close
 * @peer: in messages
 * Return: 0; -EINVAL when there are none or more than RAM_CHANNELS_MAX; -errno
 */
int ram_io_init(struct ram_io *io, unsigned int n, int cancel_fd, unsigned int stall_ms,
		const char *peer, struct err *e);

struct iovec;

/**
 * ram_io_send, ram_io_recv - all bytes of @iov, which is used up on the way
 * @fd: a stream socket, whichever mode it is in
 * @patient: ram_io_recv() only: wait for the first byte without limit
 * Return: 0; -ECANCELED, -ETIMEDOUT, -ECONNRESET (the peer has closed), -errno
 */
int ram_io_send(const struct ram_io *io, int fd, struct iovec *iov, unsigned int n, struct err *e);
int ram_io_recv(const struct ram_io *io, int fd, struct iovec *iov, unsigned int n, bool patient,
		struct err *e);

/** ram_page_is_zero - are the GUEST_PAGE bytes at @page (aligned to 64) all zero? */
bool ram_page_is_zero(const void *page);

#endif
