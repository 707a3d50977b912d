#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <cmocka.h>

#include "base/log.h"
#include "echo_dev.h"
#include "migration/state/state.h"
#include "ring.h"

#define NUM	 8u
#define RING_GPA RAM_GPA
#define OUT_GPA	 (RAM_GPA + 0x20000)

#define S_ACK	      VIRTIO_CONFIG_S_ACKNOWLEDGE
#define S_DRIVER      VIRTIO_CONFIG_S_DRIVER
#define S_FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define S_DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define S_FAILED      VIRTIO_CONFIG_S_FAILED
#define S_NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET

struct world {
	struct rig rig;
	struct ring ring;
	struct echo echo;
};

static void world_init(struct world *w)
{
	log_set_level(LOG_ERR);
	rig_prepare(&w->rig);
	echo_init(&w->echo);
	rig_init(&w->rig, &w->echo.vdev);
	ring_init(&w->ring, &w->rig.ram, RING_GPA, NUM);
}

static void world_pump(struct world *w)
{
	while (rig_turn(&w->rig, 0))
		;
}

static bool world_serves(struct world *w)
{
	uint32_t id, len;

	ring_desc(&w->ring, 0, OUT_GPA, 16, 0, 0);
	ring_offer(&w->ring, 0);
	rig_write(&w->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	world_pump(w);
	return ring_take(&w->ring, &id, &len);
}

static void test_state_table(void **state)
{
	struct world w;
	struct err e = {0};
	const struct state_desc *d;
	struct virtio_mmio_regs r;

	(void)state;
	world_init(&w);
	d = &w.rig.m.dev.ops->state;
	assert_int_equal(d->size, sizeof(struct virtio_mmio_regs));
	if (state_check_desc(d, &e))
		fail_msg("%s", e.text);

	rig_start(&w.rig, &w.ring, w.echo.vdev.offered);
	assert_int_equal(d->check(&w.rig.m.regs, NULL), 0);
	r = w.rig.m.regs;
	r.driver_features |= 1ULL << 60;
	assert_int_equal(d->check(&r, NULL), -EINVAL);
	r = w.rig.m.regs;
	r.status |= 0x100;
	assert_int_equal(d->check(&r, NULL), -EINVAL);
	r = w.rig.m.regs;
	r.interrupt_status = 4;
	assert_int_equal(d->check(&r, NULL), -EINVAL);
	r = w.rig.m.regs;
	r.queue[1].ready = 2;
	assert_int_equal(d->check(&r, NULL), -EINVAL);
	rig_fini(&w.rig);
}

static void test_identity(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_ID), 42);
	rig_write(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES),
			 (uint32_t)(ECHO_FEATURE | F_EVENT | F_INDIRECT));
	rig_write(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES), (uint32_t)(F_V1 >> 32));
	rig_write(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	rig_write(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0xffffffff);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_SEL, ECHO_QUEUES - 1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_NUM_MAX), ECHO_QUEUE_MAX);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_SEL, ECHO_QUEUES);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_READY), 0);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_READY, 1);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_SEL, 0xffffffff);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_SHM_LEN_LOW), 0xffffffff);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_SHM_LEN_HIGH), 0xffffffff);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_SHM_BASE_LOW), 0xffffffff);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_SHM_BASE_HIGH), 0xffffffff);
	rig_fini(&w.rig);
}

