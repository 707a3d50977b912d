/*
 * Time between two hosts, as values. How long a guest stood still is measured by monotonic clocks
 * only: the destination asks the source for its clocks and reads its own before and after, so it
 * knows the moment of the answer on its own clock within half of that span. Wall clocks say
 * nothing here but that they differ.
 *
 * A saved state has its moment as a time of day that was read once, when the migration began, and
 * carried on by CLOCK_MONOTONIC: a step of the wall clock meanwhile does not reach it.
 *
 * PURE but for clock_now(): values in, values out. What the other side says is judged here; sums saturate.
 */
#ifndef MIGRATION_STATE_CLOCK_H
#define MIGRATION_STATE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOCK_NS_PER_S 1000000000
/* Wall clocks that differ by more are told of; NTP keeps them within some milliseconds. */
#define CLOCK_APART_MAX_NS (1 * (int64_t)CLOCK_NS_PER_S)
/* How much two monotonic clocks may drift: quartz, and what NTP corrects. */
#define CLOCK_DRIFT_PPM 100

struct clock_reading {
	uint64_t mono_ns, wall_ns; /* CLOCK_MONOTONIC, time of day; of one moment */
};

/** clock_now - both clocks of this host, of one moment */
struct clock_reading clock_now(void);

/* What one question told of the other side's clocks. */
struct clock_link {
	int64_t shift_ns;  /* to add to the other's time of day for our CLOCK_MONOTONIC */
	int64_t apart_ns;  /* the other's time of day less ours */
	uint64_t error_ns; /* both are right within this; 0: one host, one clock */
	uint64_t asked_ns; /* our CLOCK_MONOTONIC before the question left */
};

/**
 * clock_link_make - from a question and its answer
 * @asked_ns: our CLOCK_MONOTONIC before the question left
 * @heard: our clocks when the answer was there
 * @answer: the other side's
 * A monotonic clock of the other side that lies between both of ours is taken for ours: hosts that
 * are two and agree by chance are then wrong by the span at most.
 */
struct clock_link clock_link_make(uint64_t asked_ns, const struct clock_reading *heard,
				  const struct clock_reading *answer);

/** clock_link_error - what the link may be wrong by @now_ns, ns: its error, and drift since then */
uint64_t clock_link_error(const struct clock_link *l, uint64_t now_ns);
/** clock_link_is_stale - may the clocks have drifted by more than it costs to ask again? */
bool clock_link_is_stale(const struct clock_link *l, uint64_t now_ns);

/** clock_is_apart - is that more than @error_ns and what is tolerated? */
bool clock_is_apart(int64_t apart_ns, uint64_t error_ns);

/**
 * clock_tell_apart - "the wall clock of icx1 is 3600.0 s ahead of that of spr3"
 * @apart_ns: @there's time of day less @here's
 */
void clock_tell_apart(const char *there, const char *here, int64_t apart_ns, char *text,
		      size_t len);

/* Between which moments of our CLOCK_MONOTONIC a guest was saved. */
struct clock_window {
	bool still;	  /* the time since then does not count: all else is 0 */
	int64_t shift_ns; /* to add to the saved time of day for our CLOCK_MONOTONIC */
	int64_t earliest_ns, latest_ns;
};

/** clock_window_still - of a guest whose time stood still */
struct clock_window clock_window_still(void);
/** clock_window_here - saved by this process with a time of day that is its CLOCK_MONOTONIC */
struct clock_window clock_window_here(void);
/** clock_window_wall - saved at any time up to @now, which the wall clocks alone tell */
struct clock_window clock_window_wall(const struct clock_reading *now);
/**
 * clock_window_between - saved after @earliest_ns and before @latest_ns of our CLOCK_MONOTONIC
 * @shift_ns: of the link
 */
struct clock_window clock_window_between(int64_t shift_ns, uint64_t earliest_ns,
					 uint64_t latest_ns);

/**
 * clock_passed - ns that passed since a guest was saved
 * @saved_wall_ns: the moment that came with it
 * @now_ns: our CLOCK_MONOTONIC
 * @off_ns: receives how far that moment lies outside the window: less than 0 before it. It is not
 * believed then, and only the time since the window's end counts, which this host has measured.
 * Return: 0 or more, never more than INT64_MAX
 */
uint64_t clock_passed(const struct clock_window *w, uint64_t saved_wall_ns, uint64_t now_ns,
		      int64_t *off_ns);

/** clock_ticks - @ns in ticks of @khz; UINT64_MAX when there are more */
uint64_t clock_ticks(uint64_t ns, uint32_t khz);

/** clock_same_frequency - is @khz within what KVM takes for equal and does not scale (250 ppm)? */
bool clock_same_frequency(uint32_t khz, uint32_t here_khz);

#endif
