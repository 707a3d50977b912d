#include "vmm/throttle.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/err.h"

static void *throttle_thread(void *arg)
{
	struct throttle *t = arg;
	struct timespec next;
	unsigned int i;

	pthread_setname_np(pthread_self(), "throttle");
	clock_gettime(CLOCK_MONOTONIC, &next);
	pthread_mutex_lock(&t->lock);
	while (!t->quit) {
		int ret = 0;

		if (!t->percent) {
			pthread_cond_wait(&t->change, &t->lock);
			clock_gettime(CLOCK_MONOTONIC, &next);
			continue;
		}
		for (i = 0; i < t->n; i++)
			vcpu_request_nap(&t->vcpus[i], THROTTLE_PERIOD_US / 100 * t->percent);
		next.tv_nsec += THROTTLE_PERIOD_US * 1000L;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		while (!t->quit && t->percent && !ret)
			ret = pthread_cond_timedwait(&t->change, &t->lock, &next);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

void throttle_init(struct throttle *t, struct vcpu *vcpus, unsigned int n)
{
	pthread_condattr_t attr;

	memset(t, 0, sizeof(*t));
	t->vcpus = vcpus;
	t->n = n;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->change, &attr);
	pthread_condattr_destroy(&attr);
}

void throttle_fini(struct throttle *t)
{
	if (!t->vcpus)
		return;
	pthread_mutex_lock(&t->lock);
	t->quit = true;
	pthread_cond_signal(&t->change);
	pthread_mutex_unlock(&t->lock);
	if (t->started)
		pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->change);
	pthread_mutex_destroy(&t->lock);
	memset(t, 0, sizeof(*t));
}

int throttle_set(struct throttle *t, unsigned int percent, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&t->lock);
	t->percent = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	pthread_cond_signal(&t->change);
	pthread_mutex_unlock(&t->lock);
	if (percent && !t->started) {
		ret = pthread_create(&t->thread, NULL, throttle_thread, t);
		t->started = !ret;
	}
	return ret ? err_set(e, -ret, "migration: no thread to slow the guest down: %s",
			     strerror(ret))
		   : 0;
}