/* Every offset at every size: only whole aligned registers do anything. */
static void test_matrix(void **state)
{
	const unsigned int sizes[] = {1, 2, 4, 8};
	const uint8_t fills[] = {0x00, 0x01, 0x80, 0xff};
	unsigned int started, s, f;
	uint64_t offset;
	struct world w;

	(void)state;
	world_init(&w);
	for (started = 0; started < 2; started++) {
		if (started)
			rig_start(&w.rig, &w.ring, F_V1);
		for (s = 0; s < ARRAY_SIZE(sizes); s++) {
			for (offset = 0; offset < 0x200; offset++) {
				const unsigned int len = sizes[s];
				const bool is_reg = offset < 0x100 && len == 4 && !(offset % 4);
				const struct virtio_mmio_regs before = w.rig.m.regs;
				uint8_t data[8] = {0};
				unsigned int i;

				bus_read(&w.rig.bus, offset, data, len);
				assert_memory_equal(&before, &w.rig.m.regs, sizeof(before));
				for (i = 0; i < len && !is_reg; i++) {
					const uint64_t at = offset + i - 0x100;
					const int want =
						offset >= 0x100 && at < sizeof(w.echo.config)
							? 0x10 + (int)at
							: 0xff;

					assert_int_equal(data[i], want);
				}
				for (f = 0; f < ARRAY_SIZE(fills) && !is_reg; f++) {
					memset(data, fills[f], sizeof(data));
					bus_write(&w.rig.bus, offset, data, len);
					assert_memory_equal(&before, &w.rig.m.regs, sizeof(before));
				}
			}
		}
	}
	assert_int_equal(w.echo.config[0], 0x10);
	assert_true(world_serves(&w));
	/* the registers themselves, with odd values in ascending order: reset is among them */
	for (f = 0; f < ARRAY_SIZE(fills); f++) {
		for (offset = 0; offset < 0x100; offset += 4) {
			rig_write(&w.rig, offset, fills[f] * 0x01010101u);
			rig_read(&w.rig, offset);
		}
		world_pump(&w);
	}
	ring_init(&w.ring, &w.rig.ram, RING_GPA, NUM);
	rig_start(&w.rig, &w.ring, F_V1);
	assert_true(world_serves(&w));
	rig_fini(&w.rig);
}

static const struct {
	const char *name;
	uint64_t features;
	bool ok;
} negotiations[] = {
	{"VERSION_1 alone", F_V1, true},
	{"everything offered", F_V1 | F_EVENT | F_INDIRECT | ECHO_FEATURE, true},
	{"nothing", 0, false},
	{"everything but VERSION_1", F_EVENT | F_INDIRECT | ECHO_FEATURE, false},
	{"one bit too many, low word", F_V1 | 1, false},
	{"one bit too many, high word", F_V1 | 1ULL << 33, false},
	{"packed ring", F_V1 | 1ULL << VIRTIO_F_RING_PACKED, false},
	{"all bits", ~0ULL, false},
};

static void test_negotiation(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(negotiations); i++) {
		struct world w;

		world_init(&w);
		rig_negotiate(&w.rig, negotiations[i].features);
		if ((rig_status(&w.rig) & S_FEATURES_OK) !=
		    (negotiations[i].ok ? S_FEATURES_OK : 0))
			fail_msg("%s: status %#x", negotiations[i].name, rig_status(&w.rig));
		rig_set_queue(&w.rig, 0, &w.ring);
		rig_write(&w.rig, VIRTIO_MMIO_STATUS, GOOD_STATUS | S_DRIVER_OK);
		assert_int_equal(w.echo.n_activated, negotiations[i].ok);
		if (negotiations[i].ok)
			assert_true(w.echo.vdev.features == negotiations[i].features);
		assert_true(world_serves(&w) == negotiations[i].ok);
		rig_fini(&w.rig);
	}
}

static void test_status_rules(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(rig_status(&w.rig), 0);
	/* DRIVER_OK before FEATURES_OK does nothing */
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, S_ACK | S_DRIVER | S_DRIVER_OK);
	assert_int_equal(rig_status(&w.rig), S_ACK | S_DRIVER);
	assert_int_equal(w.echo.n_activated, 0);
	/* bits are never taken back, the device's own bit and unknown ones never set */
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, S_FAILED | S_NEEDS_RESET | 0xffffff10);
	assert_int_equal(rig_status(&w.rig), S_ACK | S_DRIVER | S_FAILED);

	rig_negotiate(&w.rig, F_V1);
	/* features are frozen by FEATURES_OK */
	rig_write(&w.rig, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	rig_write(&w.rig, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)F_EVENT);
	rig_set_queue(&w.rig, 0, &w.ring);
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, GOOD_STATUS | S_DRIVER_OK);
	assert_true(w.echo.vdev.features == F_V1);
	/* a second DRIVER_OK is none */
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, GOOD_STATUS | S_DRIVER_OK);
	assert_int_equal(w.echo.n_activated, 1);
	assert_true(world_serves(&w));

	/* a reset forgets everything but what was offered */
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(rig_status(&w.rig), 0);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(w.rig.m.regs.queue[0].num, 0);
	assert_true(w.rig.m.regs.device_features == w.echo.vdev.offered);
	assert_true(w.rig.m.regs.driver_features == 0);
	assert_false(world_serves(&w));
	rig_fini(&w.rig);
}

