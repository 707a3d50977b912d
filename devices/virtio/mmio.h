/*
 * virtio over MMIO, version 2 (virtio 1.2, 4.2): one page of registers a device, one edge-triggered
 * interrupt, one eventfd a queue for kicks.
 */
#ifndef DEVICES_VIRTIO_MMIO_H
#define DEVICES_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "devices/device.h"
#include "devices/irq.h"
#include "devices/virtio/virtio.h"

struct err;
struct rbuf;
struct wbuf;

/* All that the guest can read back or that its later accesses depend on. */
struct virtio_mmio_regs {
	uint64_t device_features; /* what was offered: a host that offers less cannot take over */
	uint64_t driver_features;
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint32_t queue_sel;
	uint32_t status;
	uint32_t interrupt_status;
	uint32_t config_generation;
	struct virtq_regs queue[VIRTIO_MAX_QUEUES];
};

struct virtio_mmio_kick {
	struct loop_watch watch;
	struct virtio_mmio *m;
	unsigned int queue;
	int fd; /* eventfd */
};

struct virtio_mmio {
	struct device dev;
	struct virtio_transport transport;
	struct virtio_dev *vdev;
	struct irq_line irq;
	struct loop *loop;
	struct virtio_mmio_kick kick[VIRTIO_MAX_QUEUES];
	struct virtio_mmio_regs regs;
	bool paused; /* kicks wait for virtio_mmio_resume() */
};

/**
 * virtio_mmio_init - put @vdev behind a register block
 * @vdev: an initialised device, owned by the caller, which must outlive @m
 * @gm: the guest's RAM; all of it must be there by the time the guest runs
 * @irq: raised for used buffers and configuration changes
 * @loop: its thread runs the device's queue_notify
 * The caller puts @m->dev on its MMIO bus with length 0x1000 and offset 0.
 * Return: 0, or -errno with @e; @m may be given to virtio_mmio_fini() either way
 */
int virtio_mmio_init(struct virtio_mmio *m, struct virtio_dev *vdev, const struct guest_mem *gm,
		     struct irq_line irq, struct loop *loop, struct err *e);

/**
 * virtio_mmio_fini - reset the device, which waits for its requests in flight, and let go of it
 * On the loop's thread or after the loop ended, and when no vCPU runs any more.
 */
void virtio_mmio_fini(struct virtio_mmio *m);

/**
 * virtio_mmio_pause - finish the requests in flight and take no new ones
 * On the loop's thread, when no vCPU runs. After it returned the device touches no guest memory.
 */
void virtio_mmio_pause(struct virtio_mmio *m);
/** virtio_mmio_resume - go on; every queue is looked at again, so no kick is lost */
void virtio_mmio_resume(struct virtio_mmio *m);

/**
 * virtio_mmio_save - append two sections: the transport's registers, then the device's
 * @instance: their number. While paused.
 */
void virtio_mmio_save(struct virtio_mmio *m, uint16_t instance, struct wbuf *w);
/**
 * virtio_mmio_load - read what virtio_mmio_save() wrote into a device that is paused and untouched
 * Everything is checked as a driver's own writes would be, and against what this device offers; a
 * device that was in use is activated with its rings where they were.
 * Return: 0; -EINVAL with register and values in @e
 */
int virtio_mmio_load(struct virtio_mmio *m, uint16_t instance, struct rbuf *r, struct err *e);

/**
 * virtio_mmio_kick_fd - the eventfd behind QueueNotify for queue @queue (below vdev->n_queues)
 * The VMM may bind it with KVM_IOEVENTFD to a 4-byte write of the value @queue at offset 0x50
 * (VIRTIO_MMIO_QUEUE_NOTIFY); without that, the write arrives here as any other and does the same.
 */
int virtio_mmio_kick_fd(const struct virtio_mmio *m, unsigned int queue);

#endif
