/*
 * The dirty log and the dirty rings of a real KVM under a guest that writes its memory all the
 * time: they find what it wrote and nothing else, and what is sent round by round is in the end
 * what the guest has. And the same guest, slowed down.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/ram/dirty_log.h"
#include "migration/ram/recv.h"
#include "migration/ram/send.h"
#include "vmm/hold/isolation.h"
#include "vmm/kvm/dirty_log_kvm.h"
#include "vmm/kvm/dirty_ring.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/throttle.h"
#include "vmm/machine/vcpu.h"

#define SIZE	 (64 * MiB)
#define CODE	 0x1000
#define TABLES	 0x2000u
#define FROM	 (16u * 1024 * 1024)
#define RANGE	 (32u * 1024 * 1024)
#define STEP	 (7u * 4096 + 4)
#define CHANNELS 2
#define TRIES	 6 /* of what a busy machine gives no time to */

/* 64-bit: store a growing number every STEP bytes, round and round */
static const uint8_t code[] = {
	0x89, 0x07,			    /* 0: mov %eax, (%rdi) */
	0xff, 0xc0,			    /* inc %eax */
	0x81, 0xc7, 0x04, 0x70, 0x00, 0x00, /* add $STEP, %edi */
	0x81, 0xff, 0x00, 0x00, 0x00, 0x03, /* cmp $(FROM + RANGE), %edi */
	0x72, 0xee,			    /* jb 0b */
	0x81, 0xef, 0x00, 0x00, 0x00, 0x02, /* sub $RANGE, %edi */
	0xeb, 0xe6,			    /* jmp 0b */
};

struct rig {
	int kvm;
	struct memory src, dst;
	struct vm vm;
	struct vcpu vcpu;
	struct isolation isolation;
	struct vcpu_env env;
	struct dirty_log log;
	struct dirty_ring ring;
	int pair[CHANNELS][2];
};

/*
 * Memory as it is, in pages of 2 MiB that are marked accessed and dirty: nobody writes the tables
 */
static void make_tables(struct rig *r)
{
	uint8_t *t = r->src.map + TABLES;
	unsigned int i;

	put_le64(t, (TABLES + GUEST_PAGE) | 0x67);
	put_le64(t + GUEST_PAGE, (TABLES + 2 * GUEST_PAGE) | 0x67);
	for (i = 0; i < SIZE / (2 * MiB); i++)
		put_le64(t + 2 * GUEST_PAGE + 8 * i, i * 2 * MiB | 0xe7);
}

/* 64-bit ring 3: the CPU runs that itself on every KVM, while kvm-pvm emulates a guest's kernel */
static void set_user_mode(struct kvm_sregs *s)
{
	s->cs = (struct kvm_segment) {.limit = 0xffffffff,
				      .selector = 8 | 3,
				      .type = 11,
				      .present = 1,
				      .dpl = 3,
				      .s = 1,
				      .l = 1,
				      .g = 1};
	s->ds = s->cs;
	s->ds.selector = 16 | 3;
	s->ds.type = 3;
	s->ds.l = 0;
	s->ds.db = 1;
	s->es = s->fs = s->gs = s->ss = s->ds;
	s->cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	s->cr3 = TABLES;
	s->cr4 = 0x20;	 /* PAE */
	s->efer = 0x500; /* LMA, LME */
}

static void make_vcpu(struct rig *r)
{
	const int size = ioctl(r->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	const struct kvm_regs regs = {.rip = CODE, .rdi = FROM, .rax = 1, .rflags = 2};
	struct kvm_sregs s;

	r->vcpu.fd = ioctl(r->vm.fd, KVM_CREATE_VCPU, 0);
	assert_true(r->vcpu.fd >= 0);
	r->vcpu.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu.fd, 0);
	assert_ptr_not_equal(r->vcpu.run, MAP_FAILED);
	r->vcpu.run_size = (size_t)size;
	assert_int_equal(dirty_ring_map(&r->ring, 0, r->vcpu.fd, NULL), 0);
	r->env.isolation = &r->isolation;
	r->env.dirty_ring = &r->ring;
	r->vcpu.env = &r->env;
	assert_int_equal(vcpu_get_sregs(&r->vcpu, &s, NULL), 0);
	set_user_mode(&s);
	assert_int_equal(vcpu_set_entry(&r->vcpu, &regs, &s, NULL), 0);
}

