/*
 * What a file is by its first or last bytes: those that are given by mistake where a raw disk, a
 * kernel, an initrd or a saved guest is wanted. One table of facts; what to make of them is the
 * caller's.
 */
#ifndef BASE_FILE_MAGIC_H
#define BASE_FILE_MAGIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum file_class {
	FILE_DISK,   /* a disk image in a format; tool: qemu-img's name of it */
	FILE_RAW,    /* a disk image as it is */
	FILE_PACKED, /* tool: the command that unpacks it */
	FILE_KERNEL, /* for x86 */
	FILE_OTHER_KERNEL,
	FILE_INITRD,
	FILE_SAVED, /* by testudo save */
};

struct file_magic {
	const char *name; /* with its article: "a qcow2 disk image" */
	enum file_class class;
	int64_t offset; /* in the file; negative: before its end */
	uint8_t len;
	const char *bytes;
	const char *tool; /* as the class says, or NULL */
};

/**
 * file_magic_find - the first row of the table that @fd fits
 * @size: of the file, bytes
 * Reads whole blocks at aligned places, so @fd may be open with O_DIRECT. What cannot be read fits
 * nothing.
 * Return: NULL when it is of no kind that is known
 */
const struct file_magic *file_magic_find(int fd, uint64_t size);

#define FILE_CURE_MAX 160

/**
 * file_magic_cure - where such a file belongs, or what to make of it first
 * @disk_wanted: it was given as a disk; elsewhere a raw one helps no more than what it is made from
 * Return: @buf, filled
 */
const char *file_magic_cure(const struct file_magic *m, bool disk_wanted, char buf[FILE_CURE_MAX]);

/** file_magic_table - all rows, for tests; @n receives their number */
const struct file_magic *file_magic_table(size_t *n);

#endif
