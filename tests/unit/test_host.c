#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "cpuid/host.h"
#include "hosts.h"

/* the table of section 3.3, said again by hand: model, stepping, name, and what is expected */
/* clang-format off */
static const struct {
	uint32_t family, model, stepping;
	const char *name; /* NULL: no row */
	enum bhb_kind bhb;
	bool eibrs, rrsba, atom;
} parts[] = {
	{15, 0x00, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{15, 0x01, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{15, 0x02, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{15, 0x03, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{15, 0x04, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{15, 0x06, 1, "NetBurst", BHB_SHORT, 0, 0, 0},
	{6, 0x0f, 6, "Core 2 (Merom)", BHB_SHORT, 0, 0, 0},
	{6, 0x16, 1, "Core 2 (Merom-L)", BHB_SHORT, 0, 0, 0},
	{6, 0x17, 10, "Core 2 (Penryn)", BHB_SHORT, 0, 0, 0},
	{6, 0x1d, 1, "Core 2 (Dunnington)", BHB_SHORT, 0, 0, 0},
	{6, 0x1c, 0, "Bonnell", BHB_SHORT, 0, 0, 1},
	{6, 0x26, 0, "Bonnell-MID", BHB_SHORT, 0, 0, 1},
	{6, 0x27, 0, "Saltwell-MID", BHB_SHORT, 0, 0, 1},
	{6, 0x35, 0, "Saltwell-tablet", BHB_SHORT, 0, 0, 1},
	{6, 0x36, 0, "Saltwell", BHB_SHORT, 0, 0, 1},
	{6, 0x37, 0, "Silvermont", BHB_SHORT, 0, 0, 1},
	{6, 0x4d, 0, "Silvermont-D", BHB_SHORT, 0, 0, 1},
	{6, 0x4a, 0, "Silvermont-MID", BHB_SHORT, 0, 0, 1},
	{6, 0x5a, 0, "Silvermont-MID2", BHB_SHORT, 0, 0, 1},
	{6, 0x4c, 0, "Airmont", BHB_SHORT, 0, 0, 1},
	{6, 0x75, 0, "Airmont-NP", BHB_SHORT, 0, 0, 1},
	{6, 0x57, 0, "Knights Landing", BHB_SHORT, 0, 0, 1},
	{6, 0x85, 0, "Knights Mill", BHB_SHORT, 0, 0, 1},
	{6, 0x1a, 0, "Nehalem", BHB_SHORT, 0, 0, 0},
	{6, 0x1e, 5, "Nehalem", BHB_SHORT, 0, 0, 0},
	{6, 0x1f, 5, "Nehalem", BHB_SHORT, 0, 0, 0},
	{6, 0x2e, 6, "Nehalem-EX", BHB_SHORT, 0, 0, 0},
	{6, 0x25, 5, "Westmere", BHB_SHORT, 0, 0, 0},
	{6, 0x2c, 2, "Westmere-EP", BHB_SHORT, 0, 0, 0},
	{6, 0x2f, 2, "Westmere-EX", BHB_SHORT, 0, 0, 0},
	{6, 0x2a, 7, "Sandy Bridge", BHB_SHORT, 0, 0, 0},
	{6, 0x2d, 7, "Sandy Bridge-EP", BHB_SHORT, 0, 0, 0},
	{6, 0x3a, 9, "Ivy Bridge", BHB_SHORT, 0, 0, 0},
	{6, 0x3e, 4, "Ivy Bridge-EP", BHB_SHORT, 0, 0, 0},
	{6, 0x3c, 3, "Haswell", BHB_SHORT, 0, 0, 0},
	{6, 0x3f, 2, "Haswell-EP", BHB_SHORT, 0, 0, 0},
	{6, 0x45, 1, "Haswell-ULT", BHB_SHORT, 0, 0, 0},
	{6, 0x46, 1, "Haswell-GT3e", BHB_SHORT, 0, 0, 0},
	{6, 0x3d, 4, "Broadwell", BHB_SHORT, 0, 0, 0},
	{6, 0x47, 1, "Broadwell-GT3e", BHB_SHORT, 0, 0, 0},
	{6, 0x4f, 1, "Broadwell-EP", BHB_SHORT, 0, 0, 0},
	{6, 0x56, 5, "Broadwell-D", BHB_SHORT, 0, 0, 0},
	{6, 0x4e, 3, "Skylake-U", BHB_SHORT, 0, 0, 0},
	{6, 0x5e, 3, "Skylake", BHB_SHORT, 0, 0, 0},
	{6, 0x55, 0, "Skylake-SP", BHB_SHORT, 0, 0, 0},
	{6, 0x55, 4, "Skylake-SP", BHB_SHORT, 0, 0, 0},
	{6, 0x55, 5, "Cascade Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x55, 7, "Cascade Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x55, 8, NULL, BHB_UNKNOWN, 0, 0, 0},
	{6, 0x55, 9, NULL, BHB_UNKNOWN, 0, 0, 0},
	{6, 0x55, 10, "Cooper Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x55, 15, "Cooper Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x8e, 9, "Kaby/Coffee/Whiskey Lake-U", BHB_SHORT, 0, 0, 0},
	{6, 0x8e, 11, "Kaby/Coffee/Whiskey Lake-U", BHB_SHORT, 0, 0, 0},
	{6, 0x8e, 12, "Whiskey/Comet Lake-U", BHB_SHORT, 1, 1, 0},
	{6, 0x9e, 12, "Kaby/Coffee Lake", BHB_SHORT, 0, 0, 0},
	{6, 0x9e, 13, "Coffee Lake Refresh", BHB_SHORT, 1, 1, 0},
	{6, 0x66, 3, "Cannon Lake", BHB_SHORT, 0, 0, 0},
	{6, 0xa5, 2, "Comet Lake", BHB_SHORT, 1, 1, 0},
	{6, 0xa6, 0, "Comet Lake-L", BHB_SHORT, 1, 1, 0},
	{6, 0x7d, 5, "Ice Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x7e, 5, "Ice Lake-L", BHB_SHORT, 1, 1, 0},
	{6, 0x6a, 6, "Ice Lake-SP", BHB_SHORT, 1, 1, 0},
	{6, 0x6c, 1, "Ice Lake-D", BHB_SHORT, 1, 1, 0},
	{6, 0x8a, 1, "Lakefield", BHB_SHORT, 1, 1, 0},
	{6, 0x8c, 1, "Tiger Lake-L", BHB_SHORT, 1, 1, 0},
	{6, 0x8d, 1, "Tiger Lake", BHB_SHORT, 1, 1, 0},
	{6, 0xa7, 1, "Rocket Lake", BHB_SHORT, 1, 1, 0},
	{6, 0x97, 2, "Alder Lake", BHB_LONG, 1, 1, 0},
	{6, 0x9a, 3, "Alder Lake-L", BHB_LONG, 1, 1, 0},
	{6, 0xb7, 1, "Raptor Lake", BHB_LONG, 1, 1, 0},
	{6, 0xba, 2, "Raptor Lake-P", BHB_LONG, 1, 1, 0},
	{6, 0xbf, 2, "Raptor Lake-S", BHB_LONG, 1, 1, 0},
	{6, 0xd7, 0, "Bartlett Lake", BHB_LONG, 1, 1, 0},
	{6, 0x8f, 8, "Sapphire Rapids", BHB_LONG, 1, 1, 0},
	{6, 0xcf, 2, "Emerald Rapids", BHB_LONG, 1, 1, 0},
	{6, 0xad, 1, "Granite Rapids", BHB_LONG, 1, 1, 0},
	{6, 0xae, 1, "Granite Rapids-D", BHB_LONG, 1, 1, 0},
	{6, 0xac, 0, "Meteor Lake", BHB_LONG, 1, 1, 0},
	{6, 0xaa, 4, "Meteor Lake-L", BHB_LONG, 1, 1, 0},
	{6, 0xc6, 2, "Arrow Lake", BHB_LONG, 1, 1, 0},
	{6, 0xc5, 2, "Arrow Lake-H", BHB_LONG, 1, 1, 0},
	{6, 0xb5, 0, "Arrow Lake-U", BHB_LONG, 1, 1, 0},
	{6, 0xbd, 1, "Lunar Lake", BHB_LONG, 1, 1, 0},
	{6, 0xcc, 0, "Panther Lake", BHB_LONG, 1, 1, 0},
	{6, 0xd5, 0, "Wildcat Lake", BHB_LONG, 1, 1, 0},
	{6, 0x5c, 9, "Goldmont", BHB_SHORT, 0, 0, 1},
	{6, 0x5f, 1, "Goldmont-D", BHB_SHORT, 0, 0, 1},
	{6, 0x7a, 1, "Goldmont Plus", BHB_SHORT, 0, 0, 1},
	{6, 0x86, 7, "Tremont-D", BHB_SHORT, 1, 1, 1},
	{6, 0x96, 1, "Tremont", BHB_SHORT, 1, 1, 1},
	{6, 0x9c, 0, "Tremont-L", BHB_SHORT, 1, 1, 1},
	{6, 0xbe, 0, "Gracemont", BHB_SHORT, 1, 1, 1},
	{6, 0xaf, 3, "Sierra Forest", BHB_SHORT, 1, 1, 1},
	{6, 0xb6, 0, "Grand Ridge", BHB_SHORT, 1, 1, 1},
	{6, 0xdd, 0, "Clearwater Forest", BHB_SHORT, 1, 1, 1},
	{18, 0x01, 0, "Nova Lake", BHB_LONG, 1, 1, 0},
	{18, 0x03, 0, "Nova Lake-L", BHB_LONG, 1, 1, 0},
	{19, 0x01, 0, "Diamond Rapids", BHB_LONG, 1, 1, 0},
	/* nobody has heard of these */
	{6, 0x18, 0, NULL, BHB_UNKNOWN, 0, 0, 0},
	{11, 0x01, 0, NULL, BHB_UNKNOWN, 0, 0, 0},
	{15, 0x05, 0, NULL, BHB_UNKNOWN, 0, 0, 0},
	{17, 0x01, 0, NULL, BHB_UNKNOWN, 0, 0, 0},
	{6, 0xde, 0, NULL, BHB_LONG, 0, 0, 0},
	{18, 0x44, 0, NULL, BHB_LONG, 0, 0, 0},
	{20, 0x01, 0, NULL, BHB_LONG, 0, 0, 0},
	{5, 0x09, 0, NULL, BHB_UNKNOWN, 0, 0, 0},
};
/* clang-format on */

/* Xen's spec_ctrl.c: Skylake to Cannon Lake without eIBRS, and Atoms from Goldmont Plus on */
static bool has_rsba(const struct cpu_model *m)
{
	static const uint32_t models[] = {0x4e, 0x5e, 0x55, 0x66, 0x8e, 0x9e, 0x7a};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (m->family == 6 && m->model == models[i])
			return !m->eibrs;
	return false;
}

/* the parts of each row of the table */
static const struct {
	uint32_t family, model, stepping_min, stepping_max;
} rows[] = {
#define MODEL(family, model, first, last, name, bhb, eibrs, rrsba, rsba, atom, source) \
	{family, model, first, last},
#include "cpuid/models.def"
#undef MODEL
};

static size_t row_of(const struct cpu_model *m)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].family == m->family && rows[i].model == m->model &&
		    rows[i].stepping_min == m->stepping_min)
			break;
	assert_true(i < ARRAY_SIZE(rows));
	return i;
}

static void test_models(void **state)
{
	bool seen[ARRAY_SIZE(rows)] = {false};
	size_t i, used = 0;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		struct host_facts f =
			INTEL_HOST(parts[i].family, parts[i].model, parts[i].stepping, 0, 0);
		struct host_traits t;

		print_message("# %x.%x.%u\n", parts[i].family, parts[i].model, parts[i].stepping);
		host_traits_derive(&f, &t);
		assert_int_equal(t.vendor, CPU_VENDOR_INTEL);
		assert_string_equal(t.name, parts[i].name ? parts[i].name : "unknown Intel part");
		assert_int_equal(t.row != NULL, parts[i].name != NULL);
		assert_int_equal(t.bhb, parts[i].bhb);
		assert_int_equal(t.eibrs, parts[i].eibrs);
		assert_int_equal(t.rrsba, parts[i].rrsba);
		assert_int_equal(t.rsba, t.row && has_rsba(t.row));
		assert_int_equal(t.atom_only, parts[i].atom);
		assert_false(t.bhi_ctrl);
		assert_false(t.model_may_lie);
		if (t.row && !seen[row_of(t.row)]) {
			seen[row_of(t.row)] = true;
			used++;
			assert_true(strlen(t.row->source) > 10);
		}
	}
	assert_int_equal(used, ARRAY_SIZE(rows)); /* no row without a case */
}

/*
 * Linux's list of Intel parts, asm/intel-family.h of 6.12, and those that newer kernels add. What is
 * not in our table is no host of guests today: it counts as unknown, BHI row 16.
 */
/* clang-format off */
static const struct {
	const char *name; /* INTEL_... */
	uint32_t family, model;
	bool has_row;
} linux_parts[] = {
	{"QUARK_X1000", 5, 0x09, false}, {"PENTIUM_PRO", 6, 0x01, false},
	{"PENTIUM_III_DESCHUTES", 6, 0x05, false}, {"CORE_YONAH", 6, 0x0e, false},
	{"CORE2_MEROM", 6, 0x0f, true}, {"CORE2_MEROM_L", 6, 0x16, true},
	{"CORE2_PENRYN", 6, 0x17, true}, {"NEHALEM_EP", 6, 0x1a, true},
	{"ATOM_BONNELL", 6, 0x1c, true}, {"CORE2_DUNNINGTON", 6, 0x1d, true},
	{"NEHALEM", 6, 0x1e, true}, {"NEHALEM_G", 6, 0x1f, true}, {"WESTMERE", 6, 0x25, true},
	{"ATOM_BONNELL_MID", 6, 0x26, true}, {"ATOM_SALTWELL_MID", 6, 0x27, true},
	{"SANDYBRIDGE", 6, 0x2a, true}, {"WESTMERE_EP", 6, 0x2c, true},
	{"SANDYBRIDGE_X", 6, 0x2d, true}, {"NEHALEM_EX", 6, 0x2e, true},
	{"WESTMERE_EX", 6, 0x2f, true}, {"ATOM_SALTWELL_TABLET", 6, 0x35, true},
	{"ATOM_SALTWELL", 6, 0x36, true}, {"ATOM_SILVERMONT", 6, 0x37, true},
	{"IVYBRIDGE", 6, 0x3a, true}, {"HASWELL", 6, 0x3c, true}, {"BROADWELL", 6, 0x3d, true},
	{"IVYBRIDGE_X", 6, 0x3e, true}, {"HASWELL_X", 6, 0x3f, true}, {"HASWELL_L", 6, 0x45, true},
	{"HASWELL_G", 6, 0x46, true}, {"BROADWELL_G", 6, 0x47, true},
	{"ATOM_SILVERMONT_MID", 6, 0x4a, true}, {"ATOM_AIRMONT", 6, 0x4c, true},
	{"ATOM_SILVERMONT_D", 6, 0x4d, true}, {"SKYLAKE_L", 6, 0x4e, true},
	{"BROADWELL_X", 6, 0x4f, true}, {"SKYLAKE_X", 6, 0x55, true},
	{"BROADWELL_D", 6, 0x56, true}, {"XEON_PHI_KNL", 6, 0x57, true},
	{"ATOM_AIRMONT_MID", 6, 0x5a, true}, {"ATOM_GOLDMONT", 6, 0x5c, true},
	{"SKYLAKE", 6, 0x5e, true}, {"ATOM_GOLDMONT_D", 6, 0x5f, true},
	{"CANNONLAKE_L", 6, 0x66, true}, {"ICELAKE_X", 6, 0x6a, true},
	{"ICELAKE_D", 6, 0x6c, true}, {"ATOM_AIRMONT_NP", 6, 0x75, true},
	{"ATOM_GOLDMONT_PLUS", 6, 0x7a, true}, {"ICELAKE", 6, 0x7d, true},
	{"ICELAKE_L", 6, 0x7e, true}, {"XEON_PHI_KNM", 6, 0x85, true},
	{"ATOM_TREMONT_D", 6, 0x86, true}, {"LAKEFIELD", 6, 0x8a, true},
	{"TIGERLAKE_L", 6, 0x8c, true}, {"TIGERLAKE", 6, 0x8d, true},
	{"KABYLAKE_L", 6, 0x8e, true}, {"SAPPHIRERAPIDS_X", 6, 0x8f, true},
	{"ATOM_TREMONT", 6, 0x96, true}, {"ALDERLAKE", 6, 0x97, true},
	{"ALDERLAKE_L", 6, 0x9a, true}, {"ATOM_TREMONT_L", 6, 0x9c, true},
	{"ICELAKE_NNPI", 6, 0x9d, false}, {"KABYLAKE", 6, 0x9e, true},
	{"COMETLAKE", 6, 0xa5, true}, {"COMETLAKE_L", 6, 0xa6, true},
	{"ROCKETLAKE", 6, 0xa7, true}, {"METEORLAKE_L", 6, 0xaa, true},
	{"METEORLAKE", 6, 0xac, true}, {"GRANITERAPIDS_X", 6, 0xad, true},
	{"GRANITERAPIDS_D", 6, 0xae, true}, {"ATOM_CRESTMONT_X", 6, 0xaf, true},
	{"ARROWLAKE_U", 6, 0xb5, true}, {"ATOM_CRESTMONT", 6, 0xb6, true},
	{"RAPTORLAKE", 6, 0xb7, true}, {"RAPTORLAKE_P", 6, 0xba, true},
	{"LUNARLAKE_M", 6, 0xbd, true}, {"ATOM_GRACEMONT", 6, 0xbe, true},
	{"RAPTORLAKE_S", 6, 0xbf, true}, {"ARROWLAKE_H", 6, 0xc5, true},
	{"ARROWLAKE", 6, 0xc6, true}, {"PANTHERLAKE_L", 6, 0xcc, true},
	{"EMERALDRAPIDS_X", 6, 0xcf, true}, {"WILDCATLAKE_L", 6, 0xd5, true},
	{"BARTLETTLAKE", 6, 0xd7, true}, {"ATOM_DARKMONT_X", 6, 0xdd, true},
	{"NOVALAKE", 18, 0x01, true}, {"NOVALAKE_L", 18, 0x03, true},
	{"PANTHERCOVE_X", 19, 0x01, true},
};
/* clang-format on */

/* A new kernel's list is laid beside this one; nothing of it falls through the table unseen. */
static void test_parts_of_linux(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(linux_parts); i++) {
		struct host_facts f =
			INTEL_HOST(linux_parts[i].family, linux_parts[i].model, 0, 0, 0);
		struct host_traits t;

		print_message("# %s\n", linux_parts[i].name);
		host_traits_derive(&f, &t);
		assert_int_equal(t.row != NULL, linux_parts[i].has_row);
		assert_int_equal(t.bhb == BHB_UNKNOWN, !linux_parts[i].has_row);
		/* eIBRS without a source that says otherwise has RRSBA, as Linux and Xen count it */
		if (t.row)
			assert_int_equal(t.row->rrsba, t.row->eibrs);
	}
}

static void test_rows_are_disjoint(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		for (j = i + 1; j < ARRAY_SIZE(rows); j++)
			assert_false(rows[i].family == rows[j].family &&
				     rows[i].model == rows[j].model &&
				     rows[i].stepping_min <= rows[j].stepping_max &&
				     rows[j].stepping_min <= rows[i].stepping_max);
}

/* clang-format off */
static const struct {
	const char *name;
	struct host_facts f;
	enum bhb_kind bhb;
	bool bhi_ctrl, rrsba_ctrl, atom_only, may_lie;
} hosts[] = {
	{"Sapphire Rapids", INTEL_HOST(6, 0x8f, 8, EDX_7_2, ARCH_CAP_SPR), BHB_LONG, 1, 1, 0, 0},
	{"Ice Lake-SP", INTEL_HOST(6, 0x6a, 6, 0, ARCH_CAP_CLX), BHB_SHORT, 0, 0, 0, 0},
	{"an older model with BHI_CTRL is not what it says",
	 INTEL_HOST(6, 0x6a, 6, EDX_7_2, 0), BHB_LONG, 1, 1, 0, 0},
	{"Sierra Forest stays short with BHI_CTRL: exempt",
	 INTEL_HOST(6, 0xaf, 3, EDX_7_2, 0), BHB_SHORT, 1, 1, 1, 0},
	{"an Atom model that says hybrid has performance cores",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0xbe, .leaf7_0_edx = EDX_7_0 |
	 CPUID_BIT(7_0_EDX, hybrid_cpu), .leaf7_2_edx = EDX_7_2}, BHB_LONG, 1, 1, 0, 0},
	{"unknown model with newer controls",
	 INTEL_HOST(6, 0x18, 0, CPUID_BIT(7_2_EDX, ipred_ctrl), 0), BHB_LONG, 0, 0, 0, 0},
	{"unknown model with BUS_LOCK_DETECT",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0x18, .leaf7_0_ecx =
	 CPUID_BIT(7_0_ECX, bus_lock_detect)}, BHB_LONG, 0, 0, 0, 0},
	{"real Rocket Lake has BUS_LOCK_DETECT of its own",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0xa7, .leaf7_0_ecx =
	 CPUID_BIT(7_0_ECX, bus_lock_detect)}, BHB_SHORT, 0, 0, 0, 0},
	{"nested, dressed as Ice Lake",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0x6a, .hypervisor = true}, BHB_SHORT,
	 0, 0, 0, 1},
	{"nested, dressed as Ice Lake, with BUS_LOCK_DETECT",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0x6a, .hypervisor = true, .leaf7_0_ecx
	 = CPUID_BIT(7_0_ECX, bus_lock_detect)}, BHB_LONG, 0, 0, 0, 1},
	{"nested, dressed as Rocket Lake, with BUS_LOCK_DETECT",
	 {.vendor_id = "GenuineIntel", .family = 6, .model = 0xa7, .hypervisor = true, .leaf7_0_ecx
	 = CPUID_BIT(7_0_ECX, bus_lock_detect)}, BHB_SHORT, 0, 0, 0, 1},
	{"AMD",
	 {.vendor_id = "AuthenticAMD", .family = 0x19, .leaf7_2_edx = EDX_7_2}, BHB_SHORT, 0, 0, 0,
	 0},
	{"Hygon", {.vendor_id = "HygonGenuine", .family = 0x18}, BHB_SHORT, 0, 0, 0, 0},
	{"Zhaoxin", {.vendor_id = "  Shanghai  ", .family = 7}, BHB_SHORT, 0, 0, 0, 0},
	{"Zhaoxin as Centaur", {.vendor_id = "CentaurHauls", .family = 7}, BHB_SHORT, 0, 0, 0, 0},
	{"VIA Nano", {.vendor_id = "CentaurHauls", .family = 6, .model = 0xf}, BHB_UNKNOWN, 0, 0, 0, 0},
	{"IDT WinChip", {.vendor_id = "CentaurHauls", .family = 5}, BHB_UNKNOWN, 0, 0, 0, 0},
	{"Zhaoxin of another family",
	 {.vendor_id = "  Shanghai  ", .family = 6}, BHB_UNKNOWN, 0, 0, 0, 0},
	{"a guest of QEMU's kvm64",
	 {.vendor_id = "GenuineIntel", .family = 15, .model = 6, .hypervisor = true}, BHB_SHORT, 0,
	 0, 0, 1},
	{"a guest of QEMU's kvm64, with newer controls",
	 {.vendor_id = "GenuineIntel", .family = 15, .model = 6, .hypervisor = true, .leaf7_2_edx =
	 CPUID_BIT(7_2_EDX, psfd) | CPUID_BIT(7_2_EDX, ipred_ctrl)}, BHB_LONG, 0, 0, 0, 1},
	{"unknown vendor", {.vendor_id = "SomeoneElse!", .family = 6}, BHB_UNKNOWN, 0, 0, 0, 0},
};
/* clang-format on */

