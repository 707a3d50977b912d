#include "vmm/machine/throttle.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "vmm/kvm/dirty_ring.h"

/* A vCPU at THROTTLE_MAX needs several periods to show what it writes. */
#define FADE_NS (10 * THROTTLE_PERIOD_US * UINT64_C(1000))

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

		if (!t->any) {
			pthread_cond_wait(&t->change, &t->lock);
			clock_gettime(CLOCK_MONOTONIC, &next);
			continue;
		}
		for (i = 0; i < t->n; i++)
			if (t->percent[i])
				vcpu_request_nap(&t->vcpus[i],
						 THROTTLE_PERIOD_US / 100 * t->percent[i]);
		next.tv_nsec += THROTTLE_PERIOD_US * 1000L;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		while (!t->quit && t->any && !ret)
			ret = pthread_cond_timedwait(&t->change, &t->lock, &next);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

void throttle_init(struct throttle *t, struct vcpu *vcpus, unsigned int n,
		   const struct dirty_ring *ring)
{
	pthread_condattr_t attr;
	unsigned int i;

	memset(t, 0, sizeof(*t));
	t->vcpus = vcpus;
	t->n = n < MACHINE_MAX_VCPUS ? n : MACHINE_MAX_VCPUS;
	t->ring = ring;
	for (i = 0; ring->entries && i < t->n; i++)
		t->seen[i] = dirty_ring_pages(ring, i);
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

/*
 * What each may write when all may write the same, and @sum together. Who writes less leaves the
 * rest to the others, so the quota grows until nobody more is below it.
 */
static uint64_t fair_quota(const uint64_t *demand, unsigned int n, uint64_t sum)
{
	uint64_t quota = sum / n, left;
	unsigned int above = n, before, i;

	do {
		before = above;
		above = n;
		left = sum;
		for (i = 0; i < n; i++) {
			if (demand[i] > quota)
				continue;
			left -= demand[i];
			above--;
		}
		if (above)
			quota = left / above;
	} while (above && above != before);
	return quota;
}

void throttle_share(const uint64_t *demand, unsigned int n, unsigned int percent, uint8_t *each)
{
	const unsigned int all = percent < THROTTLE_MAX ? percent : THROTTLE_MAX;
	uint64_t sum = 0, quota;
	unsigned int i;

	for (i = 0; i < n; i++)
		sum += demand[i];
	quota = n ? fair_quota(demand, n, sum * (100 - all) / 100) : 0;
	for (i = 0; i < n; i++) {
		uint64_t less = all;

		if (sum)
			less = demand[i] > quota
				       ? ((demand[i] - quota) * 100 + demand[i] / 2) / demand[i]
				       : 0;
		each[i] = (uint8_t)(less < THROTTLE_MAX ? less : THROTTLE_MAX);
	}
}

/* Who stands still for half of the time would write twice as much. */
static void note_demand(struct throttle *t)
{
	const uint64_t now = monotonic_ns();
	const bool fade = now - t->faded_ns >= FADE_NS;
	unsigned int i;

	if (!t->ring->entries)
		return;
	if (fade)
		t->faded_ns = now;
	for (i = 0; i < t->n; i++) {
		const uint64_t pages = dirty_ring_pages(t->ring, i);

		if (fade)
			t->demand[i] /= 2;
		t->demand[i] += (pages - t->seen[i]) * 100 / (100 - t->percent[i]);
		t->seen[i] = pages;
	}
}

int throttle_set(struct throttle *t, unsigned int percent, struct err *e)
{
	int ret = 0;

	note_demand(t);
	pthread_mutex_lock(&t->lock);
	throttle_share(t->demand, t->n, percent, t->percent);
	t->any = percent;
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
