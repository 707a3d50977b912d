#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "devices/virtio/blk.h"
#include "migration/state/state.h"
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

	if (blk_file_open(&d->file, &opt, &e)) {
		if (!direct || !strstr(e.text, "direct"))
			fail_msg("%s", e.text);
		print_message("# SKIP: %s\n", e.text);
		unlink(d->path);
		skip();
	}
	assert_int_equal(
		virtio_blk_init(&d->blk, &d->file, "serial-0123456789abc", &d->rig.loop, &e), 0);
	rig_init(&d->rig, &d->blk.vdev);
	ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
	rig_start(&d->rig, &d->ring, features ? features : d->blk.vdev.offered);
	log_set_level(LOG_INFO);
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

static void test_state_table(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	const struct state_desc *desc = &d->blk.vdev.ops->state;
	struct err e = {0};

	(void)state;
	if (state_check_desc(desc, &e))
		fail_msg("%s", e.text);
	assert_int_equal(desc->size, sizeof(struct virtio_blk_regs));
	assert_int_equal(d->blk.regs.capacity_sectors, DISK_BYTES / 512);
	disk_free(d);
}

static void test_config(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	const uint64_t rw = 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE |
			    1ULL << VIRTIO_BLK_F_FLUSH;
	const uint64_t holes = 1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
	struct virtio_blk_config c;
	uint8_t *raw = (uint8_t *)&c;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(c); i++)
		bus_read(&d->rig.bus, 0x100 + i, raw + i, 1);
	assert_int_equal(rig_read(&d->rig, VIRTIO_MMIO_DEVICE_ID), 2);
	assert_int_equal(c.capacity, DISK_BYTES / 512);
	assert_int_equal(c.seg_max, 254);
	assert_int_equal(c.blk_size, 512);
	assert_int_equal(c.max_discard_seg, 1);
	assert_int_equal(c.max_write_zeroes_seg, 1);
	assert_int_equal(c.write_zeroes_may_unmap, 1);
	assert_true(d->blk.vdev.offered == (rw | holes | F_V1 | F_EVENT | F_INDIRECT));
	disk_free(d);

	d = disk_new(true, false, 0);
	assert_true(d->blk.vdev.offered ==
		    (rw | 1ULL << VIRTIO_BLK_F_RO | F_V1 | F_EVENT | F_INDIRECT));
	assert_int_equal(d->blk.config.max_discard_sectors, 0);
	disk_free(d);
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
	/* the whole disk in one request */
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 0, DATA_GPA, DISK_BYTES, true, &len), 0);
	assert_int_equal(len, DISK_BYTES + 1);
	check_pattern(d, DATA_GPA, 0, 2040 * 512);
	disk_free(d);
}

#define LAST (DISK_BYTES / 512)

