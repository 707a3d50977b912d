/*
 * The split virtqueue. The driver's fields (avail ring, descriptors, event indices) are read with
 * one load each; the order of loads and stores follows virtio 1.2, 2.7.13 and 2.7.14. The host is
 * little-endian as the ring is (the build refuses others).
 */
#include "devices/virtio/virtq.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "devices/virtio/virtio.h"

const struct state_field virtq_state_fields[] = {
	STATE(struct virtq_regs, desc),	    STATE(struct virtq_regs, avail),
	STATE(struct virtq_regs, used),	    STATE(struct virtq_regs, num),
	STATE(struct virtq_regs, ready),    STATE(struct virtq_regs, last_avail),
	STATE(struct virtq_regs, used_idx), STATE(struct virtq_regs, signalled),
	STATE_PAD(struct virtq_regs, pad),  STATE_END,
};

#define VIRTQ_DESC_ALIGN  16
#define VIRTQ_AVAIL_ALIGN 2
#define VIRTQ_USED_ALIGN  4

static unsigned int virtq_index(const struct virtq *vq)
{
	return (unsigned int)(vq - vq->vdev->queue);
}

static void *virtq_span(const struct virtq *vq, const char *what, gpa_t gpa, uint64_t len,
			uint64_t align)
{
	void *p = gpa_span(vq->vdev->gm, gpa, len);

	if (!p)
		virtio_dev_break(vq->vdev, "queue %u: %s at %#llx is not in RAM", virtq_index(vq),
				 what, (unsigned long long)gpa);
	else if (gpa % align)
		virtio_dev_break(vq->vdev, "queue %u: %s at %#llx is not aligned to %llu",
				 virtq_index(vq), what, (unsigned long long)gpa,
				 (unsigned long long)align);
	return gpa % align ? NULL : p;
}

int virtq_activate(struct virtq *vq)
{
	const struct virtq_regs *r = vq->regs;
	const uint64_t num = r->num;
	void *desc, *avail, *used;

	if (!num || num > vq->vdev->queue_size || num & (num - 1)) {
		virtio_dev_break(vq->vdev, "queue %u: size %u is not a power of 2 up to %u",
				 virtq_index(vq), r->num, vq->vdev->queue_size);
		return -EINVAL;
	}
	/* each ring is followed by the 16-bit event index of the other side */
	desc = virtq_span(vq, "descriptor table", r->desc, num * sizeof(struct vring_desc),
			  VIRTQ_DESC_ALIGN);
	avail = virtq_span(vq, "avail ring", r->avail,
			   sizeof(struct vring_avail) + num * sizeof(uint16_t) + sizeof(uint16_t),
			   VIRTQ_AVAIL_ALIGN);
	used = virtq_span(vq, "used ring", r->used,
			  sizeof(struct vring_used) + num * sizeof(struct vring_used_elem) +
				  sizeof(uint16_t),
			  VIRTQ_USED_ALIGN);
	if (!desc || !avail || !used)
		return -EINVAL;
	vq->num = r->num;
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	vq->event_idx = vq->vdev->features & 1ULL << VIRTIO_RING_F_EVENT_IDX;
	vq->indirect = vq->vdev->features & 1ULL << VIRTIO_RING_F_INDIRECT_DESC;
	return 0;
}

/* Only a queue that passed virtq_activate() on a device in order may be touched. */
static bool virtq_usable(const struct virtq *vq)
{
	return vq->desc && !vq->vdev->broken;
}

static uint64_t *virtq_in_flight(struct virtq *vq, uint16_t head, uint64_t *mask)
{
	*mask = 1ULL << (head % 64);
	return &vq->in_flight[head / 64];
}

/*
 * One descriptor, copied once. The barrier keeps the compiler from reading the guest's memory again
 * in place of the copy.
 */
static struct vring_desc virtq_copy_desc(const uint8_t *table, uint32_t i)
{
	struct vring_desc d;

	memcpy(&d, table + (size_t)i * sizeof(d), sizeof(d));
	__asm__ volatile("" : "+m"(d) : : "memory");
	return d;
}

