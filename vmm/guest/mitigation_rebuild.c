#include "vmm/guest/mitigation_rebuild.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/move/status.h"
#include "vmm/guest/run.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/machine/machine_state.h"

/* A guest's CPUs report one after the other, at its boot: one pause for all of them. */
#define SETTLE_MS 20
/* However often a guest changes its report. (Bits are only ever added, so the number has an end.)
 */
#define EVERY_MS 1000
/* A migration, or a user's pause of its end, is over some time. */
#define RETRY_MS 200

static void arm(struct mitigation_rebuild *b, uint64_t ms)
{
	const struct itimerspec after = {
		.it_value = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000},
	};

	if (timerfd_settime(b->timer_fd, 0, &after, NULL) < 0)
		log_err("mitigation: no timer: %s", strerror(errno));
}

/* On the vCPU's thread, often: whatever asks again while the timer runs is served with it. */
static void changed(struct mitigation_listener *l, uint32_t vcpu, enum mitigation_change what)
{
	struct mitigation_rebuild *b = container_of(l, struct mitigation_rebuild, listener);

	(void)vcpu;
	if (what != MITIGATION_REPORTED || __atomic_load_n(&b->wanted, __ATOMIC_ACQUIRE) ||
	    !mitigation_wants_rebuild(&b->run->mitigation) ||
	    __atomic_exchange_n(&b->wanted, true, __ATOMIC_ACQ_REL))
		return;
	arm(b, SETTLE_MS);
}

/* How long this must wait; 0: not at all */
static uint64_t must_wait(const struct mitigation_rebuild *b)
{
	const struct run *r = b->run;
	const uint64_t passed = monotonic_ms() - b->last_ms;

	if (__atomic_load_n(&r->source.busy, __ATOMIC_ACQUIRE))
		return RETRY_MS;
	return b->last_ms && passed < EVERY_MS ? EVERY_MS - passed : 0;
}

/* Is there a guest of ours, in a life that goes on? */
static bool has_guest(const struct run *r)
{
	const enum run_state s = r->control.state;

	return r->built && r->watch.machine && !run_event_waits(r) &&
	       (s == RUN_RUNNING || s == RUN_PAUSED);
}

static void rebuild(struct mitigation_rebuild *b)
{
	struct run *r = b->run;
	const uint64_t begin = monotonic_ns();
	struct err e = {0};
	bool gone;
	int ret = machine_rebuild(&r->machine, &gone, &e);

	b->last_ms = monotonic_ms();
	if (!ret) {
		__atomic_fetch_add(&r->mitigation.rebuilds, 1, __ATOMIC_RELAXED);
		log_info("mitigation: a report asked for bits that were fixed: the VM was built "
			 "anew in %llu us and holds mask=%#llx value=%#llx",
			 (unsigned long long)((monotonic_ns() - begin) / 1000),
			 (unsigned long long)r->mitigation.vcpu[0].held.mask,
			 (unsigned long long)r->mitigation.vcpu[0].held.value);
		mitigation_notify(&r->mitigation, 0, MITIGATION_REBUILT);
		return;
	}
	b->gave_up = true;
	log_err("mitigation: the VM could not be built anew for the bits that a report asks for: "
		"%s; %s",
		e.text, gone ? "the guest is lost" : "the guest goes on without them");
	if (gone)
		r->sink.raise(&r->sink, VM_EVENT_FAILED);
}

static void timer_ready(struct loop_watch *w, uint32_t events)
{
	struct mitigation_rebuild *b = container_of(w, struct mitigation_rebuild, timer);
	uint64_t n, wait;

	(void)events;
	if (read(b->timer_fd, &n, sizeof(n)) != sizeof(n))
		return;
	wait = must_wait(b);
	if (wait) {
		arm(b, wait);
		return;
	}
	/* before the look: a report that comes after it finds the timer free */
	__atomic_store_n(&b->wanted, false, __ATOMIC_RELEASE);
	if (!b->gave_up && has_guest(b->run) && mitigation_wants_rebuild(&b->run->mitigation))
		rebuild(b);
}

void mitigation_rebuild_init(struct mitigation_rebuild *b)
{
	memset(b, 0, sizeof(*b));
	b->timer_fd = b->timer.fd = -1;
}

int mitigation_rebuild_open(struct mitigation_rebuild *b, struct run *run, struct err *e)
{
	int ret;

	b->run = run;
	if (!run->mitigation.backend.ops->vm_setup)
		return 0;
	b->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ret = b->timer_fd < 0 ? -errno
			      : loop_add(&run->loop, &b->timer, b->timer_fd, EPOLLIN, timer_ready);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	b->listener.changed = changed;
	mitigation_listen(&run->mitigation, &b->listener);
	return 0;
}

void mitigation_rebuild_close(struct mitigation_rebuild *b)
{
	if (b->timer_fd < 0)
		return;
	loop_del(&b->run->loop, &b->timer);
	close(b->timer_fd);
	b->timer_fd = -1;
}
