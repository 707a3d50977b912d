#include "base/loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

int loop_init(struct loop *l)
{
	l->stop = false;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	return l->epfd < 0 ? -errno : 0;
}

void loop_fini(struct loop *l)
{
	if (l->epfd >= 0)
		close(l->epfd);
	l->epfd = -1;
}

int loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
	     void (*ready)(struct loop_watch *))
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	w->fd = fd;
	w->ready = ready;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) == 0)
		return 0;
	w->fd = -1;
	return -errno;
}

int loop_mod(struct loop *l, struct loop_watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	return epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0 ? -errno : 0;
}

void loop_del(struct loop *l, struct loop_watch *w)
{
	if (w->fd < 0)
		return;
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fd = -1;
}

int loop_turn(struct loop *l, int timeout_ms)
{
	struct epoll_event ev;
	struct loop_watch *w;
	int n;

	/*
	 * One event a turn: a callback may remove another watch, and an event of that one fetched
	 * in the same batch would then call into a removed watch.
	 */
	do
		n = epoll_wait(l->epfd, &ev, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : 0;
	w = ev.data.ptr;
	w->events = ev.events;
	w->ready(w);
	return 1;
}

int loop_run(struct loop *l)
{
	int ret = 0;

	l->stop = false;
	while (!l->stop && ret >= 0)
		ret = loop_turn(l, -1);
	return ret < 0 ? ret : 0;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}
