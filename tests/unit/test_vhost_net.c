/*
 * A network device whose queues the host's kernel serves. The kernel is one of ours: it keeps what
 * it is told, refuses what the real one refuses (drivers/vhost/vhost.c, net.c), notes the order,
 * and uses buffers when a test tells it to.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "devices/tap.h"
#include "devices/vhost.h"
#include "devices/virtio/net.h"
#include "migration/state/buf.h"
#include "ring.h"

#define RX 0
#define TX 1
#define CT 2

#define RING_SIZE 16u
#define RING_GPA  (RAM_GPA + 0x4000ULL * queue)
#define DATA_GPA  (RAM_GPA + 0x20000)
#define PAGE(gpa) ((gpa) / 4096)

#define F(x) (1ULL << VIRTIO_NET_F_##x)
#define F_ALL                                                                                 \
	(F(MAC) | F(STATUS) | F(MRG_RXBUF) | F(CTRL_VQ) | F(GUEST_ANNOUNCE) | F(CSUM) |       \
	 F(HOST_TSO4) | F(HOST_TSO6) | F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) | F_V1 | \
	 F_EVENT | F_INDIRECT)
#define F_LOG	 (1ULL << VHOST_F_LOG_ALL)
#define F_KERNEL (F_LOG | F_V1 | F_EVENT | F_INDIRECT | F(MRG_RXBUF) | 1ULL << 24 | 1ULL << 27)

/* ---- the kernel ---- */

struct fake_queue {
	uint32_t num, base;
	struct vhost_vring_addr addr;
	int kick, irq, err, backend;
};

struct fake {
	struct vhost vhost;
	struct fake_queue q[2];
	uint64_t set_features, log_base;
	uint64_t region_gpa, region_len, region_hva;
	unsigned int n_calls, fail_at; /* the call of this number fails; 0: none */
	char trace[2048];	       /* the order of requests */
};

static const struct {
	unsigned long request;
	const char *name;
} names[] = {
	{VHOST_GET_FEATURES, "get"},	  {VHOST_SET_OWNER, "owner"},
	{VHOST_SET_FEATURES, "features"}, {VHOST_SET_MEM_TABLE, "memory"},
	{VHOST_SET_LOG_BASE, "log"},	  {VHOST_SET_VRING_NUM, "num"},
	{VHOST_SET_VRING_ADDR, "addr"},	  {VHOST_SET_VRING_BASE, "base"},
	{VHOST_GET_VRING_BASE, "where"},  {VHOST_SET_VRING_KICK, "kick"},
	{VHOST_SET_VRING_CALL, "call"},	  {VHOST_SET_VRING_ERR, "err"},
	{VHOST_NET_SET_BACKEND, "tap"},
};

static const char *name_of(unsigned long request)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].request == request)
			return names[i].name;
	fail_msg("an unknown request: %#lx", request);
	return "";
}

static void note(struct fake *f, const char *name, const char *detail)
{
	const size_t len = strlen(f->trace);

	assert_true(len + 20 < sizeof(f->trace));
	sprintf(f->trace + len, "%s%s%s", len ? " " : "", name, detail);
}

/* The requests since the last check */
static void expect(struct fake *f, const char *trace)
{
	assert_string_equal(f->trace, trace);
	f->trace[0] = '\0';
}

static bool covered(const struct fake *f, uint64_t hva, uint64_t len)
{
	return hva >= f->region_hva && hva - f->region_hva + len <= f->region_len;
}

static int set_memory(struct fake *f, const struct vhost_memory *m)
{
	assert_int_equal(m->nregions, 1);
	assert_int_equal(m->padding, 0);
	assert_int_equal(m->regions[0].flags_padding, 0);
	f->region_gpa = m->regions[0].guest_phys_addr;
	f->region_len = m->regions[0].memory_size;
	f->region_hva = m->regions[0].userspace_addr;
	return 0;
}

static int set_features(struct fake *f, uint64_t features)
{
	if (features & ~f->vhost.features)
		return -EOPNOTSUPP;
	if (features & F_LOG && !f->log_base)
		return -EFAULT;
	f->set_features = features;
	return 0;
}

