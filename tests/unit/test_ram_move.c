/*
 * Sender and receiver of guest RAM on socket pairs: every pattern arrives, also while a thread goes
 * on writing, with a dirty log that stands in for KVM's; and what goes wrong is seen on both sides.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/ram/dirty_log.h"
#include "migration/ram/recv.h"
#include "migration/ram/send.h"

#define PAGES	 (4096 + 77) /* the last word is not full */
#define LOW	 2048
#define CHANNELS 3

/* KVM's dirty log, without KVM: who writes a page through the rig sets its bit */
struct fake {
	uint64_t bits[2][PAGES / 64 + 1];
	unsigned int clears;
};

struct rig {
	struct fake fake;
	struct guest_mem gm;
	struct dirty_log log;
	int src_fd, dst_fd, cancel_fd;
	uint8_t *src, *dst;
	unsigned int n;
	int pair[CHANNELS][2];
	struct ram_send send;
	struct ram_recv recv;
	struct migrate_progress progress;
};

static int fake_watch(void *ctx, uint32_t slot, const struct guest_mem_region *r, bool on)
{
	struct fake *f = ctx;

	(void)r;
	memset(f->bits[slot], on ? 0xff : 0, sizeof(f->bits[slot]));
	return 0;
}

static int fake_get(void *ctx, uint32_t slot, uint64_t *bits)
{
	struct fake *f = ctx;
	const size_t n = slot ? (PAGES - LOW + 63) / 64 : LOW / 64;
	size_t i;

	for (i = 0; i < n; i++)
		bits[i] = __atomic_load_n(&f->bits[slot][i], __ATOMIC_SEQ_CST);
	return 0;
}

static int fake_clear(void *ctx, uint32_t slot, uint64_t first, uint32_t n, const uint64_t *bits)
{
	struct fake *f = ctx;
	const uint64_t end = slot ? PAGES - LOW : LOW;
	uint32_t i;

	/* what KVM asks for */
	if (first % 64 || first + n > end || (n % 64 && first + n != end))
		return -EINVAL;
	for (i = 0; i < (n + 63) / 64; i++)
		__atomic_fetch_and(&f->bits[slot][first / 64 + i], ~bits[i], __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&f->clears, 1, __ATOMIC_RELAXED);
	return 0;
}

static const struct dirty_log_ops fake_ops = {
	.watch = fake_watch, .get = fake_get, .clear = fake_clear};

/* As a vCPU: the log knows before the write is done */
static void guest_write(struct rig *r, uint64_t page, uint8_t value)
{
	const uint32_t slot = page >= LOW;
	const uint64_t i = slot ? page - LOW : page;

	memset(r->src + page * GUEST_PAGE, value, GUEST_PAGE);
	__atomic_fetch_or(&r->fake.bits[slot][i / 64], 1ULL << i % 64, __ATOMIC_SEQ_CST);
}

static uint8_t *make_ram(int *fd)
{
	void *p;

	*fd = memfd_create("ram", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)PAGES * GUEST_PAGE), 0);
	p = mmap(NULL, (size_t)PAGES * GUEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void rig_init(struct rig *r, unsigned int n)
{
	const uint64_t low = (uint64_t)LOW * GUEST_PAGE;
	struct guest_mem_region a = {.gpa = 0, .len_bytes = low};
	struct guest_mem_region b = {.gpa = 1ULL << 32, .fd_offset = low};
	unsigned int i;

	memset(r, 0, sizeof(*r));
	r->n = n;
	r->src = make_ram(&r->src_fd);
	r->dst = make_ram(&r->dst_fd);
	r->cancel_fd = eventfd(0, EFD_CLOEXEC);
	a.hva = r->src;
	b.hva = r->src + low;
	b.len_bytes = (uint64_t)PAGES * GUEST_PAGE - low;
	assert_int_equal(guest_mem_add(&r->gm, &a), 0);
	assert_int_equal(guest_mem_add(&r->gm, &b), 0);
	assert_int_equal(dirty_log_init(&r->log, &r->gm, &fake_ops, &r->fake, NULL), 0);
	for (i = 0; i < n; i++)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, r->pair[i]), 0);
}

