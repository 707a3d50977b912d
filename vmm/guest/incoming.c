#include "vmm/guest/incoming.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "migration/state/buf.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/dump_dtb.h"
#include "vmm/guest/guest.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vm_time.h"

/* ---- what the guest is asked for (migration/move/guest.h); on the loop's thread ---- */

struct step {
	struct incoming *in;
	bool begun; /* on the loop's thread */
	const struct machine_description *description;
	const struct migration_memory *memory;
	uint32_t tsc_khz;
	const struct clock_window *when;
	int64_t *off_ns;
	struct rbuf *state;
	bool run;
	char *change;
	struct err *e;
};

/* @fd of @from is the memory's, or closed, afterwards, unless it is a file's. */
static int make_memory(struct step *c, struct memory *memory)
{
	const struct migration_memory *from = c->memory;
	struct guest *g = c->in->guest;

	switch (from->how) {
	case MEMORY_PASSED:
		return memory_adopt(memory, from->fd, &g->config.machine.memory, c->e);
	case MEMORY_FILE:
		return memory_map_file(memory, from->fd, from->path, from->offset,
				       g->config.machine.memory.size_bytes, c->e);
	default:
		return 0;
	}
}

static int become(struct step *c)
{
	struct guest *g = c->in->guest;
	int ret = describe_apply(g, c->description, c->e);

	if (!ret)
		ret = vm_time_check_tsc(&g->kvm, c->tsc_khz, cpuid_has_invariant_tsc(&g->cpuid),
					c->e);
	if (!ret)
		describe_change(g, c->change, MIGRATE_TEXT_MAX);
	return ret;
}

static int build_on_loop(void *arg)
{
	struct step *c = arg;
	struct guest *g = c->in->guest;
	struct memory memory = {.fd = -1};
	int ret;

	c->begun = true;
	ret = become(c);
	if (ret < 0 || !c->memory) {
		if (c->memory && c->memory->how == MEMORY_PASSED)
			close(c->memory->fd);
		return ret;
	}
	if (c->memory->how != MEMORY_FILE) {
		c->in->arriving = true;
		guest_tell_migration(g, MIGRATE_ACTIVE, NULL);
	}
	ret = make_memory(c, &memory);
	if (!ret)
		ret = guest_build_machine(g, memory.map ? &memory : NULL, c->e);
	if (!ret) /* what its console's other end has to say waits for the guest's state */
		machine_pause(&g->machine);
	if (!ret)
		ret = dump_dtb_write(g, c->e);
	memory_fini(&memory);
	return ret;
}

static int load_on_loop(void *arg)
{
	struct step *c = arg;
	struct guest *g = c->in->guest;
	int ret = machine_restore(&g->machine, c->when, c->off_ns, c->state, c->e);

	if (!ret) /* what the guest reported while it was copied counts */
		describe_change(g, c->change, MIGRATE_TEXT_MAX);
	return ret;
}

static int take_over_on_loop(void *arg)
{
	struct step *c = arg;

	c->in->locked = true;
	return guest_take_over_disks(c->in->guest, c->e);
}

static int start_on_loop(void *arg)
{
	struct step *c = arg;
	const bool from_file = c->in->uri.kind == URI_FILE;
	int ret = guest_start_arrived(c->in->guest, c->run, from_file, c->e);

	if (!ret && !from_file)
		guest_tell_migration(c->in->guest, MIGRATE_COMPLETED, NULL);
	return ret;
}

/* ---- from the thread that it comes by ---- */

static int call(struct step *c, int (*fn)(void *))
{
	int ret = loop_call(&c->in->guest->calls, fn, c);

	if (ret == -ECANCELED)
		err_set(c->e, ret,
			c->in->uri.kind == URI_FILE
				? "testudo was told to end meanwhile"
				: "testudo was told to end while the guest was on its way");
	return ret;
}

static int build(void *ctx, const struct machine_description *d, uint32_t tsc_khz,
		 const struct migration_memory *memory, char change[MIGRATE_TEXT_MAX],
		 struct err *e)
{
	struct step c = {.in = ctx,
			 .description = d,
			 .tsc_khz = tsc_khz,
			 .memory = memory,
			 .change = change,
			 .e = e};
	const int ret = call(&c, build_on_loop);

	if (!c.begun && memory && memory->how == MEMORY_PASSED)
		close(memory->fd);
	return ret;
}

static int load(void *ctx, const struct clock_window *when, int64_t *off_ns, struct rbuf *state,
		char change[MIGRATE_TEXT_MAX], struct err *e)
{
	struct step c = {.in = ctx,
			 .when = when,
			 .off_ns = off_ns,
			 .state = state,
			 .change = change,
			 .e = e};

	return call(&c, load_on_loop);
}

static int take_over(void *ctx, struct err *e)
{
	struct step c = {.in = ctx, .e = e};

	return call(&c, take_over_on_loop);
}

static int start(void *ctx, bool run, struct err *e)
{
	struct step c = {.in = ctx, .run = run, .e = e};

	return call(&c, start_on_loop);
}

