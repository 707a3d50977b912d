/*
 * The part of a virtio device that no transport changes (virtio 1.2, chapters 2 and 3): a device
 * above, queues in the middle, a transport (MMIO now) below. Everything here is called with the
 * transport's device lock held, except where a function says otherwise.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_H
#define DEVICES_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/guest_mem.h"
#include "devices/virtio/virtq.h"
#include "migration/state/state.h"

#define VIRTIO_MAX_QUEUES 4

struct err;
struct virtio_dev;

struct virtio_dev_ops {
	const char *name;
	uint32_t device_id; /* virtio 1.2, chapter 5 */
	/**
	 * activate - the driver set DRIVER_OK: the features are fixed, the queues are in use;
	 * may be NULL
	 * Return: 0, or -errno, which puts the device into NEEDS_RESET
	 */
	int (*activate)(struct virtio_dev *vdev);
	/**
	 * reset - back to the state after init; no access to guest memory once it returned
	 * Waits for requests in flight. Also called on a device that never was activated; may be
	 * NULL for a device that keeps nothing between two calls.
	 */
	void (*reset)(struct virtio_dev *vdev);
	/** queue_notify - the driver kicked queue @queue; loop's thread, only while active */
	void (*queue_notify)(struct virtio_dev *vdev, unsigned int queue);
	/**
	 * has_used - did another than this process use buffers since this was asked last?
	 * NULL: there is no other. The transport asks when its driver asks what an interrupt is
	 * for.
	 */
	bool (*has_used)(struct virtio_dev *vdev);
	/**
	 * quiesce - after it returns the device touches no guest memory, until unquiesce
	 * Finishes what is in hand. Both on the loop's thread, the device's lock not held; both
	 * NULL for a device that touches guest memory in queue_notify only.
	 */
	void (*quiesce)(struct virtio_dev *vdev);
	/**
	 * unquiesce - go on; the transport has every queue looked at again
	 * Legal without a quiesce before. Both also come to a device that is not active.
	 */
	void (*unquiesce)(struct virtio_dev *vdev);
	/* what the guest can see of the device beside transport and queues */
	struct state_desc state;
	/**
	 * load - take over @regs of another host, which state.check has passed; NULL: they are
	 * copied as they are. Before the device is activated, its lock held.
	 * Return: 0, or -EINVAL with what this device cannot be, both values named
	 */
	int (*load)(struct virtio_dev *vdev, const void *regs, struct err *e);
};

/* The eventfds of a queue, for one who serves it in this process's place. */
struct virtio_lent {
	int kick_fd; /* readable: the driver kicked */
	int irq_fd;  /* written: an interrupt for used buffers, see has_used */
};

/* What a device asks of its transport. */
struct virtio_transport {
	/** used - interrupt: queue @queue has used buffers */
	void (*used)(struct virtio_transport *t, unsigned int queue);
	/** config_changed - interrupt: the config space changed; raises the config generation */
	void (*config_changed)(struct virtio_transport *t);
	/** broken - set DEVICE_NEEDS_RESET and interrupt */
	void (*broken)(struct virtio_transport *t);
	/** kick - have queue_notify(@queue) called from the event loop soon */
	void (*kick)(struct virtio_transport *t, unsigned int queue);
	/**
	 * lend - no queue_notify(@queue) from here on: @lent gets the eventfds, for another
	 * NULL: it is over, kicks come to queue_notify again; also those that nobody saw
	 */
	void (*lend)(struct virtio_transport *t, unsigned int queue, struct virtio_lent *lent);
	pthread_mutex_t *lock; /* the lock that guards the whole device */
};

/* Embedded in each device's struct, as its first member: offsets of state tables count from it. */
struct virtio_dev {
	const struct virtio_dev_ops *ops;
	uint64_t offered; /* feature bits, with those of the queues */
	const void *config;
	uint32_t config_len;
	uint16_t queue_size; /* largest, for each queue */
	unsigned int n_queues;
	struct virtq queue[VIRTIO_MAX_QUEUES];

	uint64_t features;     /* negotiated; 0 before DRIVER_OK */
	bool active;	       /* DRIVER_OK was set and everything was in order then */
	bool broken;	       /* the driver broke a rule; nothing goes on until it resets */
	unsigned int n_breaks; /* in the device's whole life, resets included */

	/* set by the transport */
	struct virtio_transport *transport;
	const struct guest_mem *gm;
};

/**
 * virtio_dev_init - fill in the device's side; zeroes the rest
 * @features: the device's own bits; VERSION_1, EVENT_IDX and INDIRECT_DESC are added here
 * @n_queues: 1 to VIRTIO_MAX_QUEUES
 * @queue_size: a power of 2, at most VIRTQ_SIZE_MAX
 * @config: the device-specific config space, read by the guest through the transport; read-only to
 *          it, since no device here has a writable field. May be NULL when @config_len is 0.
 */
void virtio_dev_init(struct virtio_dev *vdev, const struct virtio_dev_ops *ops, uint64_t features,
		     unsigned int n_queues, uint16_t queue_size, const void *config,
		     uint32_t config_len);

/**
 * virtio_dev_attach - give the device its transport
 * @regs: VIRTIO_MAX_QUEUES elements, storage of the transport
 */
void virtio_dev_attach(struct virtio_dev *vdev, struct virtio_transport *t,
		       const struct guest_mem *gm, struct virtq_regs *regs);

/**
 * virtio_dev_features_ok - may the driver go on with @features?
 * Return: true if all of them were offered and VERSION_1 is among them
 */
bool virtio_dev_features_ok(const struct virtio_dev *vdev, uint64_t features);

/** virtio_dev_activate - DRIVER_OK: freeze the queues and start; on failure the device is broken */
void virtio_dev_activate(struct virtio_dev *vdev, uint64_t features);

/** virtio_dev_reset - drain and forget everything */
void virtio_dev_reset(struct virtio_dev *vdev);

/**
 * virtio_dev_break - the driver broke a rule: stop until it resets the device
 * @fmt: what it did. Logged the first few times in a device's life.
 */
void virtio_dev_break(struct virtio_dev *vdev, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