static void close_side(struct rig *r, unsigned int side)
{
	unsigned int i;

	for (i = 0; i < r->n; i++) {
		if (r->pair[i][side] >= 0)
			close(r->pair[i][side]);
		r->pair[i][side] = -1;
	}
}

static void start_send(struct rig *r, unsigned int stall_ms)
{
	int fds[CHANNELS];
	struct ram_send_config c = {
		.map = r->src,
		.hole_fd = r->src_fd,
		.log = &r->log,
		.fds = fds,
		.n = r->n,
		.cancel_fd = r->cancel_fd,
		.stall_ms = stall_ms,
		.progress = &r->progress,
	};
	unsigned int i;

	for (i = 0; i < r->n; i++)
		fds[i] = r->pair[i][0];
	assert_int_equal(dirty_log_start(&r->log, NULL), 0);
	assert_int_equal(ram_send_init(&r->send, &c, NULL), 0);
}

static void start_recv(struct rig *r, bool by_map, unsigned int stall_ms)
{
	int fds[CHANNELS];
	struct ram_recv_config c = {
		.map = r->dst,
		.fd = by_map ? -1 : r->dst_fd,
		.n_pages = PAGES,
		.fds = fds,
		.n = r->n,
		.cancel_fd = -1,
		.stall_ms = stall_ms,
	};
	unsigned int i;

	for (i = 0; i < r->n; i++)
		fds[i] = r->pair[i][1];
	assert_int_equal(ram_recv_start(&r->recv, &c, NULL), 0);
}

static void rig_fini(struct rig *r)
{
	ram_send_fini(&r->send);
	ram_recv_fini(&r->recv);
	dirty_log_fini(&r->log);
	close_side(r, 0);
	close_side(r, 1);
	munmap(r->src, (size_t)PAGES * GUEST_PAGE);
	munmap(r->dst, (size_t)PAGES * GUEST_PAGE);
	close(r->src_fd);
	close(r->dst_fd);
	close(r->cancel_fd);
}

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void fill_all(struct rig *r)
{
	uint64_t i;

	for (i = 0; i < (uint64_t)PAGES * GUEST_PAGE / 8; i++)
		put_le64(r->src + i * 8, (i + 1) * 0x9e3779b97f4a7c15);
}

static void fill_zero(struct rig *r)
{
	memset(r->src, 0, (size_t)PAGES * GUEST_PAGE);
}

static void fill_none(struct rig *r)
{
	(void)r;
}

static void fill_sparse(struct rig *r)
{
	uint64_t i;

	for (i = 5; i < PAGES; i += 1 + i % 300)
		memset(r->src + i * GUEST_PAGE + i, 7, 9);
	r->src[(size_t)PAGES * GUEST_PAGE - 1] = 1;
}

static void test_patterns(void **state)
{
	const struct {
		const char *name;
		void (*fill)(struct rig *);
		bool sends, reads;
	} cases[] = {
		{"random", fill_all, true, true},
		{"touched, zero", fill_zero, false, true},
		{"never touched", fill_none, false, false},
		{"sparse", fill_sparse, true, true},
	};
	unsigned int i, n, by_map;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		for (n = 1; n <= CHANNELS; n += 2)
			for (by_map = 0; by_map < 2; by_map++) {
				struct ram_round round;
				struct rig r;

				rig_init(&r, n);
				cases[i].fill(&r);
				start_send(&r, 5000);
				start_recv(&r, by_map, 5000);
				assert_int_equal(
					ram_send_round(&r.send, RAM_ROUND_FIRST, &round, NULL), 0);
				assert_int_equal(round.pages + round.zero_pages + round.hole_pages,
						 PAGES);
				assert_int_equal(round.pages > 0, cases[i].sends);
				/*
				 * all of it was counted as it went, but for the ends of the round
				 */
				assert_int_equal(r.progress.done, (uint64_t)PAGES * GUEST_PAGE);
				assert_int_equal(r.progress.bytes + n * RAM_HEAD_BYTES,
						 round.bytes);
				assert_int_equal(round.hole_pages < PAGES, cases[i].reads);
				assert_int_equal(
					ram_send_round(&r.send, RAM_ROUND_LAST, &round, NULL), 0);
				assert_int_equal(round.pages + round.zero_pages, 0);
				assert_int_equal(ram_recv_join(&r.recv, NULL), 0);
				/* a page that was not sent was not touched either */
				if (!cases[i].reads) {
					assert_int_equal(blocks(r.src_fd), 0);
					assert_int_equal(blocks(r.dst_fd), 0);
				}
				if (memcmp(r.src, r.dst, (size_t)PAGES * GUEST_PAGE) != 0)
					fail_msg("%s, %u channels: differs", cases[i].name, n);
				rig_fini(&r);
			}
}