static void ram(void *ctx, struct migration_ram *ram)
{
	const struct incoming *in = ctx;

	guest_ram(in->guest, ram);
}

static const struct migration_guest_ops ops = {
	.build = build,
	.load = load,
	.take_over = take_over,
	.start = start,
	.ram = ram,
};

static void *incoming_thread(void *arg)
{
	struct incoming *in = arg;
	int ret;

	pthread_setname_np(pthread_self(), "incoming");
	do
		ret = in->uri.kind == URI_FILE ? migration_restore(&in->restore, &in->err)
					       : migration_dest_run(&in->dest, &in->err);
	while (ret > 0);
	socket_listener_fini(&in->dest.listener); /* one guest a process */
	in->code = ret;
	if (ret < 0 && ret != -ECANCELED)
		guest_raise(in->guest, VM_EVENT_FAILED);
	return NULL;
}

/* ---- for the loop's thread ---- */

void incoming_init(struct incoming *in, struct guest *g)
{
	memset(in, 0, sizeof(*in));
	in->guest = g;
	in->cancel_fd = in->restore.fd = -1;
	migration_dest_init(&in->dest);
}

static int adopt_fd(struct incoming *in, const char *uri, struct err *e)
{
	int listening = 0;
	socklen_t len = sizeof(listening);

	if (in->uri.fd < 0)
		return err_set(e, -EINVAL,
			       "--incoming %s: a descriptor's number is needed; give fd:N", uri);
	if (getsockopt(in->uri.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_set(e, -errno,
			       "--incoming %s: %s; give the number of an open stream socket", uri,
			       strerror(errno));
	fcntl(in->uri.fd, F_SETFD, FD_CLOEXEC);
	if (listening)
		in->dest.listener.fd = in->uri.fd;
	else
		in->dest.fd = in->uri.fd;
	return 0;
}

static int open_listener(struct incoming *in, struct err *e)
{
	struct uri u = in->uri;
	int ret = socket_listen(&in->dest.listener, &u, e);

	if (ret < 0)
		return ret;
	if (u.kind == URI_TCP)
		in->port = u.port = in->dest.listener.port;
	socket_describe(&u, in->where, sizeof(in->where));
	if (u.kind == URI_TCP && !in->uri.port)
		log_info("incoming migration: listens at %s", in->where);
	return 0;
}

#define LEGAL "tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:NUMBER or file:PATH"

int incoming_open(struct incoming *in, const char *uri, struct err *e)
{
	int ret = uri_parse("--incoming", LEGAL, uri, &in->uri, e);

	if (ret < 0)
		return ret;
	in->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (in->cancel_fd < 0)
		return err_set(e, -errno, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(errno));
	switch (in->uri.kind) {
	case URI_FD:
		return adopt_fd(in, uri, e);
	case URI_FILE:
		in->arriving = true;
		in->restore.fd = migration_restore_open(in->uri.path, e);
		return in->restore.fd < 0 ? in->restore.fd : 0;
	default:
		return open_listener(in, e);
	}
}

void incoming_fini(struct incoming *in)
{
	if (!in->guest)
		return;
	migration_dest_fini(&in->dest);
	if (in->restore.fd >= 0)
		close(in->restore.fd);
	if (in->cancel_fd >= 0)
		close(in->cancel_fd);
	in->guest = NULL;
}

int incoming_start(struct incoming *in, struct err *e)
{
	struct guest *g = in->guest;
	const struct migration_guest guest = {.ops = &ops, .ctx = in, .host_name = g->host_name};
	int ret;

	in->dest.guest = in->restore.guest = guest;
	in->dest.cancel_fd = in->restore.cancel_fd = in->cancel_fd;
	in->dest.refuse_clock_difference = in->restore.refuse_clock_difference =
		g->policy.refuse_clock_difference;
	in->restore.path = in->uri.path;
	in->restore.verify = g->config.verify_snapshot;
	in->restore.clock_realtime = g->config.clock_realtime;
	ret = -pthread_create(&in->thread, NULL, incoming_thread, in);
	if (ret < 0)
		return err_set(e, ret, "no thread for the migration: %s", strerror(-ret));
	in->started = true;
	return 0;
}

void incoming_stop(struct incoming *in)
{
	struct guest *g = in->guest;
	const uint64_t one = 1;
	unsigned int i;

	if (!in->started)
		return;
	__atomic_store_n(&in->dest.stopping, true, __ATOMIC_RELEASE);
	if (write(in->cancel_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the migration: %s", strerror(errno));
	loop_call_close(&g->calls);
	pthread_join(in->thread, NULL);
	in->started = false;
	loop_call_open(&g->calls);
	if (in->code < 0)
		guest_tell_migration(g, in->code == -ECANCELED ? MIGRATE_CANCELLED : MIGRATE_FAILED,
				     NULL);
	/* the source waits for the disks; taking the machine apart may take long */
	for (i = 0; in->locked && in->code < 0 && i < g->n_disks; i++)
		blk_file_hand_over(&g->disk[i], NULL); /* each, whatever became of the others */
}
