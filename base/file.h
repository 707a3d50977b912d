/*
 * Files of the user, opened one way whatever is at the path: a regular file, a pipe, a terminal.
 * Nothing here hangs: who waits for the other end of a FIFO is ended by SIGINT, SIGTERM and SIGHUP,
 * also where these are blocked. How files are written and replaced: base/file_write.h.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

/** file_kind - "a directory", "a FIFO"...: what a file of @mode is, for messages */
const char *file_kind(mode_t mode);

/**
 * file_read - read a file whole
 * @what: what the file is to the user, for messages: "policy"
 * @path: "-" is a file of that name, not standard input; that is /dev/stdin
 * @max: largest size accepted, bytes
 * @out: receives a block of @len bytes and a NUL after them, owned by the caller
 * Regular files, files of procfs, FIFOs and pipes up to their end, terminals up to Ctrl-D, and
 * /dev/null, which is empty. Waits for a FIFO's writer, and says so.
 * Return: 0; -EFBIG, -EINVAL (a directory, a socket, another device), -ENOMEM, -EINTR after a
 * signal, or the errno of open(2) and read(2), with @what, @path and the cure in @e
 */
int file_read(const char *what, const char *path, size_t max, char **out, size_t *len,
	      struct err *e);

/**
 * file_open_whole - open a file to read at any place, now and after its path has gone
 * @max: largest size accepted of what is no regular file, bytes
 * The same files as file_read(). A regular one is opened as it is, of others the descriptor is that
 * of a copy in memory.
 * Return: a descriptor, close-on-exec, or as file_read()
 */
int file_open_whole(const char *what, const char *path, uint64_t max, struct err *e);

/**
 * file_wait - until @fd is ready for @events of poll(2), or a signal ends the program
 * @timeout_ms: -1: for ever
 * Makes a descriptor: not for inside the sandbox.
 * Return: 1; 0 after @timeout_ms; -EINTR: one of SIGINT, SIGTERM, SIGHUP is pending; -errno
 */
int file_wait(int fd, short events, int timeout_ms);

/**
 * file_read_line - the first line of a file of sysfs or procfs, without its newline
 * @buf: receives it, cut to @size bytes and NUL-terminated; "" on error
 * Return: 0 or -errno
 */
int file_read_line(const char *path, char *buf, size_t size);

#endif
