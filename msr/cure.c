/*
 * What an operator can do about a row that warns or refuses: one line for each row of
 * docs/mitigation.md's tables that can. The rows say what is wrong, this table what would be right.
 */
#include "msr/decide.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "msr/rules.h"

#define OTHER_HOST "use a host on which testudo host lists the bit"

/*
 * What lets the guest run as it is, told where it is refused: where it runs already, that advice is
 * taken. Of the switches only those that are set are named: by STEP_STRICT, and the other's.
 */
#define LETS(cure, other, what)                                                   \
	{                                                                         \
		cure, cure "; strict: off " what, cure "; " other ": warn " what, \
			cure "; " other ": warn with strict: off " what           \
	}
#define SAME(cure)                     \
	{                              \
		cure, cure, cure, cure \
	}
#define RUN(cure)  LETS(cure, "cannot", "lets it run as it is")
#define COME(cure) LETS(cure, "incoming-cannot", "lets it come")
#define STRICT(cure, what)                                                         \
	{                                                                          \
		cure, cure "; strict: off " what, cure, cure "; strict: off " what \
	}

#define SHOW_RRSBA  "show the guest RRSBA from its first boot, by a pool that names this host"
#define SHOW_RSBA   "show the guest RSBA from its first boot, by a pool that names this host"
#define TRUST_MODEL "set trust-model: true if the model is known to be true"
#define OLD_HOST    OTHER_HOST ", or one from before Alder Lake and Sapphire Rapids"
#define GIVE_UP	    OLD_HOST "; bhi: off gives the protection up, for a guest that boots"