/*
 * @entries: of its dirty ring; 0: KVM's log. Return: false, and the test counts as skipped, where
 * there is no such KVM
 */
static bool rig_init(struct rig *r, uint32_t entries)
{
	const struct memory_options opt = {.size_bytes = SIZE};
	unsigned int i;

	memset(r, 0, sizeof(*r));
	r->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (r->kvm < 0) {
		print_message("skipped: this needs /dev/kvm\n");
		return false;
	}
	if (entries && dirty_ring_check(r->kvm, entries, NULL) < 0) {
		print_message("skipped: this needs KVM_CAP_DIRTY_LOG_RING\n");
		close(r->kvm);
		return false;
	}
	assert_int_equal(memory_init(&r->src, &opt, NULL), 0);
	assert_int_equal(memory_init(&r->dst, &opt, NULL), 0);
	memcpy(r->src.map + CODE, code, sizeof(code));
	make_tables(r);
	r->vm.fd = ioctl(r->kvm, KVM_CREATE_VM, 0);
	assert_true(r->vm.fd >= 0);
	assert_int_equal(dirty_ring_init(&r->ring, &r->src.guest, r->vm.fd, entries, 1, NULL), 0);
	assert_int_equal(vm_add_memory(&r->vm, &r->src.guest, NULL), 0);
	make_vcpu(r);
	assert_int_equal(vcpu_init_kick(NULL), 0);
	assert_int_equal(entries ? dirty_log_init(&r->log, &r->src.guest, &dirty_ring_ops, &r->ring,
						  NULL)
				 : dirty_log_init(&r->log, &r->src.guest, &kvm_dirty_log_ops,
						  &r->vm.fd, NULL),
			 0);
	for (i = 0; i < CHANNELS; i++)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, r->pair[i]), 0);
	return true;
}

static void rig_fini(struct rig *r)
{
	unsigned int i;

	dirty_log_fini(&r->log);
	dirty_ring_fini(&r->ring);
	for (i = 0; i < CHANNELS; i++) {
		close(r->pair[i][0]);
		close(r->pair[i][1]);
	}
	munmap(r->vcpu.run, r->vcpu.run_size);
	close(r->vcpu.fd);
	vm_fini(&r->vm, NULL);
	memory_fini(&r->src);
	memory_fini(&r->dst);
	close(r->kvm);
}

static void run_vcpu(struct rig *r)
{
	r->vcpu.stop = false;
	r->vcpu.run->immediate_exit = 0;
	assert_int_equal(vcpu_start(&r->vcpu, NULL), 0);
}

static void stop_vcpu(struct rig *r)
{
	vcpu_request_stop(&r->vcpu);
	vcpu_join(&r->vcpu);
}

static void wait_ms(unsigned int ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	nanosleep(&t, NULL);
}

static uint64_t counter(struct rig *r)
{
	struct kvm_regs regs;

	assert_int_equal(ioctl(r->vcpu.fd, KVM_GET_REGS, &regs), 0);
	return regs.rax;
}

static void move(struct rig *r)
{
	int src[CHANNELS], dst[CHANNELS];
	const struct ram_send_config sc = {
		.map = r->src.map,
		.hole_fd = r->src.fd,
		.log = &r->log,
		.fds = src,
		.n = CHANNELS,
		.cancel_fd = -1,
		.stall_ms = 10000,
	};
	const struct ram_recv_config rc = {
		.map = r->dst.map,
		.fd = r->dst.fd,
		.n_pages = SIZE / GUEST_PAGE,
		.fds = dst,
		.n = CHANNELS,
		.cancel_fd = -1,
		.stall_ms = 10000,
	};
	struct ram_round round;
	struct ram_send send;
	struct ram_recv recv;
	uint64_t left = 0, written = 0;
	unsigned int i;

	for (i = 0; i < CHANNELS; i++) {
		src[i] = r->pair[i][0];
		dst[i] = r->pair[i][1];
	}
	assert_int_equal(ram_recv_start(&recv, &rc, NULL), 0);
	assert_int_equal(dirty_log_start(&r->log, NULL), 0);
	assert_int_equal(ram_send_init(&send, &sc, NULL), 0);
	assert_int_equal(ram_send_round(&send, RAM_ROUND_FIRST, &round, NULL), 0);
	for (i = 0; i < 5 || !written; i++) {
		assert_int_equal(ram_send_round(&send, 0, &round, NULL), 0);
		written += round.pages;
		wait_ms(5);
	}
	stop_vcpu(r);
	memset(r->src.map + 200 * GUEST_PAGE, 0x77, 3); /* a device, last of all */
	guest_mem_mark(&r->src.guest, r->src.map + 200 * GUEST_PAGE, 3);
	assert_int_equal(dirty_log_harvest(&r->log, &left, NULL), 0);
	assert_int_equal(ram_send_round(&send, RAM_ROUND_LAST, &round, NULL), 0);
	assert_int_equal(round.pages + round.zero_pages, left);
	assert_true(left >= 1);
	/* the guest writes to half of its memory only: the log is no mere "all of it" */
	assert_true(left <= RANGE / GUEST_PAGE + 1);
	assert_int_equal(ram_recv_join(&recv, NULL), 0);
	assert_memory_equal(r->src.map, r->dst.map, SIZE);
	ram_send_fini(&send);
	ram_recv_fini(&recv);
	dirty_log_stop(&r->log);
}