static const struct {
	uint32_t offset, val;
} late[] = {
	{VIRTIO_MMIO_QUEUE_NUM, 0},
	{VIRTIO_MMIO_QUEUE_NUM, 0x10000},
	{VIRTIO_MMIO_QUEUE_NUM, 0xffffffff},
	{VIRTIO_MMIO_QUEUE_READY, 0},
	{VIRTIO_MMIO_QUEUE_DESC_LOW, 0},
	{VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffffffff},
	{VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0},
	{VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0xffffffff},
	{VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)RAM_END - 4},
	{VIRTIO_MMIO_QUEUE_USED_HIGH, 1},
};

static void test_frozen(void **state)
{
	struct world w;
	struct virtq_regs before;
	size_t i;

	(void)state;
	world_init(&w);
	rig_start(&w.rig, &w.ring, F_V1);
	before = w.rig.m.regs.queue[0];
	for (i = 0; i < ARRAY_SIZE(late); i++) {
		rig_write(&w.rig, late[i].offset, late[i].val);
		assert_memory_equal(&before, &w.rig.m.regs.queue[0], sizeof(before));
	}
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_READY), 1);
	/* nor can the other queue be added now */
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_SEL, 1);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_true(world_serves(&w));
	rig_fini(&w.rig);
}

static void test_kicks(void **state)
{
	const uint64_t one = 1;
	uint32_t id, len;
	struct world w;

	(void)state;
	world_init(&w);
	/* before DRIVER_OK */
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	world_pump(&w);
	assert_int_equal(w.echo.n_notified, 0);

	rig_start(&w.rig, &w.ring, F_V1);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, ECHO_QUEUES);
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
	world_pump(&w);
	assert_int_equal(w.echo.n_notified, 0);

	/* by the eventfd, as KVM does it; the vCPU does not wait for the device */
	ring_desc(&w.ring, 0, OUT_GPA, 16, 0, 0);
	ring_offer(&w.ring, 0);
	assert_int_equal(write(virtio_mmio_kick_fd(&w.rig.m, 0), &one, 8), 8);
	assert_int_equal(w.echo.n_notified, 0);
	world_pump(&w);
	assert_int_equal(w.echo.n_notified, 1);
	assert_true(ring_take(&w.ring, &id, &len));

	/* a kick that is still under way when the driver resets */
	rig_write(&w.rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	rig_write(&w.rig, VIRTIO_MMIO_STATUS, 0);
	world_pump(&w);
	assert_int_equal(w.echo.n_notified, 1);
	rig_fini(&w.rig);
}

static void test_interrupts(void **state)
{
	struct virtio_transport *t;
	struct world w;

	(void)state;
	world_init(&w);
	t = w.echo.vdev.transport;
	/* before DRIVER_OK the generation tells of a change, but no interrupt */
	t->config_changed(t);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	assert_int_equal(rig_edges(&w.rig), 0);

	rig_start(&w.rig, &w.ring, F_V1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	t->config_changed(t);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_CONFIG_GENERATION), 2);
	assert_int_equal(rig_edges(&w.rig), 1);
	assert_true(world_serves(&w));
	assert_int_equal(rig_edges(&w.rig), 1);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_INTERRUPT_STATUS),
			 VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	rig_write(&w.rig, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	/* edge-triggered: an interrupt not yet acknowledged does not swallow the next */
	assert_true(world_serves(&w));
	assert_int_equal(rig_edges(&w.rig), 1);
	rig_write(&w.rig, VIRTIO_MMIO_INTERRUPT_ACK, 0xffffffff);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	rig_fini(&w.rig);
}

/* fini accepts an object whose init failed half way, and comes back twice */
static void test_failed_init(void **state)
{
	struct echo echo;
	struct virtio_mmio m;
	struct guest_mem gm = {0};
	struct loop loop = {.epfd = -1};
	struct err e = {0};

	(void)state;
	echo_init(&echo);
	assert_int_equal(virtio_mmio_init(&m, &echo.vdev, &gm, (struct irq_line) {-1}, &loop, &e),
			 -EBADF);
	assert_non_null(strstr(e.text, "echo"));
	virtio_mmio_fini(&m);
	virtio_mmio_fini(&m);
	assert_int_equal(echo.n_reset, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_table),  cmocka_unit_test(test_identity),
		cmocka_unit_test(test_matrix),	     cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_status_rules), cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_kicks),	     cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_failed_init),
	};

	return cmocka_run_group_tests_name("virtio_mmio", tests, NULL, NULL);
}
