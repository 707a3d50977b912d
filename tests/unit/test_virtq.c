#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <cmocka.h>

#include "base/log.h"
#include "devices/virtio/virtq.h"
#include "echo_dev.h"
#include "migration/state/state.h"
#include "ring.h"

#define NUM	  8u
#define RING_GPA  RAM_GPA
#define TABLE_GPA (RAM_GPA + 0x10000)
#define OUT_GPA	  (RAM_GPA + 0x20000)
#define IN_GPA	  (RAM_GPA + 0x30000)

#define N VRING_DESC_F_NEXT
#define W VRING_DESC_F_WRITE
#define I VRING_DESC_F_INDIRECT

struct world {
	struct rig rig;
	struct ring ring;
	struct echo echo;
};

static void world_init(struct world *w, uint32_t num, uint64_t features)
{
	log_set_level(LOG_ERR);
	rig_prepare(&w->rig);
	echo_init(&w->echo);
	rig_init(&w->rig, &w->echo.vdev);
	ring_init(&w->ring, &w->rig.ram, RING_GPA, num);
	rig_start(&w->rig, &w->ring, features);
}

static void world_fini(struct world *w)
{
	rig_fini(&w->rig);
}

static bool world_broken(const struct world *w)
{
	return rig_status(&w->rig) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void world_kick(struct world *w)
{
	rig_write(&w->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (rig_turn(&w->rig, 0))
		;
}

static void test_state_tables(void **state)
{
	struct err e = {0};

	(void)state;
	if (state_check_tiling(virtq_state_fields, sizeof(struct virtq_regs), &e))
		fail_msg("%s", e.text);
}

/* One descriptor of a row, and what the device must make of the row's chain from head 0 on */
struct row_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define OK(name_, out_, in_, ...)                                                  \
	{                                                                          \
		.name = name_, .ok = true, .n_out = out_, .n_in = in_, __VA_ARGS__ \
	}
#define BAD(name_, ...)                    \
	{                                  \
		.name = name_, __VA_ARGS__ \
	}

static const struct chain_row {
	const char *name;
	bool ok;
	unsigned int n_out, n_in; /* of the iovecs, when ok */
	struct row_desc d[8];	  /* descriptor table */
	struct row_desc t[8];	  /* indirect table at TABLE_GPA */
	uint64_t without;	  /* features not negotiated */
	uint16_t head;		  /* what the avail ring says */
} chains[] = {
	OK("one out, one in", 1, 1, .d = {{OUT_GPA, 16, N, 1}, {IN_GPA, 16, W, 0}}),
	OK("in only", 0, 1, .d = {{IN_GPA, 16, W, 0}}),
	OK("out only", 1, 0, .d = {{OUT_GPA, 16, 0, 0}}),
	OK("first byte of RAM", 1, 0, .d = {{RAM_GPA, 1, 0, 0}}),
	OK("up to the last byte of RAM", 0, 1, .d = {{RAM_END - 16, 16, W, 0}}),
	OK("next counts only with its flag", 1, 0, .d = {{OUT_GPA, 16, 0, 999}}),
	OK("indices in any order", 2, 1,
	   .d = {{OUT_GPA, 1, N, 7},
		 {IN_GPA, 1, W, 0},
		 {0},
		 {0},
		 {0},
		 {0},
		 {0},
		 {OUT_GPA, 1, N, 1}}),
	OK("zero-length out is skipped", 0, 1, .d = {{OUT_GPA, 0, N, 1}, {IN_GPA, 16, W, 0}}),
	OK("zero-length address is not looked at", 0, 1,
	   .d = {{~0ULL, 0, N, 1}, {IN_GPA, 1, W, 0}}),
	OK("nothing but zero length", 0, 0, .d = {{OUT_GPA, 0, 0, 0}}),
	OK("indirect", 1, 1, .d = {{TABLE_GPA, 32, I, 0}},
	   .t = {{OUT_GPA, 16, N, 1}, {IN_GPA, 16, W, 0}}),
	OK("indirect, its write flag ignored", 1, 0, .d = {{TABLE_GPA, 16, I | W, 0}},
	   .t = {{OUT_GPA, 16, 0, 0}}),
	OK("direct, then indirect", 2, 1, .d = {{OUT_GPA, 16, N, 1}, {TABLE_GPA, 32, I, 0}},
	   .t = {{OUT_GPA, 16, N, 1}, {IN_GPA, 16, W, 0}}),
	OK("indirect of full size, used in part", 1, 0, .d = {{TABLE_GPA, NUM * 16, I, 0}},
	   .t = {{OUT_GPA, 16, 0, 0}}),

	BAD("loop of one", .d = {{OUT_GPA, 16, N, 0}}),
	BAD("loop of two", .d = {{OUT_GPA, 16, N, 1}, {OUT_GPA, 16, N, 0}}),
	BAD("loop of zero lengths", .d = {{OUT_GPA, 0, N, 1}, {OUT_GPA, 0, N, 0}}),
	BAD("loop in the indirect table", .d = {{TABLE_GPA, 32, I, 0}},
	    .t = {{OUT_GPA, 16, N, 1}, {OUT_GPA, 16, N, 0}}),
	BAD("direct and indirect together overlong",
	    .d = {{OUT_GPA, 1, N, 1}, {OUT_GPA, 1, N, 2}, {TABLE_GPA, NUM * 16, I, 0}},
	    .t = {{OUT_GPA, 1, N, 1},
		  {OUT_GPA, 1, N, 2},
		  {OUT_GPA, 1, N, 3},
		  {OUT_GPA, 1, N, 4},
		  {OUT_GPA, 1, N, 5},
		  {OUT_GPA, 1, N, 6},
		  {OUT_GPA, 1, 0, 0}}),
	BAD("next just outside the table", .d = {{OUT_GPA, 16, N, NUM}}),
	BAD("next far outside the table", .d = {{OUT_GPA, 16, N, 0xffff}}),
	BAD("next outside the indirect table", .d = {{TABLE_GPA, 32, I, 0}},
	    .t = {{OUT_GPA, 16, N, 2}, {0}, {OUT_GPA, 16, 0, 0}}),
	BAD("indirect in indirect", .d = {{TABLE_GPA, 16, I, 0}}, .t = {{TABLE_GPA, 16, I, 0}}),
	BAD("indirect with next", .d = {{TABLE_GPA, 16, I | N, 1}, {OUT_GPA, 1, 0, 0}}),
	BAD("indirect not negotiated", .d = {{TABLE_GPA, 16, I, 0}}, .t = {{OUT_GPA, 16, 0, 0}},
	    .without = F_INDIRECT),
	BAD("indirect table empty", .d = {{TABLE_GPA, 0, I, 0}}),
	BAD("indirect table length odd", .d = {{TABLE_GPA, 24, I, 0}}, .t = {{OUT_GPA, 1, 0, 0}}),
	BAD("indirect table below one entry", .d = {{TABLE_GPA, 15, I, 0}}),
	BAD("indirect table above the queue size", .d = {{TABLE_GPA, (NUM + 1) * 16, I, 0}},
	    .t = {{OUT_GPA, 1, 0, 0}}),
	BAD("indirect table huge", .d = {{TABLE_GPA, 0xfffffff0, I, 0}}),
	BAD("indirect table outside RAM", .d = {{RAM_END, 16, I, 0}}),
	BAD("indirect table ends outside RAM", .d = {{RAM_END - 16, 32, I, 0}}),
	BAD("buffer below RAM", .d = {{0, 16, 0, 0}}),
	BAD("buffer just below RAM", .d = {{RAM_GPA - 1, 1, 0, 0}}),
	BAD("buffer behind RAM", .d = {{RAM_END, 1, W, 0}}),
	BAD("buffer starts inside, ends outside", .d = {{RAM_END - 8, 16, W, 0}}),
	BAD("buffer one byte too long", .d = {{RAM_END - 16, 17, W, 0}}),
	BAD("buffer starts outside, ends inside", .d = {{RAM_GPA - 8, 16, W, 0}}),
	BAD("buffer wraps the address space", .d = {{~0ULL - 7, 16, W, 0}}),
	BAD("buffer of 4 GiB - 1", .d = {{RAM_GPA, 0xffffffff, W, 0}}),
	BAD("address sign bit", .d = {{1ULL << 63 | OUT_GPA, 16, 0, 0}}),
	BAD("readable behind writable", .d = {{IN_GPA, 16, W | N, 1}, {OUT_GPA, 16, 0, 0}}),
	BAD("readable behind writable, zero length",
	    .d = {{IN_GPA, 0, W | N, 1}, {OUT_GPA, 0, 0, 0}}),
	BAD("readable behind writable in the indirect table",
	    .d = {{IN_GPA, 16, W | N, 1}, {TABLE_GPA, 16, I, 0}}, .t = {{OUT_GPA, 16, 0, 0}}),
	BAD("head just outside the table", .d = {{OUT_GPA, 16, 0, 0}}, .head = NUM),
	BAD("head far outside the table", .d = {{OUT_GPA, 16, 0, 0}}, .head = 0xffff),
};

static void chain_build(const struct world *w, const struct chain_row *row)
{
	uint16_t i;

	for (i = 0; i < NUM; i++) {
		const struct row_desc *d = &row->d[i], *t = &row->t[i];

		ring_desc(&w->ring, i, d->addr, d->len, d->flags, d->next);
		ring_desc_at(&w->ring, TABLE_GPA, i, t->addr, t->len, t->flags, t->next);
	}
}

/* A broken device says so once, stays silent, and works again after a reset. */
static void check_recovery(struct world *w, const char *name)
{
	const unsigned int popped = w->echo.n_popped, notified = w->echo.n_notified;
	uint32_t id = 0, len = 0;

	if (!world_broken(w))
		fail_msg("%s: accepted", name);
	assert_int_equal(rig_read(&w->rig, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(rig_edges(&w->rig), 1);
	assert_int_equal(ring_used(&w->ring)->idx, 0);
	ring_init(&w->ring, &w->rig.ram, RING_GPA, NUM);
	ring_desc(&w->ring, 0, OUT_GPA, 16, 0, 0);
	ring_offer(&w->ring, 0);
	world_kick(w); /* not served before the reset */
	assert_int_equal(w->echo.n_popped, popped);
	assert_int_equal(w->echo.n_notified, notified);
	assert_int_equal(rig_edges(&w->rig), 0);
	rig_start(&w->rig, &w->ring, w->echo.vdev.offered);
	assert_false(world_broken(w));
	world_kick(w);
	assert_true(ring_take(&w->ring, &id, &len));
	assert_int_equal(rig_edges(&w->rig), 1);
}

static void test_chains(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(chains); i++) {
		const struct chain_row *row = &chains[i];
		struct world w;
		uint32_t id = 0, len = 0;

		world_init(&w, NUM, (F_V1 | F_EVENT | F_INDIRECT) & ~row->without);
		chain_build(&w, row);
		ring_offer(&w.ring, row->head);
		world_kick(&w);
		if (!row->ok) {
			assert_int_equal(w.echo.n_popped, 0);
			check_recovery(&w, row->name);
		} else {
			if (world_broken(&w) || !ring_take(&w.ring, &id, &len))
				fail_msg("%s: refused", row->name);
			assert_int_equal(id, 0);
			assert_int_equal(len, w.echo.chain.in_len);
			if (w.echo.chain.n_out != row->n_out || w.echo.chain.n_in != row->n_in)
				fail_msg("%s: %u out, %u in", row->name, w.echo.chain.n_out,
					 w.echo.chain.n_in);
		}
		world_fini(&w);
	}
}

/* The longest legal chain fills the queue; one more descriptor can only come by a loop. */
static void test_longest_chain(void **state)
{
	const uint32_t sizes[] = {1, 2, NUM, VIRTQ_SIZE_MAX};
	size_t s;

	(void)state;
	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		const uint16_t num = (uint16_t)sizes[s];
		struct world w;
		uint32_t id = 0, len = 0;
		uint16_t i;

		world_init(&w, num, F_V1 | F_INDIRECT);
		for (i = 0; i < num; i++) {
			ring_desc_at(&w.ring, TABLE_GPA, i, IN_GPA + i, 1, W | N,
				     (uint16_t)(i + 1));
			ring_desc(&w.ring, i, IN_GPA + i, 1, W | N, (uint16_t)(i + 1));
		}
		ring_desc(&w.ring, (uint16_t)(num - 1), IN_GPA, 1, W, 0);
		ring_offer(&w.ring, 0);
		world_kick(&w);
		assert_true(ring_take(&w.ring, &id, &len));
		assert_int_equal(w.echo.chain.n_in, num);
		assert_int_equal(len, num);

		ring_desc_at(&w.ring, TABLE_GPA, (uint16_t)(num - 1), IN_GPA, 1, W, 0);
		ring_desc(&w.ring, 0, TABLE_GPA, num * 16u, I, 0);
		ring_offer(&w.ring, 0);
		world_kick(&w);
		assert_true(ring_take(&w.ring, &id, &len));
		assert_int_equal(w.echo.chain.n_in, num);

		ring_desc_at(&w.ring, TABLE_GPA, (uint16_t)(num - 1), IN_GPA, 1, W | N, 0);
		ring_offer(&w.ring, 0);
		world_kick(&w);
		assert_true(world_broken(&w));
		world_fini(&w);
	}
}

/* Lengths add up to more than 32 bits although each fits: needs RAM that holds such a buffer. */
static void test_total_length(void **state)
{
	const uint64_t size = 3ULL << 30;
	struct world w;
	struct guest_mem_region big = {.gpa = 4 * GiB, .len_bytes = size};
	uint32_t id = 0, len = 0;

	(void)state;
	world_init(&w, NUM, F_V1);
	big.hva = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(big.hva, MAP_FAILED);
	assert_int_equal(guest_mem_add(&w.rig.ram.gm, &big), 0);
	ring_desc(&w.ring, 0, 4 * GiB, (uint32_t)size, N, 1);
	ring_desc(&w.ring, 1, 4 * GiB, 0xffffffff - (uint32_t)size, 0, 0);
	ring_offer(&w.ring, 0);
	world_kick(&w);
	assert_true(ring_take(&w.ring, &id, &len));
	assert_int_equal(w.echo.chain.out_len, 0xffffffff);
	ring_desc(&w.ring, 1, 4 * GiB, 0xffffffff - (uint32_t)size + 1, 0, 0);
	ring_offer(&w.ring, 0);
	world_kick(&w);
	assert_true(world_broken(&w));
	munmap(big.hva, size);
	world_fini(&w);
}

static const struct {
	const char *name;
	bool ok;
	uint16_t start, idx;
} jumps[] = {
	{"nothing", true, 0, 0},
	{"one", true, 0, 1},
	{"the whole queue", true, 0, NUM},
	{"the whole queue over the wrap", true, 0xfffe, 0xfffe + NUM - 0x10000},
	{"one more than the queue", false, 0, NUM + 1},
	{"backwards", false, 0, 0xffff},
	{"backwards over the wrap", false, 0xfffe, 0xfffd},
	{"half way round", false, 0, 0x8000},
};

static void test_avail_jump(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(jumps); i++) {
		struct world w;
		uint16_t n;

		world_init(&w, NUM, F_V1 | F_EVENT);
		for (n = 0; n < NUM; n++) {
			ring_desc(&w.ring, n, OUT_GPA, 16, 0, 0);
			ring_avail(&w.ring)->ring[n] = (uint16_t)((n + NUM - 2) % NUM);
		}
		w.rig.m.regs.queue[0].last_avail = jumps[i].start;
		ring_avail(&w.ring)->idx = jumps[i].idx;
		world_kick(&w);
		if (world_broken(&w) == jumps[i].ok)
			fail_msg("%s: status %#x", jumps[i].name, rig_status(&w.rig));
		assert_int_equal(w.echo.n_popped,
				 jumps[i].ok ? (uint16_t)(jumps[i].idx - jumps[i].start) : 0);
		world_fini(&w);
	}
}

static const struct {
	const char *name;
	bool ok;
	uint32_t num;
	gpa_t desc, avail, used;
} queues[] = {
	{"good", true, 8, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"size 1", true, 1, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"size at the maximum", true, 256, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"at the end of RAM", true, 8, RAM_END - 512, RAM_END - 256, RAM_END - 72},
	{"smallest alignments", true, 8, RAM_GPA + 16, RAM_GPA + 0x1002, RAM_GPA + 0x2004},
	{"size 0", false, 0, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"size 3", false, 3, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"size above the maximum", false, 512, RAM_GPA, RAM_GPA + 0x4000, RAM_GPA + 0x8000},
	{"size 65536", false, 65536, RAM_GPA, RAM_GPA + 0x100000, RAM_GPA + 0x200000},
	{"size 2^31", false, 1u << 31, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"size 2^32 - 1", false, 0xffffffff, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"table not aligned", false, 8, RAM_GPA + 8, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"avail not aligned", false, 8, RAM_GPA, RAM_GPA + 0x1001, RAM_GPA + 0x2000},
	{"used not aligned", false, 8, RAM_GPA, RAM_GPA + 0x1000, RAM_GPA + 0x2002},
	{"table at 0", false, 8, 0, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"table outside RAM", false, 8, RAM_END, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"table ends outside RAM", false, 8, RAM_END - 112, RAM_GPA + 0x1000, RAM_GPA + 0x2000},
	{"avail outside RAM", false, 8, RAM_GPA, RAM_END, RAM_GPA + 0x2000},
	{"avail ends outside RAM", false, 8, RAM_GPA, RAM_END - 20, RAM_GPA + 0x2000},
	{"used outside RAM", false, 8, RAM_GPA, RAM_GPA + 0x1000, RAM_END},
	{"used ends outside RAM", false, 8, RAM_GPA, RAM_GPA + 0x1000, RAM_END - 68},
	{"used wraps", false, 8, RAM_GPA, RAM_GPA + 0x1000, ~0ULL - 3},
};

static void test_activation(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(queues); i++) {
		struct ring g = {.num = queues[i].num,
				 .desc = queues[i].desc,
				 .avail = queues[i].avail,
				 .used = queues[i].used};
		struct world w;

		world_init(&w, NUM, F_V1);
		rig_edges(&w.rig);
		w.echo.n_activated = 0;
		rig_start(&w.rig, &g, F_V1 | F_EVENT);
		if (world_broken(&w) == queues[i].ok)
			fail_msg("%s: status %#x", queues[i].name, rig_status(&w.rig));
		assert_int_equal(w.echo.n_activated, queues[i].ok);
		assert_int_equal(rig_edges(&w.rig), !queues[i].ok);
		world_kick(&w);
		assert_int_equal(w.echo.n_notified, queues[i].ok);
		ring_init(&w.ring, &w.rig.ram, RING_GPA, NUM);
		rig_start(&w.rig, &w.ring, F_V1);
		assert_false(world_broken(&w));
		world_fini(&w);
	}
}