static void test_traits(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct host_traits t;

		print_message("# %s\n", hosts[i].name);
		host_traits_derive(&hosts[i].f, &t);
		assert_int_equal(t.bhb, hosts[i].bhb);
		assert_int_equal(t.bhi_ctrl, hosts[i].bhi_ctrl);
		assert_int_equal(t.rrsba_ctrl, hosts[i].rrsba_ctrl);
		assert_int_equal(t.atom_only, hosts[i].atom_only);
		assert_int_equal(t.model_may_lie, hosts[i].may_lie);
	}
}

static void test_traits_from_arch_cap(void **state)
{
	struct host_facts f = host_unknown;
	struct host_traits t;

	(void)state;
	host_traits_derive(&f, &t);
	assert_false(t.eibrs || t.rrsba || t.bhi_no);
	f.kvm_arch_cap = ARCH_CAP_IBRS_ALL;
	host_traits_derive(&f, &t);
	assert_true(t.eibrs && t.rrsba); /* unknown eIBRS part: assumed to have RRSBA */
	f.kvm_arch_cap = ARCH_CAP_RRSBA | ARCH_CAP_BHI_NO;
	host_traits_derive(&f, &t);
	assert_true(!t.eibrs && t.rrsba && !t.rsba && t.bhi_no);
	f.kvm_arch_cap = ARCH_CAP_RSBA;
	host_traits_derive(&f, &t);
	assert_true(t.rsba && !t.rrsba);
}

