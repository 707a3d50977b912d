/*
 * The control socket's protocol: QMP as QEMU speaks it (docs/interop/qmp-spec), so that its clients
 * work unchanged. Messages are JSON objects; after a greeting and qmp_capabilities a client sends
 * {"execute", "arguments", "id"} and gets {"return"} or {"error"} with the same id, and events in
 * between. Everything happens on the event loop's thread and nothing waits for a client. Clients
 * are the guest's owner and root, and yet what they send is not believed.
 */
#ifndef CONTROL_QMP_SERVER_H
#define CONTROL_QMP_SERVER_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/loop.h"
#include "control/qmp_command.h"

#define QMP_CLIENTS_MAX 32

struct qmp_conn;

struct qmp_server {
	struct loop *loop;
	struct loop_watch listener;
	int listen_fd;
	bool accepting, refused_one;
	uid_t owner;
	json_t *version; /* of the greeting */
	struct qmp_table own, *tables;
	struct qmp_conn *conns, *current; /* current: whose command runs */
	unsigned int n_conns;
};

/** qmp_server_init - an empty one: every function below is safe from here on, and does nothing */
void qmp_server_init(struct qmp_server *s);

/**
 * qmp_server_open - serve clients of @listen_fd, which it owns from here on
 * @listen_fd: a listening unix socket, non-blocking; -1: none, see qmp_server_adopt()
 * @version: the greeting's, {"qemu": {"major", "minor", "micro"}, "package"}; takes the reference
 * Return: 0 or -errno; @s may be given to qmp_server_close() in any case
 */
int qmp_server_open(struct qmp_server *s, struct loop *l, int listen_fd, json_t *version,
		    struct err *e);
/** qmp_server_close - drop every client, close the socket. Removes no file. */
void qmp_server_close(struct qmp_server *s);

/** qmp_server_add - more commands; @t is storage of the caller's. The first of a name counts. */
void qmp_server_add(struct qmp_server *s, struct qmp_table *t);

/** qmp_server_adopt - one more client, connected already; takes @fd. Return: 0 or -errno */
int qmp_server_adopt(struct qmp_server *s, int fd);

/**
 * qmp_event - tell every client that negotiated
 * @data: takes the reference; NULL: none
 * On the loop's thread.
 */
void qmp_event(struct qmp_server *s, const char *name, json_t *data);

/**
 * qmp_take_fd - the descriptor that the client of the command that runs named by getfd
 * Return: the descriptor, the caller's from here on; -ENOENT. Within a command's run() only.
 */
int qmp_take_fd(struct qmp_server *s, const char *name);

#endif
