/*
 * The policy file: what the operator wants of the guest's protection, YAML in, values out. Strict:
 * whatever the table of keys does not know is refused with file, line, key, value and what would be
 * right. policy/default.yaml explains every key to people, policy/policy.schema.json to editors; a
 * test keeps both equal to the table.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "msr/decide.h"
#include "msr/pool.h"

struct err;

#define POLICY_VERSION	 1
#define POLICY_SIZE_MAX	 (64 * 1024) /* bytes of a policy file */
#define POLICY_POOL_MAX	 64	     /* fact files in a pool */
#define POLICY_PATH_MAX	 256	     /* bytes of one path, NUL included */
#define POLICY_PIN_MAX	 255	     /* as many as vCPUs */
#define POLICY_CPU_LIMIT 8192	     /* host CPU numbers are below this (NR_CPUS of x86-64) */

/* Where the guest may move. */
enum policy_pool {
	POOL_THIS_HOST, /* nowhere (default) */
	POOL_SHORT_BHB, /* hosts from before Alder Lake and Sapphire Rapids only */
	POOL_LONG_BHB,	/* hosts from them on only, each able to force what is needed */
	POOL_MIXED,	/* both kinds, the long ones able to force what is needed */
	POOL_ANY,	/* nothing is known: hosts that can force nothing among them */
	POOL_FILES,	/* the hosts of the fact files named in pool_path */
};

struct isolation_policy {
	bool isolate_indirect_branch; /* PR_SET_SPECULATION_CTRL before the threads start */
	bool core_scheduling;	      /* one cookie for the VM */
	bool observe_ibpb;	      /* watch for the guest's first IBPB */
	unsigned int n_pins;	      /* 0: no pinning */
	uint16_t pin[POLICY_PIN_MAX]; /* host CPU of vCPU n; all different */
};

struct policy {
	struct mitigation_policy mitigation;
	bool stop_on_refuse;	      /* end a guest whose verdict turns to refuse while it runs */
	bool nested_shown;	      /* VMX and SVM in the guest's CPUID */
	bool refuse_clock_difference; /* where wall clocks are apart */
	struct isolation_policy isolation;
	enum policy_pool pool;
	unsigned int n_pool_paths;
	/* as written: a relative path is meant from the folder of the policy file */
	char pool_path[POLICY_POOL_MAX][POLICY_PATH_MAX];
};

/** policy_default - what holds where no policy, or a policy without the key, is given */
void policy_default(struct policy *p);

/**
 * policy_parse - read a policy file
 * @name: the file's name, for messages
 * @text: @len bytes of it, up to POLICY_SIZE_MAX; need not end with NUL
 * @p: defaults with what the file says on top; unspecified on error
 * Anchors, aliases, tags and a second document are refused, and nothing is nested deeper than the
 * table of keys says.
 * Return: 0; -EINVAL with "policy NAME: line N: KEY: ..." in @e; -EFBIG; -ENOMEM
 */
int policy_parse(const char *name, const char *text, size_t len, struct policy *p, struct err *e);

/**
 * policy_pool_level - what a pool given by a word, not by fact files, promises
 * @self: this host; counts as part of the pool
 * Return: 0; -EINVAL when the word does not describe @self (a long BHB in a pool of short ones), or
 * the policy names fact files: the caller reads those and calls pool_level()
 */
int policy_pool_level(const struct policy *p, const struct pool_host *self, struct pool_level *l,
		      struct err *e);

/**
 * policy_pool_path - where the fact file @i of the pool is
 * @policy_path: the policy file's own path
 * Return: a block that the caller frees; NULL when out of memory
 */
char *policy_pool_path(const struct policy *p, unsigned int i, const char *policy_path);

/**
 * policy_format - the policy as canonical text: every key in the table's order, on one line
 * Equal policies give equal text, so it tells "the same policy or not" between hosts; it is JSON,
 * and a policy file that policy_parse() reads back. CPUs to pin to are left out: they are the
 * host's, not the guest's.
 * Return: a block that the caller frees; NULL when out of memory
 */
char *policy_format(const struct policy *p);

/* ---- the table of keys, for tests and printing ---- */

enum policy_key_type {
	KEY_CHOICE,  /* one of the words */
	KEY_TRUTH,   /* one of the words; true and false are words, too */
	KEY_VERSION, /* the number POLICY_VERSION */
	KEY_BITS,    /* a map of SPEC_CTRL bits to on, off, guest */
	KEY_POOL,    /* one of the words, or a list of paths */
	KEY_CPUS,    /* one of the words, or a list of CPU numbers and ranges */
	KEY_MAP,     /* keys below it: their rows name it as their parent */
};

struct policy_choice {
	const char *name; /* NULL ends a list */
	int value;
};

struct policy_key {
	const char *parent; /* NULL at the top */
	const char *name;
	enum policy_key_type type;
	const struct policy_choice *choices; /* NULL: none */
	size_t offset, size;		     /* of the value in struct policy */
};

/** policy_keys - the table; @n receives the number of rows */
const struct policy_key *policy_keys(unsigned int *n);

#endif
