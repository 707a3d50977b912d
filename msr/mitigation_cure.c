/*
 * What an operator can do about a row that warns or refuses: one line for each row of
 * docs/mitigation.md's tables that can. The rows say what is wrong, this table what would be right.
 */
#include "msr/mitigation.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "msr/mitigation_rules.h"

#define OTHER_HOST "use a host on which testudo host lists the bit"

/*
 * @cure: what makes it right. @lets: what lets the guest run as it is, told where it is refused:
 * where it runs already, that advice is taken.
 */
#define CURE(table, row, cure, lets)                   \
	{                                              \
		table, row, NULL, cure, cure "; " lets \
	}
#define ONLY(table, row, cure)               \
	{                                    \
		table, row, NULL, cure, cure \
	}
#define OF(table, row, reason, cure)           \
	{                                      \
		table, row, reason, cure, cure \
	}

#define RUN_AS_IS      "cannot: warn with strict: off lets it run as it is"
#define LET_COME       "incoming-cannot: warn with strict: off lets it come"
#define STRICT_OFF     "strict: off lets it come"
#define STRICT_OFF_RUN "strict: off lets the guest run as it is"

static const struct {
	enum decision_table table;
	unsigned int row;
	const char *reason; /* the only one that it is for; NULL: whatever else the row says */
	const char *of_warning, *of_refusal;
} cures[] = {
	ONLY(TABLE_BHI, 1, "take BHI_DIS_S out of spec-ctrl, or " OTHER_HOST),
	ONLY(TABLE_BHI, 2, "set bhi: auto"),
	CURE(TABLE_BHI, 3, "set bhi: auto, or use a host of a known vendor",
	     "strict: off lets the guest run on an unknown one"),
	ONLY(TABLE_BHI, 5, "set bhi: auto, or " OTHER_HOST),
	ONLY(TABLE_BHI, 6, "set hold-when-shown: off, or " OTHER_HOST),
	ONLY(TABLE_BHI, 9, "set hold-unaware: on"),
	ONLY(TABLE_BHI, 10, "set hold-unaware: on, or honour-report: both"),
	ONLY(TABLE_BHI, 11, "set hold-unaware: on"),
	ONLY(TABLE_BHI, 12, "set hold-unaware: on"),
	CURE(TABLE_BHI, 13, OTHER_HOST ", or show the guest BHI_CTRL", RUN_AS_IS),
	CURE(TABLE_BHI, 14, OTHER_HOST ", or one from before Alder Lake and Sapphire Rapids",
	     "bhi: off gives the protection up, for a guest that boots"),
	{TABLE_BHI, 16, REASON_NESTED, "set trust-model: true if the model is known to be true",
	 "set trust-model: true if the model is known to be true; " STRICT_OFF_RUN},
	CURE(TABLE_BHI, 16, "use a host whose CPU testudo knows", STRICT_OFF_RUN),
	ONLY(TABLE_RRSBA, 1,
	     "take RRSBA_DIS_S out of spec-ctrl, or set rrsba: auto, or " OTHER_HOST),
	CURE(TABLE_RRSBA, 3,
	     "show the guest RSBA from its first boot, by a pool that names this host", RUN_AS_IS),
	ONLY(TABLE_RRSBA, 7, "set hold-unaware: on, or show the guest RRSBA from its first boot"),
	CURE(TABLE_RRSBA, 9, "show the guest RRSBA from its first boot, or " OTHER_HOST, RUN_AS_IS),
	CURE(TABLE_RRSBA, 10,
	     "show the guest RRSBA from its first boot, by a pool that names this host", RUN_AS_IS),
	ONLY(TABLE_RAW, 1, "name bits of IA32_SPEC_CTRL that are not reserved in spec-ctrl"),
	ONLY(TABLE_RAW, 2, "take the bit out of spec-ctrl, or " OTHER_HOST),
	CURE(TABLE_MIGRATION, 1, OTHER_HOST ", or set this host's policy as the earlier host's",
	     LET_COME),
	ONLY(TABLE_MIGRATION, 3,
	     "boot the guest with a pool that names this host, or with --cpu host,-bhi_ctrl"),
	CURE(TABLE_MIGRATION, 4, OTHER_HOST, LET_COME),
	CURE(TABLE_MIGRATION, 6, OTHER_HOST, STRICT_OFF),
	ONLY(TABLE_MIGRATION, 7,
	     OTHER_HOST ", or leave the bit to the guest in this host's "
			"spec-ctrl"),
	OF(TABLE_MIGRATION, 8, REASON_HOLLOW, "set bhi: auto"),
	ONLY(TABLE_MIGRATION, 8, "boot the guest with a pool that names this host"),
	ONLY(TABLE_MIGRATION, 9, "use a host of the guest's vendor"),
	ONLY(TABLE_MIGRATION, 10, "use a host whose CPU has the bit"),
	ONLY(TABLE_MIGRATION, 11,
	     "use a host on which testudo host lists the bit, or another kernel"),
	ONLY(TABLE_MIGRATION, 13,
	     "move it to a host that has them, or boot it with --cpu and a model that all hosts of "
	     "the pool can show"),
	ONLY(TABLE_POOL, 1, "make a pool of one kind of hosts, or set mixed-pool: level"),
	CURE(TABLE_NESTED, 1, "show it SPEC_CTRL by --cpu, or set nested: hidden", RUN_AS_IS),
};

const char *decision_cure(const struct decision_step *s)
{
	size_t i;

	for (i = 0; s->verdict >= VERDICT_WARN && i < ARRAY_SIZE(cures); i++)
		if (cures[i].table == s->table && cures[i].row == s->row &&
		    (!cures[i].reason || strcmp(cures[i].reason, s->reason) == 0))
			return s->verdict == VERDICT_REFUSE ? cures[i].of_refusal
							    : cures[i].of_warning;
	return NULL;
}
