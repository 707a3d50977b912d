/*
 * xstate THREADS: each thread holds patterns in all of a processor's extended state that user
 * programs may use (AVX, AVX-512, protection keys: what XCR0 has), and looks all the time whether
 * they are still there, while others do the same on its processor. Runs in a guest that is saved,
 * moved and built anew. SIGTERM ends it; then it says how often each thread has looked, and what
 * was lost.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/guest/xstate.h"

#define THREADS_MAX 64
#define LOOKS	    500 /* at one pattern */
#define NEVER	    (-1)

struct holder {
	pthread_t thread;
	uint64_t patterns, looks;
	int lost; /* component, or NEVER */
	struct xstate_area found, want, seen;
};

static struct xstate xstate;
static struct holder holders[THREADS_MAX];
static volatile bool stop;

static uint64_t read_xcr0(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

/* Between load and the last store nothing is called. */
static void hold(struct holder *h)
{
	xstate_load(&xstate, &h->want);
	for (int i = 0; i < LOOKS && h->lost == NEVER && !stop; i++) {
		xstate_store(&xstate, &h->seen);
		h->lost = xstate_differs(&xstate, &h->want, &h->seen);
		h->looks++;
	}
	xstate_load(&xstate, &h->found);
}

static void *run(void *arg)
{
	struct holder *h = arg;

	xstate_store(&xstate, &h->found);
	while (!stop && h->lost == NEVER) {
		xstate_fill(&xstate, &h->want, (uint64_t)(h - holders) << 32 | h->patterns++);
		hold(h);
	}
	return NULL;
}

static int report(int n)
{
	int lost = 0;

	for (int i = 0; i < n; i++) {
		const struct holder *h = &holders[i];

		printf("xstate thread=%d patterns=%llu looks=%llu", i,
		       (unsigned long long)h->patterns, (unsigned long long)h->looks);
		if (h->lost != NEVER) {
			printf(" lost component %d", h->lost);
			lost++;
		}
		printf("\n");
	}
	return lost ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1, got;
	const char *wrong;
	sigset_t term;

	if (n < 1 || n > THREADS_MAX)
		return EXIT_FAILURE;
	wrong = xstate_init(&xstate, read_xcr0());
	if (wrong) {
		printf("xstate failed: %s\n", wrong);
		return EXIT_FAILURE;
	}
	/* the guest has other work, and one that only looks takes all it can get */
	if (nice(10) < 0)
		return EXIT_FAILURE;
	printf("xstate components=%#llx\n", (unsigned long long)xstate.xcr0);
	fflush(stdout);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &term, NULL);
	for (int i = 0; i < n; i++) {
		holders[i].lost = NEVER;
		if (pthread_create(&holders[i].thread, NULL, run, &holders[i])) {
			printf("xstate failed: no thread\n");
			return EXIT_FAILURE;
		}
	}
	sigwait(&term, &got);
	stop = true;
	for (int i = 0; i < n; i++)
		pthread_join(holders[i].thread, NULL);
	return report(n);
}