static void test_from_cpuid(void **state)
{
	struct cpuid_set raw = {
		.n_leaves = 4,
		.leaf = {{.leaf = 0,
			  .eax = 0x20,
			  .ebx = 0x756e6547,
			  .edx = 0x49656e69,
			  .ecx = 0x6c65746e},
			 {.leaf = 1, .eax = 0x806f8, .ecx = 1u << 31},
			 {.leaf = 7, .indexed = true, .eax = 2, .ecx = 1u << 24, .edx = EDX_7_0},
			 {.leaf = 7, .indexed = true, .subleaf = 2, .edx = EDX_7_2}}};
	struct cpuid_set kvm = raw;
	struct host_facts f = {.kvm_arch_cap = 42, .model = 99};

	(void)state;
	kvm.leaf[3].edx = CPUID_BIT(7_2_EDX, psfd);
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_string_equal(f.vendor_id, "GenuineIntel");
	assert_int_equal(f.family, 6);
	assert_int_equal(f.model, 0x8f);
	assert_int_equal(f.stepping, 8);
	assert_true(f.hypervisor);
	assert_int_equal(f.leaf7_0_ecx, CPUID_BIT(7_0_ECX, bus_lock_detect));
	assert_int_equal(f.leaf7_0_edx, EDX_7_0);
	assert_int_equal(f.leaf7_2_edx, EDX_7_2);
	assert_int_equal(f.kvm_leaf7_0_edx, EDX_7_0);
	assert_int_equal(f.kvm_leaf7_2_edx, CPUID_BIT(7_2_EDX, psfd));
	assert_int_equal(f.kvm_arch_cap, 42);

	raw.leaf[2].eax = 1; /* sub-leaf 2 is beyond the maximum: whatever it says is noise */
	kvm.leaf[2].eax = 0;
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_int_equal(f.leaf7_2_edx, 0);
	assert_int_equal(f.kvm_leaf7_2_edx, 0);
	raw.leaf[0].eax = 6; /* so is leaf 7 */
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_int_equal(f.leaf7_0_edx, 0);

	raw.leaf[1].eax = 0x00c10f10; /* AMD style: extended family added to 0FH */
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_int_equal(f.family, 0x1b);
	assert_int_equal(f.model, 0x11);
	raw.leaf[1].eax = 0x00010593; /* family 5: the extended model does not count */
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_int_equal(f.family, 5);
	assert_int_equal(f.model, 9);

	raw.n_leaves = 0;
	kvm.n_leaves = 0;
	host_facts_from_cpuid(&f, &raw, &kvm);
	assert_string_equal(f.vendor_id, "");
	assert_int_equal(f.family, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_models),	   cmocka_unit_test(test_rows_are_disjoint),
		cmocka_unit_test(test_traits),	   cmocka_unit_test(test_traits_from_arch_cap),
		cmocka_unit_test(test_from_cpuid), cmocka_unit_test(test_parts_of_linux),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