/* With nested paging AMD's processors count a walk of the guest's tables as writes (APM
 * vol.2, 15.25.6). */
static bool is_page_table(uint64_t page)
{
	return page >= TABLES / GUEST_PAGE && page < TABLES / GUEST_PAGE + 3;
}

/*
 * What is found in a run of the guest is what differs from @before. A page that could be written at
 * once counts as written: that of the code, and the one whose store was interrupted.
 * Return: how many pages
 */
static uint64_t find_exactly(struct rig *r, uint8_t *before, unsigned int ms)
{
	uint64_t page, left, differ = 0, also = 0;
	struct kvm_regs regs;

	memcpy(before, r->src.map, SIZE);
	run_vcpu(r);
	wait_ms(ms);
	stop_vcpu(r);
	assert_int_equal(ioctl(r->vcpu.fd, KVM_GET_REGS, &regs), 0);
	assert_int_equal(dirty_log_harvest(&r->log, &left, NULL), 0);
	for (page = 0; page < SIZE / GUEST_PAGE; page++) {
		const bool found =
			r->log.kvm[page / DIRTY_WORD_PAGES] >> page % DIRTY_WORD_PAGES & 1;
		const uint64_t at = page * GUEST_PAGE;
		const bool differs = memcmp(before + at, r->src.map + at, GUEST_PAGE) != 0;

		if (found && !differs &&
		    (page == CODE / GUEST_PAGE || page == regs.rdi / GUEST_PAGE ||
		     is_page_table(page)))
			also++;
		else if (found != differs)
			fail_msg("page %llu: found %d, differs %d", (unsigned long long)page, found,
				 differs);
		differ += differs;
	}
	assert_int_equal(differ + also, left);
	assert_int_equal(dirty_log_take_all(&r->log, 0, r->log.n_words, NULL), 0);
	return differ;
}

static void test_finds_exactly(void **state)
{
	const uint32_t entries = *(const uint32_t *)*state;
	const bool full = entries == DIRTY_RING_MIN;
	uint64_t pages = 0;
	uint8_t *before;
	unsigned int i;
	struct rig r;

	if (!rig_init(&r, entries))
		skip();
	before = test_malloc(SIZE);
	assert_int_equal(dirty_log_start(&r.log, NULL), 0);
	assert_int_equal(dirty_log_take_all(&r.log, 0, r.log.n_words, NULL), 0);
	/* far more is written than fits a small ring, which has room made in it then */
	for (i = 0; i < 30 && (i < 4 || !pages || full != (r.vcpu.exits_dirty_ring > 0)); i++)
		pages += find_exactly(&r, before, 50 * (i + 1));
	assert_true(pages > 0);
	assert_int_equal(full, r.vcpu.exits_dirty_ring > 0);
	/* once more after each time that room was made */
	if (entries)
		assert_true(dirty_ring_pages(&r.ring, 0) >= pages);
	test_free(before);
	rig_fini(&r);
}

static void test_guest_moves(void **state)
{
	struct rig r;

	if (!rig_init(&r, *(const uint32_t *)*state))
		skip();
	run_vcpu(&r);
	wait_ms(20);
	move(&r);
	rig_fini(&r);
}

