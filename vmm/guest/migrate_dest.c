#include "vmm/guest/migrate_dest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/guest/migrate_arrive.h"
#include "vmm/guest/migrate_restore.h"
#include "vmm/guest/run.h"

static void *dest_thread(void *arg)
{
	struct migrate_dest *d = arg;
	int ret;

	pthread_setname_np(pthread_self(), "incoming");
	do
		ret = d->uri.kind == URI_FILE ? migrate_restore(d, &d->err)
					      : migrate_arrive(d, &d->err);
	while (ret > 0);
	socket_listener_fini(&d->listener); /* one guest a process */
	d->code = ret;
	if (ret < 0 && ret != -ECANCELED)
		d->run->sink.raise(&d->run->sink, VM_EVENT_FAILED);
	return NULL;
}

/* ---- for the loop's thread ---- */

void migrate_dest_init(struct migrate_dest *d, struct run *run)
{
	memset(d, 0, sizeof(*d));
	d->run = run;
	d->fd = d->cancel_fd = -1;
	socket_listener_zero(&d->listener);
}

static int adopt_fd(struct migrate_dest *d, const char *uri, struct err *e)
{
	int listening = 0;
	socklen_t len = sizeof(listening);

	if (d->uri.fd < 0)
		return err_set(e, -EINVAL,
			       "--incoming %s: a descriptor's number is needed; give fd:N", uri);
	if (getsockopt(d->uri.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_set(e, -errno,
			       "--incoming %s: %s; give the number of an open stream socket", uri,
			       strerror(errno));
	fcntl(d->uri.fd, F_SETFD, FD_CLOEXEC);
	if (listening)
		d->listener.fd = d->uri.fd;
	else
		d->fd = d->uri.fd;
	return 0;
}

static int open_listener(struct migrate_dest *d, struct err *e)
{
	struct uri u = d->uri;
	int ret = socket_listen(&d->listener, &u, e);

	if (ret < 0)
		return ret;
	if (u.kind == URI_TCP)
		d->port = u.port = d->listener.port;
	socket_describe(&u, d->where, sizeof(d->where));
	if (u.kind == URI_TCP && !d->uri.port)
		log_info("incoming migration: listens at %s", d->where);
	return 0;
}

#define LEGAL "tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:NUMBER or file:PATH"

int migrate_dest_open(struct migrate_dest *d, const char *uri, struct err *e)
{
	int ret = uri_parse("--incoming", LEGAL, uri, &d->uri, e);

	if (ret < 0)
		return ret;
	d->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->cancel_fd < 0)
		return err_set(e, -errno, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(errno));
	switch (d->uri.kind) {
	case URI_FD:
		return adopt_fd(d, uri, e);
	case URI_FILE:
		d->arriving = true;
		d->fd = migrate_restore_open(d->uri.path, e);
		return d->fd < 0 ? d->fd : 0;
	default:
		return open_listener(d, e);
	}
}

void migrate_dest_fini(struct migrate_dest *d)
{
	if (!d->run)
		return;
	socket_listener_fini(&d->listener);
	if (d->fd >= 0)
		close(d->fd);
	if (d->cancel_fd >= 0)
		close(d->cancel_fd);
	d->run = NULL;
}

bool migrate_dest_check_stats(struct migrate_dest *d, struct migrate_stats *stats)
{
	const uint64_t since = __atomic_load_n(&d->check_ns, __ATOMIC_ACQUIRE);

	if (!since)
		return false;
	*stats = (struct migrate_stats) {
		.status = MIGRATE_ACTIVE,
		.into_file = true,
		.begin_ns = since,
		.round_ns = since,
		.ram_total = d->ram.n_bytes,
		.ram_left = d->ram.n_bytes,
	};
	migrate_progress_show(&d->ram.progress, monotonic_ns(), stats);
	return true;
}

int migrate_dest_start(struct migrate_dest *d, struct err *e)
{
	int ret = -pthread_create(&d->thread, NULL, dest_thread, d);

	if (ret < 0)
		return err_set(e, ret, "no thread for the migration: %s", strerror(-ret));
	d->started = true;
	return 0;
}

void migrate_dest_stop(struct migrate_dest *d)
{
	const uint64_t one = 1;
	unsigned int i;

	if (!d->started)
		return;
	__atomic_store_n(&d->stopping, true, __ATOMIC_RELEASE);
	if (write(d->cancel_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the migration: %s", strerror(errno));
	loop_call_close(&d->run->calls);
	pthread_join(d->thread, NULL);
	d->started = false;
	loop_call_open(&d->run->calls);
	if (d->code < 0)
		migrate_tell(&d->run->control,
			     d->code == -ECANCELED ? MIGRATE_CANCELLED : MIGRATE_FAILED);
	/* the source waits for the disks; taking the machine apart may take long */
	for (i = 0; d->locked && d->code < 0 && i < d->run->n_disks; i++)
		blk_file_hand_over(&d->run->disk[i], NULL);
}