static int set_addr(struct fake *f, struct fake_queue *q, const struct vhost_vring_addr *a)
{
	if (a->flags & ~1u)
		return -EOPNOTSUPP;
	if (a->avail_user_addr % 2 || a->used_user_addr % 4 || a->desc_user_addr % 16 ||
	    a->log_guest_addr % 4)
		return -EINVAL;
	if (!covered(f, a->desc_user_addr, 16ULL * q->num) ||
	    !covered(f, a->used_user_addr, 4 + 8ULL * q->num) || (a->flags & 1 && !f->log_base))
		return -EFAULT;
	assert_int_equal(a->used_user_addr - f->region_hva + f->region_gpa, a->log_guest_addr);
	q->addr = *a;
	return 0;
}

static int on_queue(struct fake *f, unsigned long request, struct fake_queue *q, void *arg)
{
	const struct vhost_vring_file *file = arg;
	struct vhost_vring_state *state = arg;

	switch (request) {
	case VHOST_SET_VRING_NUM:
		if (q->backend >= 0)
			return -EBUSY;
		q->num = state->num;
		return 0;
	case VHOST_SET_VRING_BASE:
		if (q->backend >= 0)
			return -EBUSY;
		q->base = state->num;
		return state->num > 0xffff ? -EINVAL : 0;
	case VHOST_GET_VRING_BASE:
		state->num = q->base;
		return 0;
	case VHOST_SET_VRING_ADDR:
		return set_addr(f, q, arg);
	case VHOST_SET_VRING_KICK:
		q->kick = file->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		q->irq = file->fd;
		return 0;
	case VHOST_SET_VRING_ERR:
		q->err = file->fd;
		return 0;
	default:
		if (file->fd >= 0 && !q->addr.desc_user_addr)
			return -EFAULT;
		q->backend = file->fd;
		return 0;
	}
}

static int fake_call(const struct vhost *v, unsigned long request, void *arg)
{
	struct fake *f = container_of(v, struct fake, vhost);
	char detail[20] = "";
	uint32_t index = 0;

	if (f->fail_at && ++f->n_calls == f->fail_at)
		return -EFAULT;
	switch (request) {
	case VHOST_SET_MEM_TABLE:
		note(f, "memory", "");
		return set_memory(f, arg);
	case VHOST_SET_FEATURES:
		note(f, "features", *(uint64_t *)arg & F_LOG ? "+log" : "");
		return set_features(f, *(uint64_t *)arg);
	case VHOST_SET_LOG_BASE:
		note(f, "log", "");
		f->log_base = *(uint64_t *)arg;
		return 0;
	default:
		memcpy(&index, arg, sizeof(index));
		assert_in_range(index, 0, 1);
		break;
	}
	sprintf(detail, "%u", index);
	if (request == VHOST_SET_VRING_ADDR && ((struct vhost_vring_addr *)arg)->flags)
		strcat(detail, "+log");
	if (((request == VHOST_SET_VRING_KICK || request == VHOST_SET_VRING_CALL ||
	      request == VHOST_SET_VRING_ERR || request == VHOST_NET_SET_BACKEND)) &&
	    ((struct vhost_vring_file *)arg)->fd < 0)
		strcat(detail, "-");
	note(f, name_of(request), detail);
	return on_queue(f, request, &f->q[index], arg);
}

