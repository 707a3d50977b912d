/*
 * Slowing a guest down that writes its memory faster than it can be sent: all its vCPUs stay out of
 * the guest for a share of each period. Who of them writes is not known without a dirty ring.
 */
#ifndef VMM_THROTTLE_H
#define VMM_THROTTLE_H

#include <pthread.h>
#include <stdbool.h>

#include "vmm/vcpu.h"

struct err;

#define THROTTLE_PERIOD_US 20000
#define THROTTLE_MAX	   99 /* percent */

struct throttle {
	struct vcpu *vcpus; /* NULL: not initialized */
	unsigned int n;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t change;
	unsigned int percent;
	bool quit;
};

/** throttle_init - nothing is slowed down yet, and no thread runs. @vcpus: @n that outlive it */
void throttle_init(struct throttle *t, struct vcpu *vcpus, unsigned int n);
/** throttle_fini - full speed again; accepts a zeroed @t */
void throttle_fini(struct throttle *t);

/**
 * throttle_set - from now on the vCPUs stand still for @percent of the time; 0: full speed
 * More than THROTTLE_MAX is taken as that. A vCPU that is to be paused or stopped is never held up.
 * The first call with more than 0 starts a thread.
 * Return: 0; -errno when there is no thread to be had
 */
int throttle_set(struct throttle *t, unsigned int percent, struct err *e);

#endif
