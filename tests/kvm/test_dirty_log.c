/*
 * The dirty log of a real KVM under a guest that writes its memory all the time: what is sent round
 * by round is in the end what the guest has. And the same guest, slowed down.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
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
#include "vmm/dirty_log.h"
#include "vmm/isolation.h"
#include "vmm/memory.h"
#include "vmm/ram_recv.h"
#include "vmm/ram_send.h"
#include "vmm/throttle.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

#define SIZE	 (64 * MiB)
#define CODE	 0x1000
#define FROM	 (16u * 1024 * 1024)
#define RANGE	 (32u * 1024 * 1024)
#define STEP	 (7u * 4096 + 4)
#define CHANNELS 2

/* 32-bit, flat, without paging: store a growing number every STEP bytes, round and round */
static const uint8_t code[] = {
	0x89, 0x07,			    /* 0: mov %eax, (%edi) */
	0x40,				    /* inc %eax */
	0x81, 0xc7, 0x04, 0x70, 0x00, 0x00, /* add $STEP, %edi */
	0x81, 0xff, 0x00, 0x00, 0x00, 0x03, /* cmp $(FROM + RANGE), %edi */
	0x72, 0xef,			    /* jb 0b */
	0x81, 0xef, 0x00, 0x00, 0x00, 0x02, /* sub $RANGE, %edi */
	0xeb, 0xe7,			    /* jmp 0b */
};

struct rig {
	int kvm;
	struct memory src, dst;
	struct vm vm;
	struct vcpu vcpu;
	struct isolation isolation;
	struct vcpu_env env;
	struct dirty_log log;
	int pair[CHANNELS][2];
};

static void set_flat(struct kvm_segment *s, uint8_t type)
{
	*s = (struct kvm_segment) {.limit = 0xffffffff,
				   .selector = 8,
				   .type = type,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};
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
	r->env.isolation = &r->isolation;
	r->vcpu.env = &r->env;
	assert_int_equal(vcpu_get_sregs(&r->vcpu, &s, NULL), 0);
	set_flat(&s.cs, 11);
	set_flat(&s.ds, 3);
	s.es = s.fs = s.gs = s.ss = s.ds;
	s.cr0 |= 1; /* PE */
	assert_int_equal(vcpu_set_entry(&r->vcpu, &regs, &s, NULL), 0);
}

/* Return: false, and the test counts as skipped, where there is no KVM */
static bool rig_init(struct rig *r)
{
	const struct memory_options opt = {.size_bytes = SIZE};
	unsigned int i;

	memset(r, 0, sizeof(*r));
	r->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (r->kvm < 0) {
		print_message("skipped: this needs /dev/kvm\n");
		return false;
	}
	assert_int_equal(memory_init(&r->src, &opt, NULL), 0);
	assert_int_equal(memory_init(&r->dst, &opt, NULL), 0);
	memcpy(r->src.map + CODE, code, sizeof(code));
	r->vm.fd = ioctl(r->kvm, KVM_CREATE_VM, 0);
	assert_true(r->vm.fd >= 0);
	assert_int_equal(vm_add_memory(&r->vm, &r->src.guest, NULL), 0);
	make_vcpu(r);
	assert_int_equal(vcpu_init_kick(NULL), 0);
	assert_int_equal(dirty_log_init(&r->log, &r->src.guest, r->vm.fd, NULL), 0);
	for (i = 0; i < CHANNELS; i++)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, r->pair[i]), 0);
	return true;
}

static void rig_fini(struct rig *r)
{
	unsigned int i;

	dirty_log_fini(&r->log);
	for (i = 0; i < CHANNELS; i++) {
		close(r->pair[i][0]);
		close(r->pair[i][1]);
	}
	munmap(r->vcpu.run, r->vcpu.run_size);
	close(r->vcpu.fd);
	vm_fini(&r->vm);
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

static void test_guest_moves(void **state)
{
	struct rig r;

	(void)state;
	if (!rig_init(&r))
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

	(void)state;
	if (!rig_init(&r))
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

static uint64_t progress(struct rig *r, struct throttle *t, unsigned int percent)
{
	const uint64_t before = counter(r);

	run_vcpu(r);
	assert_int_equal(throttle_set(t, percent, NULL), 0);
	wait_ms(400);
	assert_int_equal(throttle_set(t, 0, NULL), 0);
	stop_vcpu(r);
	return counter(r) - before;
}

static void test_throttle(void **state)
{
	struct throttle t;
	uint64_t full, slow;
	struct timespec a, b;
	struct rig r;

	(void)state;
	if (!rig_init(&r))
		skip();
	throttle_init(&t, &r.vcpu, 1);
	progress(&r, &t, 0); /* the first time each page is a fault */
	full = progress(&r, &t, 0);
	slow = progress(&r, &t, 95);
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
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_moves),
		cmocka_unit_test(test_second_try),
		cmocka_unit_test(test_throttle),
	};

	return cmocka_run_group_tests_name("dirty_log", tests, NULL, NULL);
}
