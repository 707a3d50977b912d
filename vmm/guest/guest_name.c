#include "vmm/guest/guest_name.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/guest/control.h"

/*
 * How often, and how long, a name is asked for that the source has still. Who has waited for the
 * end of the source, and calls the guest by its name then, must find it: the start of a program
 * takes longer than this.
 */
#define TRY_MS	  2
#define TRIES_MAX 5000

void guest_name_init(struct guest_name *n)
{
	memset(n, 0, sizeof(*n));
	n->timer_fd = n->timer.fd = -1;
}

static void tell_taken(const struct guest_name *n, const char *why)
{
	log_warn("the guest was called '%s' at the source, and cannot have that name at the "
		 "destination: %s; it stays '%s', --name gives it another",
		 n->name, why, n->control->dir.name);
}

/* Return: true: settled, for good or for bad */
static bool try_to_take(struct guest_name *n, bool last)
{
	char before[RUNDIR_NAME_MAX + 1];
	struct err e = {0};
	int ret;

	memcpy(before, n->control->dir.name, sizeof(before));
	ret = rundir_rename(&n->control->dir, n->name, &e);
	if (!ret) {
		log_debug("guest '%s' has its name at the destination: it was '%s'", n->name,
			  before);
		return true;
	}
	if (ret == -EEXIST && !last)
		return false;
	tell_taken(n, e.text);
	return true;
}

static void timer_ready(struct loop_watch *w)
{
	struct guest_name *n = container_of(w, struct guest_name, timer);
	const struct itimerspec never = {0};
	uint64_t times;

	if (read(n->timer_fd, &times, sizeof(times)) != sizeof(times) ||
	    !try_to_take(n, ++n->tries >= TRIES_MAX))
		return;
	timerfd_settime(n->timer_fd, 0, &never, NULL);
	loop_del(n->loop, &n->timer);
}

int guest_name_open(struct guest_name *n, struct control *control, struct loop *loop,
		    const char *given, bool comes, struct err *e)
{
	n->control = control;
	n->loop = loop;
	snprintf(n->name, sizeof(n->name), "%s", given ? given : "");
	n->wanted = comes && !given && control->dir.dir_fd >= 0;
	if (!n->wanted)
		return 0;
	n->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (n->timer_fd >= 0)
		return 0;
	return err_set(e, -errno, "no timer: %s; raise the limit of open files (ulimit -n)",
		       strerror(errno));
}

void guest_name_close(struct guest_name *n)
{
	if (n->loop)
		loop_del(n->loop, &n->timer);
	if (n->timer_fd >= 0)
		close(n->timer_fd);
	guest_name_init(n);
}

int guest_name_hear(struct guest_name *n, const char *name, struct err *e)
{
	int ret = *name ? rundir_check_name("the guest that comes is called", name, e) : 0;

	if (!ret && n->wanted)
		snprintf(n->name, sizeof(n->name), "%s", name);
	return ret;
}

void guest_name_take(struct guest_name *n, bool wait)
{
	const struct itimerspec often = {.it_value.tv_nsec = TRY_MS * 1000000L,
					 .it_interval.tv_nsec = TRY_MS * 1000000L};

	if (!n->wanted || !n->name[0] || try_to_take(n, !wait))
		return;
	n->tries = 0;
	if (loop_add(n->loop, &n->timer, n->timer_fd, EPOLLIN, timer_ready) < 0 ||
	    timerfd_settime(n->timer_fd, 0, &often, NULL) < 0)
		try_to_take(n, true);
}