static const struct {
	const char *name;
	uint32_t type;
	uint64_t sector;
	uint32_t data_len;
	bool data_in;
	uint8_t status;
	uint32_t used_len;
} rows[] = {
	{"read the last sector", VIRTIO_BLK_T_IN, LAST - 1, 512, true, VIRTIO_BLK_S_OK, 513},
	{"read nothing", VIRTIO_BLK_T_IN, 0, 0, true, VIRTIO_BLK_S_OK, 1},
	{"read nothing at the end", VIRTIO_BLK_T_IN, LAST, 0, true, VIRTIO_BLK_S_OK, 1},
	{"read nothing behind the end", VIRTIO_BLK_T_IN, LAST + 1, 0, true, VIRTIO_BLK_S_IOERR, 1},
	{"read behind the end", VIRTIO_BLK_T_IN, LAST, 512, true, VIRTIO_BLK_S_IOERR, 0},
	{"read across the end", VIRTIO_BLK_T_IN, LAST - 1, 1024, true, VIRTIO_BLK_S_IOERR, 0},
	{"read at a sector whose byte offset wraps to 0", VIRTIO_BLK_T_IN, 1ULL << 55, 512, true,
	 VIRTIO_BLK_S_IOERR, 0},
	{"read at the highest sector", VIRTIO_BLK_T_IN, ~0ULL, 512, true, VIRTIO_BLK_S_IOERR, 0},
	{"read with an end that wraps", VIRTIO_BLK_T_IN, ~0ULL - 1, 2048, true, VIRTIO_BLK_S_IOERR,
	 0},
	{"read half a sector", VIRTIO_BLK_T_IN, 0, 256, true, VIRTIO_BLK_S_IOERR, 0},
	{"read a sector and a byte", VIRTIO_BLK_T_IN, 0, 513, true, VIRTIO_BLK_S_IOERR, 0},
	{"read into a readable buffer", VIRTIO_BLK_T_IN, 0, 512, false, VIRTIO_BLK_S_IOERR, 1},
	{"write behind the end", VIRTIO_BLK_T_OUT, LAST, 512, false, VIRTIO_BLK_S_IOERR, 1},
	{"write across the end", VIRTIO_BLK_T_OUT, LAST - 1, 1024, false, VIRTIO_BLK_S_IOERR, 1},
	{"write where the offset wraps", VIRTIO_BLK_T_OUT, 1ULL << 55, 512, false,
	 VIRTIO_BLK_S_IOERR, 1},
	{"write half a sector", VIRTIO_BLK_T_OUT, 0, 100, false, VIRTIO_BLK_S_IOERR, 1},
	{"write from a writable buffer", VIRTIO_BLK_T_OUT, 0, 512, true, VIRTIO_BLK_S_IOERR, 0},
	{"flush with data", VIRTIO_BLK_T_FLUSH, 0, 512, false, VIRTIO_BLK_S_IOERR, 1},
	{"flush at any sector", VIRTIO_BLK_T_FLUSH, ~0ULL, 0, false, VIRTIO_BLK_S_OK, 1},
	{"SCSI passthrough", VIRTIO_BLK_T_SCSI_CMD, 0, 512, true, VIRTIO_BLK_S_UNSUPP, 0},
	{"unknown type", 0x7fffffff, 0, 512, true, VIRTIO_BLK_S_UNSUPP, 0},
	{"secure erase, not offered", VIRTIO_BLK_T_SECURE_ERASE, 0, 16, false, VIRTIO_BLK_S_UNSUPP,
	 1},
	{"get id", VIRTIO_BLK_T_GET_ID, 0, 20, true, VIRTIO_BLK_S_OK, 21},
	{"get id, short buffer", VIRTIO_BLK_T_GET_ID, 0, 5, true, VIRTIO_BLK_S_OK, 6},
	{"get id, long buffer", VIRTIO_BLK_T_GET_ID, 0, 512, true, VIRTIO_BLK_S_OK, 20},
	{"get id, no buffer", VIRTIO_BLK_T_GET_ID, 0, 0, true, VIRTIO_BLK_S_OK, 1},
	{"get id, readable buffer", VIRTIO_BLK_T_GET_ID, 0, 20, false, VIRTIO_BLK_S_IOERR, 1},
};

static void test_requests(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint8_t buf[512];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		uint32_t len;
		const uint8_t status = disk_request(d, rows[i].type, rows[i].sector, DATA_GPA,
						    rows[i].data_len, rows[i].data_in, &len);

		if (status != rows[i].status || len != rows[i].used_len)
			fail_msg("%s: status %u, used length %u", rows[i].name, status, len);
	}
	/* none of the refused writes went anywhere */
	for (i = 0; i < LAST; i += LAST - 1) {
		image_read(d->path, i * 512, buf, 512);
		memcpy(ram_at(&d->rig.ram, DATA_GPA), buf, 512);
		check_pattern(d, DATA_GPA, i * 512, 512);
	}
	disk_free(d);
}

static void test_get_id(void **state)
{
	struct disk *d = disk_new(false, false, 0);

	(void)state;
	memset(ram_at(&d->rig.ram, DATA_GPA), 0xee, 64);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_GET_ID, 0, DATA_GPA, 64, true, NULL), 0);
	assert_memory_equal(ram_at(&d->rig.ram, DATA_GPA), "serial-0123456789abc\xee", 21);
	disk_free(d);
}

