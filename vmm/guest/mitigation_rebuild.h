/*
 * A guest that reports late, on a KVM that froze the held bits when the VM was made: the VM is
 * built anew under it, with more bits. On the event loop's thread, a moment after the report, so
 * that the other vCPUs' reports come along.
 */
#ifndef VMM_GUEST_MITIGATION_REBUILD_H
#define VMM_GUEST_MITIGATION_REBUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "vmm/hold/mitigation.h"

struct err;
struct guest;

struct mitigation_rebuild {
	struct guest *guest;
	struct mitigation_listener listener;
	int timer_fd; /* runs while @wanted */
	struct loop_watch timer;
	bool wanted;	  /* atomic: a report asks for bits that this VM cannot hold */
	bool gave_up;	  /* it failed once: not again for this guest */
	uint64_t last_ms; /* monotonic, of the last one; 0: none yet */
};

/** mitigation_rebuild_init - an empty one: mitigation_rebuild_close() is safe from here on */
void mitigation_rebuild_init(struct mitigation_rebuild *b);

/**
 * mitigation_rebuild_open - watch the reports of @g; before the sandbox
 * Does nothing on a back end that can change what it holds at any time.
 * Return: 0 or -errno; @b may be given to mitigation_rebuild_close() in any case
 */
int mitigation_rebuild_open(struct mitigation_rebuild *b, struct guest *g, struct err *e);
void mitigation_rebuild_close(struct mitigation_rebuild *b);

#endif
