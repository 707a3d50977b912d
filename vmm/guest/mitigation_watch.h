/*
 * The event loop's part of the mitigation engine: a tick a second that lets vCPUs compare what KVM
 * has with what is to be held, and the report file, written soon after each change.
 */
#ifndef VMM_GUEST_MITIGATION_WATCH_H
#define VMM_GUEST_MITIGATION_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "vmm/guest/mitigation_report.h"
#include "vmm/hold/mitigation.h"

struct isolation;
struct machine;

struct mitigation_watch {
	struct mitigation *mitigation;
	const struct isolation *isolation;
	struct report_file file;
	struct machine *machine; /* whose vCPUs stand up for a look; NULL: none runs */

	struct loop *loop;
	int tick_fd, wake_fd;
	struct loop_watch tick, wake;
	struct mitigation_listener listener;
	bool dirty; /* atomic: something changed since the last write */
	uint64_t written_ms;
};

/** mitigation_watch_init - an empty one: mitigation_watch_close() is safe from here on */
void mitigation_watch_init(struct mitigation_watch *w);

/**
 * mitigation_watch_open_file - what a report is about, and its file, as early as it may have to say
 * that the guest was refused
 * @path: of the report; NULL: none is wanted
 * Return: 0 or -errno; @w may be given to mitigation_watch_close() in any case
 */
int mitigation_watch_open_file(struct mitigation_watch *w, struct mitigation *m,
			       const struct isolation *iso, const char *path, struct err *e);

/** mitigation_watch_open - look on, after that; before the sandbox. Return: the same */
int mitigation_watch_open(struct mitigation_watch *w, struct loop *loop, struct err *e);
void mitigation_watch_close(struct mitigation_watch *w);

/** mitigation_watch_write - the report as of now; @state and @reason as in mitigation_report() */
void mitigation_watch_write(struct mitigation_watch *w, const char *state, const char *reason);

#endif
