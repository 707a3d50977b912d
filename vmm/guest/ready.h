/*
 * Telling whoever started a guest that it can be paused, saved and moved from now on, or, with
 * --incoming, that it listens: the parent of --daemonize, a line on --ready-fd, and READY=1 on
 * systemd's NOTIFY_SOCKET. Once in the life of the process, also from inside the sandbox.
 */
#ifndef VMM_GUEST_READY_H
#define VMM_GUEST_READY_H

#include <stdbool.h>
#include <sys/types.h>

struct err;
struct run_config;

struct ready {
	int line_fd;   /* of --ready-fd, -1: none */
	int notify_fd; /* connected to NOTIFY_SOCKET, -1: none */
	int parent_fd; /* where the parent of --daemonize listens, -1: none */
	int null_fd;   /* /dev/null for the time after, -1: none */
	bool told;
};

/** ready_init - nobody is to be told: the functions below are safe from here on */
void ready_init(struct ready *r);

/**
 * ready_open - before anything else is opened and before the sandbox
 * Return: 0; -EBADF when --ready-fd names no open descriptor
 */
int ready_open(struct ready *r, const struct run_config *config, struct err *e);

/**
 * ready_daemonize - go on in a child, before there is any thread
 * @code, @sig: in the parent, receive how it is to end: 0 once the child is ready, else as the
 * child did, which has said why
 * Return: 0 in the child, 1 in the parent, -errno
 */
int ready_daemonize(struct ready *r, int *code, int *sig, struct err *e);

/**
 * ready_tell - it is so; nothing the second time
 * @name: the guest's; NULL: it has no control socket
 * @status: QEMU's word
 * @where: the URI at which it listens; NULL: it does not
 * A child of --daemonize leaves its session and its standard streams.
 */
void ready_tell(struct ready *r, const char *name, const char *status, const char *where);
void ready_close(struct ready *r);

#endif
