/*
 * Sockets of a migration: the client connects, the waiting side listens before it locks itself in.
 * Everything here opens descriptors or paths and cannot be done inside the sandbox, except
 * socket_accept().
 */
#ifndef MIGRATION_WIRE_SOCKET_H
#define MIGRATION_WIRE_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#include "base/unix_listen.h"
#include "migration/wire/uri.h"

struct err;

/**
 * socket_connect - open @n connections to @u
 * @u: tcp or unix. A name is looked up once; its addresses are tried in turn.
 * @timeout_ms: for each connection; 0: as long as the system tries
 * @fds: receives @n descriptors, close-on-exec, in order of connecting; unspecified on error
 * Return: 0 or -errno with the address and the cure in @e
 */
int socket_connect(const struct uri *u, unsigned int n, unsigned int timeout_ms, int *fds,
		   struct err *e);

struct socket_listener {
	int fd;			 /* -1: closed */
	uint16_t port;		 /* tcp: where it listens, also when the system chose */
	struct unix_listener at; /* unix: its path */
};

/** socket_listener_zero - closed; socket_listener_fini() is safe from here on */
void socket_listener_zero(struct socket_listener *l);

/**
 * socket_listen - listen on @u, tcp or unix
 * Of a path see unix_listen().
 * Return: 0 or -errno with the address and the cure in @e
 */
int socket_listen(struct socket_listener *l, const struct uri *u, struct err *e);

/**
 * socket_accept - the next connection
 * @timeout_ms: 0: for ever
 * @cancel_fd: an eventfd that ends the wait with -ECANCELED; -1: none
 * @fd: receives the connection, close-on-exec
 * Return: 0, -ETIMEDOUT, -ECANCELED or -errno with one line in @e
 */
int socket_accept(struct socket_listener *l, unsigned int timeout_ms, int cancel_fd, int *fd,
		  struct err *e);

/** socket_describe - @u, tcp or unix, as the user would write it */
void socket_describe(const struct uri *u, char *buf, size_t size);

/** socket_listener_fini - close, and remove the path if it is still this socket's */
void socket_listener_fini(struct socket_listener *l);

/**
 * socket_tune - what suits bulk data on @fd: no delay of small frames, a send buffer of a chunk
 * Done by the functions above; for descriptors that came from elsewhere. Ignored on what is no
 * socket.
 */
void socket_tune(int fd);

#endif
