/*
 * One client of the QMP server: bytes and descriptors in, messages out, with a bound on each. Knows
 * nothing of commands.
 */
#ifndef CONTROL_QMP_CONN_H
#define CONTROL_QMP_CONN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/loop.h"
#include "control/qmp_scan.h"

#define QMP_COMMAND_MAX (64 * 1024)
#define QMP_OUTPUT_MAX	(1024 * 1024) /* waiting for a client that does not read */
#define QMP_FDS_MAX	16	      /* received and not yet named; and named */

struct qmp_server;

struct qmp_conn {
	struct qmp_conn *next;
	struct qmp_server *server;
	struct loop_watch watch;
	bool negotiated;
	bool dead; /* to be freed as soon as nobody uses it */
	struct qmp_scan scan;
	size_t in_len;
	char in[QMP_COMMAND_MAX];
	char *out; /* out_len bytes wait */
	size_t out_len, out_size;
	unsigned int n_passed, n_named;
	int passed[QMP_FDS_MAX]; /* oldest first */
	struct qmp_named_fd {
		char *name;
		int fd;
	} named[QMP_FDS_MAX];
};

/** qmp_conn_new - for the non-blocking socket @fd, which it owns from here on. NULL: no memory */
struct qmp_conn *qmp_conn_new(struct qmp_server *s, int fd);
void qmp_conn_free(struct qmp_conn *c, struct loop *l);

/**
 * qmp_conn_read - take what is there, up to a few KiB, and the descriptors that came along
 * Return: true if bytes came; false at the end, on an error (then it is dead) or if there are none
 */
bool qmp_conn_read(struct qmp_conn *c);

/**
 * qmp_conn_send - queue @msg, whose reference it takes, and write what the socket takes
 * A client that lets more than QMP_OUTPUT_MAX bytes wait, or is gone, is dead afterwards.
 */
void qmp_conn_send(struct qmp_conn *c, struct loop *l, json_t *msg);
/** qmp_conn_write - the socket takes more */
void qmp_conn_write(struct qmp_conn *c, struct loop *l);

/** qmp_conn_name_fd - the oldest passed descriptor becomes @name, in place of an older one.
 * Return: 0; -ENOENT none was passed; -ENOSPC, -ENOMEM */
int qmp_conn_name_fd(struct qmp_conn *c, const char *name);
/** qmp_conn_take_fd - forget the name. Return: the descriptor, the caller's, or -ENOENT */
int qmp_conn_take_fd(struct qmp_conn *c, const char *name);

#endif