static void fake_log(struct fake *f, uint64_t gpa, uint64_t len)
{
	uint8_t *log = (uint8_t *)(uintptr_t)f->log_base;
	uint64_t page;

	for (page = PAGE(gpa); page <= PAGE(gpa + len - 1); page++)
		__atomic_fetch_or(&log[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_SEQ_CST);
}

/* The kernel uses the next buffer that the driver offered, @len bytes of it written at @gpa. */
static void fake_use(struct fake *f, unsigned int queue, gpa_t gpa, uint32_t len)
{
	struct fake_queue *q = &f->q[queue];
	struct vring_avail *avail = (void *)(uintptr_t)q->addr.avail_user_addr;
	struct vring_used *used = (void *)(uintptr_t)q->addr.used_user_addr;
	const uint64_t one = 1;

	assert_true(q->backend >= 0);
	assert_int_not_equal(avail->idx, (uint16_t)q->base);
	used->ring[used->idx % q->num].id = avail->ring[q->base % q->num];
	used->ring[used->idx % q->num].len = len;
	__atomic_store_n(&used->idx, (uint16_t)(used->idx + 1), __ATOMIC_RELEASE);
	q->base = (uint16_t)(q->base + 1);
	if (f->set_features & F_LOG && len)
		fake_log(f, gpa, len);
	if (q->addr.flags & 1)
		fake_log(f, q->addr.log_guest_addr, 2);
	assert_int_equal(write(q->irq, &one, sizeof(one)), sizeof(one));
}

static void fake_init(struct fake *f, uint64_t features)
{
	memset(f, 0, sizeof(*f));
	f->vhost = (struct vhost) {.call = fake_call, .fd = -1, .features = features};
	f->q[0].backend = f->q[1].backend = -1;
}

/* ---- the device ---- */

struct net {
	struct rig rig;
	struct ring ring[3];
	struct tap tap;
	struct fake *kernel;
	struct virtio_net net;
	int wire;
};

static struct net *net_build(struct fake *kernel)
{
	struct net *n = calloc(1, sizeof(*n));
	struct err e = {0};
	int pair[2];

	assert_non_null(n);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	rig_prepare(&n->rig);
	n->wire = pair[1];
	n->kernel = kernel;
	n->tap.fd = pair[0];
	n->tap.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	n->tap.offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	n->tap.mac[0] = 0x52;
	strcpy(n->tap.name, "tap-test");
	if (kernel)
		n->tap.vhost = kernel->vhost;
	if (virtio_net_init(&n->net, &n->tap, &n->rig.loop, &e))
		fail_msg("%s", e.text);
	/* the one that is asked has the fake around it */
	if (kernel) {
		n->net.vhost.host = &kernel->vhost;
		guest_mem_add_writer(&n->rig.ram.gm, &n->net.vhost.writer);
	}
	rig_init(&n->rig, &n->net.vdev);
	return n;
}

static void net_start(struct net *n, uint64_t features, unsigned int n_queues)
{
	unsigned int queue;

	rig_negotiate(&n->rig, features);
	for (queue = 0; queue < n_queues; queue++) {
		ring_init(&n->ring[queue], &n->rig.ram, RING_GPA, RING_SIZE);
		rig_set_queue(&n->rig, queue, &n->ring[queue]);
	}
	rig_write(&n->rig, VIRTIO_MMIO_STATUS, GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(rig_status(&n->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
}

static struct net *net_new(struct fake *kernel)
{
	struct net *n = net_build(kernel);

	net_start(n, F_ALL, 3);
	kernel->trace[0] = '\0';
	return n;
}

static void net_free(struct net *n)
{
	virtio_mmio_fini(&n->rig.m);
	virtio_net_fini(&n->net);
	tap_close(&(struct tap) {.fd = n->tap.fd, .timer_fd = n->tap.timer_fd});
	if (n->wire >= 0)
		close(n->wire);
	rig_fini(&n->rig);
	free(n);
}

static void net_settle(struct net *n)
{
	unsigned int turns = 0;

	while (rig_turn(&n->rig, 0))
		assert_true(++turns < 1000);
}

static void net_offer(struct net *n, unsigned int queue, uint16_t i, uint32_t len)
{
	ring_desc(&n->ring[queue], i, DATA_GPA + 0x1000ULL * i, len,
		  queue == RX ? VRING_DESC_F_WRITE : 0, 0);
	ring_offer(&n->ring[queue], i);
}

static void net_kick(struct net *n, unsigned int queue)
{
	rig_write(&n->rig, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
	net_settle(n);
}

#define START_QUEUES "num0 base0 addr0 err0 call0 kick0 tap0 num1 base1 addr1 err1 call1 kick1 tap1"
#define STOP_QUEUES  "tap0- where0 err0- call0- kick0- tap1- where1 err1- call1- kick1-"

/* ---- tests ---- */

static void test_start(void **state)
{
	struct fake kernel;
	struct net *n;
	unsigned int queue;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_build(&kernel);
	assert_true(n->net.vdev.offered == F_ALL);
	net_start(n, F_ALL, 3);
	expect(&kernel, "memory features " START_QUEUES);
	/* what is not about rings is not vhost's */
	assert_true(kernel.set_features == (F_V1 | F_EVENT | F_INDIRECT | F(MRG_RXBUF)));
	assert_true(kernel.region_gpa == RAM_GPA && kernel.region_len == RAM_SIZE);
	assert_ptr_equal((void *)(uintptr_t)kernel.region_hva, ram_at(&n->rig.ram, RAM_GPA));
	for (queue = 0; queue < 2; queue++) {
		const struct fake_queue *q = &kernel.q[queue];

		assert_int_equal(q->num, RING_SIZE);
		assert_int_equal(q->base, 0);
		assert_int_equal(q->addr.flags, 0);
		assert_true(q->addr.log_guest_addr == n->ring[queue].used);
		assert_ptr_equal((void *)(uintptr_t)q->addr.avail_user_addr,
				 ring_avail(&n->ring[queue]));
		assert_int_equal(q->kick, virtio_mmio_kick_fd(&n->rig.m, queue));
		assert_int_equal(q->irq, n->rig.irq.fd);
		assert_true(q->err >= 0);
		assert_int_equal(q->backend, n->tap.fd);
	}
	net_free(n);
	expect(&kernel, STOP_QUEUES);
}

/* A driver need not use all queues, nor all features. */
static void test_start_of_less(void **state)
{
	struct fake kernel;
	struct net *n;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_build(&kernel);
	net_start(n, F_V1 | F(MAC), 1);
	expect(&kernel, "memory features num0 base0 addr0 err0 call0 kick0 tap0");
	assert_true(kernel.set_features == F_V1);
	net_free(n);
	expect(&kernel, "tap0- where0 err0- call0- kick0-");
}

static void test_features_of_the_kernel(void **state)
{
	static const uint64_t lacks[] = {F(MRG_RXBUF), F_EVENT, F_INDIRECT, F(MRG_RXBUF) | F_EVENT};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lacks); i++) {
		struct fake kernel;
		struct net *n;

		fake_init(&kernel, F_KERNEL & ~lacks[i]);
		n = net_build(&kernel);
		assert_true(n->net.vdev.offered == (F_ALL & ~lacks[i]));
		net_start(n, F_ALL & ~lacks[i], 3);
		assert_int_equal(kernel.q[1].backend, n->tap.fd);
		net_free(n);
	}
}

/* Kicks and frames are the kernel's: the loop does not even wake up. */
static void test_loop_sleeps(void **state)
{
	struct fake kernel;
	struct net *n;
	uint32_t id, len;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	net_offer(n, RX, 0, 2000);
	net_offer(n, TX, 0, 100);
	rig_write(&n->rig, VIRTIO_MMIO_QUEUE_NOTIFY, RX);
	rig_write(&n->rig, VIRTIO_MMIO_QUEUE_NOTIFY, TX);
	assert_int_equal(write(n->wire, "a frame", 7), 7);
	assert_false(rig_turn(&n->rig, 0));
	assert_false(ring_take(&n->ring[TX], &id, &len));
	/* nor does a kick that it fetched just before the kernel began */
	n->net.vdev.ops->queue_notify(&n->net.vdev, TX);
	n->net.vdev.ops->queue_notify(&n->net.vdev, RX);
	assert_false(ring_take(&n->ring[TX], &id, &len));
	assert_false(ring_take(&n->ring[RX], &id, &len));
	/* the control queue is the device's own */
	ring_desc(&n->ring[CT], 0, DATA_GPA, 2, VRING_DESC_F_NEXT, 1);
	ring_desc(&n->ring[CT], 1, DATA_GPA + 64, 1, VRING_DESC_F_WRITE, 0);
	ring_offer(&n->ring[CT], 0);
	net_kick(n, CT);
	assert_true(ring_take(&n->ring[CT], &id, &len));
	net_free(n);
}

/* The driver asks why it was interrupted, and finds the reason once. */
static void test_interrupts(void **state)
{
	struct fake kernel;
	struct net *n;
	unsigned int queue;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	rig_edges(&n->rig);
	assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	for (queue = 0; queue < 2; queue++) {
		net_offer(n, queue, 0, 100);
		fake_use(&kernel, queue, DATA_GPA, 60);
		assert_int_equal(rig_edges(&n->rig), 1);
		assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS),
				 VIRTIO_MMIO_INT_VRING);
		assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS),
				 VIRTIO_MMIO_INT_VRING);
		rig_write(&n->rig, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
		assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	}
	/* together with a change of the config space */
	net_offer(n, RX, 1, 100);
	fake_use(&kernel, RX, DATA_GPA, 60);
	virtio_net_announce(&n->net);
	assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS),
			 VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	net_free(n);
}

