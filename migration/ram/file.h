/*
 * Guest RAM in a file: page i at a fixed place, offset + i * GUEST_PAGE, and holes for pages that
 * are zero. So the file is as large as what the guest uses, it can be mapped as it is, and a
 * restored guest reads only what it touches.
 */
#ifndef MIGRATION_RAM_FILE_H
#define MIGRATION_RAM_FILE_H

#include <stdint.h>

#include "migration/ram/progress.h"

struct err;

#define RAM_FILE_PART (1024 * 1024ULL) /* what one checksum covers */

/** ram_file_parts - how many checksums belong to @n_bytes of RAM */
static inline uint64_t ram_file_parts(uint64_t n_bytes)
{
	return (n_bytes + RAM_FILE_PART - 1) / RAM_FILE_PART;
}

struct ram_file {
	int fd;		  /* a regular file */
	uint64_t offset;  /* of RAM in it, a multiple of GUEST_PAGE */
	uint64_t n_bytes; /* of RAM, a multiple of GUEST_PAGE */
	uint32_t *crc;	  /* ram_file_parts(): crc32c_pages() of each, 0 for one that is all zero */
	int cancel_fd;	  /* readable: give up. -1: never */
	struct migrate_progress progress; /* how far it is, for other threads */
	void (*tell)(struct ram_file *f); /* called now and then by ram_file_check(); may be NULL */
};

/**
 * ram_file_save - write the RAM of a paused guest
 * @f: its file has no data from the offset on and is made as long as needed; the checksums are
 * filled in
 * @map: of all RAM
 * @hole_fd: the memory file behind @map, whose holes read as zero; -1: none
 * Return: 0; -ENOSPC, -ECANCELED, -errno with what to do in @e
 */
int ram_file_save(struct ram_file *f, const uint8_t *map, int hole_fd, struct err *e);

/**
 * ram_file_check - read all RAM in the file and compare it with its checksums
 * A guest that is restored lazily runs before its memory could be checked; this is for who wants
 * to know first.
 * Return: 0; -EILSEQ naming the first part that differs; -ECANCELED; -errno
 */
int ram_file_check(struct ram_file *f, struct err *e);

#endif