/* A migration that failed, and another one of the same guest: everything is sent once more */
static void test_second_try(void **state)
{
	struct rig r;
	uint64_t left;

	if (!rig_init(&r, *(const uint32_t *)*state))
		skip();
	run_vcpu(&r);
	assert_int_equal(dirty_log_start(&r.log, NULL), 0);
	assert_int_equal(dirty_log_take_all(&r.log, 0, r.log.n_words, NULL), 0);
	wait_ms(20);
	assert_int_equal(dirty_log_harvest(&r.log, &left, NULL), 0);
	dirty_log_stop(&r.log);
	assert_null(r.src.guest.dirty);
	move(&r);
	rig_fini(&r);
}

/*
 * Some KVM emulates ring 0 in runs that write more than a small ring has room for. That is seen,
 * and the guest goes on, also when it is watched no more.
 */
static void test_overflow(void **state)
{
	struct kvm_sregs s;
	unsigned int i, tries;
	uint64_t before;
	struct rig r;
	int ret;

	if (!rig_init(&r, *(const uint32_t *)*state))
		skip();
	assert_int_equal(vcpu_get_sregs(&r.vcpu, &s, NULL), 0);
	s.cs.dpl = s.ss.dpl = 0;
	s.cs.selector &= ~3;
	s.ss.selector &= ~3;
	assert_int_equal(ioctl(r.vcpu.fd, KVM_SET_SREGS, &s), 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(dirty_log_start(&r.log, NULL), 0);
		run_vcpu(&r);
		wait_ms(150);
		ret = dirty_log_harvest(&r.log, NULL, NULL);
		assert_true(ret == 0 || ret == -EOVERFLOW);
		print_message("%s\n", ret ? "overflow" : "no overflow");
		dirty_log_stop(&r.log);
		stop_vcpu(&r);
		before = counter(&r);
		for (tries = 0; tries < TRIES && counter(&r) == before; tries++) {
			run_vcpu(&r);
			wait_ms(150);
			stop_vcpu(&r);
		}
		assert_true(counter(&r) > before);
	}
	rig_fini(&r);
}

static uint64_t progress(struct rig *r, struct throttle *t, unsigned int percent, unsigned int ms)
{
	const uint64_t before = counter(r);

	run_vcpu(r);
	assert_int_equal(throttle_set(t, percent, NULL), 0);
	wait_ms(ms);
	assert_int_equal(throttle_set(t, 0, NULL), 0);
	stop_vcpu(r);
	return counter(r) - before;
}

static void test_throttle(void **state)
{
	struct throttle t;
	uint64_t full = 0, slow = 0;
	struct timespec a, b;
	unsigned int i;
	struct rig r;

	if (!rig_init(&r, *(const uint32_t *)*state))
		skip();
	throttle_init(&t, &r.vcpu, 1, &r.ring);
	for (i = 0; i < 3; i++) /* the first time each page is a fault */
		progress(&r, &t, 0, 400);
	for (i = 0; i < TRIES && !slow; i++) {
		full = progress(&r, &t, 0, 400u << i);
		slow = progress(&r, &t, 95, 400u << i);
	}
	print_message("%llu stores at full speed, %llu at 5 %%\n", (unsigned long long)full,
		      (unsigned long long)slow);
	assert_true(slow > 0);
	assert_true(slow < full / 2);
	throttle_fini(&t);
	/* nobody waits for a vCPU that naps */
	run_vcpu(&r);
	vcpu_request_nap(&r.vcpu, 60000000);
	wait_ms(50);
	clock_gettime(CLOCK_MONOTONIC, &a);
	stop_vcpu(&r);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true(b.tv_sec - a.tv_sec < 30);
	rig_fini(&r);
}

int main(void)
{
	static uint32_t log = 0, small = DIRTY_RING_MIN, large = DIRTY_RING_MAX;
	const struct CMUnitTest tests[] = {
		{"log: finds exactly", test_finds_exactly, NULL, NULL, &log},
		{"ring of 1024: finds exactly", test_finds_exactly, NULL, NULL, &small},
		{"ring of 65536: finds exactly", test_finds_exactly, NULL, NULL, &large},
		{"log: a guest moves", test_guest_moves, NULL, NULL, &log},
		{"ring of 1024: a guest moves", test_guest_moves, NULL, NULL, &small},
		{"log: second try", test_second_try, NULL, NULL, &log},
		{"ring of 1024: second try", test_second_try, NULL, NULL, &small},
		{"ring of 1024: overflow", test_overflow, NULL, NULL, &small},
		{"throttle", test_throttle, NULL, NULL, &log},
	};

	return cmocka_run_group_tests_name("dirty_log", tests, NULL, NULL);
}