struct writer {
	struct rig *rig;
	bool stop;
};

static void *write_on(void *arg)
{
	struct writer *w = arg;
	uint64_t seed = 1, i = 0;

	while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		if (++i % 4) {
			/* now and then a page becomes zero again */
			guest_write(w->rig, (seed >> 33) % PAGES, (uint8_t)(seed >> 60));
		} else {
			uint8_t *at = w->rig->src + (seed >> 33) % PAGES * GUEST_PAGE;

			put_le64(at + 128, seed);
			guest_mem_mark(&w->rig->gm, at + 128, 8);
		}
	}
	return NULL;
}

static void test_guest_writes_on(void **state)
{
	struct ram_round round;
	struct writer w = {0};
	pthread_t thread;
	struct rig r;
	uint64_t left, pages = 0, zero_pages = 0;
	int i;

	(void)state;
	rig_init(&r, CHANNELS);
	fill_sparse(&r);
	start_send(&r, 5000);
	start_recv(&r, false, 5000);
	w.rig = &r;
	assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
	/* until enough was written under the sender's hands, whoever gets the processor when */
	for (i = 0; i < 12 || pages < 3 * PAGES || !zero_pages; i++) {
		assert_int_equal(ram_send_round(&r.send, i ? 0 : RAM_ROUND_FIRST, &round, NULL), 0);
		pages += round.pages;
		zero_pages += i ? round.zero_pages : 0;
	}
	__atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(dirty_log_harvest(&r.log, &left, NULL), 0);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_LAST, &round, NULL), 0);
	assert_int_equal(left, round.pages + round.zero_pages);
	assert_int_equal(ram_recv_join(&r.recv, NULL), 0);
	assert_memory_equal(r.src, r.dst, (size_t)PAGES * GUEST_PAGE);
	rig_fini(&r);
}

/* Another who writes, with a log of its own */
struct outsider {
	struct guest_mem_writer w;
	struct rig *rig;
	unsigned int begun, ended, harvests;
	int refuses;
	uint64_t page; /* logged, not harvested yet */
	bool has_page;
};

static int outsider_log(struct guest_mem_writer *w, bool on)
{
	struct outsider *o = container_of(w, struct outsider, w);

	o->begun += on;
	o->ended += !on;
	return on ? o->refuses : 0;
}

static void outsider_harvest(struct guest_mem_writer *w)
{
	struct outsider *o = container_of(w, struct outsider, w);

	o->harvests++;
	if (o->has_page)
		guest_mem_mark(&o->rig->gm, o->rig->src + o->page * GUEST_PAGE, GUEST_PAGE);
	o->has_page = false;
}

static void outsider_write(struct outsider *o, uint64_t page, uint8_t value)
{
	memset(o->rig->src + page * GUEST_PAGE, value, GUEST_PAGE);
	o->page = page;
	o->has_page = true;
}

