/* The virtio-mmio transport and split rings, as a well-behaved driver uses them. */
#include "tests/guest/virtio.h"
#include "tests/guest/guest.h"

#define RESET_LIMIT_US 2000000
#define RUN_LIMIT_US   10000000

uint32_t virtio_slots(void)
{
	return (uint32_t)opt_u64("mmio_slots", LAYOUT_VIRTIO_SLOTS);
}

static uint64_t features_read(uint64_t base)
{
	uint64_t lo;

	virtio_write(base, VMMIO_DEVICE_FEATURES_SEL, 0);
	lo = virtio_read(base, VMMIO_DEVICE_FEATURES);
	virtio_write(base, VMMIO_DEVICE_FEATURES_SEL, 1);
	return (uint64_t)virtio_read(base, VMMIO_DEVICE_FEATURES) << 32 | lo;
}

bool virtio_probe(struct virtio_dev *dev, uint32_t n)
{
	/* where QEMU's microvm has them instead: 0xfeb00000, 0x200, 24 slots */
	uint64_t base = opt_u64("mmio_base", LAYOUT_VIRTIO_BASE) +
			n * opt_u64("mmio_size", LAYOUT_VIRTIO_SIZE);

	if (virtio_read(base, VMMIO_MAGIC) != VIRTIO_MAGIC)
		return false;
	*dev = (struct virtio_dev) {
		.slot = n,
		.gsi = (uint32_t)opt_u64("mmio_gsi", LAYOUT_VIRTIO_GSI) + n,
		.base = base,
		.id = virtio_read(base, VMMIO_DEVICE_ID),
		.version = virtio_read(base, VMMIO_VERSION),
	};
	if (!dev->id)
		return false;
	dev->features = features_read(base);
	return true;
}

bool virtio_find(struct virtio_dev *dev, uint32_t id, uint32_t nth)
{
	for (uint32_t i = 0; i < virtio_slots(); i++) {
		if (virtio_probe(dev, i) && dev->id == id && nth-- == 0)
			return true;
	}
	return false;
}

void virtio_reset(const struct virtio_dev *dev)
{
	struct limit limit = limit_us(RESET_LIMIT_US);

	virtio_write(dev->base, VMMIO_STATUS, 0);
	while (virtio_read(dev->base, VMMIO_STATUS) != 0 && !limit_over(&limit))
		cpu_pause();
}

