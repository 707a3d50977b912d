#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/loop.h"

/* Work for the loop's thread, handed over one piece at a time. */

static void call_ready(struct loop_watch *w)
{
	struct loop_call *c = container_of(w, struct loop_call, watch);
	int (*fn)(void *arg);
	uint64_t n;
	int ret;

	if (read(w->fd, &n, sizeof(n)) != sizeof(n))
		return;
	pthread_mutex_lock(&c->lock);
	fn = c->fn;
	c->fn = NULL; /* taken: from here on a close does not refuse it */
	pthread_mutex_unlock(&c->lock);
	if (!fn)
		return;
	ret = fn(c->arg);
	pthread_mutex_lock(&c->lock);
	c->result = ret;
	c->done = true;
	pthread_cond_signal(&c->done_cond);
	pthread_mutex_unlock(&c->lock);
}

int loop_call_init(struct loop_call *c, struct loop *l)
{
	int fd, ret;

	memset(c, 0, sizeof(*c));
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	ret = loop_add(l, &c->watch, fd, EPOLLIN, call_ready);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->done_cond, NULL);
	pthread_cond_init(&c->free_cond, NULL);
	c->loop = l;
	return 0;
}

void loop_call_fini(struct loop_call *c)
{
	int fd = c->watch.fd;

	if (!c->loop)
		return;
	loop_del(c->loop, &c->watch);
	close(fd);
	pthread_cond_destroy(&c->done_cond);
	pthread_cond_destroy(&c->free_cond);
	pthread_mutex_destroy(&c->lock);
	c->loop = NULL;
}

int loop_call(struct loop_call *c, int (*fn)(void *arg), void *arg)
{
	const uint64_t one = 1;
	int ret;

	pthread_mutex_lock(&c->lock);
	while (c->busy) /* with another thread's, up to its last line here */
		pthread_cond_wait(&c->free_cond, &c->lock);
	c->busy = true;
	c->fn = fn;
	c->arg = arg;
	c->done = c->closed;
	c->result = -ECANCELED;
	if (!c->done && write(c->watch.fd, &one, sizeof(one)) != sizeof(one)) {
		c->done = true;
		c->result = -errno;
	}
	while (!c->done)
		pthread_cond_wait(&c->done_cond, &c->lock);
	c->fn = NULL;
	ret = c->result;
	c->busy = false;
	pthread_cond_signal(&c->free_cond);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

void loop_call_close(struct loop_call *c)
{
	pthread_mutex_lock(&c->lock);
	c->closed = true;
	if (c->fn) {
		c->fn = NULL;
		c->done = true;
		pthread_cond_signal(&c->done_cond);
	}
	pthread_mutex_unlock(&c->lock);
}

void loop_call_open(struct loop_call *c)
{
	pthread_mutex_lock(&c->lock);
	c->closed = false;
	pthread_mutex_unlock(&c->lock);
}
