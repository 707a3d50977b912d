#include "migration/move/converge.h"

#include <stddef.h>

/* What one more round costs by itself: below this, sending what is left is not worth one. */
#define ROUND_MIN_NS UINT64_C(250000)
/* A round that leaves more than 7/8 of the least that was dirty so far did not shrink it... */
#define SHRINK_NUM 7
#define SHRINK_DEN 8
/* ...and two in a row are a stall: one may be noise. */
#define STALL_ROUNDS 2
#define NS_PER_S     UINT64_C(1000000000)

/* @a * @b / @c without overflow; the largest value when it does not fit, or @c is 0 */
static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	__extension__ typedef unsigned __int128 wide;
	wide v = (wide)a * b;

	if (!a || !b)
		return 0;
	if (!c || v / c > UINT64_MAX)
		return UINT64_MAX;
	return (uint64_t)(v / c);
}

static uint64_t add_capped(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void converge_init(struct converge *c, const struct converge_config *config)
{
	*c = (struct converge) {.config = *config, .best_dirty = UINT64_MAX};
}

/*
 * The rate of sending: a short round tells little (it may lie in a socket's buffer), so each round
 * moves the average by at most half, less when it took less than 10 ms.
 */
static void smooth_rate(struct converge *c, const struct converge_round *r)
{
	const uint64_t full_ns = UINT64_C(10000000);
	uint64_t rate, weight;

	if (!r->sent_bytes || !r->sent_ns)
		return;
	rate = mul_div(r->sent_bytes, NS_PER_S, r->sent_ns);
	if (!c->rate) {
		c->rate = rate;
		return;
	}
	/* weight of 1024: 512 for a round of full length */
	weight = r->sent_ns >= full_ns ? 512 : r->sent_ns * 512 / full_ns;
	if (rate >= c->rate)
		c->rate = add_capped(c->rate, mul_div(rate - c->rate, weight, 1024));
	else
		c->rate -= mul_div(c->rate - rate, weight, 1024);
	if (!c->rate)
		c->rate = 1;
}

/* Did this round leave clearly less than the best one so far? */
static bool shrinks(const struct converge *c, uint64_t dirty)
{
	return dirty < mul_div(c->best_dirty, SHRINK_NUM, SHRINK_DEN);
}

/* Slow the guest down by one step more. Return: false when it is at @max */
static bool throttle_more(struct converge *c, unsigned int max)
{
	unsigned int to = c->throttle_percent ? c->throttle_percent + CONVERGE_THROTTLE_STEP
					      : CONVERGE_THROTTLE_FIRST;

	if (to > max)
		to = max;
	if (to <= c->throttle_percent)
		return false;
	c->throttle_percent = to;
	/* a slower guest has a new floor */
	c->stalled = 0;
	c->best_dirty = UINT64_MAX;
	return true;
}

static enum converge_action on_timeout(struct converge *c)
{
	switch (c->config.on_timeout) {
	case ON_TIMEOUT_FORCE:
		return CONVERGE_STOP;
	case ON_TIMEOUT_THROTTLE:
		return throttle_more(c, CONVERGE_THROTTLE_MAX) ? CONVERGE_THROTTLE
							       : CONVERGE_NEXT_ROUND;
	case ON_TIMEOUT_CANCEL:
		break;
	}
	return CONVERGE_GIVE_UP;
}

/* @left_ns: to send what is dirty now */
static enum converge_action decide(struct converge *c, const struct converge_round *r,
				   uint64_t left_ns, bool fits, bool shrunk)
{
	const uint64_t little = r->fixed_ns / 8 > ROUND_MIN_NS ? r->fixed_ns / 8 : ROUND_MIN_NS;
	bool timed_out = c->config.timeout_ns && r->elapsed_ns >= c->config.timeout_ns;

	/*
	 * Nothing to gain: the rest costs little beside the fixed part. So it stops here even when
	 * the limit is below the fixed cost, which no further round makes smaller.
	 */
	if (left_ns <= little)
		return CONVERGE_STOP;
	/* It would fit already; go on only as long as the pause keeps getting shorter. */
	if (fits && !shrunk)
		return CONVERGE_STOP;
	if (timed_out)
		return fits ? CONVERGE_STOP : on_timeout(c);
	if (fits || shrunk || c->stalled < STALL_ROUNDS)
		return CONVERGE_NEXT_ROUND;
	return throttle_more(c, CONVERGE_THROTTLE_AUTO_MAX) ? CONVERGE_THROTTLE
							    : CONVERGE_NEXT_ROUND;
}

struct converge_step converge_round(struct converge *c, const struct converge_round *r)
{
	struct converge_step s = {0};
	uint64_t left_ns;
	bool shrunk;

	smooth_rate(c, r);
	shrunk = shrinks(c, r->dirty_bytes);
	if (r->dirty_bytes < c->best_dirty)
		c->best_dirty = r->dirty_bytes;
	c->stalled = shrunk ? 0 : c->stalled + 1;
	/* Nothing was sent so far: what is dirty may cost anything. */
	left_ns = mul_div(r->dirty_bytes, NS_PER_S, c->rate);
	s.downtime_ns = add_capped(left_ns, r->fixed_ns);
	s.fits = s.downtime_ns <= c->config.limit_ns;
	s.below_fixed = r->fixed_ns > c->config.limit_ns;
	s.rate = c->rate;
	s.dirty_rate = r->sent_ns ? mul_div(r->dirty_bytes, NS_PER_S, r->sent_ns) : 0;
	s.action = decide(c, r, left_ns, s.fits, shrunk);
	s.throttle_percent = c->throttle_percent;
	s.stuck = s.action == CONVERGE_NEXT_ROUND && !s.fits && c->stalled >= STALL_ROUNDS;
	return s;
}
