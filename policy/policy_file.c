#include "policy/policy_file.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "policy/text_kind.h"

int policy_load(const char *path, struct policy *p, struct err *e)
{
	AUTO_FREE char *text = NULL;
	size_t len;
	int ret;

	policy_default(p);
	if (!path)
		return 0;
	ret = file_read("policy", path, POLICY_SIZE_MAX, &text, &len, e);
	if (!ret)
		ret = text_kind_check("policy", path, text, len, TEXT_POLICY, e);
	return ret < 0 ? ret : policy_parse(path, text, len, p, e);
}

int host_facts_load(const char *path, struct host_file *f, struct err *e)
{
	AUTO_FREE char *text = NULL;
	size_t len;
	int ret = file_read("host facts", path, FACTS_SIZE_MAX, &text, &len, e);

	if (!ret)
		ret = text_kind_check("host facts", path, text, len, TEXT_FACTS, e);
	return ret < 0 ? ret : host_file_parse(path, text, len, f, e);
}

/* Fact file @i of the pool. */
static int load_member(const struct policy *p, unsigned int i, const char *policy_path,
		       struct pool_host *h, struct err *e)
{
	AUTO_FREE struct host_file *f = malloc(sizeof(*f));
	AUTO_FREE char *full = policy_pool_path(p, i, policy_path);
	int ret;

	if (!f || !full)
		return err_no_memory(e);
	ret = host_facts_load(full, f, e);
	h->host = f->facts;
	h->backend = f->backend;
	return ret;
}

/* A list for all hosts of the pool names this one, too. */
static bool same_host(const struct pool_host *a, const struct pool_host *b)
{
	return host_facts_same(&a->host, &b->host) && a->backend.kind == b->backend.kind &&
	       a->backend.can_force == b->backend.can_force &&
	       a->backend.no_msr_exits == b->backend.no_msr_exits;
}

int policy_load_pool(const struct policy *p, const char *path, const struct pool_host *self,
		     struct pool_level *level, struct err *e)
{
	AUTO_FREE struct pool_host *hosts = NULL;
	bool self_seen = false;
	unsigned int i, n = 1;
	int ret;

	if (p->pool != POOL_FILES)
		return policy_pool_level(p, self, level, e);
	hosts = calloc(p->n_pool_paths + 1, sizeof(*hosts));
	if (!hosts)
		return err_no_memory(e);
	hosts[0] = *self;
	for (i = 0; i < p->n_pool_paths; i++) {
		ret = load_member(p, i, path, &hosts[n], e);
		if (ret < 0)
			return ret;
		if (!self_seen && same_host(&hosts[n], self))
			self_seen = true;
		else
			n++;
	}
	pool_level(hosts, n, &p->mitigation, level);
	if (!level->one_vendor)
		return err_set(e, -EINVAL,
			       "policy %s: pool: hosts of several vendors, this one included; no "
			       "guest can move among them: name hosts of one vendor",
			       path);
	return 0;
}
