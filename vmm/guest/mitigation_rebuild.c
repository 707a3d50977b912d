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
#include "vmm/guest/guest.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/machine/machine_state.h"

/* A guest's CPUs report one after the other, at its boot: one pause for all of them. */
#define SETTLE_MS 20
/*
 * However often a guest changes its report. (Bits are only ever added, so the number has an end.)
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
	    !mitigation_wants_rebuild(&b->guest->mitigation) ||
	    __atomic_exchange_n(&b->wanted, true, __ATOMIC_ACQ_REL))
		return;
	arm(b, SETTLE_MS);
}

/* How long this must wait; 0: not at all */
static uint64_t must_wait(const struct mitigation_rebuild *b)
{
	const uint64_t passed = monotonic_ms() - b->last_ms;

	return b->last_ms && passed < EVERY_MS ? EVERY_MS - passed : 0;
}

/* Is there a guest of ours, in a life that goes on? */
static bool has_guest(const struct guest *g)
{
	const enum run_state s = g->control.state;

	return g->control.machine && !guest_event_waits(g) && (s == RUN_RUNNING || s == RUN_PAUSED);
}

static struct backend_held held_now(struct mitigation_vcpu *v)
{
	struct backend_held held;

	pthread_mutex_lock(&v->lock);
	held = v->held;
	pthread_mutex_unlock(&v->lock);
	return held;
}

static void rebuild(struct mitigation_rebuild *b)
{
	struct guest *g = b->guest;
	const uint64_t begin = monotonic_ns();
	struct backend_held held;
	struct err e = {0};
	bool gone;
	int ret = machine_rebuild(&g->machine, &gone, &e);

	b->last_ms = monotonic_ms();
	if (!ret) {
		__atomic_fetch_add(&g->mitigation.rebuilds, 1, __ATOMIC_RELAXED);
		held = held_now(&g->mitigation.vcpu[0]);
		log_info("mitigation: a report asked for bits that were fixed: the VM was built "
			 "anew in %llu us and holds mask=%#llx value=%#llx",
			 (unsigned long long)((monotonic_ns() - begin) / 1000),
			 (unsigned long long)held.mask, (unsigned long long)held.value);
		mitigation_notify(&g->mitigation, 0, MITIGATION_REBUILT);
		return;
	}
	b->gave_up = true;
	log_err("mitigation: the VM could not be built anew for the bits that a report asks for: "
		"%s; %s",
		e.text, gone ? "the guest is lost" : "the guest goes on without them");
	if (gone)
		guest_raise(g, VM_EVENT_FAILED);
}

static void timer_ready(struct loop_watch *w)
{
	struct mitigation_rebuild *b = container_of(w, struct mitigation_rebuild, timer);
	uint64_t n, wait;

	if (read(b->timer_fd, &n, sizeof(n)) != sizeof(n))
		return;
	wait = must_wait(b);
	if (!wait && guest_claim(b->guest) < 0)
		wait = RETRY_MS;
	if (wait) {
		arm(b, wait);
		return;
	}
	/* before the look: a report that comes after it finds the timer free */
	__atomic_store_n(&b->wanted, false, __ATOMIC_RELEASE);
	if (!b->gave_up && has_guest(b->guest) && mitigation_wants_rebuild(&b->guest->mitigation))
		rebuild(b);
	guest_release(b->guest);
}

void mitigation_rebuild_init(struct mitigation_rebuild *b)
{
	memset(b, 0, sizeof(*b));
	b->timer_fd = b->timer.fd = -1;
}

int mitigation_rebuild_open(struct mitigation_rebuild *b, struct guest *g, struct err *e)
{
	int ret;

	b->guest = g;
	if (!g->mitigation.backend.ops->vm_setup)
		return 0;
	b->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ret = b->timer_fd < 0 ? -errno
			      : loop_add(&g->loop, &b->timer, b->timer_fd, EPOLLIN, timer_ready);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	b->listener.changed = changed;
	mitigation_listen(&g->mitigation, &b->listener);
	return 0;
}

void mitigation_rebuild_close(struct mitigation_rebuild *b)
{
	if (b->timer_fd < 0)
		return;
	loop_del(&b->guest->loop, &b->timer);
	close(b->timer_fd);
	b->timer_fd = -1;
}
