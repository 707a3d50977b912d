/*
 * What is held for a vCPU and why, in one line: for people who do not want every row that decided.
 */
#ifndef POLICY_SUMMARY_H
#define POLICY_SUMMARY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "msr/decide.h"

#define SUMMARY_MAX 1024

/* What a back end really holds for the vCPU. */
struct summary_held {
	uint64_t mask, value;
	bool failed; /* it did not take or keep what was last asked of it */
};

/**
 * summary_text - "BHI_DIS_S held: the guest reports the short sequence, Sapphire Rapids needs it",
 * "nothing held: parts of this vendor are not affected by BHI", "refused: ..."
 * Return: @buf
 */
const char *summary_text(const struct host_facts *host, const struct mitigation_decision *d,
			 const struct summary_held *held, char *buf, size_t size);

/**
 * summary_json - the same facts: an array of {"bits": names, "wanted": bool, "held": bool,
 * "reason": text}, one row where nothing is held or wanted, with no bits
 */
json_t *summary_json(const struct host_facts *host, const struct mitigation_decision *d,
		     const struct summary_held *held);

#endif