/* Paused, the kernel has let go; what it did is in the registers, as if we had done it. */
static void test_pause(void **state)
{
	const struct virtq_regs *r;
	struct fake kernel;
	struct net *n;
	uint32_t id, len;
	uint16_t i;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	for (i = 0; i < 5; i++) {
		net_offer(n, RX, i, 100);
		if (i < 3)
			fake_use(&kernel, RX, DATA_GPA, 60);
	}
	virtio_mmio_pause(&n->rig.m);
	expect(&kernel, STOP_QUEUES);
	assert_int_equal(kernel.q[RX].backend, -1);
	assert_int_equal(kernel.q[RX].kick, -1);
	assert_int_equal(kernel.q[RX].irq, -1);
	r = &n->rig.m.regs.queue[RX];
	assert_int_equal(r->last_avail, 3);
	assert_int_equal(r->used_idx, 3);
	assert_int_equal(r->signalled, 3);
	assert_int_equal(n->rig.m.regs.queue[TX].last_avail, 0);
	/* nobody read the reason yet: it is the device's to keep */
	assert_int_equal(n->rig.m.regs.interrupt_status, VIRTIO_MMIO_INT_VRING);
	net_kick(n, RX);
	net_kick(n, TX);
	expect(&kernel, "");
	/* twice is once, also both ways round */
	virtio_mmio_pause(&n->rig.m);
	expect(&kernel, "");
	virtio_mmio_resume(&n->rig.m);
	net_settle(n);
	expect(&kernel, "memory features " START_QUEUES);
	assert_int_equal(kernel.q[RX].base, 3);
	fake_use(&kernel, RX, DATA_GPA, 60);
	for (i = 0; i < 4; i++) {
		assert_true(ring_take(&n->ring[RX], &id, &len));
		assert_int_equal(id, i);
	}
	net_free(n);
}

