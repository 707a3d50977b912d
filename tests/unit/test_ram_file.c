/*
 * Guest RAM saved to a file: sparse, mapped back as it was, and damage is found by the checksums.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/ram/file.h"
#include "vmm/kvm/memory.h"

#define SIZE   (8 * MiB + 12 * KiB) /* the last part is short */
#define OFFSET (64 * KiB)
#define PARTS  9

struct saved {
	struct memory m;
	int fd;
	uint32_t crc[PARTS];
	struct ram_file file;
};

static void save(struct saved *s)
{
	const struct memory_options opt = {.size_bytes = SIZE};

	assert_int_equal(ram_file_parts(SIZE), PARTS);
	assert_int_equal(memory_init(&s->m, &opt, NULL), 0);
	memset(s->m.map + 5 * KiB, 1, 10);	/* in part 0 */
	memset(s->m.map + 2 * MiB, 0, 4 * KiB); /* touched, but zero */
	memset(s->m.map + 3 * MiB - 1, 2, 2);	/* across parts 2 and 3 */
	memset(s->m.map + 5 * MiB, 3, MiB);	/* all of part 5 */
	memset(s->m.map + SIZE - 1, 4, 1);	/* the last byte */
	s->fd = memfd_create("saved", MFD_CLOEXEC);
	assert_true(s->fd >= 0);
	s->file = (struct ram_file) {
		.fd = s->fd, .offset = OFFSET, .n_bytes = SIZE, .crc = s->crc, .cancel_fd = -1};
	assert_int_equal(ram_file_save(&s->file, s->m.map, s->m.fd, NULL), 0);
	assert_int_equal(s->file.progress.done, SIZE);
	assert_int_equal(s->file.progress.bytes, MiB + 4 * 4 * KiB);
}

static void saved_fini(struct saved *s)
{
	memory_fini(&s->m);
	close(s->fd);
}

static void test_back_as_it_was(void **state)
{
	struct memory back;
	struct saved s;
	struct stat st;

	(void)state;
	save(&s);
	assert_int_equal(fstat(s.fd, &st), 0);
	assert_int_equal(st.st_size, OFFSET + SIZE);
	/* 256 pages of part 5 and four single ones; large pages of the host may round that up */
	assert_in_range((uint64_t)st.st_blocks * 512, MiB, MiB + 4 * 4 * KiB);
	assert_int_equal(s.crc[1], 0);
	assert_int_not_equal(s.crc[5], 0);
	assert_int_equal(ram_file_check(&s.file, NULL), 0);

	assert_int_equal(memory_map_file(&back, s.fd, "saved", OFFSET, SIZE, NULL), 0);
	assert_int_equal(back.fd, -1);
	assert_memory_equal(back.map, s.m.map, SIZE);
	/* what the guest writes does not go into the file */
	memset(back.map + MiB, 9, MiB);
	memory_fini(&back);
	assert_int_equal(ram_file_check(&s.file, NULL), 0);
	saved_fini(&s);
}

static void test_damage_is_found(void **state)
{
	const uint64_t at[] = {0, 5 * KiB, MiB + 1, 5 * MiB, SIZE - 1, SIZE - 2};
	struct saved s;
	size_t i;

	(void)state;
	save(&s);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		const off_t where = (off_t)(OFFSET + at[i]);
		struct err e = {0};
		uint8_t byte;

		assert_int_equal(pread(s.fd, &byte, 1, where), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(s.fd, &byte, 1, where), 1);
		assert_int_equal(ram_file_check(&s.file, &e), -EILSEQ);
		assert_string_not_equal(e.text, "");
		byte ^= 0x10;
		assert_int_equal(pwrite(s.fd, &byte, 1, where), 1);
	}
	assert_int_equal(ram_file_check(&s.file, NULL), 0);
	/* data that became a hole, and an end that is missing */
	assert_int_equal(ftruncate(s.fd, OFFSET + 5 * MiB), 0);
	assert_int_equal(ram_file_check(&s.file, NULL), -EILSEQ);
	assert_int_equal(ftruncate(s.fd, OFFSET + SIZE), 0);
	assert_int_equal(ram_file_check(&s.file, NULL), -EILSEQ);
	saved_fini(&s);
}

static void test_short_file_is_refused(void **state)
{
	const struct {
		uint64_t offset, size;
		int ret;
	} cases[] = {
		{OFFSET, SIZE, 0},
		{OFFSET, SIZE + 4 * KiB, -EINVAL},
		{OFFSET + SIZE, 4 * KiB, -EINVAL},
		{OFFSET, 0, -EINVAL},
		{UINT64_MAX - 4095, 8 * KiB, -EINVAL},
		{OFFSET, UINT64_MAX - 4095, -EINVAL},
	};
	struct saved s;
	size_t i;

	(void)state;
	save(&s);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};
		struct memory m;

		assert_int_equal(memory_map_file(&m, s.fd, "saved", cases[i].offset, cases[i].size,
						 &e),
				 cases[i].ret);
		memory_fini(&m);
	}
	saved_fini(&s);
}

static void test_no_room_and_cancel(void **state)
{
	const uint64_t one = 1;
	const int cancel = eventfd(0, EFD_CLOEXEC);
	int full;
	struct saved s;
	struct err e = {0};

	(void)state;
	save(&s);
	assert_int_equal(write(cancel, &one, sizeof(one)), sizeof(one));
	s.file.cancel_fd = cancel;
	assert_int_equal(ram_file_save(&s.file, s.m.map, s.m.fd, &e), -ECANCELED);
	assert_int_equal(ram_file_check(&s.file, NULL), -ECANCELED);
	s.file.cancel_fd = -1;
	close(cancel);
	/* sealed against growing: as a disk without room */
	full = memfd_create("full", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(full, F_ADD_SEALS, F_SEAL_GROW), 0);
	e = (struct err) {0};
	s.file.fd = full;
	assert_int_not_equal(ram_file_save(&s.file, s.m.map, s.m.fd, &e), 0);
	assert_non_null(strstr(e.text, "save:"));
	close(full);
	saved_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_back_as_it_was),
		cmocka_unit_test(test_damage_is_found),
		cmocka_unit_test(test_short_file_is_refused),
		cmocka_unit_test(test_no_room_and_cancel),
	};

	return cmocka_run_group_tests_name("ram_file", tests, NULL, NULL);
}
