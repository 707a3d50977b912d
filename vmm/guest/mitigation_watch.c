#include "vmm/guest/mitigation_watch.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/machine/machine.h"

#define TICK_SEC 1
/* A guest may change its report in a loop: what comes sooner than this waits for the tick. */
#define WRITE_EVERY_MS 50

void mitigation_watch_write(struct mitigation_watch *w, const char *state, const char *reason)
{
	json_t *report;

	if (!report_file_is_open(&w->file))
		return;
	__atomic_store_n(&w->dirty, false, __ATOMIC_RELEASE);
	report = mitigation_report(w->mitigation, w->isolation, state, reason);
	report_file_write(&w->file, report);
	json_decref(report);
	w->written_ms = monotonic_ms();
}

static void changed(struct mitigation_listener *l, uint32_t vcpu, enum mitigation_change what)
{
	struct mitigation_watch *w = container_of(l, struct mitigation_watch, listener);
	const uint64_t one = 1;

	(void)vcpu;
	(void)what;
	if (__atomic_exchange_n(&w->dirty, true, __ATOMIC_ACQ_REL))
		return;
	if (write(w->wake_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the event loop: %s", strerror(errno));
}

static void wake_ready(struct loop_watch *lw)
{
	struct mitigation_watch *w = container_of(lw, struct mitigation_watch, wake);
	uint64_t n;

	if (read(w->wake_fd, &n, sizeof(n)) == sizeof(n) &&
	    monotonic_ms() - w->written_ms >= WRITE_EVERY_MS)
		mitigation_watch_write(w, "running", NULL);
}

static void tick_ready(struct loop_watch *lw)
{
	struct mitigation_watch *w = container_of(lw, struct mitigation_watch, tick);
	uint64_t n;

	if (read(w->tick_fd, &n, sizeof(n)) != sizeof(n))
		return;
	mitigation_check_rates(w->mitigation);
	if (w->machine && (report_file_is_open(&w->file) || mitigation_wants_checks(w->mitigation)))
		machine_request_checks(w->machine);
	if (__atomic_load_n(&w->dirty, __ATOMIC_ACQUIRE))
		mitigation_watch_write(w, "running", NULL);
}

void mitigation_watch_init(struct mitigation_watch *w)
{
	memset(w, 0, sizeof(*w));
	w->tick_fd = w->wake_fd = w->tick.fd = w->wake.fd = -1;
	file_replace_init(&w->file.file);
}

int mitigation_watch_open_file(struct mitigation_watch *w, struct mitigation *m,
			       const struct isolation *iso, const char *path, struct err *e)
{
	w->mitigation = m;
	w->isolation = iso;
	return path ? report_file_open(&w->file, path, e) : 0;
}

int mitigation_watch_open(struct mitigation_watch *w, struct loop *loop, struct err *e)
{
	const bool reports = report_file_is_open(&w->file);
	const struct itimerspec every = {.it_interval.tv_sec = TICK_SEC,
					 .it_value.tv_sec = TICK_SEC};
	int ret;

	w->loop = loop;
	if (!reports && !mitigation_may_want_checks(w->mitigation))
		return 0; /* nothing to look after: no tick, no wake */
	w->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = w->tick_fd < 0 || w->wake_fd < 0 || timerfd_settime(w->tick_fd, 0, &every, NULL) < 0
		      ? -errno
		      : loop_add(loop, &w->tick, w->tick_fd, EPOLLIN, tick_ready);
	if (!ret)
		ret = loop_add(loop, &w->wake, w->wake_fd, EPOLLIN, wake_ready);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	if (reports) {
		w->listener.changed = changed;
		mitigation_listen(w->mitigation, &w->listener);
	}
	return 0;
}

void mitigation_watch_close(struct mitigation_watch *w)
{
	if (w->loop) {
		loop_del(w->loop, &w->tick);
		loop_del(w->loop, &w->wake);
	}
	if (w->tick_fd >= 0)
		close(w->tick_fd);
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	w->tick_fd = w->wake_fd = -1;
	report_file_close(&w->file);
}