/* The driver resets the device and sets it up anew; the machine goes away under a device in use. */
static void test_reset(void **state)
{
	struct fake kernel;
	struct net *n;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	net_offer(n, RX, 0, 100);
	fake_use(&kernel, RX, DATA_GPA, 60);
	rig_write(&n->rig, VIRTIO_MMIO_STATUS, 0);
	expect(&kernel, STOP_QUEUES);
	assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	virtio_mmio_pause(&n->rig.m);
	virtio_mmio_resume(&n->rig.m);
	net_settle(n);
	expect(&kernel, "");
	net_start(n, F_ALL, 2);
	expect(&kernel, "memory features " START_QUEUES);
	assert_int_equal(kernel.q[RX].base, 0);
	net_free(n);
	expect(&kernel, STOP_QUEUES);
}

/* A set-up while the guest is paused, as after its arrival: nothing runs before it does. */
static void test_no_start_while_paused(void **state)
{
	struct fake kernel;
	struct net *n;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_build(&kernel);
	virtio_mmio_pause(&n->rig.m);
	net_start(n, F_ALL, 3);
	expect(&kernel, "");
	virtio_mmio_resume(&n->rig.m);
	expect(&kernel, "memory features " START_QUEUES);
	net_free(n);
}

static void leave(struct net *from, struct wbuf *w)
{
	virtio_mmio_pause(&from->rig.m);
	virtio_mmio_save(&from->rig.m, 0, w);
}

/* With memory and rings of @from */
static void arrive(const struct net *from, struct net *to, const struct wbuf *w)
{
	struct rbuf r = rbuf_of(w->data, w->len);
	struct err e = {0};
	unsigned int q;

	memcpy(ram_at(&to->rig.ram, RAM_GPA), ram_at(&from->rig.ram, RAM_GPA), RAM_SIZE);
	for (q = 0; q < 3; q++) {
		to->ring[q] = from->ring[q];
		to->ring[q].ram = &to->rig.ram;
	}
	virtio_mmio_pause(&to->rig.m);
	if (virtio_mmio_load(&to->rig.m, 0, &r, &e))
		fail_msg("%s", e.text);
	assert_int_equal(r.at, r.len);
	virtio_mmio_resume(&to->rig.m);
	net_settle(to);
}

static void move(struct net *from, struct net *to)
{
	struct wbuf w = {0};

	leave(from, &w);
	arrive(from, to, &w);
	wbuf_fini(&w);
}

/* From vhost to a host without, and on to one with it: each goes on where the last was. */
static void test_move(void **state)
{
	struct fake first, last;
	struct net *a, *b, *c;
	uint8_t frame[200] = {0};
	uint32_t id, len;
	uint16_t i;

	(void)state;
	fake_init(&first, F_KERNEL);
	fake_init(&last, F_KERNEL);
	a = net_new(&first);
	b = net_build(NULL);
	c = net_build(&last);
	for (i = 0; i < 6; i++)
		net_offer(a, RX, i, 200);
	fake_use(&first, RX, DATA_GPA, 60);
	fake_use(&first, RX, DATA_GPA, 60);
	move(a, b);
	assert_int_equal(b->rig.m.regs.interrupt_status, VIRTIO_MMIO_INT_VRING);
	assert_int_equal(write(b->wire, frame, 72), 72);
	net_settle(b);
	move(b, c);
	assert_int_equal(last.q[RX].base, 3);
	fake_use(&last, RX, DATA_GPA, 60);
	for (i = 0; i < 4; i++) {
		assert_true(ring_take(&c->ring[RX], &id, &len));
		assert_int_equal(id, i);
	}
	assert_false(ring_take(&c->ring[RX], &id, &len));
	net_free(a);
	net_free(b);
	net_free(c);
}