static const struct {
	enum decision_table table;
	unsigned int row;
	unsigned int set;   /* the only settings that it is for, STEP_*; 0: whatever is set */
	const char *reason; /* the only one that it is for; NULL: whatever else the row says */
	const char *of_warning;
	const char *of_refusal[4]; /* by STEP_STRICT, and STEP_CANNOT or STEP_INCOMING_CANNOT */
} cures[] = {
	{TABLE_BHI, 1, 0, NULL, "take BHI_DIS_S out of spec-ctrl",
	 SAME("take BHI_DIS_S out of spec-ctrl, or " OTHER_HOST)},
	{TABLE_BHI, 2, 0, NULL, "set bhi: auto", SAME("set bhi: auto")},
	{TABLE_BHI, 3, STEP_BHI_ON, NULL, "set bhi: auto",
	 SAME("set bhi: auto, or use a host of Intel")},
	{TABLE_BHI, 3, 0, NULL, "use a host of a known vendor",
	 STRICT("use a host of a known vendor", "lets the guest run on an unknown one")},
	{TABLE_BHI, 5, 0, NULL, "set bhi: auto", SAME("set bhi: auto, or " OTHER_HOST)},
	{TABLE_BHI, 6, 0, NULL, "set hold-when-shown: off, or " OTHER_HOST,
	 RUN("set hold-when-shown: off, or " OTHER_HOST)},
	{TABLE_BHI, 9, 0, NULL, "set hold-unaware: on", SAME("set hold-unaware: on")},
	{TABLE_BHI, 10, 0, NULL, "set hold-unaware: on, or honour-report: both",
	 SAME("set hold-unaware: on, or honour-report: both")},
	{TABLE_BHI, 11, 0, NULL, "set hold-unaware: on", SAME("set hold-unaware: on")},
	{TABLE_BHI, 12, 0, NULL, "set hold-unaware: on", SAME("set hold-unaware: on")},
	{TABLE_BHI, 13, 0, NULL, OTHER_HOST ", or show the guest BHI_CTRL",
	 RUN(OTHER_HOST ", or show the guest BHI_CTRL")},
	{TABLE_BHI, 14, 0, NULL, OLD_HOST, SAME(GIVE_UP)},
	{TABLE_BHI, 16, 0, REASON_NESTED, TRUST_MODEL, STRICT(TRUST_MODEL, "lets it run as it is")},
	{TABLE_BHI, 16, 0, NULL, "use a host whose CPU testudo knows",
	 STRICT("use a host whose CPU testudo knows", "lets it run as it is")},
	{TABLE_RRSBA, 1, STEP_RAW, NULL, "take RRSBA_DIS_S out of spec-ctrl",
	 SAME("take RRSBA_DIS_S out of spec-ctrl, or " OTHER_HOST)},
	{TABLE_RRSBA, 1, 0, NULL, "set rrsba: auto", SAME("set rrsba: auto, or " OTHER_HOST)},
	{TABLE_RRSBA, 3, 0, NULL, SHOW_RSBA, RUN(SHOW_RSBA)},
	{TABLE_RRSBA, 7, 0, NULL,
	 "set hold-unaware: on, or show the guest RRSBA from its first boot",
	 SAME("set hold-unaware: on, or show the guest RRSBA from its first boot")},
	{TABLE_RRSBA, 9, 0, NULL, "show the guest RRSBA from its first boot, or " OTHER_HOST,
	 RUN("show the guest RRSBA from its first boot, or " OTHER_HOST)},
	{TABLE_RRSBA, 10, 0, NULL, SHOW_RRSBA, RUN(SHOW_RRSBA)},
	{TABLE_RAW, 1, 0, NULL, "",
	 SAME("name bits of IA32_SPEC_CTRL that are not reserved in spec-ctrl")},
	{TABLE_RAW, 2, 0, NULL, "", SAME("take the bit out of spec-ctrl, or " OTHER_HOST)},
	{TABLE_MIGRATION, 1, 0, REASON_DROPPED, "set this host's policy as the earlier host's",
	 STRICT("set this host's policy as the earlier host's", "lets it come")},
	{TABLE_MIGRATION, 1, 0, NULL, OTHER_HOST, COME(OTHER_HOST)},
	{TABLE_MIGRATION, 3, 0, NULL, "",
	 SAME("boot the guest with a pool that names this host, or with --cpu host,-bhi_ctrl")},
	{TABLE_MIGRATION, 4, 0, NULL, OTHER_HOST, COME(OTHER_HOST)},
	{TABLE_MIGRATION, 6, 0, NULL, OTHER_HOST, STRICT(OTHER_HOST, "lets it come")},
	{TABLE_MIGRATION, 7, 0, NULL, "",
	 SAME(OTHER_HOST ", or leave the bit to the guest in this host's spec-ctrl")},
	{TABLE_MIGRATION, 8, 0, REASON_HOLLOW, "", SAME("set bhi: auto")},
	{TABLE_MIGRATION, 8, 0, NULL, "", SAME("boot the guest with a pool that names this host")},
	{TABLE_MIGRATION, 9, 0, NULL, "", SAME("use a host of the guest's vendor")},
	{TABLE_MIGRATION, 10, 0, NULL, "", SAME("use a host whose CPU has the bit")},
	{TABLE_MIGRATION, 11, 0, NULL, "", SAME(OTHER_HOST ", or another kernel")},
	{TABLE_MIGRATION, 13, 0, NULL, "",
	 SAME("move it to a host that has them, or boot it with --cpu and a model that all hosts "
	      "of "
	      "the pool can show")},
	{TABLE_POOL, 1, 0, NULL, "make a pool of one kind of hosts, or set mixed-pool: level",
	 SAME("make a pool of one kind of hosts, or set mixed-pool: level")},
	{TABLE_NESTED, 1, 0, NULL, "show it SPEC_CTRL by --cpu, or set nested: hidden",
	 RUN("show it SPEC_CTRL by --cpu, or set nested: hidden")},
};

const char *decision_cure(const struct decision_step *s)
{
	const unsigned int other = s->table == TABLE_MIGRATION ? STEP_INCOMING_CANNOT : STEP_CANNOT;
	size_t i;

	for (i = 0; s->verdict >= VERDICT_WARN && i < ARRAY_SIZE(cures); i++) {
		if (cures[i].table != s->table || cures[i].row != s->row ||
		    (s->set & cures[i].set) != cures[i].set ||
		    (cures[i].reason && strcmp(cures[i].reason, s->reason) != 0))
			continue;
		if (s->verdict == VERDICT_REFUSE)
			return cures[i].of_refusal[(s->set & STEP_STRICT ? 1 : 0) |
						   (s->set & other ? 2 : 0)];
		return cures[i].of_warning[0] ? cures[i].of_warning : NULL;
	}
	return NULL;
}
