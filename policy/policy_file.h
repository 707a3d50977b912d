/* The files that say what is wanted and where: the policy with its pool, and host facts. */
#ifndef POLICY_POLICY_FILE_H
#define POLICY_POLICY_FILE_H

#include "policy/facts.h"
#include "policy/policy.h"

struct err;

/** policy_load - read a policy file; NULL for the default policy. Return: 0 or -errno */
int policy_load(const char *path, struct policy *p, struct err *e);

/** host_facts_load - read a host's fact file. Return: 0 or -errno */
int host_facts_load(const char *path, struct host_file *f, struct err *e);

/**
 * policy_load_pool - the hosts where the guest may run, levelled
 * @path: the policy's file: relative paths of fact files start in its folder
 * @self: this host; it is part of the pool, and counts once when a file tells the same of it
 * Return: 0 or -errno
 */
int policy_load_pool(const struct policy *p, const char *path, const struct pool_host *self,
		     struct pool_level *level, struct err *e);

#endif