/* What io_uring reads into guest memory is marked, and the status also where no data came before */
static void test_marks(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	struct ram_marks marks;

	(void)state;
	ram_mark(&d->rig.ram, &marks);
	disk_request(d, VIRTIO_BLK_T_IN, 5, DATA_GPA + 512, 8192, true, NULL);
	assert_true(ram_marked(&marks, DATA_GPA));
	assert_true(ram_marked(&marks, DATA_GPA + 4096));
	assert_true(ram_marked(&marks, DATA_GPA + 8192));
	assert_false(ram_marked(&marks, DATA_GPA + 12288));
	assert_true(ram_marked(&marks, STATUS_GPA));
	ram_mark(&d->rig.ram, &marks);
	disk_request(d, VIRTIO_BLK_T_OUT, 5, DATA_GPA, 8192, false, NULL);
	assert_false(ram_marked(&marks, DATA_GPA));
	assert_true(ram_marked(&marks, STATUS_GPA));
	d->rig.ram.gm.dirty = NULL;
	disk_free(d);
}

static void test_readonly(void **state)
{
	struct disk *d = disk_new(true, false, 0);
	uint32_t len;

	(void)state;
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 1, DATA_GPA, 512, true, &len), 0);
	check_pattern(d, DATA_GPA, 512, 512);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_OUT, 1, DATA_GPA, 512, false, &len),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_FLUSH, 0, DATA_GPA, 0, false, &len), 0);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_DISCARD, 0, DATA_GPA, 16, false, &len),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA_GPA, 16, false, &len),
			 VIRTIO_BLK_S_UNSUPP);
	disk_free(d);
}

/* Where header, data and status are cut into descriptors is the driver's choice. */
static const struct {
	const char *name;
	uint16_t out[8],
		in[8]; /* lengths of consecutive pieces of [header][data], [data][status] */
} splits[] = {
	{"header byte and rest", {1, 15}, {512, 1}},
	{"header in four", {4, 4, 4, 4}, {512, 1}},
	{"header with empty pieces", {8, 0, 8, 0}, {512, 0, 1}},
	{"status with the data", {16}, {513}},
	{"status with the end of the data", {16}, {100, 413}},
	{"data in odd pieces", {3, 13}, {1, 2, 509, 1}},
	{"data with an empty piece", {16}, {256, 0, 256, 1}},
};

static void test_split_read(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(splits); i++) {
		gpa_t out = HDR_GPA, in = DATA_GPA;
		uint16_t n = 0, p;
		uint32_t len = 0;

		disk_header(d, VIRTIO_BLK_T_IN, 3 + i);
		memset(ram_at(&d->rig.ram, DATA_GPA), 0xee, 513);
		for (p = 0; p < 8; p++) {
			if (!splits[i].out[p] && out != HDR_GPA + 8)
				continue;
			ring_desc(&d->ring, n, out, splits[i].out[p], N, (uint16_t)(n + 1));
			out += splits[i].out[p];
			n++;
		}
		for (p = 0; p < 8; p++) {
			ring_desc(&d->ring, n, in, splits[i].in[p], W | N, (uint16_t)(n + 1));
			in += splits[i].in[p];
			n++;
		}
		ring_desc(&d->ring, n, DATA_GPA, 0, W, 0);
		ring_offer(&d->ring, 0);
		disk_run(d, 1, &len);
		if (len != 513 || *(uint8_t *)ram_at(&d->rig.ram, DATA_GPA + 512))
			fail_msg("%s: length %u", splits[i].name, len);
		check_pattern(d, DATA_GPA, (3 + i) * 512, 512);
	}
	disk_free(d);
}

