/*
 * The order of requests is the kernel's wish: memory, log and features while no queue runs, then
 * each queue's size, place and eventfds, and last the tap, which starts it. A queue is stopped by
 * taking the tap away, which returns when the kernel's thread has let go of the queue.
 */
#include "devices/virtio/vhost_net.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/vhost.h"
#include "devices/virtio/virtio.h"

/* What concerns the rings and their buffers; the rest of a device's features is not vhost's. */
#define RING_FEATURES                                                   \
	(1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_EVENT_IDX | \
	 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_NET_F_MRG_RXBUF)
#define LOG_WORD_PAGES 64

#define CALL(v, request, arg, e) call(v, request, #request, arg, e)

static int call(const struct vhost_net *v, unsigned long request, const char *name, void *arg,
		struct err *e)
{
	const int ret = v->host->call(v->host, request, arg);

	return ret < 0 ? err_set(e, ret, "%s: %s", name, strerror(-ret)) : 0;
}

uint64_t vhost_net_features(const struct vhost *host, uint64_t features)
{
	return features & ~(RING_FEATURES & ~host->features);
}

/* ---- what is true for all queues ---- */

static int set_memory(const struct vhost_net *v, struct err *e)
{
	union {
		struct vhost_memory m;
		uint8_t room[sizeof(struct vhost_memory) +
			     GUEST_MEM_MAX_REGIONS * sizeof(struct vhost_memory_region)];
	} table = {0};
	const struct guest_mem *gm = v->vdev->gm;
	unsigned int i;

	table.m.nregions = gm->n_regions;
	for (i = 0; i < gm->n_regions; i++)
		table.m.regions[i] = (struct vhost_memory_region) {
			.guest_phys_addr = gm->region[i].gpa,
			.memory_size = gm->region[i].len_bytes,
			.userspace_addr = (uintptr_t)gm->region[i].hva,
		};
	return CALL(v, VHOST_SET_MEM_TABLE, &table, e);
}

static int set_log_base(const struct vhost_net *v, struct err *e)
{
	uint64_t base = (uintptr_t)v->log;

	return v->log ? CALL(v, VHOST_SET_LOG_BASE, &base, e) : 0;
}

static int set_features(const struct vhost_net *v, struct err *e)
{
	uint64_t features = v->vdev->features & RING_FEATURES;

	if (v->log)
		features |= 1ULL << VHOST_F_LOG_ALL;
	return CALL(v, VHOST_SET_FEATURES, &features, e);
}

/* ---- one queue ---- */

static int set_address(const struct vhost_net *v, unsigned int q, struct err *e)
{
	const struct virtq *vq = &v->vdev->queue[q];
	struct vhost_vring_addr addr = {
		.index = q,
		.flags = v->log ? 1u << VHOST_VRING_F_LOG : 0,
		.desc_user_addr = (uintptr_t)vq->desc,
		.used_user_addr = (uintptr_t)vq->used,
		.avail_user_addr = (uintptr_t)vq->avail,
		.log_guest_addr = vq->regs->used,
	};

	return CALL(v, VHOST_SET_VRING_ADDR, &addr, e);
}

static int set_place(const struct vhost_net *v, unsigned int q, struct err *e)
{
	const struct virtq *vq = &v->vdev->queue[q];
	struct vhost_vring_state num = {.index = q, .num = vq->num};
	struct vhost_vring_state base = {.index = q, .num = vq->regs->last_avail};
	int ret = CALL(v, VHOST_SET_VRING_NUM, &num, e);

	if (!ret)
		ret = CALL(v, VHOST_SET_VRING_BASE, &base, e);
	return ret ? ret : set_address(v, q, e);
}

/* The interrupt's eventfd is KVM's own way in: no thread of ours is between vhost and the guest. */
static int set_events(const struct vhost_net *v, unsigned int q, const struct virtio_lent *lent,
		      int error_fd, struct err *e)
{
	struct vhost_vring_file kick = {.index = q, .fd = lent->kick_fd};
	struct vhost_vring_file irq = {.index = q, .fd = lent->irq_fd};
	struct vhost_vring_file error = {.index = q, .fd = error_fd};
	int ret = CALL(v, VHOST_SET_VRING_ERR, &error, e);

	if (!ret)
		ret = CALL(v, VHOST_SET_VRING_CALL, &irq, e);
	return ret ? ret : CALL(v, VHOST_SET_VRING_KICK, &kick, e);
}

