/*
 * Dirty rings without KVM: a fake one pushes pages as KVM does, and watches them again when they
 * are reset. Every page that was written is found, however often the rings go round; what KVM must
 * not say, and rings that overflowed, are seen.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "vmm/kvm/dirty_ring.h"

#define ENTRIES 16u
#define KEPT	4u /* as KVM keeps some: the vCPU leaves the guest when no more are free */
#define VCPUS	2
#define LOW	128u	     /* pages of the first slot */
#define HIGH	100u	     /* of the second */
#define PAGES	(LOW + HIGH) /* the last word is not full */
#define WORDS	((PAGES + 63) / 64)

/* What KVM has: the rings, and which pages are watched */
struct fake {
	struct dirty_ring ring;
	struct guest_mem gm;
	struct dirty_log log;
	struct kvm_dirty_gfn gfn[VCPUS][ENTRIES];
	uint32_t dirty_index[VCPUS], reset_index[VCPUS];
	bool watched[PAGES];
	unsigned int resets;
	int reset_fails;
};

static void push(struct fake *f, unsigned int vcpu, uint32_t slot, uint64_t offset)
{
	struct kvm_dirty_gfn *g = &f->gfn[vcpu][f->dirty_index[vcpu]++ % ENTRIES];

	g->slot = slot;
	g->offset = offset;
	g->flags = KVM_DIRTY_GFN_F_DIRTY;
}

/* The guest writes. Return: must it leave? */
static bool guest_write(struct fake *f, unsigned int vcpu, uint32_t page)
{
	if (f->watched[page])
		push(f, vcpu, page >= LOW, page < LOW ? page : page - LOW);
	f->watched[page] = false;
	return f->dirty_index[vcpu] - f->reset_index[vcpu] >= ENTRIES - KEPT;
}

static int reset(void *ctx)
{
	struct fake *f = ctx;
	unsigned int i;

	f->resets++;
	if (f->reset_fails)
		return f->reset_fails;
	for (i = 0; i < VCPUS; i++) {
		struct kvm_dirty_gfn *g = &f->gfn[i][f->reset_index[i] % ENTRIES];

		while (g->flags & KVM_DIRTY_GFN_F_RESET) {
			const uint64_t page = g->offset + (g->slot ? LOW : 0);

			if (g->slot < 2 && page < PAGES)
				f->watched[page] = true;
			g->flags = 0;
			g = &f->gfn[i][++f->reset_index[i] % ENTRIES];
		}
	}
	return 0;
}

static struct fake *fake_new(void)
{
	const struct guest_mem_region low = {.len_bytes = LOW * GUEST_PAGE};
	const struct guest_mem_region high = {
		.gpa = 1ULL << 32, .len_bytes = HIGH * GUEST_PAGE, .fd_offset = LOW * GUEST_PAGE};
	struct fake *f = test_calloc(1, sizeof(*f));
	unsigned int i;

	assert_int_equal(guest_mem_add(&f->gm, &low), 0);
	assert_int_equal(guest_mem_add(&f->gm, &high), 0);
	assert_int_equal(dirty_ring_init_reset(&f->ring, &f->gm, ENTRIES, VCPUS, reset, f, NULL),
			 0);
	for (i = 0; i < VCPUS; i++)
		f->ring.vcpu[i].gfn = f->gfn[i];
	assert_int_equal(dirty_log_init(&f->log, &f->gm, &dirty_ring_ops, &f->ring, NULL), 0);
	memset(f->watched, true, sizeof(f->watched));
	return f;
}

static void fake_free(struct fake *f)
{
	dirty_log_fini(&f->log);
	dirty_ring_fini(&f->ring);
	test_free(f);
}

static void take_all(struct fake *f, uint64_t *bits)
{
	assert_int_equal(dirty_log_take(&f->log, 0, WORDS, true, bits, NULL), 0);
}

/* As long as it takes for indices to go round many times, in an order that is none */
static void test_everything_is_found(void **state)
{
	struct fake *f = fake_new();
	bool written[PAGES] = {0};
	unsigned int i, full = 0;
	uint64_t bits[WORDS];

	(void)state;
	srand(7);
	for (i = 0; i < 20000; i++) {
		const uint32_t page = (uint32_t)rand() % PAGES;
		const unsigned int vcpu = (unsigned int)rand() % VCPUS;
		uint32_t p;

		written[page] = true;
		if (guest_write(f, vcpu, page)) {
			full++;
			assert_int_equal(dirty_ring_full(&f->ring, vcpu), 0);
		}
		if (rand() % 50)
			continue;
		assert_int_equal(dirty_log_harvest(&f->log, NULL, NULL), 0);
		take_all(f, bits);
		for (p = 0; p < PAGES; p++) {
			assert_int_equal(bits[p / 64] >> p % 64 & 1, written[p]);
			written[p] = false;
		}
	}
	assert_true(full > 100);
	fake_free(f);
}