/* Header and data in one descriptor; the data of a write starts in its middle. */
static void test_split_write(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint8_t buf[1024];
	uint32_t len = 0;

	(void)state;
	disk_header(d, VIRTIO_BLK_T_OUT, 7);
	memset(ram_at(&d->rig.ram, HDR_GPA + 16), 0x11, 100);
	memset(ram_at(&d->rig.ram, DATA_GPA), 0x22, 924);
	ring_desc(&d->ring, 0, HDR_GPA, 10, N, 1);
	ring_desc(&d->ring, 1, HDR_GPA + 10, 6 + 100, N, 2);
	ring_desc(&d->ring, 2, DATA_GPA, 924, N, 3);
	ring_desc(&d->ring, 3, STATUS_GPA, 1, W, 0);
	ring_offer(&d->ring, 0);
	disk_run(d, 1, &len);
	assert_int_equal(*(uint8_t *)ram_at(&d->rig.ram, STATUS_GPA), 0);
	image_read(d->path, 7 * 512, buf, sizeof(buf));
	assert_int_equal(buf[0], 0x11);
	assert_int_equal(buf[99], 0x11);
	assert_int_equal(buf[100], 0x22);
	assert_int_equal(buf[1023], 0x22);
	disk_free(d);
}

static void test_bad_layout(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint32_t len = 0;

	(void)state;
	log_set_level(LOG_ERR);
	/* a header too short to say anything still gets its status */
	*(uint8_t *)ram_at(&d->rig.ram, STATUS_GPA) = 0xee;
	ring_desc(&d->ring, 0, HDR_GPA, 15, N, 1);
	ring_desc(&d->ring, 1, STATUS_GPA, 1, W, 0);
	ring_offer(&d->ring, 0);
	disk_run(d, 1, &len);
	assert_int_equal(*(uint8_t *)ram_at(&d->rig.ram, STATUS_GPA), VIRTIO_BLK_S_IOERR);
	/* nowhere to put a status: the driver is beyond help */
	ring_desc(&d->ring, 0, HDR_GPA, 16, 0, 0);
	ring_offer(&d->ring, 0);
	rig_write(&d->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (rig_turn(&d->rig, 0))
		;
	assert_true(rig_status(&d->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	/* and recovers by a reset */
	ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
	rig_start(&d->rig, &d->ring, d->blk.vdev.offered);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 5, DATA_GPA, 512, true, &len), 0);
	disk_free(d);
}

static const struct {
	const char *name;
	uint32_t type;
	uint64_t sector;
	uint32_t sectors, flags;
	uint32_t len; /* of the range descriptor */
	uint8_t status;
	bool zeroed;
} zeroes[] = {
	{"discard", VIRTIO_BLK_T_DISCARD, 8, 16, 0, 16, VIRTIO_BLK_S_OK, true},
	{"write zeroes", VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, 0, 16, VIRTIO_BLK_S_OK, true},
	{"write zeroes, unmap", VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, 1, 16, VIRTIO_BLK_S_OK, true},
	{"write zeroes, one sector", VIRTIO_BLK_T_WRITE_ZEROES, 9, 1, 0, 16, VIRTIO_BLK_S_OK, true},
	{"discard to the end", VIRTIO_BLK_T_DISCARD, LAST - 8, 8, 0, 16, VIRTIO_BLK_S_OK, true},
	{"discard nothing", VIRTIO_BLK_T_DISCARD, 8, 0, 0, 16, VIRTIO_BLK_S_OK, false},
	{"discard with unmap", VIRTIO_BLK_T_DISCARD, 8, 8, 1, 16, VIRTIO_BLK_S_UNSUPP, false},
	{"discard with unknown flag", VIRTIO_BLK_T_DISCARD, 8, 8, 2, 16, VIRTIO_BLK_S_UNSUPP,
	 false},
	{"zeroes with unknown flag", VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0x80000001, 16,
	 VIRTIO_BLK_S_UNSUPP, false},
	{"discard across the end", VIRTIO_BLK_T_DISCARD, LAST - 8, 9, 0, 16, VIRTIO_BLK_S_IOERR,
	 false},
	{"discard behind the end", VIRTIO_BLK_T_DISCARD, LAST + 1, 1, 0, 16, VIRTIO_BLK_S_IOERR,
	 false},
	{"discard at a wrapping sector", VIRTIO_BLK_T_DISCARD, 1ULL << 55, 8, 0, 16,
	 VIRTIO_BLK_S_IOERR, false},
	{"zeroes with a length that wraps", VIRTIO_BLK_T_WRITE_ZEROES, 8, 0x800001, 0, 16,
	 VIRTIO_BLK_S_IOERR, false},
	{"zeroes with the longest length", VIRTIO_BLK_T_WRITE_ZEROES, 8, 0xffffffff, 0, 16,
	 VIRTIO_BLK_S_IOERR, false},
	{"half a range", VIRTIO_BLK_T_DISCARD, 8, 8, 0, 8, VIRTIO_BLK_S_IOERR, false},
	{"two ranges", VIRTIO_BLK_T_DISCARD, 8, 8, 0, 32, VIRTIO_BLK_S_IOERR, false},
	{"no range", VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0, 0, VIRTIO_BLK_S_IOERR, false},
};

static void test_zeroes(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(zeroes); i++) {
		struct disk *d = disk_new(false, false, 0);
		uint8_t *range = ram_at(&d->rig.ram, DATA_GPA);
		uint8_t *got = ram_at(&d->rig.ram, DATA_GPA + 0x1000);
		uint64_t at, first = 0, end = 0;
		struct stat before, after;
		uint8_t status;

		assert_int_equal(stat(d->path, &before), 0);
		put_le64(range, zeroes[i].sector);
		put_le32(range + 8, zeroes[i].sectors);
		put_le32(range + 12, zeroes[i].flags);
		put_le64(range + 16, 100);
		put_le64(range + 24, 1);
		status = disk_request(d, zeroes[i].type, 0, DATA_GPA, zeroes[i].len, false, NULL);
		if (status != zeroes[i].status)
			fail_msg("%s: status %u", zeroes[i].name, status);
		if (zeroes[i].zeroed) {
			first = zeroes[i].sector * 512;
			end = first + zeroes[i].sectors * 512ULL;
		}
		image_read(d->path, 0, got, DISK_BYTES);
		for (at = 0; at < DISK_BYTES; at++) {
			const uint8_t want = at >= first && at < end ? 0 : pattern(at);

			if (got[at] != want)
				fail_msg("%s: byte %llu is %#x", zeroes[i].name,
					 (unsigned long long)at, got[at]);
		}
		assert_int_equal(stat(d->path, &after), 0);
		assert_int_equal(before.st_size, after.st_size);
		disk_free(d);
	}
}