static void test_activation_fails(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, NUM, F_V1);
	w.echo.activate_result = -ENOMEM;
	rig_start(&w.rig, &w.ring, F_V1);
	assert_true(world_broken(&w));
	world_kick(&w);
	assert_int_equal(w.echo.n_notified, 0);
	world_fini(&w);
}

/* A head may come again only after it was used. */
static void test_head_twice(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, NUM, F_V1);
	w.echo.hold = true;
	ring_desc(&w.ring, 3, OUT_GPA, 16, 0, 0);
	ring_offer(&w.ring, 3);
	world_kick(&w);
	assert_int_equal(w.echo.n_popped, 1);
	assert_false(world_broken(&w));
	ring_offer(&w.ring, 3);
	world_kick(&w);
	assert_int_equal(w.echo.n_popped, 1);
	assert_true(world_broken(&w));
	/* a late answer of a broken device changes nothing in the guest */
	virtq_push(&w.echo.vdev.queue[0], 3, 0);
	assert_int_equal(ring_used(&w.ring)->idx, 0);
	world_fini(&w);
}

/* Several chains for one answer: back when they are not enough, visible together when they are. */
static void test_together(void **state)
{
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain c = {.iov = iov};
	struct world w;
	struct virtq *vq = &w.echo.vdev.queue[0];
	uint32_t id, len;

	(void)state;
	world_init(&w, NUM, F_V1 | F_EVENT);
	ring_desc(&w.ring, 0, IN_GPA, 16, W, 0);
	ring_desc(&w.ring, 1, IN_GPA + 16, 16, W, 0);
	ring_offer(&w.ring, 0);
	ring_offer(&w.ring, 1);
	assert_true(virtq_pop(vq, &c) && virtq_pop(vq, &c) && !virtq_pop(vq, &c));
	virtq_unpop(vq, 1);
	virtq_unpop(vq, 0);
	assert_int_equal(vq->regs->last_avail, 0);
	/* those two are known: a kick is wanted for the third, and none is pending */
	virtq_kicks_on_beyond(vq, 2);
	assert_int_equal(ring_avail_event(&w.ring), 2);
	assert_false(rig_turn(&w.rig, 0));
	virtq_kicks_on_beyond(vq, 1);
	assert_int_equal(ring_avail_event(&w.ring), 1);
	w.echo.budget = 0;
	assert_true(rig_turn(&w.rig, 0));
	/* the same heads again are no offence */
	assert_true(virtq_pop(vq, &c));
	assert_int_equal(c.head, 0);
	assert_true(virtq_pop(vq, &c));
	assert_int_equal(c.head, 1);
	virtq_fill(vq, 0, 16);
	virtq_fill(vq, 1, 7);
	assert_false(ring_take(&w.ring, &id, &len));
	virtq_publish(vq);
	assert_true(ring_take(&w.ring, &id, &len));
	assert_int_equal(id, 0);
	assert_true(ring_take(&w.ring, &id, &len));
	assert_int_equal(id, 1);
	assert_int_equal(len, 7);
	assert_false(world_broken(&w));
	world_fini(&w);
}