const char *virtio_start(const struct virtio_dev *dev, uint64_t features)
{
	uint32_t status = VIRTIO_STATUS_ACKNOWLEDGE;

	if (dev->version != VIRTIO_VERSION)
		return "the device is not of version 2";
	features = (features | VIRTIO_F_VERSION_1) & dev->features;
	virtio_reset(dev);
	virtio_write(dev->base, VMMIO_STATUS, status);
	status |= VIRTIO_STATUS_DRIVER;
	virtio_write(dev->base, VMMIO_STATUS, status);
	virtio_write(dev->base, VMMIO_DRIVER_FEATURES_SEL, 0);
	virtio_write(dev->base, VMMIO_DRIVER_FEATURES, (uint32_t)features);
	virtio_write(dev->base, VMMIO_DRIVER_FEATURES_SEL, 1);
	virtio_write(dev->base, VMMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	status |= VIRTIO_STATUS_FEATURES_OK;
	virtio_write(dev->base, VMMIO_STATUS, status);
	if (virtio_read(dev->base, VMMIO_STATUS) != status)
		return "the device refused its own features";
	return NULL;
}

void virtio_driver_ok(const struct virtio_dev *dev)
{
	virtio_write(dev->base, VMMIO_STATUS,
		     virtio_read(dev->base, VMMIO_STATUS) | VIRTIO_STATUS_DRIVER_OK);
}

static void write64(uint64_t base, uint32_t reg, uint64_t value)
{
	virtio_write(base, reg, (uint32_t)value);
	virtio_write(base, reg + 4, (uint32_t)(value >> 32));
}

void virtqueue_place(const struct virtqueue *vq)
{
	virtio_write(vq->base, VMMIO_QUEUE_SEL, vq->index);
	virtio_write(vq->base, VMMIO_QUEUE_NUM, vq->size);
	write64(vq->base, VMMIO_QUEUE_DESC, (uint64_t)vq->desc);
	write64(vq->base, VMMIO_QUEUE_DRIVER, (uint64_t)vq->avail);
	write64(vq->base, VMMIO_QUEUE_DEVICE, (uint64_t)vq->used);
}

const char *virtqueue_init(struct virtqueue *vq, const struct virtio_dev *dev, uint16_t index)
{
	uint32_t max;

	virtio_write(dev->base, VMMIO_QUEUE_SEL, index);
	max = virtio_read(dev->base, VMMIO_QUEUE_NUM_MAX);
	if (!max)
		return "the device lacks a queue";
	*vq = (struct virtqueue) {
		.base = dev->base,
		.index = index,
		.size = (uint16_t)(max < VQ_MAX_SIZE ? max : VQ_MAX_SIZE),
		.desc = page_alloc(1),
		.avail = page_alloc(1),
		.used = page_alloc(1),
	};
	virtqueue_place(vq);
	virtio_write(dev->base, VMMIO_QUEUE_READY, 1);
	if (virtio_read(dev->base, VMMIO_QUEUE_READY) != 1)
		return "the device did not take a queue";
	return NULL;
}

const char *virtqueue_run(struct virtqueue *vq, const struct virtio_buf *buf, uint16_t n,
			  uint32_t *used_len)
{
	struct limit limit = limit_us(RUN_LIMIT_US);
	uint32_t irqs = vq->irqs ? READ_ONCE(*vq->irqs) : 0;
	uint16_t next = vq->avail->idx;

	for (uint16_t i = 0; i < n; i++) {
		vq->desc[i] = (struct vring_desc) {
			.addr = (uint64_t)buf[i].data,
			.len = buf[i].len,
			.flags = (uint16_t)((i + 1 < n ? VRING_DESC_F_NEXT : 0) |
					    (buf[i].device_writes ? VRING_DESC_F_WRITE : 0)),
			.next = (uint16_t)(i + 1),
		};
	}
	vq->avail->ring[next % vq->size] = 0;
	barrier();
	WRITE_ONCE(vq->avail->idx, (uint16_t)(next + 1));
	/* x86 keeps stores in order, and the register write leaves the guest */
	virtio_write(vq->base, VMMIO_QUEUE_NOTIFY, vq->index);
	while (READ_ONCE(vq->used->idx) == vq->seen || (vq->irqs && READ_ONCE(*vq->irqs) == irqs)) {
		if (virtio_read(vq->base, VMMIO_STATUS) & VIRTIO_STATUS_NEEDS_RESET)
			return "the device asks for a reset";
		if (limit_over(&limit))
			return READ_ONCE(vq->used->idx) == vq->seen
				       ? "the device did not answer in time"
				       : "the device answered without an interrupt";
		cpu_pause();
	}
	barrier();
	if (vq->used->ring[vq->seen % vq->size].id != 0)
		return "the device answered for another chain";
	*used_len = vq->used->ring[vq->seen % vq->size].len;
	vq->seen++;
	virtio_write(vq->base, VMMIO_INTERRUPT_ACK, virtio_read(vq->base, VMMIO_INTERRUPT_STATUS));
	return NULL;
}

const char *cmd_virtio(void)
{
	struct virtio_dev dev;
	uint32_t n = 0;

	for (uint32_t i = 0; i < virtio_slots(); i++) {
		if (!virtio_probe(&dev, i))
			continue;
		print("virtio slot=%u id=%u version=%u features=0x%lx\n", i, dev.id, dev.version,
		      dev.features);
		n++;
	}
	print("virtio present=%u\n", n);
	return NULL;
}