static void test_not_negotiated(void **state)
{
	struct disk *d = disk_new(false, false, F_V1);

	(void)state;
	put_le64(ram_at(&d->rig.ram, DATA_GPA), 0);
	put_le64(ram_at(&d->rig.ram, DATA_GPA + 8), 8);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_DISCARD, 0, DATA_GPA, 16, false, NULL),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA_GPA, 16, false, NULL),
			 VIRTIO_BLK_S_UNSUPP);
	disk_free(d);
}

/* The queue full of requests at once: one system call, few interrupts, every one its own data. */
static void test_full_queue(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	unsigned int round;
	uint32_t len = 0;
	uint16_t i;

	(void)state;
	for (round = 0; round < 20; round++) {
		memset(ram_at(&d->rig.ram, DATA_GPA), 0xee, 256 * 512);
		for (i = 0; i < 256; i++) {
			uint8_t *h = ram_at(&d->rig.ram, HDR_GPA + i * 16u);
			gpa_t table = RAM_GPA + 0x300000 + i * 64u;

			put_le64(h, VIRTIO_BLK_T_IN);
			put_le64(h + 8, (i * 37u + round) % LAST);
			ring_desc_at(&d->ring, table, 0, HDR_GPA + i * 16u, 16, N, 1);
			ring_desc_at(&d->ring, table, 1, DATA_GPA + i * 512u, 512, W | N, 2);
			ring_desc_at(&d->ring, table, 2, RAM_GPA + 0x200000 + i, 1, W, 0);
			ring_desc(&d->ring, i, table, 48, VRING_DESC_F_INDIRECT, 0);
			*(uint8_t *)ram_at(&d->rig.ram, RAM_GPA + 0x200000 + i) = 0xee;
			ring_offer(&d->ring, i);
		}
		*ring_used_event(&d->ring) = (uint16_t)(d->ring.seen + 255);
		rig_edges(&d->rig);
		disk_run(d, 256, &len);
		while (rig_turn(&d->rig, 0))
			;
		assert_int_equal(rig_edges(&d->rig), 1);
		for (i = 0; i < 256; i++) {
			assert_int_equal(*(uint8_t *)ram_at(&d->rig.ram, RAM_GPA + 0x200000 + i),
					 0);
			check_pattern(d, DATA_GPA + i * 512u, (i * 37u + round) % LAST * 512, 512);
		}
	}
	disk_free(d);
}

