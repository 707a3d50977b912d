/*
 * A minimal virtio-mmio driver (virtio 1.2, sections 2.7, 4.2): modern devices, split rings,
 * waiting by polling
 * the used ring. Works in ring 3.
 */
#ifndef TESTS_GUEST_VIRTIO_H
#define TESTS_GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/x86.h"

#define VIRTIO_MAGIC	   0x74726976
#define VIRTIO_VERSION	   2
#define VIRTIO_ID_NET	   1
#define VIRTIO_ID_BLOCK	   2
#define VIRTIO_ID_RNG	   4
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VMMIO_MAGIC		  0x000
#define VMMIO_VERSION		  0x004
#define VMMIO_DEVICE_ID		  0x008
#define VMMIO_VENDOR_ID		  0x00c
#define VMMIO_DEVICE_FEATURES	  0x010
#define VMMIO_DEVICE_FEATURES_SEL 0x014
#define VMMIO_DRIVER_FEATURES	  0x020
#define VMMIO_DRIVER_FEATURES_SEL 0x024
#define VMMIO_QUEUE_SEL		  0x030
#define VMMIO_QUEUE_NUM_MAX	  0x034
#define VMMIO_QUEUE_NUM		  0x038
#define VMMIO_QUEUE_READY	  0x044
#define VMMIO_QUEUE_NOTIFY	  0x050
#define VMMIO_INTERRUPT_STATUS	  0x060
#define VMMIO_INTERRUPT_ACK	  0x064
#define VMMIO_STATUS		  0x070
#define VMMIO_QUEUE_DESC	  0x080 /* each of the three: low half, then high half */
#define VMMIO_QUEUE_DRIVER	  0x090
#define VMMIO_QUEUE_DEVICE	  0x0a0
#define VMMIO_CONFIG_GENERATION	  0x0fc
#define VMMIO_CONFIG		  0x100

#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER	  2
#define VIRTIO_STATUS_DRIVER_OK	  4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64

#define VRING_DESC_F_NEXT     1
#define VRING_DESC_F_WRITE    2
#define VRING_DESC_F_INDIRECT 4
#define VQ_MAX_SIZE	      64

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct vring_avail {
	uint16_t flags, idx, ring[VQ_MAX_SIZE];
};

struct vring_used {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[VQ_MAX_SIZE];
};

struct virtio_dev {
	uint32_t slot, gsi;
	uint64_t base;
	uint32_t id, version;
	uint64_t features; /* what the device offers */
};

struct virtqueue {
	uint64_t base; /* of the device */
	uint16_t index, size, seen;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	const uint32_t *irqs; /* counts the device's interrupts, each request wants one; or NULL */
};

struct virtio_buf {
	void *data;
	uint32_t len;
	bool device_writes;
};

uint32_t virtio_slots(void);
/** virtio_probe - false when slot @n has no device; @dev->version is not checked */
bool virtio_probe(struct virtio_dev *dev, uint32_t n);
/** virtio_find - the @nth device (from 0) of type @id; false when there is none */
bool virtio_find(struct virtio_dev *dev, uint32_t id, uint32_t nth);
/** virtio_start - reset, accept @features of those offered. Return: NULL or what is wrong */
const char *virtio_start(const struct virtio_dev *dev, uint64_t features);
void virtio_driver_ok(const struct virtio_dev *dev);
void virtio_reset(const struct virtio_dev *dev);
/** virtqueue_init - memory from page_alloc(). Return: NULL or what is wrong */
const char *virtqueue_init(struct virtqueue *vq, const struct virtio_dev *dev, uint16_t index);
/** virtqueue_place - tell the device where the queue @vq is, but not yet that it is ready */
void virtqueue_place(const struct virtqueue *vq);
/** virtqueue_run - one chain of @n buffers, notify, wait. Return: NULL or what is wrong */
const char *virtqueue_run(struct virtqueue *vq, const struct virtio_buf *buf, uint16_t n,
			  uint32_t *used_len);

static inline uint32_t virtio_read(uint64_t base, uint32_t reg)
{
	return mmio_read32(base + reg);
}

static inline void virtio_write(uint64_t base, uint32_t reg, uint32_t value)
{
	mmio_write32(base + reg, value);
}

#endif