static void look_rewrite(struct echo *d, unsigned int queue)
{
	const struct world *w = d->look_arg;

	(void)queue;
	ring_desc(&w->ring, 0, ~0ULL, 0xffffffff, N, 0xffff);
	ring_desc(&w->ring, 1, RAM_END, 0xffffffff, W | N, 0xffff);
	ring_avail(&w->ring)->ring[0] = 0xffff;
}

/* What the driver changes after the pop has no effect on the request. */
static void test_change_after_pop(void **state)
{
	struct world w;
	uint32_t id = 0, len = 0;

	(void)state;
	world_init(&w, NUM, F_V1);
	w.echo.look = look_rewrite;
	w.echo.look_arg = &w;
	memset(ram_at(&w.rig.ram, OUT_GPA), 0x5a, 16);
	ring_desc(&w.ring, 0, OUT_GPA, 16, N, 1);
	ring_desc(&w.ring, 1, IN_GPA, 16, W, 0);
	ring_offer(&w.ring, 0);
	world_kick(&w);
	assert_true(ring_take(&w.ring, &id, &len));
	assert_int_equal(id, 0);
	assert_int_equal(len, 16);
	assert_memory_equal(ram_at(&w.rig.ram, OUT_GPA), ram_at(&w.rig.ram, IN_GPA), 16);
	world_fini(&w);
}

