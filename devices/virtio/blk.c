/*
 * virtio-blk. A kick harvests the whole avail ring into io_uring entries and submits them in one
 * system call; completions come back through an eventfd on the event loop and cause at most one
 * interrupt a batch. Data goes straight between the file and guest memory.
 *
 * A request lives in one struct blk_req from virtq_pop() to virtq_push(). Everything read from
 * guest memory (header, discard range) is copied before it is looked at.
 */
#include "devices/virtio/blk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "devices/virtio/iov.h"

#define BLK_MAX_ZERO_SECTORS (1u << 21) /* 1 GiB in one discard or write-zeroes */
#define BLK_DISCARD_ALIGN    4096	/* smaller holes make the file system write zeroes */
/* Through one of these at a time goes a request whose buffers do not suit direct I/O. */
#define BLK_BOUNCE_BYTES (64 * 1024)

#define BLK_PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define BLK_ZERO  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

struct blk_req {
	uint8_t opcode; /* IORING_OP_* */
	bool retried;
	uint16_t head;
	int mode;	 /* of IORING_OP_FALLOCATE */
	uint64_t offset; /* in the file, of the next byte */
	uint32_t left;	 /* bytes to go */
	uint32_t done;	 /* bytes written to the guest, without a gap */
	uint32_t in_len; /* bytes of device-writable data, the status byte not counted */
	unsigned int n_data;
	struct iovec *data; /* what is left of the guest's buffers, within iov */
	uint8_t *status;    /* the last device-writable byte */
	uint8_t *bounce;    /* NULL: the guest's buffers are used directly */
	struct iovec bounce_iov;
	struct iovec iov[VIRTQ_SIZE_MAX];
};

static struct virtio_blk *blk_of(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

static struct blk_req *blk_req_get(struct virtio_blk *b)
{
	/*
	 * the queue lets no more chains be in flight than its size; one is spare for the next pop
	 */
	assert(b->n_free || b->n_fresh < VIRTIO_BLK_SLOTS);
	return &b->req[b->n_free ? b->free_slot[--b->n_free] : b->n_fresh++];
}

static void blk_req_put(struct virtio_blk *b, const struct blk_req *r)
{
	b->free_slot[b->n_free++] = (uint16_t)(r - b->req);
}

static void blk_finish(struct virtio_blk *b, struct blk_req *r, uint8_t status)
{
	free(r->bounce);
	if (!b->discarding) {
		*r->status = status;
		/* the status byte counts only if there is no gap before it */
		virtq_push(&b->vdev.queue[0], r->head, r->done + (r->done == r->in_len));
	}
	blk_req_put(b, r);
}

static void blk_wake_later(struct virtio_blk *b)
{
	const uint64_t one = 1;

	if (write(b->file->ring.event_fd, &one, sizeof(one)) < 0)
		return; /* full: a wake-up is pending */
}

static void blk_submit(struct virtio_blk *b)
{
	struct io_uring *ring = &b->file->ring.uring;

	while (io_uring_sq_ready(ring)) {
		int ret = io_uring_submit(ring);

		if (ret > 0 || ret == -EINTR)
			continue;
		/* the kernel is short of memory: what is left stays queued and is tried again */
		blk_wake_later(b);
		return;
	}
}

/* Puts the next step of a request into the ring; blk_submit() sends it off. */
static void blk_queue_step(struct virtio_blk *b, struct blk_req *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&b->file->ring.uring);
	const struct iovec *iov = r->data;
	unsigned int n = r->n_data;
	const int fd = b->file->fd;

	assert(sqe); /* as many entries as requests, and a request has one at a time */
	if (r->bounce) {
		r->bounce_iov.iov_base = r->bounce;
		r->bounce_iov.iov_len = r->left < BLK_BOUNCE_BYTES ? r->left : BLK_BOUNCE_BYTES;
		if (r->opcode == IORING_OP_WRITEV)
			iov_copy(r->data, r->n_data, r->bounce, r->bounce_iov.iov_len, false);
		iov = &r->bounce_iov;
		n = 1;
	}
	switch (r->opcode) {
	case IORING_OP_READV:
		io_uring_prep_readv(sqe, fd, iov, n, r->offset);
		break;
	case IORING_OP_WRITEV:
		io_uring_prep_writev(sqe, fd, iov, n, r->offset);
		break;
	case IORING_OP_FSYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, fd, r->mode, (off_t)r->offset, (off_t)r->left);
		break;
	}
	if (r->retried)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data64(sqe, (uint64_t)(r - b->req));
}

