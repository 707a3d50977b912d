/*
 * Closing the last descriptor of a VM waits for grace periods of the kernel, some 15 ms on many
 * hosts. A thread does it here, beside a guest that starts, resets or gets a new VM. One VM at a
 * time: a guest that resets for ever does not pile them up. A process has not ended before its VMs
 * have, so whoever owns a closer waits for it last of all.
 */
#ifndef VMM_KVM_CLOSER_H
#define VMM_KVM_CLOSER_H

#include <pthread.h>
#include <stdbool.h>

#define CLOSER_MAX 16

/* Zeroed is one that has nothing to do. */
struct closer {
	pthread_t thread;
	bool busy; /* there is a thread to be joined */
	unsigned int n;
	int fd[CLOSER_MAX];
};

/**
 * closer_close - close @n descriptors, in order, beside the caller
 * Waits for what it was given before. In place, where @c is NULL or a thread cannot be had.
 */
void closer_close(struct closer *c, const int *fds, unsigned int n);

/** closer_wait - until all is closed */
void closer_wait(struct closer *c);

#endif