struct flipper {
	struct world *w;
	bool stop;
};

static void *flip(void *arg)
{
	struct flipper *f = arg;
	uint32_t n = 0;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		n++;
		ring_desc(&f->w->ring, 0, n & 1 ? IN_GPA : RAM_END - 8, n & 2 ? 8 : 0x10000,
			  n & 4 ? W : W | N, 0);
	}
	return NULL;
}

/* A second vCPU rewrites the descriptor all the time: each chain is refused or lies inside RAM. */
static void test_change_during_pop(void **state)
{
	struct world w;
	struct flipper f = {.w = &w};
	unsigned int refused = 0, i;
	pthread_t thread;

	(void)state;
	world_init(&w, NUM, F_V1);
	assert_int_equal(pthread_create(&thread, NULL, flip, &f), 0);
	for (i = 0; i < 20000; i++) {
		ring_offer(&w.ring, 0);
		echo_queue_notify(&w.echo.vdev, 0); /* writes to the whole of the chain */
		if (world_broken(&w)) {
			refused++;
			ring_avail(&w.ring)->idx = 0;
			rig_start(&w.rig, &w.ring, F_V1);
		}
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	print_message("# %u of %u chains refused\n", refused, i);
	world_fini(&w);
}

/* The 16-bit indices go round, with and without event indices. */
static void test_many_requests(void **state)
{
	const uint64_t features[] = {F_V1, F_V1 | F_EVENT};
	size_t f;

	(void)state;
	for (f = 0; f < ARRAY_SIZE(features); f++) {
		struct world w;
		unsigned int n = 0;
		uint16_t i;

		world_init(&w, NUM, features[f]);
		for (i = 0; i < NUM; i++)
			ring_desc(&w.ring, i, IN_GPA + i, 1u + i, W, 0);
		while (n < 140000) {
			const uint16_t batch = (uint16_t)(1 + n % NUM);
			uint32_t id = 0, len = 0;

			for (i = 0; i < batch; i++)
				ring_offer(&w.ring, (uint16_t)((n + i) % NUM));
			*ring_used_event(&w.ring) = w.ring.seen;
			world_kick(&w);
			assert_int_equal(rig_edges(&w.rig), 1);
			for (i = 0; i < batch; i++, n++) {
				assert_true(ring_take(&w.ring, &id, &len));
				assert_int_equal(id, n % NUM);
				assert_int_equal(len, 1 + id);
			}
			assert_false(ring_take(&w.ring, &id, &len));
			if (features[f] & F_EVENT)
				assert_int_equal(ring_avail_event(&w.ring),
						 ring_avail(&w.ring)->idx);
		}
		world_fini(&w);
	}
}

static const struct {
	const char *name;
	uint16_t start, n, event;
	bool interrupt;
} events[] = {
	{"next one", 0, 1, 0, true},
	{"last of the batch", 0, 4, 3, true},
	{"not yet", 0, 4, 4, false},
	{"long ago", 10, 4, 9, false},
	{"first of the batch", 10, 4, 10, true},
	{"far ahead", 10, 4, 0x8000, false},
	{"over the wrap, first", 0xfffe, 4, 0xfffe, true},
	{"over the wrap, before it", 0xfffe, 4, 0xffff, true},
	{"over the wrap, behind it", 0xfffe, 4, 0, true},
	{"over the wrap, last", 0xfffe, 4, 1, true},
	{"over the wrap, not yet", 0xfffe, 4, 2, false},
	{"over the wrap, long ago", 0xfffe, 4, 0xfffd, false},
	{"up to the wrap, last", 0xfffc, 4, 0xffff, true},
	{"up to the wrap, not yet", 0xfffc, 4, 0, false},
	{"nothing used", 5, 0, 5, false},
	{"nothing used, long ago", 5, 0, 4, false},
};

static void test_used_event(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(events); i++) {
		struct world w;
		struct virtq_regs *q;
		uint16_t n;

		world_init(&w, NUM, F_V1 | F_EVENT);
		q = &w.rig.m.regs.queue[0];
		q->last_avail = q->used_idx = q->signalled = events[i].start;
		ring_avail(&w.ring)->idx = ring_used(&w.ring)->idx = events[i].start;
		for (n = 0; n < events[i].n; n++) {
			ring_desc(&w.ring, n, OUT_GPA, 1, 0, 0);
			ring_offer(&w.ring, n);
		}
		*ring_used_event(&w.ring) = events[i].event;
		/* the flag means nothing with event indices */
		ring_avail(&w.ring)->flags = VRING_AVAIL_F_NO_INTERRUPT;
		world_kick(&w);
		assert_int_equal(ring_used(&w.ring)->idx,
				 (uint16_t)(events[i].start + events[i].n));
		if (rig_edges(&w.rig) != events[i].interrupt)
			fail_msg("%s: interrupt %s", events[i].name,
				 events[i].interrupt ? "missing" : "not wanted");
		world_fini(&w);
	}
}

