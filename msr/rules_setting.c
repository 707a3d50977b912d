/* POOL: what is said of the setting that a guest is in, whatever its bits. */
#include <stddef.h>

#include "base/bytes.h"
#include "msr/cures.h"
#include "msr/rules.h"

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
