/* virtio-net (virtio 1.2, 5.1): one pair of queues between the guest and a tap interface. */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include <linux/if_ether.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "devices/virtio/vhost_net.h"
#include "devices/virtio/virtio.h"

struct err;
struct tap;

/* The config space itself, as far as its fields are offered. */
struct virtio_net_regs {
	uint8_t mac[ETH_ALEN];
	uint16_t status; /* VIRTIO_NET_S_* */
};

struct virtio_net {
	struct virtio_dev vdev;
	struct tap *tap;
	struct loop *loop;
	struct loop_watch watch; /* of the tap: for input only while the guest has room for it */
	struct loop_watch timer; /* between the frames of an announcement */
	struct virtio_net_regs regs;
	struct vhost_net vhost; /* in use if the tap has one */
	bool vhost_refused;	/* not tried again in this life of the guest */
	unsigned int n_announced;
	bool quiesced;
	uint8_t *frame;	    /* header and frame as they came from the tap */
	uint32_t frame_len; /* 0: none waits for the guest */
	uint16_t n_short;   /* so many of its buffers were there and not enough */
};

/**
 * virtio_net_init - make a network device on an opened tap
 * @tap: caller's; must outlive @n. The guest gets its MAC address and the offloads it is good for.
 * @loop: its thread moves the frames
 * Return: 0, or -errno with @e; @n may be given to virtio_net_fini() either way
 */
int virtio_net_init(struct virtio_net *n, struct tap *tap, struct loop *loop, struct err *e);

/**
 * virtio_net_fini - release; the tap stays open
 * After the transport's fini, and on the loop's thread.
 */
void virtio_net_fini(struct virtio_net *n);

/**
 * virtio_net_announce - tell the network that the guest is behind this tap now
 * After a guest arrived from another host: its driver is asked to do so where it can
 * (VIRTIO_NET_F_GUEST_ANNOUNCE), otherwise RARP requests in its name go out, five in a second. On
 * the loop's thread, the device's lock not held.
 */
void virtio_net_announce(struct virtio_net *n);

#endif
