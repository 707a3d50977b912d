/*
 * A listening unix socket at a path of the user's. One that a killed process left behind is taken
 * over; one on which somebody listens is not, and neither is a file.
 */
#ifndef BASE_UNIX_LISTEN_H
#define BASE_UNIX_LISTEN_H

#include <sys/types.h>
#include <sys/un.h>

struct err;

struct unix_listener {
	int fd;							/* -1: closed */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* to unlink; "" else */
	dev_t dev;
	ino_t ino;
};

/** unix_listener_zero - closed: unix_listener_fini() is safe from here on */
void unix_listener_zero(struct unix_listener *l);

/**
 * unix_listen - make a stream socket at @path, for its owner alone (mode 0600), and listen on it
 * @what: for messages, directly before the path: "--serial unix:"
 * @flags: of socket(2), SOCK_NONBLOCK or 0
 * Of several processes that take over the same path at a time one succeeds.
 * Return: 0; -EADDRINUSE when somebody listens there, or it is no socket; -ENAMETOOLONG; -errno
 */
int unix_listen(struct unix_listener *l, const char *what, const char *path, int flags, int backlog,
		struct err *e);

/** unix_listener_fini - close, and remove the path if it is still this socket's */
void unix_listener_fini(struct unix_listener *l);

#endif
