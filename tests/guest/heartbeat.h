/*
 * What the load commands (dirty, heartbeat) leave in guest memory, for host tools that look at it:
 * signs of life of each processor, and the pattern in the pages of the working set.
 */
#ifndef TESTS_GUEST_HEARTBEAT_H
#define TESTS_GUEST_HEARTBEAT_H

#include <stdint.h>

#define HEARTBEAT_GPA	   0x40000
#define HEARTBEAT_MAGIC	   0x7461656274726165ull /* "eartbeat" */
#define HEARTBEAT_VERSION  1
#define HEARTBEAT_MAX_CPUS 256

/* a 32-bit word that a host tool writes: what the msrs command waits for, and the load ends with */
#define GATE_GPA 0x48000

struct heartbeat_cpu {
	uint64_t count;		/* beats so far */
	uint64_t last_tsc;	/* of the last beat */
	uint64_t max_gap_tsc;	/* longest time between two beats */
	uint64_t max_gap_count; /* the beat at its end */
	uint64_t pages;		/* pages written so far */
	uint64_t generation;	/* of the sweep under way, from 1 */
	uint64_t errors;	/* pages that did not hold what was written before */
	uint64_t reserved;
};

struct heartbeat {
	uint64_t magic;
	uint32_t version;
	uint32_t n_cpus;
	uint64_t tsc_khz;
	uint64_t reserved[5];
	struct heartbeat_cpu cpu[HEARTBEAT_MAX_CPUS];
};

/*
 * heartbeat_pattern - first word of page @index of the working set after sweep @generation; the
 * last word of the page is its complement
 */
static inline uint64_t heartbeat_pattern(uint64_t index, uint64_t generation)
{
	return (index + 1) * 0x9e3779b97f4a7c15 ^ generation * 0xc2b2ae3d27d4eb4f;
}

#endif
