/*
 * Inside of the decision: its tables. A rule is one line of a table: when it applies, what follows,
 * why, who says so, and what an operator can do about it. In the tables of BHI and RRSBA the first
 * rule that applies decides; of the others every rule that applies is told. For msr/ and nobody
 * else.
 *
 * A new rule is a line at its place in the table (rules_bhi.c, rules_rrsba.c, rules_raw.c,
 * rules_migration.c, rules_nested.c, rules_setting.c, rules_barrier.c) and a row of the same number
 * in docs/mitigation.md. Its condition is a function of struct facts; what more than one condition
 * needs is worked out in rule_facts.c. A rule that warns or refuses has a cure, and a test finds
 * those without.
 */
#ifndef MSR_RULES_H
#define MSR_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/decision.h"
#include "msr/rule_facts.h"

#define SRC_OPERATOR  "operator's policy"
#define SRC_INTEL     "Intel 758359, guidance for VMMs"
#define SRC_LINUX     "Linux common.c, cpu_vuln_whitelist: NO_BHI"
#define SRC_RFC_BHI   "RFC v3, 20240410143446.797262-10-chao.gao@intel.com"
#define SRC_RFC_RSB   "RFC v3, 20240410143446.797262-11-chao.gao@intel.com"
#define SRC_MATTSON   "Jim Mattson, 2026-03-06, vmscape-bhb thread: force unless BHI_CTRL is shown"
#define SRC_LINUX_BHI "Linux bugs.c, bhi_select_mitigation(): retpolines with RRSBA left on"
#define SRC_XEN	      "Xen XSA-456 and its RSBA/RRSBA rules"
#define SRC_OURS      "testudo: unknown is not safe"
#define SRC_CONTRACT  "RFC v3, 20240410143446.797262-5: a guest reads it once, at boot"
#define SRC_FROZEN    "RFC v3, 20240410143446.797262-2: the mask is frozen at the first vCPU"
#define SRC_NESTED    "Linux 2e7eab81425a, CVE-2022-2196: a barrier for guests that are shown IBRS"

#define REASON_HOLLOW \
	"the guest was told that a report of the short sequence is heard, and bhi is off here"

enum outcome {
	LEAVE,	    /* the guest's own value passes */
	HOLD,	    /* held, at 1 if the rule does not say otherwise */
	CLEAR,	    /* held at 0, as the operator says */
	CLEAR_WARN, /* the same, and the guest needs it or believes to own it: strict refuses */
	TELL,	    /* left, and the operator should know */
	GIVEN_UP,   /* left by the operator's word, though needed: strict refuses */
	UNSURE,	    /* nobody knows: strict refuses */
	CANNOT,	    /* needed, and cannot be had: "cannot", or "incoming-cannot" in MIGRATION */
	NEVER,	    /* may not run */
};

/* rule.is */
enum {
	WANTED = 1 << 0,      /* host and guest ask for the bit, whatever the operator says */
	LACKING = 1 << 1,     /* it is needed, and cannot be had */
	OVERRIDES = 1 << 2,   /* the operator's word, also against what an earlier host held */
	ENDS_NEED = 1 << 3,   /* ends the need for a bit that an earlier host held */
	IMMUNE = 1 << 4,      /* any sequence will do here */
	AS_POLICY = 1 << 5,   /* its bits are at 1 or 0 as the operator says */
	AS_PROMISED = 1 << 6, /* as an earlier host held them */
	AT_BOOT = 1 << 7,     /* of MIGRATION: counts for a guest that boots, too */
	LAST = 1 << 8,	      /* of no use to ask the rules after it */
};

struct cure {
	const char *of_warning;
	const char *of_refusal[4]; /* by CURE_STRICT and CURE_CANNOT */
};

/* what is set to refuse: "strict", and the switch that CANNOT goes by */
enum { CURE_STRICT = 1, CURE_CANNOT = 2 };

struct rule {
	unsigned int row;
	bool (*when)(const struct facts *f); /* NULL: always */
	enum outcome then;
	unsigned int is;
	const char *reason, *source;
	const struct cure *cure; /* NULL: does no harm */
};

extern const struct rule bhi_rules[], rrsba_rules[];

/* A rule with the bits that it is about; with @bits and none of them it does not apply. */
struct told_rule {
	struct rule rule;
	uint64_t (*bits)(const struct facts *f); /* NULL: about none */
};

/* A table of which every rule that applies is told. */
struct told_table {
	enum decision_table table;
	const struct told_rule *rules;
	unsigned int n;
};

extern const struct told_table raw_table, nested_table, migration_table, pool_table, barrier_table;

/* Rules of MIGRATION that apply once the decision was carried out. */
enum { NOT_TAKEN, NOT_KEPT, NO_CPU };
extern const struct rule applied_rules[];

/** rules_init - facts_init(), and what the tables say when the operator is silent */
void rules_init(struct facts *f, const struct mitigation_input *in);

/** rules_find - the first rule of bhi_rules or rrsba_rules that holds; there always is one */
const struct rule *rules_find(const struct rule *rules, const struct facts *f);

/* What becomes of a bit that an earlier host held. */
enum keep {
	KEPT,	    /* held here too */
	NOT_NEEDED, /* this host, or the guest's word, ends the need */
	OVERRIDDEN, /* by this host's own policy */
	BROKEN,
};

/** rule_keeps - the same by the rule of BHI or RRSBA that decided */
enum keep rule_keeps(const struct rule *r);

/** rules_apply - @r applies, to @bits: hold them if that follows, and tell it */
void rules_apply(struct mitigation_decision *d, const struct facts *f, enum decision_table table,
		 const struct rule *r, uint64_t bits);

/** rules_tell - rules_apply() with every rule of the table that applies */
void rules_tell(struct mitigation_decision *d, const struct facts *f, const struct told_table *t);

#endif
