#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "devices/virtio/blk.h"
#include "migration/state.h"
#include "ring.h"

#define DISK_BYTES (1 * MiB)
#define RING_GPA   RAM_GPA
#define HDR_GPA	   (RAM_GPA + 0x10000)
#define STATUS_GPA (RAM_GPA + 0x10800)
#define TABLE_GPA  (RAM_GPA + 0x11000)
#define DATA_GPA   (RAM_GPA + 0x20000)

#define N VRING_DESC_F_NEXT
#define W VRING_DESC_F_WRITE

struct disk {
	struct rig rig;
	struct ring ring;
	struct blk_file file;
	struct virtio_blk blk;
	char path[32];
};

static uint8_t pattern(uint64_t offset)
{
	return (uint8_t)(offset * 7 + offset / 512 + 1);
}

static void image_make(char *path, uint64_t size)
{
	uint8_t buf[4096];
	uint64_t at, i;
	int fd;

	strcpy(path, "test-blk-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (at = 0; at < size; at += sizeof(buf)) {
		for (i = 0; i < sizeof(buf); i++)
			buf[i] = pattern(at + i);
		assert_int_equal(write(fd, buf, sizeof(buf)), sizeof(buf));
	}
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static void image_read(const char *path, uint64_t offset, void *buf, size_t len)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, (off_t)offset), len);
	close(fd);
}

static void disk_start(struct disk *d, bool readonly, bool direct, uint64_t features)
{
	struct blk_options opt = {.path = d->path, .readonly = readonly, .direct = direct};
	struct err e = {0};

	if (blk_file_open(&d->file, &opt, &e))
		fail_msg("%s", e.text);
	assert_int_equal(
		virtio_blk_init(&d->blk, &d->file, "serial-0123456789abc", &d->rig.loop, &e), 0);
	rig_init(&d->rig, &d->blk.vdev);
	ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
	rig_start(&d->rig, &d->ring, features ? features : d->blk.vdev.offered);
	assert_int_equal(rig_status(&d->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
}

static struct disk *disk_new(bool readonly, bool direct, uint64_t features)
{
	struct disk *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	rig_prepare(&d->rig);
	image_make(d->path, DISK_BYTES);
	disk_start(d, readonly, direct, features);
	return d;
}

static void disk_free(struct disk *d)
{
	virtio_mmio_fini(&d->rig.m);
	virtio_blk_fini(&d->blk);
	blk_file_close(&d->file);
	rig_fini(&d->rig);
	unlink(d->path);
	free(d);
}

static void disk_header(const struct disk *d, uint32_t type, uint64_t sector)
{
	uint8_t *h = ram_at(&d->rig.ram, HDR_GPA);

	put_le32(h, type);
	put_le32(h + 4, 0);
	put_le64(h + 8, sector);
}

/* Kicks and cranks the loop until @n more requests came back. */
static void disk_run(struct disk *d, unsigned int n, uint32_t *len)
{
	uint32_t id;

	rig_write(&d->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (n) {
		if (ring_take(&d->ring, &id, len)) {
			n--;
			continue;
		}
		if (!rig_turn(&d->rig, 5000))
			fail_msg("no answer within 5 s, status %#x", rig_status(&d->rig));
	}
}

/* One request with a single data descriptor. Return: status byte. */
static uint8_t disk_request(struct disk *d, uint32_t type, uint64_t sector, gpa_t data,
			    uint32_t data_len, bool data_in, uint32_t *used_len)
{
	uint8_t *status = ram_at(&d->rig.ram, STATUS_GPA);
	uint32_t len = 0;

	disk_header(d, type, sector);
	*status = 0xee;
	ring_desc(&d->ring, 0, HDR_GPA, 16, N, 1);
	ring_desc(&d->ring, 1, data, data_len, (uint16_t)(N | (data_in ? W : 0)), 2);
	ring_desc(&d->ring, 2, STATUS_GPA, 1, W, 0);
	ring_offer(&d->ring, 0);
	disk_run(d, 1, &len);
	if (used_len)
		*used_len = len;
	return *status;
}

static void check_pattern(const struct disk *d, gpa_t gpa, uint64_t offset, size_t len)
{
	const uint8_t *p = ram_at(&d->rig.ram, gpa);
	size_t i;

	for (i = 0; i < len; i++) {
		if (p[i] != pattern(offset + i))
			fail_msg("byte %zu of file offset %llu is %#x", i,
				 (unsigned long long)offset, p[i]);
	}
}

static void test_read_write_flush(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint8_t buf[4096];
	uint32_t len;

	(void)state;
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 5, DATA_GPA, 8192, true, &len), 0);
	assert_int_equal(len, 8193);
	check_pattern(d, DATA_GPA, 5 * 512, 8192);
	memset(ram_at(&d->rig.ram, DATA_GPA), 0xa5, 4096);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_OUT, 2040, DATA_GPA, 4096, false, &len), 0);
	assert_int_equal(len, 1);
	image_read(d->path, 2040 * 512, buf, sizeof(buf));
	assert_memory_equal(buf, ram_at(&d->rig.ram, DATA_GPA), 4096);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_FLUSH, 0, DATA_GPA, 0, false, &len), 0);
	assert_int_equal(len, 1);
	disk_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write_flush),
	};

	return cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