static void outsider_init(struct outsider *o, struct rig *r, int refuses)
{
	*o = (struct outsider) {.rig = r, .refuses = refuses};
	o->w = (struct guest_mem_writer) {.log = outsider_log, .harvest = outsider_harvest};
	guest_mem_add_writer(&r->gm, &o->w);
}

/* What they write is found by the next harvest, counted, sent, and not sent again. */
static void test_other_writers(void **state)
{
	struct outsider a, b;
	struct ram_round round;
	struct rig r;
	uint64_t left;

	(void)state;
	rig_init(&r, 1);
	outsider_init(&a, &r, 0);
	outsider_init(&b, &r, 0);
	fill_all(&r);
	start_send(&r, 5000);
	start_recv(&r, false, 5000);
	assert_int_equal(a.begun, 1);
	assert_int_equal(b.begun, 1);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST, &round, NULL), 0);
	outsider_write(&a, 3, 0xa5);
	outsider_write(&b, LOW + 7, 0x5a);
	assert_int_equal(dirty_log_harvest(&r.log, &left, NULL), 0);
	assert_int_equal(left, 2);
	assert_int_equal(ram_send_round(&r.send, 0, &round, NULL), 0);
	assert_int_equal(round.pages, 2);
	outsider_write(&b, 4, 0x77);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_LAST, &round, NULL), 0);
	assert_int_equal(round.pages, 1);
	assert_int_equal(ram_recv_join(&r.recv, NULL), 0);
	assert_memory_equal(r.src, r.dst, (size_t)PAGES * GUEST_PAGE);
	dirty_log_stop(&r.log);
	assert_int_equal(a.ended, 1);
	assert_int_equal(b.ended, 1);
	rig_fini(&r);
}

/* Without a log of all who write there is no migration, and nothing is left on. */
static void test_other_writer_refuses(void **state)
{
	struct outsider a, b;
	struct err e = {0};
	struct rig r;

	(void)state;
	rig_init(&r, 1);
	outsider_init(&a, &r, -EFAULT);
	outsider_init(&b, &r, 0);
	assert_int_equal(dirty_log_start(&r.log, &e), -EFAULT);
	assert_non_null(strstr(e.text, "without vhost"));
	assert_true(a.ended && b.ended && !r.log.on && !r.gm.dirty);
	rig_fini(&r);
}

/* Which pages a later round sends is exactly what was written, by whomever */
static void test_only_what_was_written(void **state)
{
	const uint64_t guest[] = {0, 63, 64, LOW - 1, LOW, LOW + 1, PAGES - 1};
	struct ram_round round;
	struct rig r;
	size_t i;

	(void)state;
	rig_init(&r, 1);
	fill_all(&r);
	start_send(&r, 5000);
	start_recv(&r, false, 5000);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST, &round, NULL), 0);
	assert_int_equal(round.pages, PAGES);
	for (i = 0; i < ARRAY_SIZE(guest); i++)
		guest_write(&r, guest[i], 0x5a);
	guest_write(&r, 100, 0);
	/* a device: over the end of a page, and a span that is no guest memory */
	memset(r.src + 200 * GUEST_PAGE - 1, 1, 2);
	guest_mem_mark(&r.gm, r.src + 200 * GUEST_PAGE - 1, 2);
	guest_mem_mark(&r.gm, r.src + (size_t)PAGES * GUEST_PAGE - 1, 2);
	guest_mem_mark(&r.gm, &r, sizeof(r));
	assert_int_equal(ram_send_round(&r.send, 0, &round, NULL), 0);
	assert_int_equal(round.pages, ARRAY_SIZE(guest) + 2);
	assert_int_equal(round.zero_pages, 1);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_LAST, &round, NULL), 0);
	assert_int_equal(round.pages + round.zero_pages, 0);
	assert_int_equal(ram_recv_join(&r.recv, NULL), 0);
	assert_memory_equal(r.src, r.dst, (size_t)PAGES * GUEST_PAGE);
	/* after the end nobody marks */
	dirty_log_stop(&r.log);
	assert_null(r.gm.dirty);
	rig_fini(&r);
}

