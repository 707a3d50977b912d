/* Makes and restricts the io_uring of a disk. */
#include "devices/virtio/blk_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"

static const unsigned int blk_ring_ops[] = {
	IORING_OP_READV,
	IORING_OP_WRITEV,
	IORING_OP_FSYNC,
	IORING_OP_FALLOCATE,
};

/* liburing before 2.4 declares wrappers for the two calls made here but does not export them */
static int blk_ring_register(const struct blk_ring *r, unsigned int op, void *arg, unsigned int n)
{
	return syscall(SYS_io_uring_register, r->uring.ring_fd, op, arg, n) < 0 ? -errno : 0;
}

static int blk_ring_restrict(const struct blk_ring *r)
{
	struct io_uring_restriction rule[ARRAY_SIZE(blk_ring_ops) + 1] = {0};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(blk_ring_ops); i++) {
		rule[i].opcode = IORING_RESTRICTION_SQE_OP;
		rule[i].sqe_op = (uint8_t)blk_ring_ops[i];
	}
	rule[i].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	rule[i].sqe_flags = IOSQE_ASYNC;
	return blk_ring_register(r, IORING_REGISTER_RESTRICTIONS, rule, ARRAY_SIZE(rule));
}

static int blk_ring_fail(struct err *e, int code)
{
	switch (code) {
	case -EPERM:
		return err_set(e, code,
			       "disks need io_uring, which is forbidden here; set "
			       "/proc/sys/kernel/io_uring_disabled to 0, or let the container's "
			       "seccomp profile pass io_uring_setup");
	case -ENOSYS:
		return err_set(e, code,
			       "disks need io_uring, which this kernel or the container's seccomp "
			       "profile does not provide; use Linux 6.1 or later with "
			       "CONFIG_IO_URING and let io_uring_setup pass");
	case -ENOMEM:
		return err_set(e, code,
			       "no memory for a disk's io_uring; raise the limit of locked memory "
			       "(ulimit -l) or the memory of the cgroup");
	case -EMFILE:
	case -ENFILE:
		return err_set(e, code,
			       "no descriptor left for a disk's io_uring; raise ulimit -n");
	default:
		return err_set(e, code,
			       "cannot set up a disk's io_uring: %s; Linux 6.1 or later "
			       "is needed",
			       strerror(-code));
	}
}

int blk_ring_init(struct blk_ring *r, unsigned int entries, struct err *e)
{
	/*
	 * R_DISABLED: restrictions can only be set before the ring works. SUBMIT_ALL: a bad entry
	 * does not hold up the ones behind it.
	 */
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL};
	int ret;

	memset(r, 0, sizeof(*r));
	r->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->event_fd < 0)
		return blk_ring_fail(e, -errno);
	ret = io_uring_queue_init_params(entries, &r->uring, &p);
	if (ret)
		return blk_ring_fail(e, ret);
	r->open = true;
	ret = io_uring_register_eventfd(&r->uring, r->event_fd);
	if (!ret)
		ret = blk_ring_restrict(r);
	if (!ret)
		ret = blk_ring_register(r, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return ret < 0 ? blk_ring_fail(e, ret) : 0;
}

void blk_ring_fini(struct blk_ring *r)
{
	if (r->open)
		io_uring_queue_exit(&r->uring);
	r->open = false;
	if (r->event_fd >= 0)
		close(r->event_fd);
	r->event_fd = -1;
}