/* Before the pages of a full ring were watched again, nobody takes them; then they are there */
static void test_full_ring(void **state)
{
	struct fake *f = fake_new();
	uint64_t pages, bits[WORDS];
	uint32_t i;

	(void)state;
	for (i = 0; i < ENTRIES - KEPT; i++)
		assert_int_equal(guest_write(f, 0, 2 * i), i == ENTRIES - KEPT - 1);
	assert_false(guest_write(f, 1, 1));
	assert_int_equal(dirty_ring_full(&f->ring, 0), 0);
	assert_int_equal(f->resets, 1);
	assert_true(f->watched[0]);
	assert_false(f->watched[1]); /* of the other one */
	take_all(f, bits);
	assert_int_equal(bits[0] | bits[1] | bits[2] | bits[3], 0);
	assert_int_equal(dirty_log_harvest(&f->log, &pages, NULL), 0);
	assert_int_equal(pages, ENTRIES - KEPT + 1);
	assert_int_equal(dirty_ring_pages(&f->ring, 0), ENTRIES - KEPT);
	assert_int_equal(dirty_ring_pages(&f->ring, 1), 1);
	/* what nobody took is there the next time, and nothing is reset for nothing */
	f->resets = 0;
	assert_int_equal(dirty_log_harvest(&f->log, &pages, NULL), 0);
	assert_int_equal(pages, ENTRIES - KEPT + 1);
	assert_int_equal(f->resets, 0);
	fake_free(f);
}

/* The vCPU was sent out, and before it is here another thread has harvested: that is no overflow */
static void test_room_was_made_meanwhile(void **state)
{
	struct fake *f = fake_new();
	unsigned int round;
	uint64_t pages = 0, bits[WORDS];
	uint32_t i;

	(void)state;
	for (round = 0; round < 3 * ENTRIES; round++) {
		for (i = 0; i < ENTRIES - KEPT; i++)
			assert_int_equal(guest_write(f, 0, i), i == ENTRIES - KEPT - 1);
		assert_int_equal(dirty_log_harvest(&f->log, &pages, NULL), 0);
		assert_int_equal(pages, ENTRIES - KEPT);
		take_all(f, bits);
		assert_int_equal(dirty_ring_full(&f->ring, 0), 0);
		assert_int_equal(dirty_log_harvest(&f->log, &pages, NULL), 0);
		assert_int_equal(pages, 0);
	}
	fake_free(f);
}

static const struct {
	const char *name;
	uint32_t slot;
	uint64_t offset;
	bool good;
} entries[] = {
	{"first page", 0, 0, true},
	{"last of the first slot", 0, LOW - 1, true},
	{"behind the first slot", 0, LOW, false},
	{"last page", 1, HIGH - 1, true},
	{"behind the last, in its word", 1, HIGH, false},
	{"far behind", 1, UINT64_MAX, false},
	{"offset that wraps around", 1, UINT64_MAX - LOW + 1, false},
	{"no such slot", 2, 0, false},
	{"another address space", 1u << 16, 0, false},
	{"largest slot", UINT32_MAX, 0, false},
};

static void test_bad_entries(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(entries); i++) {
		struct fake *f = fake_new();
		uint64_t pages = 0;
		int ret;

		push(f, 1, entries[i].slot, entries[i].offset);
		ret = dirty_log_harvest(&f->log, &pages, NULL);
		if ((ret == 0) != entries[i].good || (entries[i].good && pages != 1))
			fail_msg("%s: %d, %llu pages", entries[i].name, ret,
				 (unsigned long long)pages);
		/* and the ring goes on all the same */
		assert_int_equal(f->reset_index[1], 1);
		fake_free(f);
	}
}

/*
 * KVM wrote @n entries before the vCPU left: more than there are, so that the first ones are gone
 */
static void test_overflow(void **state)
{
	unsigned int n;

	(void)state;
	for (n = ENTRIES; n < 4 * ENTRIES; n++) {
		struct fake *f = fake_new();
		uint32_t i;

		for (i = 0; i < n; i++)
			guest_write(f, 0, i);
		assert_int_equal(dirty_ring_full(&f->ring, 0), 0);
		assert_int_equal(dirty_log_harvest(&f->log, NULL, NULL), -EOVERFLOW);
		/* the vCPU comes to the end of its ring again and again, and always goes on */
		for (i = 0; i < 20 * ENTRIES; i++)
			if (guest_write(f, 0, i % PAGES))
				assert_int_equal(dirty_ring_full(&f->ring, 0), 0);
		assert_int_equal(dirty_log_harvest(&f->log, NULL, NULL), -EOVERFLOW);
		fake_free(f);
	}
}

static void test_reset_fails(void **state)
{
	struct fake *f = fake_new();

	(void)state;
	guest_write(f, 0, 5);
	f->reset_fails = -ENOMEM;
	assert_int_equal(dirty_ring_full(&f->ring, 0), -ENOMEM);
	f->reset_fails = 0;
	assert_int_equal(dirty_log_harvest(&f->log, NULL, NULL), -EOVERFLOW);
	fake_free(f);
}

/* No ring, and none whose vCPU has been made yet */
static void test_none(void **state)
{
	struct fake *f = fake_new();
	struct dirty_ring none = {0};
	uint64_t pages;

	(void)state;
	assert_int_equal(dirty_ring_full(&none, 0), -EINVAL);
	assert_int_equal(dirty_ring_map(&none, 0, -1, NULL), 0);
	dirty_ring_fini(&none);
	f->ring.vcpu[1].gfn = NULL;
	guest_write(f, 0, 3);
	assert_int_equal(dirty_log_harvest(&f->log, &pages, NULL), 0);
	assert_int_equal(pages, 1);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_is_found),
		cmocka_unit_test(test_full_ring),
		cmocka_unit_test(test_room_was_made_meanwhile),
		cmocka_unit_test(test_bad_entries),
		cmocka_unit_test(test_overflow),
		cmocka_unit_test(test_reset_fails),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests_name("dirty_ring", tests, NULL, NULL);
}
