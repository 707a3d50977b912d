/*
 * The split virtqueue (virtio 1.2, 2.7) as a device sees it. Rings and descriptors are the guest's
 * memory and hostile: each is read once, the copy is checked and only the copy is used. Whatever
 * breaks the rules of the ring stops the whole device through virtio_dev_break().
 */
#ifndef DEVICES_VIRTIO_VIRTQ_H
#define DEVICES_VIRTIO_VIRTQ_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/guest_mem.h"
#include "migration/state/state.h"

struct virtio_dev;

/* No device offers more; a chain is never longer, so this many iovecs hold any chain. */
#define VIRTQ_SIZE_MAX 256

/* What the guest set and how far the device got. Storage of the transport: it migrates there. */
struct virtq_regs {
	gpa_t desc;
	gpa_t avail; /* "driver area" */
	gpa_t used;  /* "device area" */
	uint32_t num;
	uint32_t ready;
	uint16_t last_avail; /* next entry of the avail ring to take */
	uint16_t used_idx;   /* next entry of the used ring to fill */
	uint16_t signalled;  /* used_idx when the driver was last considered for an interrupt */
	uint16_t pad;
};

extern const struct state_field virtq_state_fields[];

struct virtq {
	struct virtio_dev *vdev;
	struct virtq_regs *regs;
	/* resolved and copied once by virtq_activate(); NULL and 0 while the queue is not in use */
	uint32_t num;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	bool event_idx;
	bool indirect;
	/* heads popped and not yet pushed: a driver may not offer one of these again */
	uint64_t in_flight[VIRTQ_SIZE_MAX / 64];
};

/* One request: n_out iovecs for the device to read, then n_in for it to write. */
struct virtq_chain {
	struct iovec *iov; /* caller's storage, VIRTQ_SIZE_MAX elements */
	unsigned int n_out;
	unsigned int n_in;
	uint32_t out_len; /* bytes; both together at most UINT32_MAX */
	uint32_t in_len;
	uint16_t head;
};

/**
 * virtq_activate - check the queue's size, alignment and addresses, and resolve its rings
 * Called once at DRIVER_OK; later changes of the registers have no effect until a reset.
 * Return: 0, or -EINVAL after virtio_dev_break()
 */
int virtq_activate(struct virtq *vq);

/**
 * virtq_moved - another has served the queue up to entry @index of the avail ring, and used all of
 * it, in this order
 */
void virtq_moved(struct virtq *vq, uint16_t index);

/** virtq_reset - forget the rings and every request in flight; clears the registers */
void virtq_reset(struct virtq *vq);

/**
 * virtq_pop - take the next chain that the driver made available
 * @c: iov set by the caller; the rest is filled. Descriptors of length 0 are legal and leave no
 *     iovec.
 * Every iovec lies wholly in guest RAM. The chain is in flight until virtq_push().
 * Return: true with a chain; false when there is none, the queue is not active, or the device is
 * broken, perhaps by this very chain
 */
bool virtq_pop(struct virtq *vq, struct virtq_chain *c);

/**
 * virtq_unpop - put the chain popped last back, as if it had never been taken
 * @head: of that chain; of several, the last one first, and before any of them is pushed
 */
void virtq_unpop(struct virtq *vq, uint16_t head);

/**
 * virtq_push - hand a chain back
 * @head: virtq_chain.head
 * @len_bytes: bytes written without a gap from the first device-writable byte on
 * Without effect on a broken device.
 */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t len_bytes);

/**
 * virtq_fill - virtq_push(), except that the driver does not see it before virtq_publish()
 * For answers that make sense only together.
 */
void virtq_fill(struct virtq *vq, uint16_t head, uint32_t len_bytes);

/** virtq_publish - show the driver all chains filled so far, at once */
void virtq_publish(struct virtq *vq);

/** virtq_notify - interrupt the driver if it asked for it; call once after a batch of pushes */
void virtq_notify(struct virtq *vq);

/** virtq_kicks_off - tell the driver that kicks are not needed while the device takes chains */
void virtq_kicks_off(struct virtq *vq);

/**
 * virtq_kicks_on - ask for a kick on the next chain
 * If chains are waiting already, the transport calls queue_notify again from the event loop, so a
 * driver that never stops cannot keep the loop from its other work.
 */
void virtq_kicks_on(struct virtq *vq);

/** virtq_kicks_on_beyond - the same, when the @n chains that wait are known and not enough */
void virtq_kicks_on_beyond(struct virtq *vq, uint16_t n);

#endif
