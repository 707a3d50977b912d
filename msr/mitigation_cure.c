/*
 * What an operator can do about a row that warns or refuses: one line for each row of
 * docs/mitigation.md's tables that can. The rows say what is wrong, this table what would be right.
 */
#include "msr/mitigation.h"

#include <stddef.h>

#include "base/bytes.h"

#define OTHER_HOST "use a host on which testudo host lists the bit"

static const struct {
	enum decision_table table;
	unsigned int row;
	const char *cure;
} cures[] = {
	{TABLE_BHI, 1, "take BHI_DIS_S out of spec-ctrl, or " OTHER_HOST},
	{TABLE_BHI, 2, "set bhi: auto"},
	{TABLE_BHI, 3,
	 "set bhi: auto on a part that is not affected, strict: off on an unknown one"},
	{TABLE_BHI, 5, "set bhi: auto, or " OTHER_HOST},
	{TABLE_BHI, 6, "set force-when-shown: off, or " OTHER_HOST},
	{TABLE_BHI, 9, "set force-unaware: on"},
	{TABLE_BHI, 10, "set force-unaware: on, or honour-report: both"},
	{TABLE_BHI, 11, "set force-unaware: on"},
	{TABLE_BHI, 12, "set force-unaware: on"},
	{TABLE_BHI, 13,
	 OTHER_HOST
	 ", or show the guest BHI_CTRL; cannot: warn with strict: off lets it run as it is"},
	{TABLE_BHI, 14,
	 OTHER_HOST
	 ", or one from before Alder Lake and Sapphire Rapids; bhi: off gives the protection "
	 "up"},
	{TABLE_BHI, 16,
	 "set trust-model: true if the model is known to be true; strict: off lets the guest run "
	 "as it "
	 "is"},
	{TABLE_RRSBA, 1, "take RRSBA_DIS_S out of spec-ctrl, or set rrsba: auto, or " OTHER_HOST},
	{TABLE_RRSBA, 3,
	 "show the guest RSBA from its first boot, by a pool that names this host; cannot: warn "
	 "with strict: off lets it run as it is"},
	{TABLE_RRSBA, 7, "set force-unaware: on, or show the guest RRSBA from its first boot"},
	{TABLE_RRSBA, 9,
	 "show the guest RRSBA from its first boot, or " OTHER_HOST
	 "; cannot: warn with strict: off "
	 "lets it run as it is"},
	{TABLE_RRSBA, 10,
	 "show the guest RRSBA from its first boot; cannot: warn with strict: off lets it run as "
	 "it is"},
	{TABLE_RAW, 1, "name bits of IA32_SPEC_CTRL that are not reserved in spec-ctrl"},
	{TABLE_RAW, 2, "take the bit out of spec-ctrl, or " OTHER_HOST},
	{TABLE_MIGRATION, 1,
	 OTHER_HOST ", or set this host's policy as the earlier host's; incoming-cannot: warn with "
		    "strict: off lets it come"},
	{TABLE_MIGRATION, 3,
	 "boot the guest with a pool that names this host, or with --cpu host,-bhi_ctrl"},
	{TABLE_MIGRATION, 4, OTHER_HOST "; incoming-cannot: warn with strict: off lets it come"},
	{TABLE_MIGRATION, 6, OTHER_HOST "; strict: off lets it come"},
	{TABLE_MIGRATION, 7, OTHER_HOST ", or name the bit in this host's spec-ctrl"},
	{TABLE_MIGRATION, 8, "boot the guest with a pool that names this host"},
	{TABLE_MIGRATION, 9, "use a host of the guest's vendor"},
	{TABLE_MIGRATION, 10, "use a host whose CPU has the bit"},
	{TABLE_MIGRATION, 11, "use a host on which testudo host lists the bit, or another kernel"},
	{TABLE_POOL, 1, "make a pool of one kind of hosts, or set mixed-pool: level"},
};

const char *decision_cure(const struct decision_step *s)
{
	size_t i;

	for (i = 0; s->verdict >= VERDICT_WARN && i < ARRAY_SIZE(cures); i++)
		if (cures[i].table == s->table && cures[i].row == s->row)
			return cures[i].cure;
	return NULL;
}
