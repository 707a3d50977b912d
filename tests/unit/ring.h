/*
 * The driver's side of a virtio device for the unit tests: RAM between guard pages, a ring builder
 * that can build wrong rings too, register access through a bus, and a hand-cranked event loop.
 * Include after cmocka.h.
 */
#ifndef TESTS_UNIT_RING_H
#define TESTS_UNIT_RING_H

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "base/loop.h"
#include "devices/bus.h"
#include "devices/irq.h"
#include "devices/virtio/mmio.h"

#define RAM_GPA	  0x100000ULL
#define RAM_SIZE  (4 * MiB)
#define RAM_GUARD (1 * MiB)
#define RAM_END	  (RAM_GPA + RAM_SIZE)

#define GOOD_STATUS \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)

#define F_V1	   (1ULL << VIRTIO_F_VERSION_1)
#define F_EVENT	   (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define F_INDIRECT (1ULL << VIRTIO_RING_F_INDIRECT_DESC)

struct ram {
	uint8_t *map;
	struct guest_mem gm;
};

/* An access one byte before or behind the RAM kills the test. */
static inline void ram_init(struct ram *r)
{
	struct guest_mem_region region = {.gpa = RAM_GPA, .len_bytes = RAM_SIZE};

	memset(r, 0, sizeof(*r));
	r->map =
		mmap(NULL, RAM_SIZE + 2 * RAM_GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(r->map, MAP_FAILED);
	region.hva = r->map + RAM_GUARD;
	assert_int_equal(mprotect(region.hva, RAM_SIZE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(guest_mem_add(&r->gm, &region), 0);
}

static inline void ram_fini(struct ram *r)
{
	munmap(r->map, RAM_SIZE + 2 * RAM_GUARD);
}

/* Have writes of devices marked from now on; and is the page at @gpa? */
struct ram_marks {
	uint64_t bits[RAM_SIZE / 4096 / 64];
};

static inline void ram_mark(struct ram *r, struct ram_marks *m)
{
	memset(m, 0, sizeof(*m));
	r->gm.dirty = m->bits;
}

static inline bool ram_marked(const struct ram_marks *m, gpa_t gpa)
{
	const uint64_t page = (gpa - RAM_GPA) / 4096;

	return m->bits[page / 64] >> page % 64 & 1;
}

static inline void *ram_at(const struct ram *r, gpa_t gpa)
{
	assert_in_range(gpa, RAM_GPA, RAM_END - 1);
	return r->map + RAM_GUARD + (gpa - RAM_GPA);
}

struct ring {
	struct ram *ram;
	gpa_t desc, avail, used;
	uint32_t num;
	uint16_t seen; /* used entries taken */
};

static inline void ring_init(struct ring *g, struct ram *ram, gpa_t at, uint32_t num)
{
	memset(g, 0, sizeof(*g));
	g->ram = ram;
	g->num = num;
	g->desc = at;
	g->avail = g->desc + 16ULL * num;
	g->used = align_up(g->avail + 6 + 2ULL * num, 4);
	memset(ram_at(ram, at), 0, g->used + 6 + 8ULL * num - at);
}

static inline void ring_desc_at(const struct ring *g, gpa_t table, uint16_t i, uint64_t addr,
				uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *d = (uint8_t *)ram_at(g->ram, table) + (size_t)i * 16;

	put_le64(d, addr);
	put_le32(d + 8, len);
	put_le16(d + 12, flags);
	put_le16(d + 14, next);
}

static inline void ring_desc(const struct ring *g, uint16_t i, uint64_t addr, uint32_t len,
			     uint16_t flags, uint16_t next)
{
	ring_desc_at(g, g->desc, i, addr, len, flags, next);
}

static inline struct vring_avail *ring_avail(const struct ring *g)
{
	return ram_at(g->ram, g->avail);
}

static inline struct vring_used *ring_used(const struct ring *g)
{
	return ram_at(g->ram, g->used);
}

static inline uint16_t *ring_used_event(const struct ring *g)
{
	return &ring_avail(g)->ring[g->num];
}

static inline uint16_t ring_avail_event(const struct ring *g)
{
	return get_le16((uint8_t *)ring_used(g) + 4 + 8ULL * g->num);
}

static inline void ring_offer(const struct ring *g, uint16_t head)
{
	struct vring_avail *a = ring_avail(g);

	a->ring[a->idx & (g->num - 1)] = head;
	a->idx++;
}

/* Takes the next used element, if there is one. */
static inline bool ring_take(struct ring *g, uint32_t *id, uint32_t *len)
{
	const struct vring_used *u = ring_used(g);

	if (__atomic_load_n(&u->idx, __ATOMIC_ACQUIRE) == g->seen)
		return false;
	*id = u->ring[g->seen & (g->num - 1)].id;
	*len = u->ring[g->seen & (g->num - 1)].len;
	g->seen++;
	return true;
}

/* A bus with one virtio-mmio device at 0, its interrupt and its loop. */
struct rig {
	struct ram ram;
	struct loop loop;
	struct irq_line irq;
	struct bus bus;
	struct virtio_mmio m;
};

static inline void rig_init(struct rig *r, struct virtio_dev *vdev)
{
	struct err e = {0};

	assert_int_equal(virtio_mmio_init(&r->m, vdev, &r->ram.gm, r->irq, &r->loop, &e), 0);
	memset(&r->bus, 0, sizeof(r->bus));
	r->bus.name = "mmio";
	assert_int_equal(bus_add(&r->bus, 0, 0x1000, 0, &r->m.dev, &e), 0);
}

/* what a device's own init needs: RAM, loop, interrupt */
static inline void rig_prepare(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	ram_init(&r->ram);
	assert_int_equal(loop_init(&r->loop), 0);
	r->irq.fd = eventfd(0, EFD_NONBLOCK);
	assert_true(r->irq.fd >= 0);
}

static inline void rig_fini(struct rig *r)
{
	virtio_mmio_fini(&r->m);
	close(r->irq.fd);
	loop_fini(&r->loop);
	ram_fini(&r->ram);
}

static inline uint32_t rig_read(const struct rig *r, uint64_t offset)
{
	uint8_t data[4];

	bus_read(&r->bus, offset, data, 4);
	return get_le32(data);
}

static inline void rig_write(const struct rig *r, uint64_t offset, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	bus_write(&r->bus, offset, data, 4);
}

static inline uint32_t rig_status(const struct rig *r)
{
	return rig_read(r, VIRTIO_MMIO_STATUS);
}

/* Edges since the last call */
static inline unsigned int rig_edges(const struct rig *r)
{
	uint64_t n;

	return read(r->irq.fd, &n, sizeof(n)) == sizeof(n) ? (unsigned int)n : 0;
}

/* Runs at most one callback. Return: false if none was ready within @ms. */
static inline bool rig_turn(struct rig *r, int ms)
{
	return loop_turn(&r->loop, ms) > 0;
}

static inline void rig_negotiate(const struct rig *r, uint64_t features)
{
	rig_write(r, VIRTIO_MMIO_STATUS, 0);
	rig_write(r, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	rig_write(r, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	rig_write(r, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	rig_write(r, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	rig_write(r, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	rig_write(r, VIRTIO_MMIO_STATUS, GOOD_STATUS);
}

static inline void rig_set_queue(const struct rig *r, uint32_t queue, const struct ring *g)
{
	rig_write(r, VIRTIO_MMIO_QUEUE_SEL, queue);
	rig_write(r, VIRTIO_MMIO_QUEUE_NUM, g->num);
	rig_write(r, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)g->desc);
	rig_write(r, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(g->desc >> 32));
	rig_write(r, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)g->avail);
	rig_write(r, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(g->avail >> 32));
	rig_write(r, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)g->used);
	rig_write(r, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(g->used >> 32));
	rig_write(r, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* The whole way of a driver to DRIVER_OK with queue 0 at @g */
static inline void rig_start(struct rig *r, const struct ring *g, uint64_t features)
{
	rig_negotiate(r, features);
	rig_set_queue(r, 0, g);
	rig_write(r, VIRTIO_MMIO_STATUS, GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
}

#endif
