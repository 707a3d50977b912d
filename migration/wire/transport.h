/*
 * What carries a channel's bytes: a socket, a pipe or a file. The one place where encryption would
 * be added: an ops table over the same struct.
 */
#ifndef MIGRATION_WIRE_TRANSPORT_H
#define MIGRATION_WIRE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport;

struct transport_ops {
	const char *ended; /* what the end of input means, for messages */
	/**
	 * read, writev - move some bytes now, or say what to wait for
	 * @wait: receives POLLIN or POLLOUT on -EAGAIN; not always the obvious one, encryption may
	 *        have to read before it can write
	 * Neither blocks on anything but a file.
	 * Return: bytes moved, 0 at the end of input; -EAGAIN; -errno
	 */
	ssize_t (*read)(struct transport *t, void *buf, size_t len, short *wait);
	ssize_t (*writev)(struct transport *t, const struct iovec *iov, int n, short *wait);
	/** close - release everything, the descriptor as well */
	void (*close)(struct transport *t);
};

/* Embedded in the struct of a transport that needs more. */
struct transport {
	const struct transport_ops *ops;
	int fd; /* what to poll(2); -1: closed */
};

/**
 * transport_plain - bytes as they are, over a socket, a pipe or a file
 * @fd: owned by @t from here on. A socket's flags stay as they are; a pipe is made non-blocking.
 * Return: 0 or -errno (@fd is then still the caller's)
 */
int transport_plain(struct transport *t, int fd);

#endif
