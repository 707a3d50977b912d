#include "migration/state/clock.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"

#define TSC_TOLERANCE_PPM 250 /* KVM's own: its parameter tsc_tolerance_ppm */

/* @a - @b, as far as an int64_t goes */
static int64_t difference(uint64_t a, uint64_t b)
{
	int64_t d;

	if (!__builtin_sub_overflow(a, b, &d))
		return d;
	return a > b ? INT64_MAX : INT64_MIN;
}

static int64_t add(int64_t a, int64_t b)
{
	int64_t sum;

	if (!__builtin_add_overflow(a, b, &sum))
		return sum;
	return b > 0 ? INT64_MAX : INT64_MIN;
}

static int64_t sub(int64_t a, int64_t b)
{
	int64_t d;

	if (!__builtin_sub_overflow(a, b, &d))
		return d;
	return b < 0 ? INT64_MAX : INT64_MIN;
}

static int64_t moment(uint64_t ns)
{
	return ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
}

static uint64_t magnitude(int64_t ns)
{
	return ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
}

struct clock_link clock_link_make(uint64_t asked_ns, const struct clock_reading *heard,
				  const struct clock_reading *answer)
{
	const bool one_clock = answer->mono_ns >= asked_ns && answer->mono_ns <= heard->mono_ns;
	const uint64_t span = heard->mono_ns - asked_ns;
	const uint64_t at = one_clock ? answer->mono_ns : asked_ns + span / 2;

	return (struct clock_link) {
		.shift_ns = difference(at, answer->wall_ns),
		.apart_ns = add(difference(answer->wall_ns, heard->wall_ns),
				difference(heard->mono_ns, at)),
		.error_ns = one_clock ? 0 : span - span / 2,
		.asked_ns = asked_ns,
	};
}

uint64_t clock_link_error(const struct clock_link *l, uint64_t now_ns)
{
	if (!l->error_ns)
		return 0;
	return l->error_ns + (now_ns - l->asked_ns) / 1000000 * CLOCK_DRIFT_PPM;
}

bool clock_link_is_stale(const struct clock_link *l, uint64_t now_ns)
{
	return clock_link_error(l, now_ns) > 3 * l->error_ns;
}

bool clock_is_apart(int64_t apart_ns, uint64_t error_ns)
{
	const uint64_t ns = magnitude(apart_ns);

	return ns > error_ns && ns - error_ns > CLOCK_APART_MAX_NS;
}

void clock_tell_apart(const char *there, const char *here, int64_t apart_ns, char *text, size_t len)
{
	const uint64_t tenth = CLOCK_NS_PER_S / 10, ns = magnitude(apart_ns) + tenth / 2;

	snprintf(text, len, "the wall clock of %s is %llu.%llu s %s that of %s", there,
		 (unsigned long long)(ns / CLOCK_NS_PER_S),
		 (unsigned long long)(ns % CLOCK_NS_PER_S / tenth),
		 apart_ns < 0 ? "behind" : "ahead of", here);
}

struct clock_window clock_window_still(void)
{
	return (struct clock_window) {.still = true};
}

struct clock_window clock_window_here(void)
{
	return (struct clock_window) {.earliest_ns = INT64_MIN, .latest_ns = INT64_MAX};
}

struct clock_window clock_window_wall(const struct clock_reading *now)
{
	return (struct clock_window) {
		.shift_ns = difference(now->mono_ns, now->wall_ns),
		.earliest_ns = INT64_MIN,
		.latest_ns = moment(now->mono_ns),
	};
}

struct clock_window clock_window_between(int64_t shift_ns, uint64_t earliest_ns, uint64_t latest_ns)
{
	return (struct clock_window) {
		.shift_ns = shift_ns,
		.earliest_ns = moment(earliest_ns),
		.latest_ns = moment(latest_ns),
	};
}

uint64_t clock_passed(const struct clock_window *w, uint64_t saved_wall_ns, uint64_t now_ns,
		      int64_t *off_ns)
{
	const int64_t now = moment(now_ns);
	int64_t at = add(moment(saved_wall_ns), w->shift_ns);

	*off_ns = 0;
	if (w->still)
		return 0;
	if (at > w->latest_ns)
		*off_ns = sub(at, w->latest_ns);
	else if (at < w->earliest_ns)
		*off_ns = sub(at, w->earliest_ns);
	if (*off_ns)
		at = w->latest_ns;
	return at < now ? (uint64_t)sub(now, at) : 0;
}

uint64_t clock_ticks(uint64_t ns, uint32_t khz)
{
	uint64_t ticks;

	if (__builtin_mul_overflow(ns / 1000000, (uint64_t)khz, &ticks) ||
	    __builtin_add_overflow(ticks, ns % 1000000 * khz / 1000000, &ticks))
		return UINT64_MAX;
	return ticks;
}

bool clock_same_frequency(uint32_t khz, uint32_t here_khz)
{
	const uint64_t slack = (uint64_t)here_khz * TSC_TOLERANCE_PPM / 1000000;

	return khz + slack >= here_khz && khz <= here_khz + slack;
}

/* Of some tries the one that was not interrupted, */
struct clock_reading clock_now(void)
{
	uint64_t best = UINT64_MAX;
	struct clock_reading r = {0};
	unsigned int i;

	for (i = 0; i < 3; i++) {
		const uint64_t before = monotonic_ns(), wall = clock_ns(CLOCK_REALTIME);
		const uint64_t took = monotonic_ns() - before;

		if (took >= best)
			continue;
		best = took;
		r = (struct clock_reading) {.mono_ns = before, .wall_ns = wall};
	}
	return r;
}
