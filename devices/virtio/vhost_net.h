/*
 * A network device's receive and transmit queues, served by the host's kernel. It waits for the
 * kicks and raises the interrupts itself. While it runs, how far the queues are is its secret; when
 * it stops, that is read back, and the queues are as if this process had served them: a guest may
 * move to a host with vhost or without.
 *
 * All with the device's lock held but where it says otherwise.
 */
#ifndef DEVICES_VIRTIO_VHOST_NET_H
#define DEVICES_VIRTIO_VHOST_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/guest_mem.h"
#include "base/loop.h"

struct err;
struct vhost;
struct virtio_dev;

#define VHOST_NET_QUEUES 2 /* queue 0 receives, queue 1 transmits, there as in the device */

struct vhost_net {
	const struct vhost *host; /* NULL: not in use, which a zeroed struct says too */
	struct virtio_dev *vdev;
	int tap_fd;
	struct loop *loop;
	struct loop_watch errors; /* an eventfd: the kernel met a ring that is wrong */
	bool running;
	bool served[VHOST_NET_QUEUES];	 /* the kernel works on the queue */
	uint16_t seen[VHOST_NET_QUEUES]; /* used index that the driver was told of */
	struct guest_mem_writer writer;
	uint64_t *log; /* a bit for each guest-physical page; the kernel sets, we take. NULL: off */
	size_t log_bytes;
};

/** vhost_net_features - of @features those that this host's kernel can serve */
uint64_t vhost_net_features(const struct vhost *host, uint64_t features);

/**
 * vhost_net_init - get ready to serve @vdev's queues; nothing runs yet
 * @host, @tap_fd, @loop: the caller's, must outlive @v
 * The caller has @v->writer added to the guest memory's writers before the guest runs.
 * Return: 0, or -errno with @e; @v may be given to vhost_net_fini() either way
 */
int vhost_net_init(struct vhost_net *v, const struct vhost *host, struct virtio_dev *vdev,
		   int tap_fd, struct loop *loop, struct err *e);
/** vhost_net_fini - when it does not run any more; accepts a zeroed @v. No lock. */
void vhost_net_fini(struct vhost_net *v);

/**
 * vhost_net_start - the kernel serves the queues from here on, where they are
 * Queues that the driver did not set up are left alone.
 * Return: 0, or -errno with the request that failed in @e; the queues are this process's then
 */
int vhost_net_start(struct vhost_net *v, struct err *e);
/**
 * vhost_net_stop - the kernel touches no guest memory any more, and nothing is in flight
 * Harmless when it does not run.
 */
void vhost_net_stop(struct vhost_net *v);

/** vhost_net_has_used - did the kernel use buffers since this was asked last? */
bool vhost_net_has_used(struct vhost_net *v);

#endif
