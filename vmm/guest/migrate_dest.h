/*
 * The side that a guest comes to. A thread of its own receives; the machine is built, loaded and
 * started on the event loop's thread. The guest runs here only after COMMIT; until then every
 * failure ends this process, or, before a machine was built, the connection alone.
 */
#ifndef VMM_GUEST_MIGRATE_DEST_H
#define VMM_GUEST_MIGRATE_DEST_H

#include <pthread.h>
#include <stdbool.h>

#include "base/err.h"
#include "migration/move/status.h"
#include "migration/ram/file.h"
#include "migration/wire/channel.h"
#include "migration/wire/socket.h"
#include "migration/wire/uri.h"

struct run;

struct migrate_dest {
	struct run *run;
	struct uri uri;
	struct socket_listener listener; /* tcp, unix, or a listening descriptor */
	int fd;				 /* a connection or a file, else -1 */
	int cancel_fd;
	char where[160]; /* as the source is to name it: the port is known; "" for others */
	uint16_t port;	 /* tcp: where it listens */
	bool arriving;	 /* it has begun; the loop's thread */

	struct ram_file ram; /* of a saved guest; the thread's own, but for how far it is */
	uint64_t check_ns;   /* atomic: when reading all of it began; 0: it does not go on */
	uint64_t told_ns;    /* the thread's: when the log was told */

	pthread_t thread;
	bool started;
	bool stopping;	/* atomic: this process is to end */
	bool locked;	/* the disks may be locked here; the loop's thread */
	struct err err; /* why it failed; read it after the thread has ended */
	int code;	/* -errno */
};

/** migrate_dest_init - nothing is open: migrate_dest_fini() is safe from here on */
void migrate_dest_init(struct migrate_dest *d, struct run *run);

/**
 * migrate_dest_open - before the sandbox: listen, or open the file
 * @uri: of --incoming
 * Return: 0; -EINVAL for a bad URI, -errno with the cause and the cure
 */
int migrate_dest_open(struct migrate_dest *d, const char *uri, struct err *e);
void migrate_dest_fini(struct migrate_dest *d);

/** migrate_dest_check_stats - how far --verify-snapshot is. Return: false: it does not go on */
bool migrate_dest_check_stats(struct migrate_dest *d, struct migrate_stats *stats);

/** migrate_dest_start - wait for the guest in a thread of its own. Return: 0 or -errno */
int migrate_dest_start(struct migrate_dest *d, struct err *e);

/** migrate_dest_stop - give up unless the guest is ours; on the loop's thread, after the loop */
void migrate_dest_stop(struct migrate_dest *d);

#endif
