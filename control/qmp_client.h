/*
 * The other end of the control socket, for the subcommands that act on a running guest: blocking.
 */
#ifndef CONTROL_QMP_CLIENT_H
#define CONTROL_QMP_CLIENT_H

#include <jansson.h>
#include <stddef.h>
#include <sys/types.h>

#include "control/qmp_scan.h"
#include "control/rundir.h"

struct err;

struct qmp_client {
	int fd;	   /* -1: not connected */
	pid_t pid; /* of the guest's process, as the kernel knows it; alive while fd is open there
		    */
	char name[RUNDIR_NAME_MAX + 1];
	unsigned int timeout_ms;
	struct qmp_scan scan;
	char *in;
	size_t in_len, in_size;
	json_t *events; /* that came while an answer was awaited */
};

/**
 * qmp_client_connect - connect to the guest @name and no more; pid is known then
 * @timeout_ms: how long it may take to answer, now and later
 * Return: 0 or -errno as rundir_connect(); @c may be given to qmp_client_close() in any case
 */
int qmp_client_connect(struct qmp_client *c, const char *name, unsigned int timeout_ms,
		       struct err *e);
/**
 * qmp_client_negotiate - the greeting and qmp_capabilities
 * Return: 0; -EHOSTDOWN its process is stopped, said at once; -ETIMEDOUT; -errno
 */
int qmp_client_negotiate(struct qmp_client *c, struct err *e);

/** qmp_client_open - both */
int qmp_client_open(struct qmp_client *c, const char *name, unsigned int timeout_ms, struct err *e);
void qmp_client_close(struct qmp_client *c);

/**
 * qmp_client_execute - run @command and wait for its answer
 * @args: an object, whose reference it takes; NULL: none
 * @fds, @n_fds: descriptors to pass along with it; they stay the caller's
 * @ret: receives the answer, a new reference; may be NULL
 * Return: 0; -EREMOTEIO the guest's process refused, with its words in @e; -ETIMEDOUT; -EHOSTDOWN
 * the same, and its process is stopped; -ECONNRESET the guest ended; -errno
 */
int qmp_client_execute(struct qmp_client *c, const char *command, json_t *args, const int *fds,
		       size_t n_fds, json_t **ret, struct err *e);

/**
 * qmp_client_event - the next event
 * @timeout_ms: how long to wait; 0: only what is there
 * @event: receives it, a new reference
 * Return: 1; 0 none came; -ECONNRESET the guest's process closed the connection; -errno
 */
int qmp_client_event(struct qmp_client *c, unsigned int timeout_ms, json_t **event, struct err *e);

#endif
