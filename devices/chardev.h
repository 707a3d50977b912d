/*
 * Character back ends: where the bytes of a serial port go to and come from. None of them ever
 * blocks the guest.
 */
#ifndef DEVICES_CHARDEV_H
#define DEVICES_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

struct chardev;

/* The device on top of a back end; its callbacks run on the event loop's thread. */
struct chardev_user {
	/** room - how many bytes would receive() take now? The back end reads no more than that. */
	size_t (*room)(struct chardev_user *u);
	/** receive - @len bytes from the outside, at most what room() said */
	void (*receive)(struct chardev_user *u, const uint8_t *data, size_t len);
	/** writable - the back end takes bytes again after a short write */
	void (*writable)(struct chardev_user *u);
	/** brk - the outside sent a line break (escape key, then b) */
	void (*brk)(struct chardev_user *u);
};

struct chardev_ops {
	/** write - take up to @len bytes. Return: bytes taken, 0 when the outside is not ready. */
	size_t (*write)(struct chardev *c, const uint8_t *data, size_t len);
	/** kick - the user's room() grew from 0; input may flow again */
	void (*kick)(struct chardev *c);
};

struct chardev {
	const struct chardev_ops *ops;
	struct chardev_user *user; /* NULL: nobody listens, input is left outside */
};

#endif
