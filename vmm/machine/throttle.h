/*
 * Slowing a guest down that writes its memory faster than it can be sent: vCPUs stay out of the
 * guest for a share of each period. With dirty rings, which tell who writes, those that write much
 * pay for it, and one that writes little goes on as it was; without, all of them are slowed alike.
 * (KVM's statistics of each vCPU are no way to tell: their page faults are first reads as well, and
 * a write is none where the CPU itself logs writes, Intel's PML.)
 */
#ifndef VMM_MACHINE_THROTTLE_H
#define VMM_MACHINE_THROTTLE_H

#include <pthread.h>
#include <stdbool.h>

#include "vmm/machine/machine_config.h"
#include "vmm/machine/vcpu.h"

struct dirty_ring;
struct err;

#define THROTTLE_PERIOD_US 20000
#define THROTTLE_MAX	   99 /* percent */

struct throttle {
	struct vcpu *vcpus; /* NULL: not initialized */
	unsigned int n;
	const struct dirty_ring *ring;
	/* how much each would write at full speed, and how much it had written when last asked */
	uint64_t demand[MACHINE_MAX_VCPUS], seen[MACHINE_MAX_VCPUS];
	uint64_t faded_ns; /* when what was long ago was last made to count less */
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t change;
	uint8_t percent[MACHINE_MAX_VCPUS];
	bool any; /* a percent that is not 0 */
	bool quit;
};

/**
 * throttle_init - nothing is slowed down yet, and no thread runs
 * @vcpus: @n of them, at most MACHINE_MAX_VCPUS; they outlive it, and so does @ring
 * @ring: without entries: who writes is not known
 */
void throttle_init(struct throttle *t, struct vcpu *vcpus, unsigned int n,
		   const struct dirty_ring *ring);
/** throttle_fini - full speed again; accepts a zeroed @t */
void throttle_fini(struct throttle *t);

/**
 * throttle_share - who stands still for how long, so that @percent less is written in all
 * @demand: what each of @n vCPUs writes at full speed, in any unit; below 2^56 together
 * @each: percent of the time; none is slowed below what it may write if all were allowed the same.
 *        All alike when nobody is known to write.
 * Pure.
 */
void throttle_share(const uint64_t *demand, unsigned int n, unsigned int percent, uint8_t *each);

/**
 * throttle_set - from now on the guest is to write @percent less than it would; 0: full speed
 * To be called after each round, also with the same number: who writes changes. More than
 * THROTTLE_MAX is taken as that. A vCPU that is to be paused or stopped is never held up.
 * The first call with more than 0 starts a thread.
 * Return: 0; -errno when there is no thread to be had
 */
int throttle_set(struct throttle *t, unsigned int percent, struct err *e);

#endif
