#include "vmm/guest/guest.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"

/* ---- events ---- */

void guest_raise(struct guest *g, enum vm_event event)
{
	const uint64_t one = 1;
	int none = VM_EVENT_NONE;

	/* the user's wish to end must not get lost behind a reset */
	if (event == VM_EVENT_QUIT)
		__atomic_store_n(&g->event, (int)event, __ATOMIC_RELEASE);
	else if (!__atomic_compare_exchange_n(&g->event, &none, (int)event, false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE))
		return;
	if (write(g->wake_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the event loop: %s", strerror(errno));
}

static void raise_event(struct vm_event_sink *sink, enum vm_event event)
{
	guest_raise(container_of(sink, struct guest, sink), event);
}

bool guest_event_waits(const struct guest *g)
{
	return __atomic_load_n(&g->event, __ATOMIC_ACQUIRE) != VM_EVENT_NONE;
}

enum vm_event guest_take_event(struct guest *g)
{
	return (enum vm_event)__atomic_exchange_n(&g->event, VM_EVENT_NONE, __ATOMIC_ACQ_REL);
}

static void wake_ready(struct loop_watch *w)
{
	struct guest *g = container_of(w, struct guest, wake);
	uint64_t n;

	if (read(g->wake_fd, &n, sizeof(n)) == sizeof(n) && guest_event_waits(g))
		loop_stop(&g->loop);
}

void guest_init(struct guest *g)
{
	memset(g, 0, sizeof(*g));
	g->loop.epfd = g->wake_fd = g->kvm.fd = g->signal_fd = -1;
	g->kernel.kernel_fd = g->kernel.initrd_fd = -1;
	file_replace_init(&g->dtb);
	control_init(&g->control);
	guest_name_init(&g->name);
}

int guest_open_loop(struct guest *g, struct err *e)
{
	int ret = loop_init(&g->loop);

	g->sink.raise = raise_event;
	g->wake_fd = ret < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!ret)
		ret = g->wake_fd < 0
			      ? -errno
			      : loop_add(&g->loop, &g->wake, g->wake_fd, EPOLLIN, wake_ready);
	if (ret < 0)
		return err_set(e, ret,
			       "no event loop: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	return 0;
}

/* ---- who may act on it, and who hears ---- */

int guest_claim(struct guest *g)
{
	if (g->claimed)
		return -EBUSY;
	g->claimed = true;
	return 0;
}

void guest_release(struct guest *g)
{
	g->claimed = false;
}

void guest_listen(struct guest *g, struct guest_listener *l)
{
	l->next = g->listeners;
	g->listeners = l;
}

void guest_tell_migration(struct guest *g, enum migrate_status status,
			  const enum migrate_outcome *outcome)
{
	struct guest_listener *l;

	for (l = g->listeners; l; l = l->next)
		if (l->migration)
			l->migration(l, status, outcome);
}

/* ---- its machine ---- */

int guest_build_machine(struct guest *g, struct memory *memory, struct err *e)
{
	g->host = (struct machine_host) {
		.config = &g->config.machine,
		.kvm = &g->kvm,
		.kernel = &g->kernel,
		.cpuid = &g->cpuid,
		.cpu_msrs = &g->cpu_msrs,
		.mitigation = &g->mitigation,
		.isolation = &g->isolation,
		.disks = g->disk,
		.taps = g->tap,
		.serial = &g->serial.dev,
		.loop = &g->loop,
		.sink = &g->sink,
		.closer = &g->closer,
	};
	g->built = true;
	return machine_init(&g->machine, &g->host, memory, e);
}

void guest_end_machine(struct guest *g)
{
	if (g->built)
		machine_fini(&g->machine);
	g->built = false;
}

int guest_start_arrived(struct guest *g, bool running, bool from_file, struct err *e)
{
	int ret = control_arrive(&g->control, &g->machine, running && !g->config.paused, e);
	struct guest_listener *l;

	if (ret < 0)
		return ret;
	guest_name_take(&g->name, !from_file);
	machine_announce(&g->machine);
	mitigation_started(&g->mitigation);
	for (l = g->listeners; l; l = l->next)
		if (l->arrived)
			l->arrived(l);
	return 0;
}

void guest_ram(const struct guest *g, struct migration_ram *ram)
{
	const struct memory *mem = &g->machine.memory;

	*ram = (struct migration_ram) {
		.map = mem->map,
		.n_bytes = mem->size_bytes,
		.fd = mem->fd,
		.no_pages = mem->hugepages,
	};
}

/* ---- its disks ---- */

static int each_disk(struct guest *g, int (*fn)(const struct blk_file *f, struct err *e),
		     struct err *e)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < g->n_disks; i++)
		ret = fn(&g->disk[i], e);
	return ret;
}

int guest_lock_disks(struct guest *g, struct err *e)
{
	return each_disk(g, blk_file_lock, e);
}

int guest_take_over_disks(struct guest *g, struct err *e)
{
	return each_disk(g, blk_file_take_over, e);
}

int guest_hand_over_disks(struct guest *g, struct err *e)
{
	return each_disk(g, blk_file_hand_over, e);
}

int guest_flush_disks(struct guest *g, struct err *e)
{
	return each_disk(g, blk_file_flush, e);
}