/* The machine built anew in one process: the descriptor of vhost stays, memory may be elsewhere. */
static void test_rebuild(void **state)
{
	struct fake kernel;
	struct net *a, *b;
	struct wbuf w = {0};
	uint32_t id, len;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	a = net_new(&kernel);
	net_offer(a, RX, 0, 100);
	net_offer(a, RX, 1, 100);
	fake_use(&kernel, RX, DATA_GPA, 60);
	leave(a, &w);
	b = net_build(&kernel);
	kernel.trace[0] = '\0';
	arrive(a, b, &w);
	expect(&kernel, "memory features " START_QUEUES);
	net_free(a); /* which has nothing to stop any more */
	expect(&kernel, "");
	assert_ptr_equal((void *)(uintptr_t)kernel.region_hva, ram_at(&b->rig.ram, RAM_GPA));
	assert_int_equal(kernel.q[RX].base, 1);
	fake_use(&kernel, RX, DATA_GPA, 60);
	assert_true(ring_take(&b->ring[RX], &id, &len) && id == 0);
	assert_true(ring_take(&b->ring[RX], &id, &len) && id == 1);
	net_free(b);
	wbuf_fini(&w);
}

/* ---- the log ---- */

static bool take_mark(struct ram_marks *m, gpa_t gpa)
{
	const bool marked = ram_marked(m, gpa);

	memset(m, 0, sizeof(*m));
	return marked;
}

static void test_log(void **state)
{
	struct guest_mem_writer *w;
	struct ram_marks marks;
	struct fake kernel;
	struct net *n;
	uint16_t i;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	w = n->rig.ram.gm.writers;
	for (i = 0; i < 8; i++)
		net_offer(n, RX, i, 100);
	ram_mark(&n->rig.ram, &marks);
	w->harvest(w);
	fake_use(&kernel, RX, DATA_GPA, 60); /* nobody asks yet */
	assert_int_equal(w->log(w, true), 0);
	expect(&kernel, "log features+log addr0+log addr1+log");
	w->harvest(w);
	assert_false(ram_marked(&marks, DATA_GPA));

	fake_use(&kernel, RX, DATA_GPA + 0x1000, 60);
	assert_false(ram_marked(&marks, DATA_GPA + 0x1000));
	w->harvest(w);
	assert_true(ram_marked(&marks, n->ring[RX].used));
	assert_false(ram_marked(&marks, DATA_GPA));
	assert_false(ram_marked(&marks, DATA_GPA + 0x2000));
	assert_true(take_mark(&marks, DATA_GPA + 0x1000));
	w->harvest(w); /* what was taken is not there again */
	assert_false(ram_marked(&marks, DATA_GPA + 0x1000));
	/* the last page of memory, and one beyond it that no guest has */
	fake_log(&kernel, RAM_END - 1, 1);
	w->harvest(w);
	assert_true(take_mark(&marks, RAM_END - 1));

	/* what was written in the last moment is there after the pause; then it goes on */
	fake_use(&kernel, RX, DATA_GPA + 0x3000, 60);
	kernel.trace[0] = '\0';
	virtio_mmio_pause(&n->rig.m);
	w->harvest(w);
	assert_true(take_mark(&marks, DATA_GPA + 0x3000));
	virtio_mmio_resume(&n->rig.m);
	expect(&kernel,
	       STOP_QUEUES " memory log features+log num0 base0 addr0+log err0 call0 kick0 "
			   "tap0 num1 base1 addr1+log err1 call1 kick1 tap1");
	fake_use(&kernel, RX, DATA_GPA + 0x4000, 60);
	w->harvest(w);
	assert_true(take_mark(&marks, DATA_GPA + 0x4000));

	assert_int_equal(w->log(w, false), 0);
	expect(&kernel, "features addr0 addr1");
	assert_true(!(kernel.set_features & F_LOG) && !kernel.q[0].addr.flags);
	w->harvest(w);
	assert_int_equal(w->log(w, false), 0);
	expect(&kernel, "");
	net_free(n);
}

