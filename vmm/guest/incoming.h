/*
 * How a guest comes: from another process or from a file, in a thread of its own
 * (migration/move/dest.h, restore.h). Its machine is built, loaded and started on the event loop's
 * thread. It runs here only after COMMIT; until then every failure ends this process, or, before a
 * machine was built, the connection alone.
 */
#ifndef VMM_GUEST_INCOMING_H
#define VMM_GUEST_INCOMING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/move/dest.h"
#include "migration/move/restore.h"
#include "migration/wire/uri.h"

struct guest;

struct incoming {
	struct guest *guest; /* NULL: not initialized */
	struct uri uri;
	struct migration_dest dest;	  /* of a connection, or */
	struct migration_restore restore; /* of a file */
	int cancel_fd;			  /* of both */
	char where[160]; /* as the source is to name it: the port is known; "" for others */
	uint16_t port;	 /* tcp: where it listens */
	bool arriving;	 /* it has begun; the loop's thread */
	bool locked;	 /* the disks may be locked here; the loop's thread */

	pthread_t thread;
	bool started;
	struct err err; /* why it failed; read it after the thread has ended */
	int code;	/* -errno */
};

/** incoming_init - nothing is open: incoming_fini() is safe from here on */
void incoming_init(struct incoming *in, struct guest *g);

/**
 * incoming_open - before the sandbox: listen, or open the file
 * @uri: of --incoming
 * Return: 0; -EINVAL for a bad URI, -errno with the cause and the cure
 */
int incoming_open(struct incoming *in, const char *uri, struct err *e);
void incoming_fini(struct incoming *in);

/** incoming_start - wait for the guest in a thread of its own. Return: 0 or -errno */
int incoming_start(struct incoming *in, struct err *e);

/** incoming_stop - give up unless the guest is ours; on the loop's thread, after the loop */
void incoming_stop(struct incoming *in);

#endif
