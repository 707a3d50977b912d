/* NESTED and POOL: what is said of the setting that a guest is in, whatever its bits. */
#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"
#include "msr/rules.h"

/*
 * KVM puts a barrier between a guest and its own guests only for one that is shown IBRS. What the
 * guest is shown is the same on every host: one that comes is no worse off here.
 */
static bool gap(const struct facts *f)
{
	return f->in->nested && !(f->in->guest.leaf7_0_edx & CPUID_BIT(7_0_EDX, spec_ctrl));
}

static bool gap_at_boot(const struct facts *f)
{
	return gap(f) && !f->incoming;
}

#define NO_BARRIER                                                                            \
	"the guest is shown VMX or SVM but not SPEC_CTRL: KVM then puts no branch predictor " \
	"barrier between it and its own guests"
#define SHOW_IT RUN("show it SPEC_CTRL by --cpu, or set nested: hidden")

static const struct told_rule nested_rules[] = {
	{{1, gap_at_boot, CANNOT, LAST, NO_BARRIER, SRC_NESTED, SHOW_IT}, NULL},
	{{1, gap, UNSURE, 0, NO_BARRIER, SRC_NESTED, SHOW_IT}, NULL},
};

const struct told_table nested_table = {TABLE_NESTED, nested_rules, ARRAY_SIZE(nested_rules)};

static bool mixed_as(const struct facts *f, enum policy_mixed how)
{
	const struct pool_facts *pool = &f->in->pool;

	return f->intel && pool->n_hosts > 1 && pool->mixed && f->policy.mixed_pool == how;
}

static bool mixed_warned_of(const struct facts *f)
{
	return mixed_as(f, MIXED_WARN);
}

static bool mixed_refused(const struct facts *f)
{
	return mixed_as(f, MIXED_REFUSE);
}

#define MIXES	 "the pool mixes short and long branch history buffers"
#define ONE_KIND CURE("make a pool of one kind of hosts, or set mixed-pool: level")

static const struct told_rule pool_rules[] = {
	{{1, mixed_warned_of, TELL, 0, MIXES, SRC_OPERATOR, ONE_KIND}, NULL},
	{{1, mixed_refused, NEVER, 0, MIXES, SRC_OPERATOR, ONE_KIND}, NULL},
};

const struct told_table pool_table = {TABLE_POOL, pool_rules, ARRAY_SIZE(pool_rules)};
