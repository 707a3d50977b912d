/* Small files of the host, read whole with a limit: policies, facts, lines of sysfs. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>

struct err;

/**
 * file_read - read a regular or virtual file whole
 * @what: what the file is to the user, for messages: "policy"
 * @path: "-" is a file of that name, not standard input
 * @max: largest size accepted, bytes
 * @out: receives a block of @len bytes and a NUL after them, owned by the caller
 * Neither waits for a FIFO's writer nor reads a device.
 * Return: 0; -EFBIG, -EINVAL (a directory, a FIFO, a device), -ENOMEM or the errno of open(2) and
 * read(2), with @what, @path and the cure in @e
 */
int file_read(const char *what, const char *path, size_t max, char **out, size_t *len,
	      struct err *e);

/**
 * file_read_line - the first line of a file of sysfs or procfs, without its newline
 * @buf: receives it, cut to @size bytes and NUL-terminated; "" on error
 * Return: 0 or -errno
 */
int file_read_line(const char *path, char *buf, size_t size);

#endif
