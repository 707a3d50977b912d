/* virtio-rng (virtio 1.2, 5.4): the host kernel's random numbers for the guest. */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "devices/virtio/virtio.h"

struct virtio_rng {
	struct virtio_dev vdev;
};

/** virtio_rng_init - make the device; it holds nothing that would need a fini */
void virtio_rng_init(struct virtio_rng *r);

#endif