/* Return: NULL, or what is wrong with the chain */
static const char *virtq_add(const struct virtq *vq, struct virtq_chain *c,
			     const struct vring_desc *d, bool *writable)
{
	void *hva;

	if (d->flags & VRING_DESC_F_WRITE)
		*writable = true;
	else if (*writable)
		return "a readable descriptor follows a writable one";
	if (!d->len)
		return NULL;
	if (d->len > UINT32_MAX - c->out_len - c->in_len)
		return "the chain is longer than 4 GiB";
	hva = gpa_span(vq->vdev->gm, d->addr, d->len);
	if (!hva)
		return "a buffer is not in RAM";
	c->iov[c->n_out + c->n_in] = (struct iovec) {.iov_base = hva, .iov_len = d->len};
	if (*writable) {
		c->n_in++;
		c->in_len += d->len;
	} else {
		c->n_out++;
		c->out_len += d->len;
	}
	return NULL;
}

/* Return: NULL, or what is wrong with the chain */
static const char *virtq_gather(const struct virtq *vq, struct virtq_chain *c)
{
	const uint8_t *table = (const uint8_t *)vq->desc;
	uint32_t n_table = vq->num, i = c->head, hops = 0;
	bool in_indirect = false, writable = false;

	c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	for (;;) {
		struct vring_desc d;
		const char *wrong;

		if (i >= n_table)
			return "a descriptor index is outside its table";
		d = virtq_copy_desc(table, i);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!vq->indirect)
				return "an indirect descriptor without VIRTIO_RING_F_INDIRECT_DESC";
			if (in_indirect)
				return "an indirect table inside an indirect table";
			if (d.flags & VRING_DESC_F_NEXT)
				return "an indirect descriptor with a next one";
			if (!d.len || d.len % sizeof(d) || d.len / sizeof(d) > vq->num)
				return "an indirect table whose length is 0, not a multiple of 16 "
				       "or above the queue size";
			table = gpa_span(vq->vdev->gm, d.addr, d.len);
			if (!table)
				return "an indirect table is not in RAM";
			n_table = d.len / sizeof(d);
			i = 0;
			in_indirect = true;
			continue;
		}
		if (++hops > vq->num)
			return "a chain longer than the queue size, or a loop";
		wrong = virtq_add(vq, c, &d, &writable);
		if (wrong)
			return wrong;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return NULL;
		i = d.next;
	}
}

/* The used ring, with flags and event index: whichever was written, they share a page or two. */
static void virtq_mark_used(const struct virtq *vq)
{
	guest_mem_mark(vq->vdev->gm, vq->used,
		       sizeof(*vq->used) + vq->num * sizeof(struct vring_used_elem) +
			       sizeof(uint16_t));
}

/*
 * All of the chain's device-writable buffers, whatever the device says it wrote: so no device can
 * forget a status byte behind a gap. A driver may not change a chain in flight; one that does loses
 * its own data.
 */
static void virtq_mark_chain(const struct virtq *vq, uint16_t head)
{
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain c = {.iov = iov, .head = head};
	unsigned int i;

	if (!__atomic_load_n(&vq->vdev->gm->dirty, __ATOMIC_ACQUIRE))
		return;
	virtq_gather(vq, &c);
	for (i = c.n_out; i < c.n_out + c.n_in; i++)
		guest_mem_mark(vq->vdev->gm, iov[i].iov_base, iov[i].iov_len);
}

void virtq_moved(struct virtq *vq, uint16_t index)
{
	vq->regs->last_avail = index;
	vq->regs->used_idx = index;
	vq->regs->signalled = index;
}

void virtq_reset(struct virtq *vq)
{
	unsigned int head;

	for (head = 0; head < vq->num; head++)
		if (vq->in_flight[head / 64] & 1ULL << head % 64)
			virtq_mark_chain(vq, (uint16_t)head);
	vq->desc = NULL;
	vq->avail = NULL;
	vq->used = NULL;
	vq->num = 0;
	memset(vq->in_flight, 0, sizeof(vq->in_flight));
	memset(vq->regs, 0, sizeof(*vq->regs));
}

