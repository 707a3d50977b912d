/*
 * An opened disk image: a raw file or a block device, locked against a second writer, with the
 * io_uring to reach it. It outlives the device in front of it: after a guest's reset the machine is
 * rebuilt around the same file, without a moment in which the lock is open.
 */
#ifndef DEVICES_VIRTIO_BLK_FILE_H
#define DEVICES_VIRTIO_BLK_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio/blk_ring.h"

struct err;

#define BLK_SECTOR	  512 /* virtio's unit of addresses, whatever the block size */
#define BLK_MAX_IN_FLIGHT 256

struct blk_options {
	const char *path;
	bool readonly;
	bool direct;	    /* O_DIRECT: past the host's page cache */
	bool raw;	    /* whatever it looks like */
	bool unlocked;	    /* blk_file_lock() comes later: another one has it now */
	const char *serial; /* for virtio_blk_init(); at most 20 bytes, NULL: none */
	bool has_serial;    /* the user gave it; else a guest that arrives brings its own */
};

struct blk_file {
	int fd;		  /* -1: not open */
	const char *path; /* of the options, for messages */
	bool readonly;	  /* for the guest */
	bool direct;
	bool can_discard;
	bool can_write_zeroes;
	uint32_t block_size; /* smallest unit of I/O, a power of 2 from 512 on */
	bool host_readonly;  /* as it was opened, and the unit of I/O there: see blk_file_suit() */
	uint32_t host_block_size;
	uint64_t size_bytes; /* a multiple of BLK_SECTOR and, for direct, of block_size */
	struct blk_ring ring;
};

/**
 * blk_file_open - open and lock an image
 * @opt: path stays the caller's and must outlive @f
 * The image is used as raw, always: another format found by looking at the data would be the
 * guest's to choose. But one that looks like another format, or like no disk at all, is refused
 * unless opt->raw insists; a guest that writes such a thing into its own disk is refused at its
 * next start, never while it runs.
 * Return: 0, or -errno with path, cause and cure in @e; @f may be given to blk_file_close() either
 * way
 */
int blk_file_open(struct blk_file *f, const struct blk_options *opt, struct err *e);

/**
 * blk_file_suit - be the disk that a guest knows which arrives, wherever the host's can be that
 * @readonly: it was; then it is here, too, whatever the image would allow
 * @block_size: it was; larger blocks than the host's are no matter, smaller ones stay the host's
 * Before there is a device; a guest that does not come after all may be followed by another.
 */
void blk_file_suit(struct blk_file *f, bool readonly, uint32_t block_size);

/**
 * blk_file_lock - take the lock of an image that was opened unlocked, or given back
 * Exclusive for a writer, shared for readers. Where the file system has no locks: a warning.
 * Return: 0; -EBUSY when another virtual machine has it
 */
int blk_file_lock(const struct blk_file *f, struct err *e);

/** blk_file_take_over - blk_file_lock() of an image that another virtual machine wrote until now */
int blk_file_take_over(const struct blk_file *f, struct err *e);
/** blk_file_flush - everything is on the disk. Return: 0 or -errno */
int blk_file_flush(const struct blk_file *f, struct err *e);
/** blk_file_hand_over - everything is on the disk, the lock is given back. Return: 0 or -errno */
int blk_file_hand_over(const struct blk_file *f, struct err *e);

/** blk_file_close - release file, lock and ring; the device in front must be gone */
void blk_file_close(struct blk_file *f);

#endif
