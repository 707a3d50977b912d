#include "migration/move/arrival.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/state/buf.h"

#define CLOCK_ASKS 3 /* the quickest answer tells the most */

static bool has_clocks(const struct arrival *a)
{
	return a->hello.features & FRAME_FEATURE_CLOCK;
}

/* The wall clocks differ: a line, or the end. Return: 0 or -EPERM */
int dest_judge_clocks(struct arrival *a, int64_t apart_ns)
{
	const char *there = a->description->host_name, *here = a->d->guest.host_name;
	const bool named = *there && *here && strcmp(there, here) != 0;
	char text[256];

	clock_tell_apart(named ? there : "the source", named ? here : "the destination", apart_ns,
			 text, sizeof(text));
	if (a->d->refuse_clock_difference)
		return err_set(
			a->e, -EPERM,
			"%s (policy clock-difference: refuse); let NTP set both, or allow it "
			"by clock-difference: warn",
			text);
	log_warn("%s: the guest's own clocks go on by the time that it stands still; let NTP set "
		 "both",
		 text);
	return 0;
}

/* By what the source answered; of one that does not answer, by the wall clocks if that can be. */
struct clock_window dest_when_saved(const struct arrival *a)
{
	const struct clock_reading now = clock_now();
	const int64_t shift_ns =
		has_clocks(a) ? a->clocks.shift_ns : clock_window_wall(&now).shift_ns;

	return clock_window_between(shift_ns, a->earliest_ns, a->latest_ns);
}

static int send_clock(struct arrival *a, const struct frame_clock *c)
{
	struct wbuf w = {0};

	frame_clock_encode(c, &w);
	return channel_send_built(&a->control, FRAME_CLOCK, &w, a->e);
}

/* Return: 0 or -errno; the answer is kept if it tells more than the last one did */
static int ask_clock(struct arrival *a, bool first)
{
	const uint64_t asked_ns = monotonic_ns();
	struct clock_reading heard, said;
	struct frame_clock answer;
	struct clock_link link;
	struct frame f;
	int ret = send_clock(a, &(struct frame_clock) {.what = FRAME_CLOCK_ASK});

	if (!ret)
		ret = channel_expect(&a->control, FRAME_CLOCK, &f, a->e);
	if (ret < 0)
		return ret;
	heard = clock_now();
	ret = frame_clock_decode(&f, &answer, a->e);
	frame_fini(&f);
	if (!ret && answer.what != FRAME_CLOCK_ANSWER)
		ret = err_set(a->e, -EPROTO,
			      "frame clock: kind %u where an answer is due; the other side speaks "
			      "another version",
			      answer.what);
	if (ret < 0)
		return ret;
	said = (struct clock_reading) {.mono_ns = answer.mono_ns, .wall_ns = answer.wall_ns};
	link = clock_link_make(asked_ns, &heard, &said);
	if (first || link.error_ns < clock_link_error(&a->clocks, heard.mono_ns))
		a->clocks = link;
	a->tsc_khz = answer.tsc_khz;
	return 0;
}

/* While the guest still runs; and tell the source, for those who ask it. */
int dest_hear_clocks(struct arrival *a)
{
	struct frame_clock apart = {.what = FRAME_CLOCK_APART};
	unsigned int i;
	int ret = 0;

	a->earliest_ns = monotonic_ns();
	if (!has_clocks(a))
		return 0;
	for (i = 0; !ret && i < CLOCK_ASKS; i++)
		ret = ask_clock(a, i == 0);
	apart.apart_ns = a->clocks.apart_ns;
	if (!ret)
		ret = send_clock(a, &apart);
	if (!ret && clock_is_apart(a->clocks.apart_ns, a->clocks.error_ns))
		ret = dest_judge_clocks(a, a->clocks.apart_ns);
	return ret;
}

int dest_ask_clock_again(struct arrival *a)
{
	if (!has_clocks(a) || !clock_link_is_stale(&a->clocks, monotonic_ns()))
		return 0;
	return ask_clock(a, false);
}
