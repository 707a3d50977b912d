/*
 * The host kernel's vhost-net: it moves the frames between a guest's queues and a tap without this
 * process. Opened before the process is locked in and kept over resets of the guest; what it is
 * told about a guest is devices/virtio/vhost_net.h's.
 */
#ifndef DEVICES_VHOST_H
#define DEVICES_VHOST_H

#include <stdint.h>

struct err;

struct vhost {
	/**
	 * call - one of the VHOST_* requests of linux/vhost.h; ioctl(2), or a test's
	 * NULL: no vhost is in use, which a zeroed struct says too. Return: 0 or -errno
	 */
	int (*call)(const struct vhost *v, unsigned long request, void *arg);
	int fd;
	uint64_t features; /* VIRTIO_*_F_*, VHOST_F_*: what the kernel can do */
};

/**
 * vhost_open - have a vhost-net of this process
 * @inherited: descriptor that the starting program opened, which is taken over; 0: open one
 * Return: 0, or -errno with cause and cure in @e; @v may be given to vhost_close() either way
 * Source: Linux include/uapi/linux/vhost.h, drivers/vhost/
 */
int vhost_open(struct vhost *v, int inherited, struct err *e);
/** vhost_setup - the same on @v->fd, by @v->call: it becomes ours, and is asked what it can do */
int vhost_setup(struct vhost *v, struct err *e);
void vhost_close(struct vhost *v);

#endif
