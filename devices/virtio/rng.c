/* virtio-rng: fills what the driver offers from getrandom(2), a bounded piece at a time. */
#include "devices/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <stddef.h>
#include <sys/random.h>

#define RNG_QUEUE_SIZE 64
/*
 * A driver may offer gigabytes; an answer with fewer bytes is legal (virtio 1.2, 5.4.6.2). Up to
 * 256 bytes getrandom(2) is never interrupted and never short.
 */
#define RNG_MAX_BYTES 256

/* Return: bytes written */
static uint32_t rng_fill(const struct virtq_chain *c)
{
	uint32_t done = 0;
	unsigned int i;

	for (i = 0; i < c->n_in && done < RNG_MAX_BYTES; i++) {
		const struct iovec *v = &c->iov[c->n_out + i];
		size_t len = v->iov_len;

		if (len > RNG_MAX_BYTES - done)
			len = RNG_MAX_BYTES - done;
		if (getrandom(v->iov_base, len, 0) != (ssize_t)len)
			break;
		done += (uint32_t)len;
	}
	return done;
}

static void rng_queue_notify(struct virtio_dev *vdev, unsigned int queue)
{
	struct virtq *vq = &vdev->queue[queue];
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain c = {.iov = iov};
	unsigned int turns = RNG_QUEUE_SIZE;

	virtq_kicks_off(vq);
	while (turns-- && virtq_pop(vq, &c))
		virtq_push(vq, c.head, rng_fill(&c));
	virtq_notify(vq);
	virtq_kicks_on(vq);
}

static const struct state_field rng_fields[] = {STATE_END};

static const struct virtio_dev_ops rng_ops = {
	.name = "virtio-rng",
	.device_id = VIRTIO_ID_RNG,
	.queue_notify = rng_queue_notify, /* answers all at once: nothing to drain at a reset */
	.state = {.version = 1, .fields = rng_fields}, /* nothing beside its queue */
};

void virtio_rng_init(struct virtio_rng *r)
{
	virtio_dev_init(&r->vdev, &rng_ops, 0, 1, RNG_QUEUE_SIZE, NULL, 0);
}
