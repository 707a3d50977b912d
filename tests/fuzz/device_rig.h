/*
 * One device of each kind with a state table, in front of a little RAM, for the fuzz target of
 * their loaders and for the program that makes its first inputs.
 */
#ifndef TESTS_FUZZ_DEVICE_RIG_H
#define TESTS_FUZZ_DEVICE_RIG_H

#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/loop.h"
#include "devices/chardev.h"
#include "devices/serial.h"
#include "devices/tap.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/mmio.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"

#define RIG_RAM_GPA  0x100000
#define RIG_RAM_SIZE (16 * MiB) /* the test guest's rings are within */
#define RIG_DISK     MiB

enum rig_kind { RIG_SERIAL, RIG_RNG, RIG_BLK, RIG_NET, RIG_KINDS };

/* What every device of the program's life stands on. */
struct rig {
	struct loop loop;
	struct guest_mem gm;
	struct blk_file file;
	struct tap tap;
	int outside; /* the tap's other end */
	struct chardev chardev;
	char path[64];
	struct blk_options blk; /* the file borrows its path */
};

/* One device, made anew for each input. */
struct rig_device {
	enum rig_kind kind;
	struct serial serial;
	struct virtio_rng rng;
	struct virtio_blk blk;
	struct virtio_net net;
	struct virtio_mmio mmio;
};

static inline size_t rig_swallow(struct chardev *c, const uint8_t *data, size_t len)
{
	(void)c;
	(void)data;
	return len;
}

static inline void rig_no_kick(struct chardev *c)
{
	(void)c;
}

static inline void rig_must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

static inline void rig_init(struct rig *r)
{
	static const struct chardev_ops ops = {.write = rig_swallow, .kick = rig_no_kick};
	struct guest_mem_region region = {.gpa = RIG_RAM_GPA, .len_bytes = RIG_RAM_SIZE};
	int fd = memfd_create("disk", MFD_CLOEXEC), pair[2];

	memset(r, 0, sizeof(*r));
	rig_must(loop_init(&r->loop) == 0, "loop");
	region.hva = mmap(NULL, RIG_RAM_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	rig_must(region.hva != MAP_FAILED && guest_mem_add(&r->gm, &region) == 0, "RAM");
	rig_must(fd >= 0 && ftruncate(fd, RIG_DISK) == 0, "disk");
	snprintf(r->path, sizeof(r->path), "/proc/self/fd/%d", fd);
	r->blk.path = r->path;
	rig_must(blk_file_open(&r->file, &r->blk, NULL) == 0, "disk");
	rig_must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0,
		 "tap");
	r->tap.fd = pair[0];
	r->outside = pair[1];
	r->tap.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	memcpy(r->tap.mac, "\x02\0\0\0\0\1", ETH_ALEN);
	strcpy(r->tap.name, "tap");
	r->tap.offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6; /* a real one's */
	r->chardev.ops = &ops;
}

static inline struct virtio_dev *rig_virtio(struct rig_device *d)
{
	return d->kind == RIG_RNG ? &d->rng.vdev : d->kind == RIG_BLK ? &d->blk.vdev : &d->net.vdev;
}

/* Made and paused, as on the destination of a migration. */
static inline void rig_make(struct rig *r, struct rig_device *d, enum rig_kind kind)
{
	const struct irq_line irq = {.fd = -1};

	memset(d, 0, sizeof(*d));
	d->kind = kind;
	if (kind == RIG_SERIAL) {
		serial_init(&d->serial, irq, &r->chardev);
		serial_pause(&d->serial);
		return;
	}
	if (kind == RIG_RNG)
		virtio_rng_init(&d->rng);
	else if (kind == RIG_BLK)
		rig_must(virtio_blk_init(&d->blk, &r->file, "disk", &r->loop, NULL) == 0, "blk");
	else
		rig_must(virtio_net_init(&d->net, &r->tap, &r->loop, NULL) == 0, "net");
	rig_must(virtio_mmio_init(&d->mmio, rig_virtio(d), &r->gm, irq, &r->loop, NULL) == 0,
		 "mmio");
	virtio_mmio_pause(&d->mmio);
}

static inline void rig_unmake(struct rig_device *d)
{
	if (d->kind == RIG_SERIAL) {
		serial_fini(&d->serial);
		return;
	}
	virtio_mmio_fini(&d->mmio);
	if (d->kind == RIG_BLK)
		virtio_blk_fini(&d->blk);
	else if (d->kind == RIG_NET)
		virtio_net_fini(&d->net);
}

static inline void rig_save(struct rig_device *d, struct wbuf *w)
{
	const struct state_desc *desc;

	if (d->kind != RIG_SERIAL) {
		virtio_mmio_save(&d->mmio, 0, w);
		return;
	}
	desc = &d->serial.dev.ops->state;
	state_encode(desc, (const char *)&d->serial + desc->offset, w);
}

/* Return: 0 or -errno with one line in @e */
static inline int rig_load(struct rig_device *d, struct rbuf *r, struct err *e)
{
	const struct state_desc *desc;
	struct serial_regs regs;
	int ret;

	if (d->kind != RIG_SERIAL)
		return virtio_mmio_load(&d->mmio, 0, r, e);
	desc = &d->serial.dev.ops->state;
	ret = state_decode(desc, "serial", desc->version, r, &regs, e);
	if (!ret)
		serial_load(&d->serial, &regs);
	return ret;
}

#endif
