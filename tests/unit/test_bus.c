#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "devices/bus.h"
#include "devices/device.h"

/* Answers reads with its offset, remembers the last write and whether the lock was held. */
struct probe {
	struct device dev;
	unsigned int n_reads, n_writes;
	uint64_t offset, val;
	unsigned int len;
	int unlocked;
};

static void probe_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->n_reads++;
	p->offset = offset;
	p->unlocked |= pthread_mutex_trylock(&dev->lock) == 0;
	if (len == 1)
		data[0] = (uint8_t)offset; /* other sizes: no register here */
}

static void probe_write(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->n_writes++;
	p->offset = offset;
	p->len = len;
	p->val = 0;
	memcpy(&p->val, data, len);
	p->unlocked |= pthread_mutex_trylock(&dev->lock) == 0;
}

static const struct device_ops probe_ops = {
	.name = "probe", .read = probe_read, .write = probe_write};

static const struct {
	const char *name;
	uint64_t base, len;
	int ret;
} adds[] = {
	{"first", 0x1000, 0x100, 0},
	{"above, touching", 0x1100, 0x100, 0},
	{"below, touching", 0xf00, 0x100, 0},
	{"far above", 0xffffffff00000000, 0x1000, 0},
	{"last byte of all", ~0ULL, 1, 0},
	{"same", 0x1000, 0x100, -EINVAL},
	{"covers one", 0xff0, 0x200, -EINVAL},
	{"inside one", 0x1010, 1, -EINVAL},
	{"overlaps the start", 0xe01, 0x100, -EINVAL},
	{"overlaps the end", 0x11ff, 1, -EINVAL},
	{"empty", 0x5000, 0, -EINVAL},
	{"wraps", 0xfffffffffffff000, 0x2000, -EINVAL},
};

static void test_add(void **state)
{
	struct bus bus = {.name = "test"};
	struct probe p = {0};
	unsigned int i, n = 0;

	(void)state;
	device_init(&p.dev, &probe_ops);
	for (i = 0; i < ARRAY_SIZE(adds); i++) {
		struct err e = {0};

		if (bus_add(&bus, adds[i].base, adds[i].len, 0, &p.dev, &e) != adds[i].ret)
			fail_msg("%s: %s", adds[i].name, e.text);
		if (adds[i].ret)
			assert_non_null(strstr(e.text, "probe"));
		else
			n++;
		assert_int_equal(bus.n_ranges, n);
	}
	for (i = 1; i < bus.n_ranges; i++)
		assert_true(bus.range[i - 1].base < bus.range[i].base);
	for (i = bus.n_ranges; i < BUS_MAX_RANGES; i++)
		assert_int_equal(bus_add(&bus, 0x10000 + i, 1, 0, &p.dev, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x20000, 1, 0, &p.dev, NULL), -ENOSPC);
	device_fini(&p.dev);
	device_fini(&p.dev);
}

static const struct {
	const char *name;
	uint64_t addr;
	unsigned int len;
	int dev;	 /* -1: nobody */
	uint64_t offset; /* that it sees */
} accesses[] = {
	{"first byte", 0x1000, 1, 0, 0},
	{"last byte", 0x10ff, 1, 0, 0xff},
	{"last word", 0x10f8, 8, 0, 0xf8},
	{"second device, with its offset", 0x1104, 4, 1, 0x44},
	{"before the first", 0xfff, 1, -1, 0},
	{"behind the last", 0x1200, 1, -1, 0},
	{"from nobody into the first", 0xffe, 4, -1, 0},
	{"from the first into the second", 0x10fe, 4, -1, 0},
	{"from the second into nobody", 0x11fc, 8, -1, 0},
	{"end of the address space", ~0ULL, 1, -1, 0},
	{"around the address space", ~0ULL - 3, 8, -1, 0},
};

static void test_access(void **state)
{
	struct bus bus = {.name = "test"};
	struct probe p[2] = {0};
	unsigned int i, d;

	(void)state;
	for (d = 0; d < 2; d++)
		device_init(&p[d].dev, &probe_ops);
	assert_int_equal(bus_add(&bus, 0x1100, 0x100, 0x40, &p[1].dev, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x1000, 0x100, 0, &p[0].dev, NULL), 0);
	for (i = 0; i < ARRAY_SIZE(accesses); i++) {
		const unsigned int len = accesses[i].len;
		uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
		uint8_t want[8];

		for (d = 0; d < 2; d++)
			p[d].n_reads = p[d].n_writes = 0;
		bus_write(&bus, accesses[i].addr, data, len);
		bus_read(&bus, accesses[i].addr, data, len);
		for (d = 0; d < 2; d++) {
			const unsigned int hits = accesses[i].dev == (int)d;

			if (p[d].n_reads != hits || p[d].n_writes != hits)
				fail_msg("%s: device %u", accesses[i].name, d);
			if (!hits)
				continue;
			assert_int_equal(p[d].offset, accesses[i].offset);
			assert_int_equal(p[d].len, len);
			assert_memory_equal(&p[d].val, "\1\2\3\4\5\6\7\10", len);
		}
		memset(want, 0xff, sizeof(want));
		if (accesses[i].dev >= 0 && len == 1)
			want[0] = (uint8_t)accesses[i].offset;
		assert_memory_equal(data, want, len);
	}
	for (d = 0; d < 2; d++) {
		assert_false(p[d].unlocked);
		device_fini(&p[d].dev);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_access),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
