/*
 * The policy's keys, one row each: where the value goes and what is legal there; and the defaults.
 */
#include "policy/policy.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "policy/policy_reader.h"

static const struct policy_choice switch3[] = {
	{"auto", POLICY_AUTO}, {"on", POLICY_ON}, {"off", POLICY_OFF}, {NULL, 0}};
static const struct policy_choice on_off[] = {{"on", true}, {"off", false}, {NULL, 0}};
static const struct policy_choice reports[] = {{"both", REPORT_BOTH},
					       {"tighten", REPORT_TIGHTEN},
					       {"relax", REPORT_RELAX},
					       {"ignore", REPORT_IGNORE},
					       {NULL, 0}};
static const struct policy_choice cannots[] = {
	{"refuse", CANNOT_REFUSE}, {"warn", CANNOT_WARN}, {NULL, 0}};
static const struct policy_choice refusals[] = {{"warn", false}, {"stop", true}, {NULL, 0}};
static const struct policy_choice differences[] = {{"warn", false}, {"refuse", true}, {NULL, 0}};
static const struct policy_choice frozen[] = {{"hold", false}, {"rebuild", true}, {NULL, 0}};
static const struct policy_choice mixed[] = {
	{"level", MIXED_LEVEL}, {"warn", MIXED_WARN}, {"refuse", MIXED_REFUSE}, {NULL, 0}};
static const struct policy_choice pools[] = {{"this-host", POOL_THIS_HOST},
					     {"short-bhb", POOL_SHORT_BHB},
					     {"long-bhb", POOL_LONG_BHB},
					     {"mixed", POOL_MIXED},
					     {"any", POOL_ANY},
					     {NULL, 0}};
static const struct policy_choice nestings[] = {{"hidden", false}, {"shown", true}, {NULL, 0}};
static const struct policy_choice branches[] = {{"default", false}, {"isolate", true}, {NULL, 0}};
static const struct policy_choice switches[] = {{"default", SWITCH_DEFAULT},
						{"always", SWITCH_ALWAYS},
						{"used", SWITCH_USED},
						{"never", SWITCH_NEVER},
						{NULL, 0}};
static const struct policy_choice moves[] = {{"default", false}, {"on", true}, {NULL, 0}};
static const struct policy_choice only_off[] = {{"off", 0}, {NULL, 0}};

static const struct policy_choice raw_bits[] = {
	{"on", RAW_ON}, {"off", RAW_OFF}, {"guest", RAW_GUEST}, {NULL, 0}};

#define MEMBER(m) offsetof(struct policy, m), sizeof(((struct policy *)0)->m)

static const struct policy_key keys[] = {
	{NULL, "version", KEY_VERSION, NULL, 0, 0},
	{NULL, "bhi", KEY_CHOICE, switch3, MEMBER(mitigation.bhi)},
	{NULL, "rrsba", KEY_CHOICE, switch3, MEMBER(mitigation.rrsba)},
	{NULL, "honour-report", KEY_CHOICE, reports, MEMBER(mitigation.honour_report)},
	{NULL, "strict", KEY_TRUTH, on_off, MEMBER(mitigation.strict)},
	{NULL, "bhi-no-is-enough", KEY_TRUTH, on_off, MEMBER(mitigation.bhi_no_is_enough)},
	{NULL, "hold-unaware", KEY_TRUTH, on_off, MEMBER(mitigation.force_unaware)},
	{NULL, "hold-when-shown", KEY_TRUTH, on_off, MEMBER(mitigation.force_when_shown)},
	{NULL, "trust-model", KEY_TRUTH, on_off, MEMBER(mitigation.trust_model)},
	{NULL, "spec-ctrl", KEY_BITS, raw_bits, 0, 0},
	{NULL, "virtual-msrs", KEY_CHOICE, on_off, MEMBER(mitigation.virtual_msrs)},
	{NULL, "cannot", KEY_CHOICE, cannots, MEMBER(mitigation.cannot)},
	{NULL, "incoming-cannot", KEY_CHOICE, cannots, MEMBER(mitigation.incoming_cannot)},
	{NULL, "on-refuse", KEY_CHOICE, refusals, MEMBER(stop_on_refuse)},
	{NULL, "frozen-mask", KEY_CHOICE, frozen, MEMBER(mitigation.rebuild)},
	{NULL, "pool", KEY_POOL, pools, MEMBER(pool)},
	{NULL, "mixed-pool", KEY_CHOICE, mixed, MEMBER(mitigation.mixed_pool)},
	{NULL, "nested", KEY_CHOICE, nestings, MEMBER(nested_shown)},
	{NULL, "clock-difference", KEY_CHOICE, differences, MEMBER(refuse_clock_difference)},
	{NULL, "isolation", KEY_MAP, NULL, 0, 0},
	{"isolation", "indirect-branch", KEY_CHOICE, branches,
	 MEMBER(isolation.isolate_indirect_branch)},
	{"isolation", "core-scheduling", KEY_CHOICE, on_off, MEMBER(isolation.core_scheduling)},
	{"isolation", "vcpu-pinning", KEY_CPUS, only_off, 0, 0},
	{"isolation", "observe-ibpb", KEY_CHOICE, on_off, MEMBER(isolation.observe_ibpb)},
	{"isolation", "vcpu-switch-barrier", KEY_CHOICE, switches,
	 MEMBER(mitigation.barrier.on_switch)},
	{"isolation", "pcpu-move-barrier", KEY_CHOICE, moves, MEMBER(mitigation.barrier.on_move)},
};

static_assert(ARRAY_SIZE(keys) <= POLICY_KEYS_MAX, "a reader has room for every key");

const struct policy_key *policy_keys(unsigned int *n)
{
	*n = ARRAY_SIZE(keys);
	return keys;
}

void policy_default(struct policy *p)
{
	memset(p, 0, sizeof(*p));
	mitigation_policy_default(&p->mitigation);
}
