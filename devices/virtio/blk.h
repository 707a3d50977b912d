/* virtio-blk (virtio 1.2, 5.2): a disk image as the guest's disk, through io_uring. */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "devices/virtio/blk_file.h"
#include "devices/virtio/virtio.h"

struct blk_req;
struct err;

#define VIRTIO_BLK_SLOTS (BLK_MAX_IN_FLIGHT + 1)

/* What the guest learned of the disk; whoever takes the guest over must open the same. */
struct virtio_blk_regs {
	uint64_t capacity_sectors;
	uint32_t block_size;
	char serial[VIRTIO_BLK_ID_BYTES]; /* padded with zeroes, no final NUL at full length */
};

struct virtio_blk {
	struct virtio_dev vdev;
	struct blk_file *file;
	struct loop *loop;
	struct loop_watch watch; /* of the ring's event_fd */
	struct virtio_blk_regs regs;
	struct virtio_blk_config config;
	/*
	 * VIRTIO_BLK_SLOTS requests of about 4 KiB in a mapping that costs no memory before use;
	 * the ones given back last are used first, so a quiet disk touches few pages.
	 */
	struct blk_req *req;
	uint16_t free_slot[VIRTIO_BLK_SLOTS];
	unsigned int n_free;
	unsigned int n_fresh;	  /* requests from this one on were never used */
	unsigned int n_in_flight; /* handed to the ring, including not yet submitted */
	bool discarding;	  /* reset: results are thrown away */
	bool error_logged;
};

/**
 * virtio_blk_init - make a disk of an opened image
 * @f: caller's; must outlive @b
 * @serial: up to 20 bytes that the guest reads as the disk's serial number; NULL: none
 * @loop: its thread handles completions
 * Return: 0, or -errno with @e; @b may be given to virtio_blk_fini() either way
 */
int virtio_blk_init(struct virtio_blk *b, struct blk_file *f, const char *serial, struct loop *loop,
		    struct err *e);

/**
 * virtio_blk_fini - release; the file stays open
 * After the transport's fini, which drains the requests, and on the same thread.
 */
void virtio_blk_fini(struct virtio_blk *b);

#endif
