#include "vmm/policy_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

int policy_load(const char *path, struct policy *p, struct err *e)
{
	AUTO_FREE char *text = NULL;
	size_t len;
	int ret;

	policy_default(p);
	if (!path)
		return 0;
	ret = file_read("policy", path, POLICY_SIZE_MAX, &text, &len, e);
	return ret < 0 ? ret : policy_parse(path, text, len, p, e);
}

int host_facts_load(const char *path, struct host_file *f, struct err *e)
{
	AUTO_FREE char *text = NULL;
	size_t len;
	int ret = file_read("host facts", path, FACTS_SIZE_MAX, &text, &len, e);

	return ret < 0 ? ret : host_file_parse(path, text, len, f, e);
}

static int load_member(const char *policy_path, const char *path, struct pool_host *h,
		       struct err *e)
{
	const char *slash = policy_path ? strrchr(policy_path, '/') : NULL;
	const int folder = slash && path[0] != '/' ? (int)(slash - policy_path) + 1 : 0;
	AUTO_FREE struct host_file *f = malloc(sizeof(*f));
	AUTO_FREE char *full = NULL;
	int ret;

	if (!f || asprintf(&full, "%.*s%s", folder, policy_path ? policy_path : "", path) < 0) {
		full = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	ret = host_facts_load(full, f, e);
	h->host = f->facts;
	h->backend = f->backend;
	return ret;
}

int policy_load_pool(const struct policy *p, const char *path, const struct pool_host *self,
		     struct pool_facts *facts, struct err *e)
{
	AUTO_FREE struct pool_host *hosts = NULL;
	struct pool_level level;
	unsigned int i;
	int ret = 0;

	if (p->pool != POOL_FILES)
		return policy_pool_facts(p, self, facts, e);
	hosts = calloc(p->n_pool_paths + 1, sizeof(*hosts));
	if (!hosts)
		return err_set(e, -ENOMEM, "out of memory");
	hosts[0] = *self;
	for (i = 0; !ret && i < p->n_pool_paths; i++)
		ret = load_member(path, p->pool_path[i], &hosts[i + 1], e);
	if (ret < 0)
		return ret;
	pool_level(hosts, p->n_pool_paths + 1, &p->mitigation, &level);
	if (!level.one_vendor)
		return err_set(e, -EINVAL,
			       "policy %s: pool: hosts of several vendors, this one included; no "
			       "guest can move among them: name hosts of one vendor",
			       path);
	*facts = level.facts;
	return 0;
}