static int set_backend(struct vhost_net *v, unsigned int q, int fd, struct err *e)
{
	struct vhost_vring_file file = {.index = q, .fd = fd};
	int ret = CALL(v, VHOST_NET_SET_BACKEND, &file, e);

	if (!ret)
		v->served[q] = fd >= 0;
	return ret;
}

static int start_queue(struct vhost_net *v, unsigned int q, struct err *e)
{
	struct virtq *vq = &v->vdev->queue[q];
	struct virtio_lent lent;
	int ret;

	if (!vq->desc)
		return 0;
	v->seen[q] = vq->regs->used_idx;
	v->vdev->transport->lend(v->vdev->transport, q, &lent);
	ret = set_place(v, q, e);
	if (!ret)
		ret = set_events(v, q, &lent, v->errors.fd, e);
	return ret ? ret : set_backend(v, q, v->tap_fd, e);
}

/* What fails here leaves the queue where it was when it was started. */
static void stop_queue(struct vhost_net *v, unsigned int q)
{
	static const struct virtio_lent nothing = {VHOST_FILE_UNBIND, VHOST_FILE_UNBIND};
	struct virtq *vq = &v->vdev->queue[q];
	struct vhost_vring_state base = {.index = q};
	const bool served = v->served[q];
	struct err e = {0};

	if (!vq->desc)
		return;
	if (served && set_backend(v, q, VHOST_FILE_UNBIND, &e) == 0 &&
	    CALL(v, VHOST_GET_VRING_BASE, &base, &e) == 0)
		virtq_moved(vq, (uint16_t)base.num);
	if (e.code)
		log_err("vhost-net does not let go of queue %u: %s; see the kernel's log", q,
			e.text);
	set_events(v, q, &nothing, VHOST_FILE_UNBIND, NULL);
	v->vdev->transport->lend(v->vdev->transport, q, NULL);
}

/* ---- all of it ---- */

int vhost_net_start(struct vhost_net *v, struct err *e)
{
	unsigned int q;
	int ret = set_memory(v, e);

	if (!ret)
		ret = set_log_base(v, e);
	if (!ret)
		ret = set_features(v, e);
	v->running = true;
	for (q = 0; !ret && q < VHOST_NET_QUEUES; q++)
		ret = start_queue(v, q, e);
	if (ret < 0) {
		vhost_net_stop(v);
		return ret;
	}
	/* a kick that was taken before the kernel looked is made up for */
	for (q = 0; q < VHOST_NET_QUEUES; q++)
		if (v->served[q])
			v->vdev->transport->kick(v->vdev->transport, q);
	return 0;
}

void vhost_net_stop(struct vhost_net *v)
{
	unsigned int q;

	if (!v->running)
		return;
	v->running = false;
	for (q = 0; q < VHOST_NET_QUEUES; q++)
		stop_queue(v, q);
	/*
	 * An edge of the kernel's may still be on its way, and the guest gone when it comes; the
	 * reason for it stays with the device.
	 */
	if (vhost_net_has_used(v))
		v->vdev->transport->used(v->vdev->transport, 0);
}

bool vhost_net_has_used(struct vhost_net *v)
{
	bool any = false;
	unsigned int q;

	for (q = 0; q < VHOST_NET_QUEUES; q++) {
		const struct virtq *vq = &v->vdev->queue[q];
		uint16_t now;

		if (!vq->desc)
			continue;
		now = __atomic_load_n(&vq->used->idx, __ATOMIC_ACQUIRE);
		any = any || now != v->seen[q];
		v->seen[q] = now;
	}
	return any;
}

/* ---- a log of what the kernel writes ---- */

/* The kernel sets bit n of byte m for page 8 * m + n: the order of our words, little-endian */
static int alloc_log(struct vhost_net *v)
{
	const struct guest_mem *gm = v->vdev->gm;
	const struct guest_mem_region *last = &gm->region[gm->n_regions - 1];
	const uint64_t pages = (last->gpa + last->len_bytes + GUEST_PAGE - 1) / GUEST_PAGE;
	const uint64_t n_words = (pages + LOG_WORD_PAGES - 1) / LOG_WORD_PAGES;

	v->log = guest_mem_map_bits(n_words);
	v->log_bytes = n_words * sizeof(uint64_t);
	return v->log ? 0 : -ENOMEM;
}

