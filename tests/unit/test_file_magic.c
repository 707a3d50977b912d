/*
 * What files are by their bytes: each row of the table where it belongs, and what is none of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/file_magic.h"

#define SIZE 0x10200 /* a multiple of a sector, not of a block */

static int make_file(uint64_t size, int64_t at, const void *bytes, size_t len)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	if (at < 0)
		at += (int64_t)size;
	assert_int_equal(pwrite(fd, bytes, len, (off_t)at), len);
	return fd;
}

static void test_rows(void **state)
{
	const struct file_magic *m, *table;
	char cure[FILE_CURE_MAX];
	size_t i, n;
	int fd;

	(void)state;
	table = file_magic_table(&n);
	for (i = 0; i < n; i++) {
		print_message("# %s\n", table[i].name);
		fd = make_file(SIZE, table[i].offset, table[i].bytes, table[i].len);
		m = file_magic_find(fd, SIZE);
		close(fd);
		assert_ptr_equal(m, &table[i]); /* no row hides another */
		file_magic_cure(m, false, cure);
		assert_true(strlen(cure) > 0 && strlen(cure) < sizeof(cure) - 1);
		if (m->class == FILE_DISK)
			assert_non_null(strstr(cure, "-d")); /* raw, it is no kernel either */
		file_magic_cure(m, true, cure);
		if (m->class == FILE_DISK)
			assert_null(strstr(cure, "-d"));
		assert_true(strlen(cure) > 0 && strlen(cure) < sizeof(cure) - 1);
		assert_true(!!m->tool == (m->class == FILE_DISK || m->class == FILE_PACKED));
		if (m->tool)
			assert_non_null(strstr(cure, m->tool));
		/* a byte less is another thing, or at least another row */
		fd = make_file(SIZE, table[i].offset, table[i].bytes, table[i].len - 1u);
		m = file_magic_find(fd, SIZE);
		close(fd);
		if (m == &table[i])
			assert_int_equal(table[i].bytes[table[i].len - 1], 0);
	}
}

/* As the tools that make them write them: bytes of theirs, not of the table. */
static const struct {
	const char *name, *tool;
	int64_t at;
	const char *bytes;
	size_t len;
} real[] = {
	{"qemu-img create -f qcow2", "qcow2", 0, "QFI\xfb\0\0\0\3\0\0\0\0", 12},
	{"qemu-img create -f qcow2 -o compat=0.10", "qcow2", 0, "QFI\xfb\0\0\0\2", 8},
	{"qemu-img create -f qcow", "qcow", 0, "QFI\xfb\0\0\0\1", 8},
	{"qemu-img create -f vmdk", "vmdk", 0, "KDMV\1\0\0\0", 8},
	{"qemu-img create -f vmdk -o subformat=monolithicFlat", "vmdk", 0,
	 "# Disk DescriptorFile\nversion=1\n", 32},
	{"qemu-img create -f vdi", "vdi", 0,
	 "<<< QEMU VM Virtual Disk Image >>>\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
	 "\0\0\0\0\0\0\0\0\x7f\x10\xda\xbe\1\0\1\0",
	 72},
	{"qemu-img create -f vpc", "vpc", 0, "conectix\0\0\0\2", 12},
	{"qemu-img create -f vpc -o subformat=fixed", "vpc", -512, "conectix\0\0\0\2", 12},
	{"qemu-img create -f vhdx", "vhdx", 0, "vhdxfileQ\0E\0M\0U\0", 16},
	{"qemu-img create -f qed", "qed", 0, "QED\0\0\0\1\0", 8},
	{"qemu-img create -f parallels", "parallels", 0, "WithouFreSpacExt\2\0\0\0", 20},
};

static void test_real(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(real); i++) {
		int fd = make_file(SIZE, real[i].at, real[i].bytes, real[i].len);
		const struct file_magic *m = file_magic_find(fd, SIZE);

		close(fd);
		if (!m || m->class != FILE_DISK || strcmp(m->tool, real[i].tool) != 0)
			fail_msg("%s: %s", real[i].name, m ? m->name : "nothing");
	}
}

/* A guest's own, and files too short for anything. */
static void test_none(void **state)
{
	static const struct {
		int64_t at;
		const char *bytes;
		size_t len;
	} none[] = {
		{0, "LUKS\xba\xbe\0\2", 8},
		{0x438, "\x53\xef", 2}, /* ext4 */
		{0, "XFSB", 4},
		{0, "hsqs", 4},
		{0x10040, "_BHRfS_M", 8},
		{0xff6, "SWAPSPACE2", 10},
		{8, "QFI\xfb", 4}, /* elsewhere */
		{-511, "conectix", 8},
		{0, "conect", 6},
	};
	uint64_t size;
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(none); i++) {
		fd = make_file(SIZE, none[i].at, none[i].bytes, none[i].len);
		assert_null(file_magic_find(fd, SIZE));
		close(fd);
	}
	for (size = 0; size < 4; size++) {
		fd = make_file(size, 0, "QFI", size);
		assert_null(file_magic_find(fd, size));
		close(fd);
	}
	assert_null(file_magic_find(-1, SIZE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_real),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