/* Begun before there is a driver, and not ended when the machine goes */
static void test_log_without_driver(void **state)
{
	struct guest_mem_writer *w;
	struct ram_marks marks;
	struct fake kernel;
	struct net *n;

	(void)state;
	fake_init(&kernel, F_KERNEL);
	n = net_build(&kernel);
	w = n->rig.ram.gm.writers;
	ram_mark(&n->rig.ram, &marks);
	assert_int_equal(w->log(w, true), 0);
	expect(&kernel, "");
	w->harvest(w);
	net_start(n, F_ALL, 3);
	assert_true(kernel.set_features & F_LOG);
	net_offer(n, RX, 0, 100);
	fake_use(&kernel, RX, DATA_GPA, 60);
	w->harvest(w);
	assert_true(ram_marked(&marks, DATA_GPA));
	net_free(n);
}

static void test_log_refused(void **state)
{
	unsigned int at;

	(void)state;
	log_set_level(LOG_ERR);
	for (at = 1; at <= 4; at++) {
		struct guest_mem_writer *w;
		struct fake kernel;
		struct net *n;

		fake_init(&kernel, F_KERNEL);
		n = net_new(&kernel);
		w = n->rig.ram.gm.writers;
		kernel.fail_at = at;
		assert_int_equal(w->log(w, true), -EFAULT);
		kernel.fail_at = 0;
		assert_null(n->net.vhost.log);
		assert_true(!(kernel.set_features & F_LOG) && !kernel.q[0].addr.flags &&
			    !kernel.q[1].addr.flags);
		net_free(n);
	}
	log_set_level(LOG_INFO);
}

/* ---- what goes wrong ---- */

static void signal_error(struct net *n)
{
	const uint64_t one = 1;

	assert_int_equal(write(n->kernel->q[TX].err, &one, sizeof(one)), sizeof(one));
	net_settle(n);
}

