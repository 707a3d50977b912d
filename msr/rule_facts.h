/* The facts that the rules look at: what follows from the input of a decision, worked out once. */
#ifndef MSR_RULE_FACTS_H
#define MSR_RULE_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/input.h"
#include "msr/spec_ctrl.h"

#define BHI   SPEC_CTRL_BHI_DIS_S
#define RRSBA SPEC_CTRL_RRSBA_DIS_S

struct mitigation_decision;
struct rule;

struct facts {
	const struct mitigation_input *in;
	struct mitigation_policy policy;
	struct host_traits host;
	bool intel;
	bool short_host;    /* the short sequence works here, and that is certain */
	bool exempt;	    /* row 8: Atom-only, and so, or older, is the pool */
	bool short_enough;  /* and no row asks for more all the same */
	bool bhi_no_enough; /* the host is immune, as the operator sees it */
	bool rrsba_part;    /* by MSR, by table, or any eIBRS part */
	uint64_t can;	    /* bits that can be held at 1 here */
	bool can_clear;	    /* any bit can be held at 0 */
	uint64_t shown;	    /* bits that the guest's CPUID shows, and whose write is no #GP */
	bool sees_bhi_ctrl; /* BHI_DIS_S is among them */
	bool sees_rsba, sees_rrsba, sees_rrsba_ctrl;
	bool adds, removes; /* what a report may do */
	bool answer_counts; /* that the guest needs no bit may be believed */
	bool unasked;	    /* a guest that reports nothing is forced */
	bool bhi_aware, bhi_used, bhi_answered, bhi_early;
	bool rsb_used, rsb_answered;
	bool rsb_bare; /* it may rely on retpolines that RRSBA undermines, and nothing undoes that */
	bool bhi_said, rsb_said;     /* used, and it was reported: not only held in advance */
	bool incoming;		     /* from another host */
	uint64_t promised;	     /* bits that were held at 1 there */
	struct barrier_plan barrier; /* what the guest gets of them here */

	/* rules_init(): what the tables say when the operator is silent */
	bool bhi_wanted, rsb_wanted;
	bool bhi_doubtful; /* not wanted, and the guest may be vulnerable here all the same */

	/* for the tables that are asked after these: what BHI and RRSBA said, and what is held so
	 * far */
	const struct rule *bhi, *rsb;
	const struct mitigation_decision *so_far;
};

/** facts_init - work out what follows from @in alone */
void facts_init(struct facts *f, const struct mitigation_input *in);

/** is the operator's own word about @bit one of these? It cannot be had so; it is left alone */
bool facts_raw_impossible(const struct facts *f, uint64_t bit);
bool facts_raw_covers(const struct facts *f, uint64_t bit);
bool facts_raw_left(const struct facts *f, uint64_t bit);

#endif
