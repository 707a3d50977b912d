/*
 * A virtio device for tests: answers each chain with its own input, copied to its output, and lets
 * a test look at the chain in between. Include after ring.h.
 */
#ifndef TESTS_UNIT_ECHO_DEV_H
#define TESTS_UNIT_ECHO_DEV_H

#include <string.h>

#include "base/bytes.h"
#include "devices/virtio/virtio.h"

#define ECHO_QUEUES    2
#define ECHO_QUEUE_MAX 256
#define ECHO_FEATURE   (1ULL << 3)

struct echo {
	struct virtio_dev vdev;
	uint8_t config[12];
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain chain; /* the last one popped */
	unsigned int n_notified, n_popped, n_activated, n_reset;
	unsigned int budget; /* chains to take in one call */
	bool hold;	     /* take chains, give none back */
	int activate_result;
	/* called between pop and push; may be NULL */
	void (*look)(struct echo *d, unsigned int queue);
	void *look_arg;
};

static inline struct echo *echo_of(struct virtio_dev *vdev)
{
	return container_of(vdev, struct echo, vdev);
}

static inline void echo_answer(struct echo *d)
{
	const struct virtq_chain *c = &d->chain;
	uint8_t byte = 0;
	unsigned int i;

	if (c->n_out)
		byte = *(const uint8_t *)c->iov[0].iov_base;
	for (i = 0; i < c->n_in; i++)
		memset(c->iov[c->n_out + i].iov_base, byte, c->iov[c->n_out + i].iov_len);
}

static inline void echo_queue_notify(struct virtio_dev *vdev, unsigned int queue)
{
	struct echo *d = echo_of(vdev);
	struct virtq *vq = &vdev->queue[queue];
	unsigned int turns = d->budget;

	d->n_notified++;
	virtq_kicks_off(vq);
	while (turns-- && virtq_pop(vq, &d->chain)) {
		d->n_popped++;
		if (d->look)
			d->look(d, queue);
		if (d->hold)
			continue;
		echo_answer(d);
		virtq_push(vq, d->chain.head, d->chain.in_len);
	}
	virtq_notify(vq);
	virtq_kicks_on(vq);
}

static inline int echo_activate(struct virtio_dev *vdev)
{
	echo_of(vdev)->n_activated++;
	return echo_of(vdev)->activate_result;
}

static inline void echo_reset(struct virtio_dev *vdev)
{
	echo_of(vdev)->n_reset++;
}

static const struct virtio_dev_ops echo_ops = {
	.name = "echo",
	.device_id = 42,
	.activate = echo_activate,
	.reset = echo_reset,
	.queue_notify = echo_queue_notify,
};

static inline void echo_init(struct echo *d)
{
	unsigned int i;

	memset(d, 0, sizeof(*d));
	for (i = 0; i < sizeof(d->config); i++)
		d->config[i] = (uint8_t)(0x10 + i);
	d->chain.iov = d->iov;
	d->budget = ECHO_QUEUE_MAX;
	virtio_dev_init(&d->vdev, &echo_ops, ECHO_FEATURE, ECHO_QUEUES, ECHO_QUEUE_MAX, d->config,
			sizeof(d->config));
}

#endif
