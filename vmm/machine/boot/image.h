/* A kernel or initrd file while it is read: bounds-checked pread(2), and errors that name it. */
#ifndef VMM_MACHINE_BOOT_IMAGE_H
#define VMM_MACHINE_BOOT_IMAGE_H

#include <stdint.h>

struct err;

struct image {
	const char *what; /* "kernel" or "initrd", for messages */
	const char *path; /* for messages */
	int fd;
	uint64_t size_bytes;
};

/**
 * image_init - wrap the open file @fd, taking its present size
 * Return: 0; -errno of fstat(2); -EINVAL when it is not a regular file or is empty
 */
int image_init(struct image *im, const char *what, const char *path, int fd, struct err *e);

/**
 * image_read - read exactly @len_bytes at @offset, not moving the file offset
 * Return: 0; -EINVAL when the file does not reach that far; -errno of pread(2)
 */
int image_read(const struct image *im, uint64_t offset, void *buf, uint64_t len_bytes,
	       struct err *e);

/**
 * image_err - record "<what> <path>: <text>" in @e
 * @fmt: as err_set() takes it, without the file's name
 * Return: -EINVAL
 */
int image_err(const struct image *im, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