static void blk_begin(struct virtio_blk *b, struct blk_req *r, uint8_t opcode)
{
	r->opcode = opcode;
	b->n_in_flight++;
	blk_queue_step(b, r);
}

/* Does @len bytes at @sector lie on the disk? Sets the request's place in the file. */
static bool blk_place(const struct virtio_blk *b, struct blk_req *r, uint64_t sector, uint32_t len)
{
	if (sector > b->regs.capacity_sectors || len % BLK_SECTOR ||
	    len / BLK_SECTOR > b->regs.capacity_sectors - sector)
		return false;
	r->offset = sector * BLK_SECTOR;
	r->left = len;
	return true;
}

static bool blk_is_aligned(const struct blk_req *r, uint32_t align)
{
	unsigned int i;

	for (i = 0; i < r->n_data; i++) {
		if (((uintptr_t)r->data[i].iov_base | r->data[i].iov_len) & (align - 1))
			return false;
	}
	return true;
}

/* Each of these starts a request, or finishes it at once. r->data is set, @len its length. */
static void blk_start_rw(struct virtio_blk *b, struct blk_req *r, uint64_t sector, uint32_t len,
			 bool is_write)
{
	void *bounce;

	if (!blk_place(b, r, sector, len) || (is_write && b->file->readonly)) {
		blk_finish(b, r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!len) {
		blk_finish(b, r, VIRTIO_BLK_S_OK);
		return;
	}
	if (b->file->direct && !blk_is_aligned(r, b->file->block_size)) {
		if (posix_memalign(&bounce, b->file->block_size, BLK_BOUNCE_BYTES)) {
			blk_finish(b, r, VIRTIO_BLK_S_IOERR);
			return;
		}
		r->bounce = bounce;
	}
	blk_begin(b, r, is_write ? IORING_OP_WRITEV : IORING_OP_READV);
}

static void blk_start_get_id(struct virtio_blk *b, struct blk_req *r)
{
	r->done = (uint32_t)iov_copy(r->data, r->n_data, b->regs.serial, sizeof(b->regs.serial),
				     true);
	blk_finish(b, r, VIRTIO_BLK_S_OK);
}

static void blk_start_zero(struct virtio_blk *b, struct blk_req *r, uint32_t type, uint32_t len)
{
	const bool discard = type == VIRTIO_BLK_T_DISCARD;
	const uint32_t flags_ok = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	struct virtio_blk_discard_write_zeroes range;

	if (len != sizeof(range) || r->in_len) { /* one segment, as the config space says */
		blk_finish(b, r, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_copy(r->data, r->n_data, &range, sizeof(range), false);
	if (range.flags & ~flags_ok) {
		blk_finish(b, r, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (range.num_sectors > BLK_MAX_ZERO_SECTORS ||
	    !blk_place(b, r, range.sector, range.num_sectors * BLK_SECTOR)) {
		blk_finish(b, r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!range.num_sectors) {
		blk_finish(b, r, VIRTIO_BLK_S_OK);
		return;
	}
	r->mode = discard || range.flags ? BLK_PUNCH : BLK_ZERO;
	blk_begin(b, r, IORING_OP_FALLOCATE);
}

static void blk_start_type(struct virtio_blk *b, struct blk_req *r,
			   const struct virtio_blk_outhdr *hdr, const struct virtq_chain *c)
{
	const uint32_t out_len = c->out_len - (uint32_t)sizeof(*hdr);

	/* now r->data is the device-readable part behind the header */
	switch (hdr->type) {
	case VIRTIO_BLK_T_IN:
		if (out_len)
			break;
		r->data = c->iov + c->n_out;
		r->n_data = c->n_in;
		blk_start_rw(b, r, hdr->sector, r->in_len, false);
		return;
	case VIRTIO_BLK_T_OUT:
		if (r->in_len)
			break;
		blk_start_rw(b, r, hdr->sector, out_len, true);
		return;
	case VIRTIO_BLK_T_FLUSH:
		if (out_len || r->in_len)
			break;
		/* covers every write that was answered before, which is what the spec asks for */
		blk_begin(b, r, IORING_OP_FSYNC);
		return;
	case VIRTIO_BLK_T_GET_ID:
		if (out_len)
			break;
		r->data = c->iov + c->n_out;
		r->n_data = c->n_in;
		blk_start_get_id(b, r);
		return;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (!(b->vdev.features &
		      1ULL << (hdr->type == VIRTIO_BLK_T_DISCARD ? VIRTIO_BLK_F_DISCARD
								 : VIRTIO_BLK_F_WRITE_ZEROES))) {
			blk_finish(b, r, VIRTIO_BLK_S_UNSUPP);
			return;
		}
		blk_start_zero(b, r, hdr->type, out_len);
		return;
	default:
		blk_finish(b, r, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	blk_finish(b, r, VIRTIO_BLK_S_IOERR); /* data in the wrong direction */
}

static void blk_start(struct virtio_blk *b, struct blk_req *r, struct virtq_chain *c)
{
	struct virtio_blk_outhdr hdr;
	struct iovec *last;

	if (!c->in_len) {
		virtio_dev_break(&b->vdev, "a request has no byte for its status");
		blk_req_put(b, r);
		return;
	}
	/* driver and device agree on no layout but this: the status is the last byte of all */
	last = &c->iov[c->n_out + c->n_in - 1];
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	if (!--last->iov_len)
		c->n_in--;
	r->in_len = c->in_len - 1;
	r->head = c->head;
	r->retried = false;
	r->done = 0;
	r->bounce = NULL;
	r->data = c->iov;
	r->n_data = c->n_out;
	if (iov_copy(r->data, r->n_data, &hdr, sizeof(hdr), false) < sizeof(hdr)) {
		blk_finish(b, r, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_drop(&r->data, &r->n_data, sizeof(hdr));
	/* iov_drop() may have moved past header-only descriptors, all within c->iov */
	blk_start_type(b, r, &hdr, c);
}

/* Return: true if the failed step was queued once more in another way */
static bool blk_retry(struct virtio_blk *b, struct blk_req *r, int res)
{
	if (r->retried)
		return false;
	if (res == -EOPNOTSUPP && r->opcode == IORING_OP_FALLOCATE)
		r->mode = r->mode == BLK_PUNCH ? BLK_ZERO : BLK_PUNCH; /* both read as zeroes */
	else if (res != -EINTR && res != -EAGAIN)
		return false;
	r->retried = true; /* from a worker thread, where it may block */
	blk_queue_step(b, r);
	return true;
}

static uint8_t blk_fail(struct virtio_blk *b, const struct blk_req *r, int res)
{
	if (res == -EOPNOTSUPP && r->opcode == IORING_OP_FALLOCATE)
		return VIRTIO_BLK_S_UNSUPP;
	if (!b->error_logged)
		log_warn("disk I/O failed, the guest sees an error; later ones of this disk are "
			 "not logged: path=%s offset=%llu bytes=%u error=\"%s\"",
			 b->file->path, (unsigned long long)r->offset, r->left,
			 res ? strerror(-res) : "the image became shorter");
	b->error_logged = true;
	return VIRTIO_BLK_S_IOERR;
}

static void blk_complete(struct virtio_blk *b, struct blk_req *r, int res)
{
	const bool moves_data = r->opcode == IORING_OP_READV || r->opcode == IORING_OP_WRITEV;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (!b->discarding) {
		if (res < 0 && blk_retry(b, r, res))
			return;
		if (res < 0 || (moves_data && !res)) {
			status = blk_fail(b, r, res);
		} else if (moves_data) {
			if (r->opcode == IORING_OP_READV) {
				if (r->bounce)
					iov_copy(r->data, r->n_data, r->bounce, (size_t)res, true);
				r->done += (uint32_t)res;
			}
			iov_drop(&r->data, &r->n_data, (size_t)res);
			r->offset += (uint64_t)res;
			r->left -= (uint32_t)res;
			if (r->left) { /* a short transfer, or a longer one than the bounce buffer
					*/
				blk_queue_step(b, r);
				return;
			}
		}
	}
	b->n_in_flight--;
	blk_finish(b, r, status);
}

static void blk_harvest(struct virtio_blk *b)
{
	struct io_uring *ring = &b->file->ring.uring;
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(ring, &cqe) == 0) {
		struct blk_req *r = &b->req[io_uring_cqe_get_data64(cqe)];
		const int res = cqe->res;

		io_uring_cqe_seen(ring, cqe);
		blk_complete(b, r, res);
	}
}

/* Sends off what is queued, answers what is done, and interrupts at most once. */
static void blk_turn(struct virtio_blk *b)
{
	blk_submit(b);
	blk_harvest(b); /* reads from the page cache are done by now */
	blk_submit(b);	/* second steps of short transfers */
	virtq_notify(&b->vdev.queue[0]);
}

static void blk_queue_notify(struct virtio_dev *vdev, unsigned int queue)
{
	struct virtio_blk *b = blk_of(vdev);
	struct virtq *vq = &vdev->queue[queue];
	unsigned int turns = BLK_MAX_IN_FLIGHT;

	virtq_kicks_off(vq);
	while (turns--) {
		struct blk_req *r = blk_req_get(b);
		struct virtq_chain c = {.iov = r->iov};

		if (!virtq_pop(vq, &c)) {
			blk_req_put(b, r);
			break;
		}
		blk_start(b, r, &c);
	}
	blk_turn(b);
	virtq_kicks_on(vq);
}

static void blk_ready(struct loop_watch *w)
{
	struct virtio_blk *b = container_of(w, struct virtio_blk, watch);
	uint64_t count;

	/* without a transport it is a last wake-up for the device that had the file before */
	if (read(b->file->ring.event_fd, &count, sizeof(count)) < 0 || !b->vdev.transport)
		return;
	pthread_mutex_lock(b->vdev.transport->lock);
	blk_turn(b);
	pthread_mutex_unlock(b->vdev.transport->lock);
}

/* Waits until nothing is in flight. */
static void blk_drain(struct virtio_blk *b)
{
	const struct timespec ms = {.tv_nsec = 1000000};
	struct io_uring *ring = &b->file->ring.uring;
	struct io_uring_cqe *cqe;

	while (b->n_in_flight) {
		blk_submit(b);
		if (b->n_in_flight > io_uring_sq_ready(ring))
			io_uring_wait_cqe(ring, &cqe); /* any error: just look again */
		else
			nanosleep(&ms, NULL); /* none was accepted: the kernel is out of memory */
		blk_harvest(b);
	}
}

static void blk_discard(struct virtio_blk *b)
{
	b->discarding = true;
	blk_drain(b);
	b->discarding = false;
}

/* The transport brings no kicks until it is resumed, so nothing has to be held back here. */
static void blk_quiesce(struct virtio_dev *vdev)
{
	struct virtio_blk *b = blk_of(vdev);

	pthread_mutex_lock(vdev->transport->lock);
	blk_drain(b);
	virtq_notify(&vdev->queue[0]);
	pthread_mutex_unlock(vdev->transport->lock);
}

static void blk_reset(struct virtio_dev *vdev)
{
	struct virtio_blk *b = blk_of(vdev);

	blk_discard(b);
	b->error_logged = false;
	b->n_free = b->n_fresh = 0;
	/* a guest that reboots gives back what a burst of requests touched */
	madvise(b->req, VIRTIO_BLK_SLOTS * sizeof(*b->req), MADV_DONTNEED);
}

static const struct state_field blk_fields[] = {
	STATE(struct virtio_blk_regs, capacity_sectors),
	STATE(struct virtio_blk_regs, block_size),
	STATE_BYTES(struct virtio_blk_regs, serial),
	STATE_END,
};

/* The same disk, or none: the guest keeps what it knows of it in its caches. */
static int blk_load(struct virtio_dev *vdev, const void *loaded, struct err *e)
{
	const struct virtio_blk_regs *here = &blk_of(vdev)->regs, *r = loaded;

	if (r->capacity_sectors != here->capacity_sectors)
		return err_set(e, -EINVAL,
			       "virtio-blk: the guest's disk has %llu bytes, '%s' has %llu; give "
			       "the same image in the same order of -d",
			       (unsigned long long)r->capacity_sectors * BLK_SECTOR,
			       blk_of(vdev)->file->path,
			       (unsigned long long)here->capacity_sectors * BLK_SECTOR);
	if (r->block_size != here->block_size)
		return err_set(e, -EINVAL,
			       "virtio-blk: the guest's disk has blocks of %u bytes, '%s' of %u; "
			       "use the same kind of disk and the same cache mode",
			       r->block_size, blk_of(vdev)->file->path, here->block_size);
	if (memcmp(r->serial, here->serial, sizeof(r->serial)) != 0)
		return err_set(
			e, -EINVAL,
			"virtio-blk: the guest's disk has serial number %s, '%s' has %s; "
			"give the same serial= to -d",
			text_quote(r->serial, strnlen(r->serial, sizeof(r->serial))).s,
			blk_of(vdev)->file->path,
			text_quote(here->serial, strnlen(here->serial, sizeof(here->serial))).s);
	return 0;
}

static const struct virtio_dev_ops blk_ops = {
	.name = "virtio-blk",
	.device_id = VIRTIO_ID_BLOCK,
	.reset = blk_reset,
	.queue_notify = blk_queue_notify,
	.quiesce = blk_quiesce,
	.state = {.offset = offsetof(struct virtio_blk, regs),
		  .size = sizeof(struct virtio_blk_regs),
		  .version = 1,
		  .fields = blk_fields},
	.load = blk_load,
};

static uint64_t blk_fill_config(struct virtio_blk *b)
{
	const struct blk_file *f = b->file;
	struct virtio_blk_config *c = &b->config;
	uint64_t features = 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE |
			    1ULL << VIRTIO_BLK_F_FLUSH;

	c->capacity = b->regs.capacity_sectors;
	c->seg_max = VIRTQ_SIZE_MAX - 2; /* the header and the status take one each */
	c->blk_size = b->regs.block_size;
	if (f->readonly)
		features |= 1ULL << VIRTIO_BLK_F_RO;
	if (f->can_discard && !f->readonly) {
		features |= 1ULL << VIRTIO_BLK_F_DISCARD;
		c->max_discard_sectors = BLK_MAX_ZERO_SECTORS;
		c->max_discard_seg = 1;
		c->discard_sector_alignment =
			(f->block_size > BLK_DISCARD_ALIGN ? f->block_size : BLK_DISCARD_ALIGN) /
			BLK_SECTOR;
	}
	if (f->can_write_zeroes && !f->readonly) {
		features |= 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
		c->max_write_zeroes_sectors = BLK_MAX_ZERO_SECTORS;
		c->max_write_zeroes_seg = 1;
		c->write_zeroes_may_unmap = 1;
	}
	return features;
}

int virtio_blk_init(struct virtio_blk *b, struct blk_file *f, const char *serial, struct loop *loop,
		    struct err *e)
{
	const size_t serial_len = serial ? strlen(serial) : 0;
	void *req;
	int ret;

	memset(b, 0, sizeof(*b));
	b->watch.fd = -1;
	b->file = f;
	b->loop = loop;
	if (serial_len > sizeof(b->regs.serial))
		return err_set(e, -EINVAL,
			       "disk serial '%s' has %zu characters; at most %d are possible",
			       serial, serial_len, VIRTIO_BLK_ID_BYTES);
	if (serial_len)
		memcpy(b->regs.serial, serial, serial_len);
	b->regs.capacity_sectors = f->size_bytes / BLK_SECTOR;
	b->regs.block_size = f->block_size;
	req = mmap(NULL, VIRTIO_BLK_SLOTS * sizeof(*b->req), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (req == MAP_FAILED)
		return err_set(e, -errno,
			       "no address space for the requests of disk '%s'; raise ulimit -v",
			       f->path);
	b->req = req;
	virtio_dev_init(&b->vdev, &blk_ops, blk_fill_config(b), 1, VIRTQ_SIZE_MAX, &b->config,
			sizeof(b->config));
	ret = loop_add(loop, &b->watch, f->ring.event_fd, EPOLLIN, blk_ready);
	if (ret)
		return err_set(e, ret,
			       "cannot watch the completions of disk '%s': %s; raise "
			       "/proc/sys/fs/epoll/max_user_watches",
			       f->path, strerror(-ret));
	return 0;
}

void virtio_blk_fini(struct virtio_blk *b)
{
	if (!b->req)
		return;
	loop_del(b->loop, &b->watch);
	blk_discard(b);
	munmap(b->req, VIRTIO_BLK_SLOTS * sizeof(*b->req));
	b->req = NULL;
}