/* To queues that run already. */
static int apply_log(const struct vhost_net *v, struct err *e)
{
	unsigned int q;
	int ret = set_log_base(v, e);

	if (!ret)
		ret = set_features(v, e);
	for (q = 0; !ret && q < VHOST_NET_QUEUES; q++)
		if (v->served[q])
			ret = set_address(v, q, e);
	return ret;
}

static void end_log(struct vhost_net *v)
{
	uint64_t *log = v->log;
	struct err e = {0};

	if (!log)
		return;
	v->log = NULL;
	/* memory that the kernel may still write to is better lost */
	if (v->running && apply_log(v, &e) < 0)
		log_err("vhost-net does not end its log: %s; see the kernel's log", e.text);
	else
		munmap(log, v->log_bytes);
}

static int begin_log(struct vhost_net *v)
{
	struct err e = {0};
	int ret = alloc_log(v);

	if (!ret && v->running)
		ret = apply_log(v, &e);
	if (ret < 0) {
		log_warn("vhost-net keeps no log: %s", e.code ? e.text : strerror(-ret));
		end_log(v);
	}
	return ret;
}

/* By the migration's thread, no lock held */
static int set_log(struct guest_mem_writer *w, bool on)
{
	struct vhost_net *v = container_of(w, struct vhost_net, writer);
	pthread_mutex_t *lock = v->vdev->transport->lock;
	int ret = 0;

	pthread_mutex_lock(lock);
	end_log(v);
	if (on)
		ret = begin_log(v);
	pthread_mutex_unlock(lock);
	return ret;
}

/* By the same thread, which alone makes and ends the log; the kernel goes on setting bits. */
static void harvest(struct guest_mem_writer *w)
{
	const struct vhost_net *v = container_of(w, struct vhost_net, writer);
	const struct guest_mem *gm = v->vdev->gm;
	size_t i;

	for (i = 0; v->log && i < v->log_bytes / sizeof(uint64_t); i++) {
		uint64_t bits;

		if (!__atomic_load_n(&v->log[i], __ATOMIC_RELAXED))
			continue;
		bits = __atomic_exchange_n(&v->log[i], 0, __ATOMIC_SEQ_CST);
		for (; bits; bits &= bits - 1) {
			const unsigned int bit = (unsigned int)__builtin_ctzll(bits);
			const gpa_t gpa = (i * LOG_WORD_PAGES + bit) * GUEST_PAGE;
			const void *page = gpa_span(gm, gpa, GUEST_PAGE);

			if (page)
				guest_mem_mark(gm, page, GUEST_PAGE);
		}
	}
}

/* ---- errors ---- */

/* The driver's fault, unless the interface went away, which is noticed elsewhere. */
static void error_ready(struct loop_watch *w)
{
	struct vhost_net *v = container_of(w, struct vhost_net, errors);
	struct pollfd tap = {.fd = v->tap_fd};
	uint64_t count;

	if (read(w->fd, &count, sizeof(count)) != sizeof(count) || !v->vdev->transport)
		return;
	pthread_mutex_lock(v->vdev->transport->lock);
	if (v->running && poll(&tap, 1, 0) == 0) {
		vhost_net_stop(v);
		virtio_dev_break(v->vdev, "vhost-net met a ring or a buffer that is wrong");
	}
	pthread_mutex_unlock(v->vdev->transport->lock);
}

int vhost_net_init(struct vhost_net *v, const struct vhost *host, struct virtio_dev *vdev,
		   int tap_fd, struct loop *loop, struct err *e)
{
	int fd, ret;

	memset(v, 0, sizeof(*v));
	v->host = host;
	v->vdev = vdev;
	v->tap_fd = tap_fd;
	v->loop = loop;
	v->writer = (struct guest_mem_writer) {.log = set_log, .harvest = harvest};
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ret = fd < 0 ? -errno : loop_add(loop, &v->errors, fd, EPOLLIN, error_ready);
	v->errors.fd = fd; /* ours to close, also when it is not watched */
	if (ret < 0)
		return err_set(e, ret,
			       "vhost-net: no eventfd: %s; raise the limit of open files "
			       "(ulimit -n)",
			       strerror(-ret));
	return 0;
}

void vhost_net_fini(struct vhost_net *v)
{
	const int fd = v->errors.fd;

	if (!v->host)
		return;
	end_log(v);
	loop_del(v->loop, &v->errors);
	if (fd >= 0)
		close(fd);
	memset(v, 0, sizeof(*v));
}
