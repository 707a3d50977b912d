#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/virtio/rng.h"
#include "migration/state/state.h"
#include "ring.h"

#define BUF_GPA (RAM_GPA + 0x20000)
#define N	VRING_DESC_F_NEXT
#define W	VRING_DESC_F_WRITE

struct world {
	struct rig rig;
	struct ring ring;
	struct virtio_rng rng;
};

static void world_init(struct world *w)
{
	rig_prepare(&w->rig);
	virtio_rng_init(&w->rng);
	rig_init(&w->rig, &w->rng.vdev);
	ring_init(&w->ring, &w->rig.ram, RAM_GPA, 8);
	rig_start(&w->rig, &w->ring, w->rng.vdev.offered);
}

static uint32_t world_ask(struct world *w)
{
	uint32_t id = 1, len = 0;

	ring_offer(&w->ring, 0);
	rig_write(&w->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (rig_turn(&w->rig, 0))
		;
	assert_true(ring_take(&w->ring, &id, &len));
	assert_int_equal(id, 0);
	return len;
}

/* Return: bytes of [@gpa, @gpa + @len) that are not 0 */
static unsigned int world_count(const struct world *w, gpa_t gpa, size_t len)
{
	const uint8_t *p = ram_at(&w->rig.ram, gpa);
	unsigned int n = 0;

	while (len--)
		n += *p++ != 0;
	return n;
}

static void test_identity(void **state)
{
	struct err e = {0};
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(rig_read(&w.rig, VIRTIO_MMIO_DEVICE_ID), 4);
	if (state_check_desc(&w.rng.vdev.ops->state, &e))
		fail_msg("%s", e.text);
	rig_fini(&w.rig);
}

static void test_fill(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	/* exactly what was asked for: 128 random bytes are not all 0, the byte behind them is */
	ring_desc(&w.ring, 0, BUF_GPA, 128, W, 0);
	assert_int_equal(world_ask(&w), 128);
	assert_true(world_count(&w, BUF_GPA, 128) > 64);
	assert_int_equal(world_count(&w, BUF_GPA + 128, 4096), 0);

	/* several descriptors */
	ring_desc(&w.ring, 0, BUF_GPA + 0x1000, 32, W | N, 1);
	ring_desc(&w.ring, 1, BUF_GPA + 0x2000, 32, W, 0);
	assert_int_equal(world_ask(&w), 64);
	assert_true(world_count(&w, BUF_GPA + 0x1000, 32) > 16);
	assert_true(world_count(&w, BUF_GPA + 0x2000, 32) > 16);

	/* a greedy request gets a bounded answer */
	ring_desc(&w.ring, 0, BUF_GPA + 0x4000, 0x100000, W, 0);
	assert_int_equal(world_ask(&w), 256);
	assert_int_equal(world_count(&w, BUF_GPA + 0x4000 + 256, 0x100000 - 256), 0);

	/* nothing to write to */
	ring_desc(&w.ring, 0, BUF_GPA, 16, 0, 0);
	assert_int_equal(world_ask(&w), 0);
	rig_fini(&w.rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_fill),
	};

	return cmocka_run_group_tests_name("virtio_rng", tests, NULL, NULL);
}