bool virtq_pop(struct virtq *vq, struct virtq_chain *c)
{
	struct virtq_regs *r = vq->regs;
	uint64_t *word, mask;
	const char *wrong = NULL;
	uint16_t waiting;

	if (!virtq_usable(vq))
		return false;
	/* acquire: the ring entry and its descriptors were written before the index */
	waiting = (uint16_t)(__atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE) - r->last_avail);
	if (!waiting)
		return false;
	if (waiting > vq->num) {
		virtio_dev_break(vq->vdev, "queue %u: the avail index jumped by %u, size %u",
				 virtq_index(vq), waiting, vq->num);
		return false;
	}
	c->head =
		__atomic_load_n(&vq->avail->ring[r->last_avail & (vq->num - 1)], __ATOMIC_RELAXED);
	if (c->head >= vq->num) {
		wrong = "the head is outside the descriptor table";
	} else {
		word = virtq_in_flight(vq, c->head, &mask);
		wrong = *word & mask ? "the head is still in flight" : virtq_gather(vq, c);
	}
	if (wrong) {
		virtio_dev_break(vq->vdev, "queue %u head %u: %s", virtq_index(vq), c->head, wrong);
		return false;
	}
	*word |= mask;
	r->last_avail++;
	return true;
}

void virtq_unpop(struct virtq *vq, uint16_t head)
{
	uint64_t *word, mask;

	if (!vq->desc)
		return;
	virtq_mark_chain(vq, head); /* the device may have begun to fill it */
	if (!virtq_usable(vq))
		return;
	word = virtq_in_flight(vq, head, &mask);
	assert(*word & mask);
	*word &= ~mask;
	vq->regs->last_avail--;
}

void virtq_fill(struct virtq *vq, uint16_t head, uint32_t len_bytes)
{
	struct virtq_regs *r = vq->regs;
	struct vring_used_elem *elem;
	uint64_t *word, mask;

	if (!vq->desc)
		return;
	virtq_mark_chain(vq, head);
	if (!virtq_usable(vq))
		return;
	word = virtq_in_flight(vq, head, &mask);
	assert(*word & mask);
	*word &= ~mask;
	elem = &vq->used->ring[r->used_idx & (vq->num - 1)];
	elem->id = head;
	elem->len = len_bytes;
	r->used_idx++;
	virtq_mark_used(vq);
}

void virtq_publish(struct virtq *vq)
{
	/* release: whoever sees the index sees the elements and the data before it */
	if (!virtq_usable(vq))
		return;
	__atomic_store_n(&vq->used->idx, vq->regs->used_idx, __ATOMIC_RELEASE);
	virtq_mark_used(vq);
}

void virtq_push(struct virtq *vq, uint16_t head, uint32_t len_bytes)
{
	virtq_fill(vq, head, len_bytes);
	virtq_publish(vq);
}

static bool virtq_should_notify(struct virtq *vq)
{
	struct virtq_regs *r = vq->regs;
	const uint16_t old = r->signalled;
	uint16_t event;

	if (r->used_idx == old)
		return false;
	r->signalled = r->used_idx;
	/*
	 * the used index must be out before the driver's wish is read: both sides store, then load
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!vq->event_idx)
		return !(__atomic_load_n(&vq->avail->flags, __ATOMIC_RELAXED) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	event = __atomic_load_n(&vq->avail->ring[vq->num], __ATOMIC_RELAXED);
	return vring_need_event(event, r->used_idx, old);
}

void virtq_notify(struct virtq *vq)
{
	if (virtq_usable(vq) && virtq_should_notify(vq))
		vq->vdev->transport->used(vq->vdev->transport, virtq_index(vq));
}

void virtq_kicks_off(struct virtq *vq)
{
	/* with EVENT_IDX the old avail_event stays behind, which has the same effect */
	if (!virtq_usable(vq) || vq->event_idx)
		return;
	__atomic_store_n(&vq->used->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
	virtq_mark_used(vq);
}

void virtq_kicks_on(struct virtq *vq)
{
	virtq_kicks_on_beyond(vq, 0);
}

void virtq_kicks_on_beyond(struct virtq *vq, uint16_t n)
{
	const uint16_t next = (uint16_t)(vq->regs->last_avail + n);
	uint16_t *avail_event;

	if (!virtq_usable(vq))
		return;
	avail_event = (uint16_t *)(void *)&vq->used->ring[vq->num];
	if (vq->event_idx)
		__atomic_store_n(avail_event, next, __ATOMIC_RELAXED);
	else
		__atomic_store_n(&vq->used->flags, 0, __ATOMIC_RELAXED);
	virtq_mark_used(vq);
	/* the wish must be out before the index is read again, or a kick could be lost between */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vq->avail->idx, __ATOMIC_RELAXED) != next)
		vq->vdev->transport->kick(vq->vdev->transport, virtq_index(vq));
}