static void look_flags(struct echo *d, unsigned int queue)
{
	const struct world *w = d->look_arg;

	(void)queue;
	assert_int_equal(ring_used(&w->ring)->flags, VRING_USED_F_NO_NOTIFY);
}

static void test_flags(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, NUM, F_V1);
	w.echo.look = look_flags;
	w.echo.look_arg = &w;
	ring_desc(&w.ring, 0, OUT_GPA, 1, 0, 0);
	ring_offer(&w.ring, 0);
	world_kick(&w);
	assert_int_equal(w.echo.n_popped, 1);
	assert_int_equal(ring_used(&w.ring)->flags, 0);
	assert_int_equal(rig_edges(&w.rig), 1);
	ring_avail(&w.ring)->flags = VRING_AVAIL_F_NO_INTERRUPT;
	ring_offer(&w.ring, 0);
	world_kick(&w);
	assert_int_equal(w.echo.n_popped, 2);
	assert_int_equal(rig_edges(&w.rig), 0);
	world_fini(&w);
}

/* What a device leaves in the ring comes up again from the loop, without a kick of the driver. */
static void test_left_over(void **state)
{
	struct world w;
	uint16_t i;

	(void)state;
	world_init(&w, NUM, F_V1 | F_EVENT);
	w.echo.budget = 3;
	for (i = 0; i < NUM; i++) {
		ring_desc(&w.ring, i, OUT_GPA, 1, 0, 0);
		ring_offer(&w.ring, i);
	}
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	assert_true(rig_turn(&w.rig, 0));
	assert_int_equal(w.echo.n_popped, 3);
	assert_true(rig_turn(&w.rig, 0));
	assert_int_equal(w.echo.n_popped, 6);
	assert_true(rig_turn(&w.rig, 0));
	assert_int_equal(w.echo.n_popped, 8);
	assert_false(rig_turn(&w.rig, 0));
	world_fini(&w);
}

