/*
 * When to stop copying a running guest and pause it. A round sends what is dirty; while it does,
 * the guest dirties V(i+1) = min(W, D * V(i) / B) bytes, with D the rate of dirtying distinct
 * pages, B the rate of sending and W the guest's writable working set. Another round helps as long
 * as r = D/B < 1, down to a floor that no round gets below. The pause then lasts V / B plus a fixed
 * cost (pausing, last harvest, saving, one round trip, loading, resuming), which the caller
 * measures or estimates.
 *
 * So: copy until what is left costs little beside what is fixed, or until it stops shrinking; then
 * pause if that fits the limit. If it does not fit, slow down the vCPUs that write, step by step;
 * and when time is up, do what the user chose.
 *
 * PURE: no clock; times come from the caller.
 */
#ifndef MIGRATION_MOVE_CONVERGE_H
#define MIGRATION_MOVE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

/* What to do when the guest has not become still in time. */
enum converge_on_timeout {
	ON_TIMEOUT_CANCEL,   /* give up; the guest runs on here (default) */
	ON_TIMEOUT_FORCE,    /* pause whatever it costs */
	ON_TIMEOUT_THROTTLE, /* slow it down as far as it goes, and go on */
};

struct converge_config {
	uint64_t limit_ns;   /* that the guest may stand still */
	uint64_t timeout_ns; /* since converge_init(); 0: none */
	enum converge_on_timeout on_timeout;
};

#define CONVERGE_LIMIT_NS_DEFAULT  UINT64_C(20000000)
#define CONVERGE_THROTTLE_FIRST	   20 /* percent of the time that a writing vCPU sleeps */
#define CONVERGE_THROTTLE_STEP	   10
#define CONVERGE_THROTTLE_AUTO_MAX 80 /* without ON_TIMEOUT_THROTTLE */
#define CONVERGE_THROTTLE_MAX	   99

/* What the last round was, and what there is to send now. */
struct converge_round {
	uint64_t sent_bytes;  /* over all channels; 0 in a round without data */
	uint64_t sent_ns;     /* from its first byte until all channels had taken it */
	uint64_t dirty_bytes; /* dirty pages now, times their size */
	uint64_t fixed_ns;    /* estimate of the pause with nothing to send */
	uint64_t elapsed_ns;  /* since the migration began */
};

enum converge_action {
	CONVERGE_NEXT_ROUND,
	CONVERGE_THROTTLE, /* set throttle_percent, then the next round */
	CONVERGE_STOP,	   /* pause now */
	CONVERGE_GIVE_UP,
};

struct converge_step {
	enum converge_action action;
	unsigned int throttle_percent; /* that holds from now on, 0 to CONVERGE_THROTTLE_MAX */
	uint64_t downtime_ns;	       /* estimate, were it paused now */
	uint64_t rate;		       /* bytes a second, smoothed; 0: nothing was sent yet */
	uint64_t dirty_rate;	       /* bytes a second that the guest dirtied in this round */
	bool fits;		       /* downtime_ns is within the limit */
	bool stuck; /* as slow as it may be made, and still too fast: only a timeout ends this */
	bool below_fixed; /* the limit is less than the fixed cost alone: it cannot be kept */
};

/* Remembers rounds; the members are the module's own. */
struct converge {
	struct converge_config config;
	uint64_t rate;	      /* smoothed */
	uint64_t best_dirty;  /* least that was left since the throttle changed */
	unsigned int stalled; /* rounds in a row that left no less */
	unsigned int throttle_percent;
};

void converge_init(struct converge *c, const struct converge_config *config);

/**
 * converge_round - one more round was sent: what now?
 * Never asks for another round when there is nothing to send. Ask for the first time after round 0,
 * which sends all memory.
 */
struct converge_step converge_round(struct converge *c, const struct converge_round *round);

#endif
