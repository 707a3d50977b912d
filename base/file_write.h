/*
 * Files that the user names for output. What is at the path decides: a regular file is replaced as
 * a whole, or written from its start where it is a stream; a FIFO or a device is written into and
 * stays what it is; a directory, a socket and a block device are refused.
 */
#ifndef BASE_FILE_WRITE_H
#define BASE_FILE_WRITE_H

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct err;

/**
 * file_open_stream - open @path to write into while the program runs
 * @what: for messages, before the path
 * @mode: of a new file
 * A regular file is cut to nothing first. For a FIFO's reader is waited, which is said; the
 * descriptor does not block.
 * Return: a descriptor, close-on-exec; -EISDIR, -ENOTSUP for what is refused, -EINTR after a
 * signal, -errno
 */
int file_open_stream(const char *what, const char *path, mode_t mode, struct err *e);

/**
 * file_write_all - write @len bytes, also to what takes them slowly
 * @cancel_fd: readable: give up with -EINTR; -1: none
 * @timeout_ms: for each wait; -1: none
 * Return: 0; -EINTR; -ETIMEDOUT; -errno of write(2)
 */
int file_write_all(int fd, const void *data, size_t len, int cancel_fd, int timeout_ms);

/* Where a file is, or would come to be: behind all symbolic links. */
struct file_place {
	int dir_fd;		 /* of its folder; -1: none */
	char name[NAME_MAX + 1]; /* in it */
	mode_t mode;		 /* of what is there; 0: nothing */
};

/**
 * file_place_find - look @path up and open its folder
 * Return: 0; -EINVAL for no name of a file; -errno. dir_fd is the caller's
 */
int file_place_find(const char *what, const char *path, struct file_place *p, struct err *e);

/* A file that is replaced as a whole, as often as one likes; also inside the sandbox. */
struct file_replace {
	const char *what, *path; /* for messages, the caller's */
	int dir_fd;		 /* -1: not by renaming */
	int into_fd;		 /* what is written into as it is: a FIFO, a device; -1: none */
	mode_t mode;
	char *name, *temp_name;
};

/* how file_replace_write() opens: the sandbox's list of system calls names it */
#define FILE_REPLACE_FLAGS (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)

/** file_replace_init - nothing is open: the functions below are safe from here on */
void file_replace_init(struct file_replace *f);

/**
 * file_replace_open - find out where and how; nothing is changed yet
 * @dir_number: the descriptor that the folder is to have
 * That a file can be made there is tried. A link in procfs, such as /dev/stdout, stands for an open
 * file, and that is written into.
 * Return: 0 or -errno with the cure in @e
 */
int file_replace_open(struct file_replace *f, const char *what, const char *path, mode_t mode,
		      int dir_number, struct err *e);

/**
 * file_replace_write - @len bytes of @data are the file from here on
 * @cancel_fd, @timeout_ms: as file_write_all(), for a FIFO
 * Return: 0; -errno, and the file is what it was before. After a failure into a FIFO or a device
 * nothing more is written there, since its reader could not tell where the next begins: -EPIPE.
 */
int file_replace_write(struct file_replace *f, const void *data, size_t len, int cancel_fd,
		       int timeout_ms);
void file_replace_close(struct file_replace *f);

#endif
