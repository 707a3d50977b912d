/* What a decision says: the bits that are held, and each row of the tables that fired. PURE. */
#ifndef MSR_DECISION_H
#define MSR_DECISION_H

#include <stdbool.h>
#include <stdint.h>

enum verdict { VERDICT_ALLOW, VERDICT_ALLOW_FORCED, VERDICT_WARN, VERDICT_REFUSE };

enum decision_table {
	TABLE_BHI,
	TABLE_RRSBA,
	TABLE_RAW,
	TABLE_MIGRATION,
	TABLE_POOL,
	TABLE_NESTED,
	TABLE_BARRIER
};

/* One row of docs/mitigation.md's tables that fired. */
struct decision_step {
	enum decision_table table;
	unsigned int row; /* numbered from 1, as in the tables */
	uint64_t bit;	  /* of SPEC_CTRL, one or several; 0 when the row is about none */
	uint64_t at_1;	  /* of @bit, those that the row wants or finds at 1; the others at 0 */
	enum verdict verdict;
	const char *reason; /* what was found and what follows */
	const char *source; /* where the rule comes from */
	const char *cure;   /* what an operator can do about it; NULL where it does no harm */
	bool wanted;	    /* host and guest ask for @bit, not the operator alone */
	bool lacking;	    /* and it cannot be had */
};

#define DECISION_STEPS_MAX 24

struct mitigation_decision {
	uint64_t mask, value; /* held: (guest & ~mask) | value */
	enum verdict verdict; /* the worst of the steps */
	bool short_adequate;  /* "the short sequence is adequate for this vCPU", computed, not yet
				 told */
	unsigned int n_steps;
	struct decision_step step[DECISION_STEPS_MAX];
};

/** decision_add - one more step; the verdict becomes the worse of the two */
void decision_add(struct mitigation_decision *d, const struct decision_step *s);

/**
 * mitigation_left_weak - did @d leave the guest without BHI_DIS_S for want of the bit? BHI rows 13
 * and 14. What that host promises to the next one says so: a guest that is no worse off there need
 * not be refused.
 */
bool mitigation_left_weak(const struct mitigation_decision *d);

/** names for reports: "allow, with held bits", "bhi", ...; never NULL */
const char *verdict_name(enum verdict verdict);
const char *decision_table_name(enum decision_table table);

#endif
