/*
 * The io_uring of one disk. It is made when the image is opened, so that the running machine needs
 * no io_uring_setup(2), and it is restricted to the four operations of a disk: io_uring does not
 * pass through seccomp, so an unrestricted ring would be a way around the sandbox.
 */
#ifndef DEVICES_VIRTIO_BLK_RING_H
#define DEVICES_VIRTIO_BLK_RING_H

#include <liburing.h>
#include <stdbool.h>

struct err;

struct blk_ring {
	struct io_uring uring;
	bool open;
	int event_fd; /* counts completions; -1: none */
};

/**
 * blk_ring_init - make a ring for up to @entries operations in flight
 * Costs about 30 KiB of kernel memory at 256 entries and nothing of this process's own.
 * Return: 0, or -errno with the cause in @e: io_uring switched off, seccomp, no memory
 */
int blk_ring_init(struct blk_ring *r, unsigned int entries, struct err *e);

/** blk_ring_fini - release; nothing may be in flight. Accepts a ring whose init failed. */
void blk_ring_fini(struct blk_ring *r);

#endif
