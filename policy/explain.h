/*
 * A decision as a person reads it, and the same as JSON for machines: what was known, what is held,
 * the verdict, and every row of docs/mitigation.md's tables that fired with its reason and source.
 */
#ifndef POLICY_EXPLAIN_H
#define POLICY_EXPLAIN_H

#include <jansson.h>
#include <stdio.h>

#include "msr/decide.h"

/** explain_bits - "BHI_DIS_S, RRSBA_DIS_S" of SPEC_CTRL, "bit 9" for a reserved one, "none" */
const char *explain_bits(uint64_t bits, char *buf, size_t size);

/**
 * explain_features - "SPEC_CTRL, BHI_CTRL, RRSBA": what is in the registers of the controls and
 * facts of speculation, all that have a name here; "none"
 */
void explain_features(uint32_t leaf7_0_edx, uint32_t leaf7_2_edx, uint64_t arch_cap, char *buf,
		      size_t size);

/** explain_host - two lines about a host: its processor and its back end */
void explain_host(FILE *f, const struct host_facts *host, const struct backend_facts *backend);

#define EXPLAIN_STEP_MAX 768 /* bytes of one step as text: where, what is wrong, what to do */

/**
 * explain_reasons - the steps that are as bad as the whole, in one line, each advice once; those
 * that do not fit are counted
 * Return: @buf
 */
const char *explain_reasons(const struct mitigation_decision *d, char *buf, size_t size);

/** explain_text - print to @f; lines of at most 100 columns where the words allow it */
void explain_text(FILE *f, const struct mitigation_input *in, const struct mitigation_decision *d);

/**
 * explain_json - the same as an object
 * Return: a reference of the caller's, NULL when out of memory
 */
json_t *explain_json(const struct mitigation_input *in, const struct mitigation_decision *d);

/**
 * explain_short - what a guest has of the short BHB sequence where this was decided: is it enough,
 * and by what
 */
const char *explain_short(const struct mitigation_input *in, const struct mitigation_decision *d);

/*
 * Parts of it, the same wherever testudo prints JSON; docs/mitigation.md has the words.
 *
 *   explain_bits_json      mask, value, and the names of what is at-1 and at-0
 *   explain_decision_json  only what came out: these, verdict, short-sequence-adequate, steps
 */
json_t *explain_names_json(uint64_t bits);
json_t *explain_bits_json(uint64_t mask, uint64_t value);
json_t *explain_steps_json(const struct mitigation_decision *d);
json_t *explain_decision_json(const struct mitigation_decision *d);
json_t *explain_contract_json(const struct guest_contract *g);
json_t *explain_barriers_json(const struct barrier_plan *p);
json_t *explain_report_json(const struct vcpu_report *r);

#endif