/* The longest request: 254 segments of data, as seg_max promises. */
static void test_longest(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint32_t len = 0;
	uint16_t i;

	(void)state;
	disk_header(d, VIRTIO_BLK_T_IN, 0);
	ring_desc(&d->ring, 0, HDR_GPA, 16, N, 1);
	for (i = 1; i <= 254; i++)
		ring_desc(&d->ring, i, DATA_GPA + (255u - i) * 4096, 4096, W | N,
			  (uint16_t)(i + 1));
	ring_desc(&d->ring, 255, STATUS_GPA, 1, W, 0);
	ring_offer(&d->ring, 0);
	disk_run(d, 1, &len);
	assert_int_equal(len, 254 * 4096 + 1);
	for (i = 1; i <= 254; i++)
		check_pattern(d, DATA_GPA + (255u - i) * 4096, (i - 1) * 4096u, 4096);
	disk_free(d);
}

/* Every odd address and piece length through the bounce buffer of direct I/O. */
static void test_direct(void **state)
{
	const uint32_t shift[] = {0, 1, 511, 512, 4095};
	const uint32_t lens[] = {4096, 65536, 65536 + 4096, 200 * 1024};
	struct disk *d = disk_new(false, true, 0);
	uint8_t *buf = malloc(DISK_BYTES);
	size_t s, l;

	(void)state;
	assert_non_null(buf);
	assert_in_range(d->file.block_size, 512, 4096);
	for (s = 0; s < ARRAY_SIZE(shift); s++) {
		for (l = 0; l < ARRAY_SIZE(lens); l++) {
			const gpa_t gpa = DATA_GPA + shift[s];
			const uint32_t n = lens[l];
			uint32_t len;

			memset(ram_at(&d->rig.ram, gpa), 0xee, n + 1);
			assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 8, gpa, n, true, &len),
					 0);
			assert_int_equal(len, n + 1);
			check_pattern(d, gpa, 4096, n);
			assert_int_equal(*(uint8_t *)ram_at(&d->rig.ram, gpa + n), 0xee);

			memset(ram_at(&d->rig.ram, gpa), (int)(0x40 + s * 4 + l), n);
			assert_int_equal(
				disk_request(d, VIRTIO_BLK_T_OUT, 1024, gpa, n, false, &len), 0);
			assert_int_equal(len, 1);
			image_read(d->path, 1024 * 512, buf, n);
			assert_memory_equal(buf, ram_at(&d->rig.ram, gpa), n);
		}
	}
	/* beside the writes nothing changed */
	image_read(d->path, 0, ram_at(&d->rig.ram, DATA_GPA), 1024 * 512);
	check_pattern(d, DATA_GPA, 0, 1024 * 512);
	free(buf);
	disk_free(d);
}

/* Data cut at odd places: the pieces are not usable for direct I/O, their sum is. */
static void test_direct_pieces(void **state)
{
	struct disk *d = disk_new(false, true, 0);
	uint32_t len = 0;

	(void)state;
	disk_header(d, VIRTIO_BLK_T_IN, 16);
	ring_desc(&d->ring, 0, HDR_GPA, 16, N, 1);
	ring_desc(&d->ring, 1, DATA_GPA, 70001, W | N, 2);
	ring_desc(&d->ring, 2, DATA_GPA + 70001, 3, W | N, 3);
	ring_desc(&d->ring, 3, DATA_GPA + 70004, 131072 - 70004 + 1, W, 0);
	ring_offer(&d->ring, 0);
	disk_run(d, 1, &len);
	assert_int_equal(len, 131073);
	check_pattern(d, DATA_GPA, 16 * 512, 131072);
	assert_int_equal(*(uint8_t *)ram_at(&d->rig.ram, DATA_GPA + 131072), 0);
	disk_free(d);
}