/* A queue that the driver did not set ready is not touched, whatever it kicks. */
static void test_unused_queue(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, NUM, F_V1);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	while (rig_turn(&w.rig, 0))
		;
	assert_int_equal(w.echo.n_notified, 1);
	assert_int_equal(w.echo.n_popped, 0);
	assert_false(world_broken(&w));
	world_fini(&w);
}

/* Each page that the device's side changes is marked, with and without event indices. */
static void test_marks(void **state)
{
	static uint8_t before[RAM_SIZE];
	const struct {
		const char *name;
		uint64_t features;
		bool hold;
	} cases[] = {
		{"flags", F_V1, false},
		{"event index", F_V1 | F_EVENT, false},
		{"taken and not given back", F_V1, true},
	};
	size_t i, page;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned int changed = 0;
		struct ram_marks marks;
		struct world w;

		world_init(&w, NUM, cases[i].features);
		w.echo.hold = cases[i].hold;
		memset(ram_at(&w.rig.ram, OUT_GPA), 0x5a, 16);
		ring_desc(&w.ring, 0, OUT_GPA, 16, N, 1);
		ring_desc(&w.ring, 1, IN_GPA + 4090, 4096, W | N, 2);
		ring_desc(&w.ring, 2, RAM_END - 1, 1, W, 0);
		ring_offer(&w.ring, 0);
		memcpy(before, ram_at(&w.rig.ram, RAM_GPA), RAM_SIZE);
		ram_mark(&w.rig.ram, &marks);
		world_kick(&w);
		if (cases[i].hold) { /* a request that is under way when the device is reset */
			echo_answer(&w.echo);
			virtq_reset(&w.echo.vdev.queue[0]);
		}
		for (page = 0; page < RAM_SIZE; page += 4096) {
			if (memcmp(before + page, ram_at(&w.rig.ram, RAM_GPA + page), 4096) == 0)
				continue;
			changed++;
			if (!ram_marked(&marks, RAM_GPA + page))
				fail_msg("%s: page at %#zx is not marked", cases[i].name, page);
		}
		/* three of the buffers, and the ring if it was used */
		assert_int_equal(changed, cases[i].hold ? 3 : 4);
		assert_false(ram_marked(&marks, OUT_GPA));
		assert_false(ram_marked(&marks, IN_GPA + 8192));
		world_fini(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_tables),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_longest_chain),
		cmocka_unit_test(test_total_length),
		cmocka_unit_test(test_avail_jump),
		cmocka_unit_test(test_activation),
		cmocka_unit_test(test_activation_fails),
		cmocka_unit_test(test_head_twice),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_change_after_pop),
		cmocka_unit_test(test_change_during_pop),
		cmocka_unit_test(test_many_requests),
		cmocka_unit_test(test_used_event),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_left_over),
		cmocka_unit_test(test_unused_queue),
		cmocka_unit_test(test_marks),
	};

	return cmocka_run_group_tests_name("virtq", tests, NULL, NULL);
}
