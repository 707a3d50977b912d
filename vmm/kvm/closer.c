#include "vmm/kvm/closer.h"

#include <string.h>
#include <unistd.h>

static void close_all(const int *fds, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		close(fds[i]);
}

static void *closer_thread(void *arg)
{
	const struct closer *c = arg;

	pthread_setname_np(pthread_self(), "vm-closer");
	close_all(c->fd, c->n);
	return NULL;
}

void closer_close(struct closer *c, const int *fds, unsigned int n)
{
	if (c)
		closer_wait(c);
	if (c && n <= CLOSER_MAX) {
		memcpy(c->fd, fds, n * sizeof(fds[0]));
		c->n = n;
		c->busy = pthread_create(&c->thread, NULL, closer_thread, c) == 0;
	}
	if (!c || !c->busy)
		close_all(fds, n);
}

void closer_wait(struct closer *c)
{
	if (c->busy)
		pthread_join(c->thread, NULL);
	c->busy = false;
}
