/* The life of a virtio device: attach, activate, break, reset. */
#include "devices/virtio/virtio.h"

#include <assert.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define BREAKS_LOGGED 4

void virtio_dev_init(struct virtio_dev *vdev, const struct virtio_dev_ops *ops, uint64_t features,
		     unsigned int n_queues, uint16_t queue_size, const void *config,
		     uint32_t config_len)
{
	assert(n_queues >= 1 && n_queues <= VIRTIO_MAX_QUEUES && queue_size <= VIRTQ_SIZE_MAX);
	memset(vdev, 0, sizeof(*vdev));
	vdev->ops = ops;
	vdev->offered = features | 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_EVENT_IDX |
			1ULL << VIRTIO_RING_F_INDIRECT_DESC;
	vdev->n_queues = n_queues;
	vdev->queue_size = queue_size;
	vdev->config = config;
	vdev->config_len = config_len;
}

void virtio_dev_attach(struct virtio_dev *vdev, struct virtio_transport *t,
		       const struct guest_mem *gm, struct virtq_regs *regs)
{
	unsigned int i;

	vdev->transport = t;
	vdev->gm = gm;
	for (i = 0; i < vdev->n_queues; i++) {
		vdev->queue[i].vdev = vdev;
		vdev->queue[i].regs = &regs[i];
	}
}

bool virtio_dev_features_ok(const struct virtio_dev *vdev, uint64_t features)
{
	return !(features & ~vdev->offered) && features & 1ULL << VIRTIO_F_VERSION_1;
}

void virtio_dev_activate(struct virtio_dev *vdev, uint64_t features)
{
	unsigned int i;
	int ret;

	vdev->features = features;
	/* a driver need not use every queue: those without QueueReady stay NULL */
	for (i = 0; i < vdev->n_queues; i++) {
		if (vdev->queue[i].regs->ready && virtq_activate(&vdev->queue[i]))
			return;
	}
	ret = vdev->ops->activate ? vdev->ops->activate(vdev) : 0;
	if (ret) {
		virtio_dev_break(vdev, "activation failed: %s", strerror(-ret));
		return;
	}
	vdev->active = true;
}

void virtio_dev_reset(struct virtio_dev *vdev)
{
	unsigned int i;

	if (vdev->ops->reset)
		vdev->ops->reset(vdev);
	vdev->active = false;
	vdev->broken = false;
	vdev->features = 0;
	for (i = 0; i < vdev->n_queues; i++)
		virtq_reset(&vdev->queue[i]);
}

void virtio_dev_break(struct virtio_dev *vdev, const char *fmt, ...)
{
	char why[200];
	va_list ap;

	if (vdev->broken)
		return;
	vdev->broken = true;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	/* a driver can break and reset its device all day: the operator is told a few times only */
	if (vdev->n_breaks++ < BREAKS_LOGGED)
		log_warn("%s stopped until its driver resets it: the driver broke a rule: %s%s",
			 vdev->ops->name, why,
			 vdev->n_breaks == BREAKS_LOGGED ? "; further ones are not logged" : "");
	vdev->transport->broken(vdev->transport);
}