static void test_cancel(void **state)
{
	const uint64_t one = 1;
	struct ram_round round;
	struct err e = {0};
	struct rig r;

	(void)state;
	rig_init(&r, 2);
	fill_all(&r);
	start_send(&r, 60000);
	/* nobody receives: the sender stands still until it is told */
	assert_int_equal(write(r.cancel_fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST, &round, &e), -ECANCELED);
	assert_non_null(strstr(e.text, "cancelled"));
	assert_int_equal(ram_send_round(&r.send, 0, &round, NULL), -ECANCELED);
	rig_fini(&r);
}

static void test_stalled_receiver(void **state)
{
	struct ram_round round;
	struct err e = {0};
	struct rig r;

	(void)state;
	rig_init(&r, 2);
	fill_all(&r);
	start_send(&r, 100);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST, &round, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.text, "destination"));
	rig_fini(&r);
}

static void test_receiver_gone(void **state)
{
	struct ram_round round;
	struct err e = {0};
	struct rig r;

	(void)state;
	rig_init(&r, 2);
	fill_all(&r);
	start_send(&r, 5000);
	close_side(&r, 1);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST, &round, &e), -ECONNRESET);
	assert_string_not_equal(e.text, "");
	rig_fini(&r);
}

static void test_fini_ends_receiver(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 2);
	start_recv(&r, false, 60000);
	rig_fini(&r); /* does not hang */
}

/* The stream of one round of sparse memory, on one channel */
static size_t record(uint8_t *out, size_t room)
{
	struct ram_round round;
	struct rig r;
	size_t len = 0;
	ssize_t n;

	rig_init(&r, 1);
	memset(r.src + 3 * GUEST_PAGE, 3, 2 * GUEST_PAGE);
	memset(r.src + (PAGES - 1) * (size_t)GUEST_PAGE, 4, GUEST_PAGE);
	start_send(&r, 5000);
	assert_int_equal(ram_send_round(&r.send, RAM_ROUND_FIRST | RAM_ROUND_LAST, &round, NULL),
			 0);
	close_side(&r, 0);
	while ((n = read(r.pair[0][1], out + len, room - len)) > 0)
		len += (size_t)n;
	assert_int_equal(len, round.bytes);
	rig_fini(&r);
	return len;
}

static int replay(const uint8_t *stream, size_t len, struct err *e)
{
	struct rig r;
	int ret;

	rig_init(&r, 1);
	assert_int_equal(write(r.pair[0][0], stream, len), len);
	close_side(&r, 0);
	start_recv(&r, false, 5000);
	ret = ram_recv_join(&r.recv, e);
	rig_fini(&r);
	return ret;
}

static void test_damaged_streams(void **state)
{
	static uint8_t stream[64 * 1024];
	const size_t len = record(stream, sizeof(stream));
	size_t i;

	(void)state;
	assert_int_equal(replay(stream, len, NULL), 0);
	assert_in_range(len, 3 * GUEST_PAGE, 4 * GUEST_PAGE);
	for (i = 0; i < len; i += i < 200 ? 1 : 97) {
		struct err e = {0};

		if (replay(stream, i, &e) != -ECONNRESET)
			fail_msg("cut at %zu: %s", i, e.text);
		stream[i] ^= (uint8_t)(1 << i % 8);
		e = (struct err) {0};
		if (!replay(stream, len, &e))
			fail_msg("byte %zu flipped: taken", i);
		assert_string_not_equal(e.text, "");
		stream[i] ^= (uint8_t)(1 << i % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_guest_writes_on),
		cmocka_unit_test(test_only_what_was_written),
		cmocka_unit_test(test_other_writers),
		cmocka_unit_test(test_other_writer_refuses),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_stalled_receiver),
		cmocka_unit_test(test_receiver_gone),
		cmocka_unit_test(test_fini_ends_receiver),
		cmocka_unit_test(test_damaged_streams),
	};

	return cmocka_run_group_tests_name("ram_move", tests, NULL, NULL);
}
