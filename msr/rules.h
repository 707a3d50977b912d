/*
 * Inside of the decision: the facts that its tables look at, worked out once, and the two tables,
 * BHI_DIS_S and RRSBA_DIS_S, as rows tried from the top. For msr/mitigation*.c and nobody else.
 */
#ifndef MSR_RULES_H
#define MSR_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/decide.h"

#define BHI   SPEC_CTRL_BHI_DIS_S
#define RRSBA SPEC_CTRL_RRSBA_DIS_S

#define SRC_OPERATOR "operator's policy"
#define SRC_INTEL    "Intel 758359, guidance for VMMs"
#define SRC_LINUX    "Linux common.c, cpu_vuln_whitelist: NO_BHI"
#define SRC_RFC_BHI  "RFC v3, 20240410143446.797262-10-chao.gao@intel.com"
#define SRC_RFC_RSB  "RFC v3, 20240410143446.797262-11-chao.gao@intel.com"
#define SRC_MATTSON  "Jim Mattson, 2026-03-06, vmscape-bhb thread: force unless BHI_CTRL is shown"
#define SRC_XEN	     "Xen XSA-456 and its RSBA/RRSBA rules"
#define SRC_OURS     "testudo: unknown is not safe"
#define SRC_CONTRACT "RFC v3, 20240410143446.797262-5: a guest reads it once, at boot"
#define SRC_FROZEN   "RFC v3, 20240410143446.797262-2: the mask is frozen at the first vCPU"
#define SRC_NESTED   "Linux 2e7eab81425a, CVE-2022-2196: a barrier for guests that are shown IBRS"

/* one row, two reasons with a cure each */
#define REASON_DROPPED "an earlier host held this bit and the destination's policy drops it"
#define REASON_HOLLOW \
	"the guest was told that a report of the short sequence is heard, and bhi is off here"
#define REASON_NESTED \
	"this host is itself a guest: its model says that the short sequence works, but may lie"

enum outcome {
	LEAVE,	    /* the guest's own value passes */
	HOLD,	    /* held at 1 */
	CLEAR,	    /* held at 0, as the operator says */
	CLEAR_WARN, /* the same, and it was needed */
	TELL,	    /* left, and the operator should know */
	UNSURE,	    /* nobody knows: strict refuses */
	CANNOT,	    /* needed, and cannot be had */
	NEVER,	    /* may not run */
};

struct facts {
	const struct mitigation_input *in;
	struct mitigation_policy policy;
	struct host_traits host;
	bool intel;
	bool short_host;    /* the short sequence works here, and that is certain */
	bool exempt;	    /* row 8: Atom-only, and so, or older, is the pool */
	bool short_enough;  /* and no row asks for more all the same */
	bool rrsba_part;    /* by MSR, by table, or any eIBRS part */
	uint64_t can;	    /* bits that can be held at 1 here */
	bool can_clear;	    /* any bit can be held at 0 */
	bool sees_bhi_ctrl; /* the guest's CPUID shows it, and its write is no #GP */
	bool sees_rsba, sees_rrsba, sees_rrsba_ctrl;
	bool adds, removes; /* what a report may do */
	bool answer_counts; /* that the guest needs no bit may be believed */
	bool unasked;	    /* a guest that reports nothing is forced */
	bool bhi_aware, bhi_used, bhi_answered, bhi_early;
	bool rsb_used, rsb_answered;
	bool bhi_said, rsb_said;     /* used, and it was reported: not only held in advance */
	bool incoming;		     /* from another host */
	uint64_t promised;	     /* bits that were held at 1 there */
	bool bhi_wanted, rsb_wanted; /* what the tables say when the operator is silent */
};

struct rule {
	unsigned int row;
	bool (*when)(const struct facts *f);
	enum outcome then;
	const char *reason, *source;
};

/** facts_init - work out what follows from @in */
void facts_init(struct facts *f, const struct mitigation_input *in);

/**
 * rules_bhi, rules_rrsba - the first row that holds for @f
 * Return: the row; there always is one
 */
const struct rule *rules_bhi(const struct facts *f);
const struct rule *rules_rrsba(const struct facts *f);

/**
 * bhi_held_elsewhere - would BHI_DIS_S be held for this guest on a host with a long BHB that can
 * hold it, by the policy and what the guest reported?
 */
bool bhi_held_elsewhere(const struct mitigation_input *in);

/** bhi_no_enough - is the host immune, as the operator sees it? */
bool bhi_no_enough(const struct facts *f);

#endif