static void test_driver_breaks_a_rule(void **state)
{
	struct fake kernel;
	struct net *n;

	(void)state;
	log_set_level(LOG_ERR);
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	signal_error(n);
	expect(&kernel, STOP_QUEUES);
	assert_true(rig_status(&n->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	virtio_mmio_pause(&n->rig.m);
	virtio_mmio_resume(&n->rig.m);
	net_settle(n);
	expect(&kernel, "");
	net_start(n, F_ALL, 3);
	expect(&kernel, "memory features " START_QUEUES);
	/* a command without a place for the answer: the whole device stands still */
	ring_desc(&n->ring[CT], 0, DATA_GPA, 2, 0, 0);
	ring_offer(&n->ring[CT], 0);
	net_kick(n, CT);
	assert_true(rig_status(&n->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	expect(&kernel, STOP_QUEUES);
	log_set_level(LOG_INFO);
	net_free(n);
}

/* The kernel's error is the interface's that is gone, not the driver's. */
static void test_lost_tap(void **state)
{
	struct fake kernel;
	struct net *n;

	(void)state;
	log_set_level(LOG_ERR);
	fake_init(&kernel, F_KERNEL);
	n = net_new(&kernel);
	close(n->wire);
	n->wire = -1;
	signal_error(n);
	assert_int_equal(rig_status(&n->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
	log_set_level(LOG_INFO);
	net_free(n);
}

/* Whatever request is refused: the guest has a network, and the kernel nothing of it. */
static void test_refused(void **state)
{
	unsigned int at;

	(void)state;
	log_set_level(LOG_ERR);
	for (at = 1; at <= 16; at++) {
		struct fake kernel;
		struct net *n;
		uint8_t got[128];
		uint32_t id, len;

		fake_init(&kernel, F_KERNEL);
		n = net_build(&kernel);
		kernel.fail_at = at;
		net_start(n, F_ALL, 3);
		kernel.fail_at = 0;
		assert_true(n->net.vhost_refused && !n->net.vhost.running);
		assert_true(kernel.q[0].backend < 0 && kernel.q[1].backend < 0);
		kernel.trace[0] = '\0';
		memset(ram_at(&n->rig.ram, DATA_GPA), 0, 100);
		net_offer(n, TX, 0, 100);
		net_kick(n, TX);
		assert_true(ring_take(&n->ring[TX], &id, &len));
		assert_int_equal(read(n->wire, got, sizeof(got)), 100);
		/* not tried again */
		virtio_mmio_pause(&n->rig.m);
		virtio_mmio_resume(&n->rig.m);
		expect(&kernel, "");
		net_free(n);
	}
	log_set_level(LOG_INFO);
}

/* Joined segments for a driver that knows them are not given to one that does not. */
static void test_frames_of_an_earlier_driver(void **state)
{
	static const struct {
		uint64_t features;
		bool kept;
	} cases[] = {{F_ALL, true}, {F_ALL & ~F(GUEST_TSO6), false}, {F_V1, false}};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fake kernel;
		struct net *n;
		uint8_t got[128];

		fake_init(&kernel, F_KERNEL);
		n = net_build(&kernel);
		assert_int_equal(write(n->wire, "frame 1", 7), 7);
		assert_int_equal(write(n->wire, "frame 2", 7), 7);
		net_start(n, cases[i].features, 2);
		assert_int_equal(read(n->tap.fd, got, sizeof(got)), cases[i].kept ? 7 : -1);
		net_free(n);
	}
}

/* ---- opening ---- */

struct opening {
	struct vhost vhost;
	int get, owner;
	uint64_t features;
};

static int opening_call(const struct vhost *v, unsigned long request, void *arg)
{
	const struct opening *o = container_of(v, struct opening, vhost);

	if (request == VHOST_SET_OWNER)
		return o->owner;
	assert_int_equal(request, VHOST_GET_FEATURES);
	memcpy(arg, &o->features, sizeof(o->features));
	return o->get;
}

static void test_setup(void **state)
{
	static const struct {
		int get, owner, ret;
		uint64_t features;
		const char *says[3];
	} cases[] = {
		{0, 0, 0, F_KERNEL, {0}},
		{-ENOTTY, 0, -ENOTTY, F_KERNEL, {"no vhost-net", "vhostfd=N", "leave vhost out"}},
		{0, 0, -ENOTSUP, F_KERNEL & ~F_LOG, {"lacks 0x4000000", "newer kernel"}},
		{0, 0, -ENOTSUP, F_KERNEL & ~F_V1, {"lacks 0x100000000", "newer kernel"}},
		{0, -EBUSY, -EBUSY, F_KERNEL, {"vhostfd", "in use already", "each -n"}},
		{0, -ENOMEM, -ENOMEM, F_KERNEL, {"Cannot allocate memory", "leave vhost out"}},
	};
	size_t i, k;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct opening o = {.vhost = {.call = opening_call, .fd = -1},
				    .get = cases[i].get,
				    .owner = cases[i].owner,
				    .features = cases[i].features};
		struct err e = {0};

		assert_int_equal(vhost_setup(&o.vhost, &e), cases[i].ret);
		for (k = 0; k < ARRAY_SIZE(cases[i].says) && cases[i].says[k]; k++)
			if (!strstr(e.text, cases[i].says[k]))
				fail_msg("case %zu: '%s' is not in '%s'", i, cases[i].says[k],
					 e.text);
		assert_null(strchr(e.text, '\n'));
	}
}

static void test_open(void **state)
{
	struct vhost v;
	struct err e = {0};
	int fd = open("/dev/null", O_RDWR);

	(void)state;
	assert_int_equal(vhost_open(&v, fd, &e), -ENOTTY);
	assert_non_null(strstr(e.text, "no vhost-net"));
	vhost_close(&v);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over, and closed */
	e = (struct err) {0};
	assert_int_equal(vhost_open(&v, fd, &e), -EBADF);
	assert_non_null(strstr(e.text, "vhostfd="));
	vhost_close(&v);
	if (access("/dev/vhost-net", F_OK) == 0)
		return;
	e = (struct err) {0};
	assert_int_equal(vhost_open(&v, 0, &e), -ENOENT);
	assert_non_null(strstr(e.text, "modprobe vhost_net"));
	assert_non_null(strstr(e.text, "leave vhost out"));
	vhost_close(&v);
	vhost_close(&(struct vhost) {0});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start),
		cmocka_unit_test(test_start_of_less),
		cmocka_unit_test(test_features_of_the_kernel),
		cmocka_unit_test(test_loop_sleeps),
		cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_no_start_while_paused),
		cmocka_unit_test(test_move),
		cmocka_unit_test(test_rebuild),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_log_without_driver),
		cmocka_unit_test(test_log_refused),
		cmocka_unit_test(test_driver_breaks_a_rule),
		cmocka_unit_test(test_lost_tap),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_frames_of_an_earlier_driver),
		cmocka_unit_test(test_setup),
		cmocka_unit_test(test_open),
	};

	return cmocka_run_group_tests_name("vhost_net", tests, NULL, NULL);
}