/* The image becomes shorter under the running disk: short data, then an error, no endless loop. */
static void test_truncated(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	uint32_t len;

	(void)state;
	log_set_level(LOG_ERR);
	assert_int_equal(truncate(d->path, 1536), 0);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 1, DATA_GPA, 4096, true, &len),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(len, 1024); /* what was read without a gap, the status not among it */
	check_pattern(d, DATA_GPA, 512, 1024);
	assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 100, DATA_GPA, 512, true, &len),
			 VIRTIO_BLK_S_IOERR);
	disk_free(d);
}

/* A reset waits for what is in flight and throws the results away. */
static void test_reset_in_flight(void **state)
{
	struct disk *d = disk_new(false, true, 0);
	unsigned int round, in_flight = 0;

	(void)state;
	for (round = 0; round < 10; round++) {
		const uint8_t *status = ram_at(&d->rig.ram, STATUS_GPA);
		uint16_t i, used;
		uint32_t len;

		disk_header(d, VIRTIO_BLK_T_OUT, 0);
		for (i = 0; i < 64; i++) {
			ring_desc(&d->ring, (uint16_t)(3 * i), HDR_GPA, 16, N,
				  (uint16_t)(3 * i + 1));
			/* odd rounds go through bounce buffers */
			ring_desc(&d->ring, (uint16_t)(3 * i + 1), DATA_GPA + round % 2, 65536, N,
				  (uint16_t)(3 * i + 2));
			ring_desc(&d->ring, (uint16_t)(3 * i + 2), STATUS_GPA, 1, W, 0);
			ring_offer(&d->ring, (uint16_t)(3 * i));
		}
		rig_write(&d->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		assert_true(rig_turn(&d->rig, 0)); /* submits */
		in_flight += d->blk.n_in_flight;
		used = ring_used(&d->ring)->idx;
		*(uint8_t *)ram_at(&d->rig.ram, STATUS_GPA) = 0xee;
		rig_write(&d->rig, VIRTIO_MMIO_STATUS, 0);
		assert_int_equal(d->blk.n_in_flight, 0);
		assert_int_equal(ring_used(&d->ring)->idx, used);
		assert_int_equal(*status, 0xee);
		while (rig_turn(&d->rig, 0))
			;
		ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
		rig_start(&d->rig, &d->ring, d->blk.vdev.offered);
		assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 512, DATA_GPA, 512, true, &len),
				 0);
		check_pattern(d, DATA_GPA, 512 * 512, 512);
	}
	print_message("# %u of %u requests in flight at their reset\n", in_flight, 64 * round);
	disk_free(d);
}

/* The machine is rebuilt around the same open file, which may still have a completion to tell. */
static void test_rebuild(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	struct err e = {0};
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		disk_header(d, VIRTIO_BLK_T_FLUSH, 0);
		ring_desc(&d->ring, 0, HDR_GPA, 16, N, 1);
		ring_desc(&d->ring, 1, STATUS_GPA, 1, W, 0);
		ring_offer(&d->ring, 0);
		rig_write(&d->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		assert_true(rig_turn(&d->rig, 0));
		virtio_mmio_fini(&d->rig.m);
		virtio_blk_fini(&d->blk);
		assert_int_equal(virtio_blk_init(&d->blk, &d->file, "again", &d->rig.loop, &e), 0);
		rig_init(&d->rig, &d->blk.vdev);
		ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
		rig_start(&d->rig, &d->ring, d->blk.vdev.offered);
		assert_int_equal(disk_request(d, VIRTIO_BLK_T_IN, 9, DATA_GPA, 512, true, NULL), 0);
		check_pattern(d, DATA_GPA, 9 * 512, 512);
	}
	disk_free(d);
}

