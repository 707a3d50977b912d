/* The policy's pool: what a word says about hosts that are not here, and where the files are. */
#include "policy/policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "msr/spec_ctrl.h"

/*
 * What each word says. Parts before Alder Lake and Sapphire Rapids have none of the controls of
 * CPUID.(7,2), and no part with a word of its own is known to be immune.
 */
static const struct pool_word {
	enum policy_pool pool;
	const char *name;
	struct pool_facts says;
	uint32_t lacks_7_2_edx;
	uint64_t lacks_arch_cap;
	uint64_t warns_arch_cap; /* of RETs that may use other predictors */
} words[] = {
	{POOL_SHORT_BHB,
	 "short-bhb",
	 {.n_hosts = 2,
	  .all_atom_or_short = true,
	  .long_can_force_bhi = true,
	  .any_rsba = true,
	  .any_rrsba = true},
	 SPECULATION_7_2_EDX,
	 ARCH_CAP_BHI_NO | ARCH_CAP_ITS_NO,
	 ARCH_CAP_RSBA | ARCH_CAP_RRSBA},
	{POOL_LONG_BHB,
	 "long-bhb",
	 {.n_hosts = 2,
	  .any_long_bhb = true,
	  .long_can_force_bhi = true,
	  .any_rrsba = true,
	  .rrsba_can_force = true},
	 0,
	 ARCH_CAP_BHI_NO,
	 ARCH_CAP_RRSBA},
	{POOL_MIXED,
	 "mixed",
	 {.n_hosts = 2,
	  .any_long_bhb = true,
	  .long_can_force_bhi = true,
	  .any_rsba = true,
	  .any_rrsba = true,
	  .mixed = true},
	 SPECULATION_7_2_EDX,
	 ARCH_CAP_BHI_NO | ARCH_CAP_ITS_NO,
	 ARCH_CAP_RSBA | ARCH_CAP_RRSBA},
	{POOL_ANY,
	 "any",
	 {.n_hosts = 2, .any_long_bhb = true, .any_rsba = true, .any_rrsba = true, .mixed = true},
	 SPECULATION_7_2_EDX,
	 ARCH_CAP_BHI_NO | ARCH_CAP_ITS_NO,
	 ARCH_CAP_RSBA | ARCH_CAP_RRSBA},
};

static void add_word(struct pool_level *l, const struct pool_word *w)
{
	const struct pool_facts self = l->facts;

	l->facts = w->says;
	l->facts.all_atom_or_short &= self.all_atom_or_short;
	l->facts.long_can_force_bhi &= self.long_can_force_bhi;
	l->facts.any_rsba |= self.any_rsba;
	l->facts.rrsba_can_force &= self.rrsba_can_force;
	if (l->vendor != CPU_VENDOR_INTEL) /* the words are about Intel parts */
		return;
	l->leaf7_2_edx &= ~w->lacks_7_2_edx;
	l->arch_cap &= ~w->lacks_arch_cap;
	l->arch_cap |= w->warns_arch_cap;
}

int policy_pool_level(const struct policy *p, const struct pool_host *self, struct pool_level *l,
		      struct err *e)
{
	size_t i;

	if (p->pool == POOL_FILES)
		return err_set(e, -EINVAL, "pool: a list of host fact files; read them first");
	pool_level(self, 1, &p->mitigation, l);
	for (i = 0; i < ARRAY_SIZE(words); i++) {
		if (words[i].pool != p->pool)
			continue;
		if ((p->pool == POOL_SHORT_BHB && l->facts.any_long_bhb) ||
		    (p->pool == POOL_LONG_BHB && !l->facts.any_long_bhb))
			return err_set(e, -EINVAL,
				       "pool: %s: this host is not such a one; give mixed, any or "
				       "a list of host fact files",
				       words[i].name);
		add_word(l, &words[i]);
	}
	return 0;
}

char *policy_pool_path(const struct policy *p, unsigned int i, const char *policy_path)
{
	const char *slash = strrchr(policy_path, '/'), *path = p->pool_path[i];
	char *full = NULL;

	if (!slash || path[0] == '/')
		return strdup(path);
	if (asprintf(&full, "%.*s%s", (int)(slash - policy_path) + 1, policy_path, path) < 0)
		return NULL;
	return full;
}