struct stopper {
	struct loop_watch watch;
	struct loop *loop;
};

static void stop_ready(struct loop_watch *w)
{
	loop_stop(container_of(w, struct stopper, watch)->loop);
}

static void *run_loop(void *arg)
{
	return (void *)(intptr_t)loop_run(arg);
}

/* The driver resets at any moment while the loop's thread submits and harvests. */
static void test_reset_from_vcpu(void **state)
{
	struct disk *d = disk_new(false, false, 0);
	unsigned int round, served = 0;
	struct timespec nap = {0};
	uint8_t *status = ram_at(&d->rig.ram, STATUS_GPA);
	struct stopper stop = {.loop = &d->rig.loop};
	const int stop_fd = eventfd(0, EFD_NONBLOCK);
	pthread_t thread;
	uint16_t i;

	(void)state;
	assert_int_equal(loop_add(&d->rig.loop, &stop.watch, stop_fd, EPOLLIN, stop_ready), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_loop, &d->rig.loop), 0);
	for (round = 0; round < 300; round++) {
		disk_header(d, round & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_FLUSH, 0);
		for (i = 0; i < 3 * 64; i += 3) {
			ring_desc(&d->ring, i, HDR_GPA, 16, N, (uint16_t)(i + 1));
			ring_desc(&d->ring, (uint16_t)(i + 1), DATA_GPA, round & 1 ? 4096 : 0,
				  N | W, (uint16_t)(i + 2));
			ring_desc(&d->ring, (uint16_t)(i + 2), STATUS_GPA, 1, W, 0);
			ring_offer(&d->ring, i);
		}
		*status = 0xee;
		rig_write(&d->rig, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		nap.tv_nsec = round % 16 * 20000;
		nanosleep(&nap, NULL);
		rig_write(&d->rig, VIRTIO_MMIO_STATUS, 0);
		served += *status == 0;
		/* the guest's memory is its own again */
		ring_init(&d->ring, &d->rig.ram, RING_GPA, 256);
		memset(ram_at(&d->rig.ram, DATA_GPA), 0x77, 4096);
		rig_start(&d->rig, &d->ring, d->blk.vdev.offered);
		assert_int_equal(rig_status(&d->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
		for (i = 0; i < 4096; i++)
			assert_int_equal(((uint8_t *)ram_at(&d->rig.ram, DATA_GPA))[i], 0x77);
	}
	print_message("# %u of %u rounds answered before the reset\n", served, round);
	assert_int_equal(eventfd_write(stop_fd, 1), 0);
	pthread_join(thread, NULL);
	loop_del(&d->rig.loop, &stop.watch);
	close(stop_fd);
	disk_free(d);
}

static void test_bad_serial(void **state)
{
	struct blk_file f = {.size_bytes = 512, .block_size = 512, .path = "x"};
	struct virtio_blk b;
	struct loop loop = {.epfd = -1};
	struct err e = {0};

	(void)state;
	assert_int_equal(virtio_blk_init(&b, &f, "123456789012345678901", &loop, &e), -EINVAL);
	assert_non_null(strstr(e.text, "123456789012345678901"));
	assert_non_null(strstr(e.text, "20"));
	virtio_blk_fini(&b);
	virtio_blk_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_table),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_read_write_flush),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_get_id),
		cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_marks),
		cmocka_unit_test(test_split_read),
		cmocka_unit_test(test_split_write),
		cmocka_unit_test(test_bad_layout),
		cmocka_unit_test(test_zeroes),
		cmocka_unit_test(test_not_negotiated),
		cmocka_unit_test(test_full_queue),
		cmocka_unit_test(test_longest),
		cmocka_unit_test(test_direct),
		cmocka_unit_test(test_direct_pieces),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_reset_in_flight),
		cmocka_unit_test(test_rebuild),
		cmocka_unit_test(test_reset_from_vcpu),
		cmocka_unit_test(test_bad_serial),
	};

	return cmocka_run_group_tests_name("virtio_blk", tests, NULL, NULL);
}
