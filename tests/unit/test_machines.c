#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "cpuid/guest_cpu.h"
#include "msr/arch_caps.h"
#include "msr/decide.h"
#include "msr/pool.h"
#include "policy/facts.h"

#define HOSTS SOURCE_ROOT "/tests/data/hosts/"

static void read_host(const char *name, struct host_file *f)
{
	char path[256], *text;
	struct err e = {0};
	size_t len;

	snprintf(path, sizeof(path), HOSTS "%s.json", name);
	if (file_read("host facts", path, FACTS_SIZE_MAX, &text, &len, &e) < 0 ||
	    host_file_parse(path, text, len, f, &e) < 0)
		fail_msg("%s", e.text);
	free(text);
}

/*
 * What each machine is, by Intel's and Linux's tables, and which CPUs it can give. A name in @lacks
 * cannot be given for want of the features after it: "name: a, b", or is another vendor's.
 */
/* clang-format off */
static const struct machine {
	const char *file, *part;
	enum bhb_kind bhb;
	bool rsba, rrsba, atom;
	const char *gives, *lacks[4];
} machines[] = {
	{"sandy-bridge-ep", "Sandy Bridge-EP", BHB_SHORT, 0, 0, 0, "x86-64-v2",
	 {"haswell: avx2, bmi1, bmi2, f16c, fma, abm, movbe, invpcid, rdrand"}},
	{"ivy-bridge", "Ivy Bridge", BHB_SHORT, 0, 0, 0, "x86-64-v2", {"x86-64-v3: avx2"}},
	{"haswell-ex", "Haswell-EP", BHB_SHORT, 0, 0, 0, "x86-64-v3 haswell,-spec_ctrl,-ssbd",
	 {"haswell: spec_ctrl, ssbd;"}}, /* before the microcode of 2018 */
	{"broadwell", "Broadwell", BHB_SHORT, 0, 0, 0, "haswell,-ssbd broadwell,-ssbd",
	 {"broadwell: ssbd;"}}, /* between two microcodes of 2018 */
	{"broadwell-ep", "Broadwell-EP", BHB_SHORT, 0, 0, 0, "broadwell,-spec_ctrl,-ssbd",
	 {"broadwell: spec_ctrl, ssbd;"}},
	{"skylake-sp", "Skylake-SP", BHB_SHORT, 1, 0, 0,
	 "x86-64-v4 haswell broadwell skylake-server",
	 {"cascadelake-server: avx512_vnni;"}},
	{"skylake-sp-cloud", "Skylake-SP", BHB_SHORT, 1, 0, 0,
	 "x86-64-v4 haswell broadwell skylake-server", {"cascadelake-server: avx512_vnni;"}},
	{"coffee-lake", "Kaby/Coffee Lake", BHB_SHORT, 1, 0, 0, "x86-64-v3 haswell broadwell",
	 {"skylake-server: avx512f"}},
	{"cascade-lake", "Cascade Lake", BHB_SHORT, 0, 1, 0, "skylake-server cascadelake-server",
	 {"cooperlake: avx512_bf16;", "icelake-server: avx512ifma"}},
	{"cooper-lake", "Cooper Lake", BHB_SHORT, 0, 1, 0,
	 "skylake-server cascadelake-server cooperlake", {"icelake-server: avx512ifma"}},
	{"ice-lake-sp", "Ice Lake-SP", BHB_SHORT, 0, 1, 0,
	 "skylake-server cascadelake-server icelake-server",
	 {"sapphire-rapids: avx512_bf16, avx512_fp16"}},
	{"snow-ridge", "Tremont-D", BHB_SHORT, 0, 1, 1, "x86-64-v2", {"x86-64-v3: avx"}},
	{"alder-lake-p", "Alder Lake-L", BHB_LONG, 0, 1, 0, "x86-64-v3 haswell broadwell",
	 {"icelake-server: avx512f", "sierra-forest: wbnoinvd, bus_lock_detect, mcdt_no;"}},
	{"raptor-lake-u", "Raptor Lake-P", BHB_LONG, 0, 1, 0, "x86-64-v3 haswell broadwell",
	 {"icelake-server: avx512f"}},
	{"sapphire-rapids-3408u", "Sapphire Rapids", BHB_LONG, 0, 1, 0,
	 "icelake-server cooperlake sapphire-rapids emerald-rapids",
	 {"sapphire-rapids-v2: fzrm, fsrs, fsrc;", "granite-rapids: mcdt_no;"}},
	{"sapphire-rapids-3408u-linux-6.12", "Sapphire Rapids", BHB_LONG, 0, 1, 0,
	 "sapphire-rapids sapphire-rapids-v2 emerald-rapids-v2", {"granite-rapids: mcdt_no;"}},
	{"sapphire-rapids-w7", "Sapphire Rapids", BHB_LONG, 0, 1, 0,
	 "icelake-server sapphire-rapids", {"sapphire-rapids-v2: fzrm, fsrs, fsrc;"}},
	{"sapphire-rapids-cloud", "Sapphire Rapids", BHB_LONG, 0, 1, 0,
	 "icelake-server sapphire-rapids emerald-rapids sapphire-rapids,+amx_tile,+xfd",
	 {"sapphire-rapids-v2: fzrm, fsrs, fsrc;"}},
	{"emerald-rapids", "Emerald Rapids", BHB_LONG, 0, 1, 0, "sapphire-rapids emerald-rapids",
	 {"emerald-rapids-v2: fzrm, fsrs, fsrc;"}},
	{"granite-rapids", "Granite Rapids", BHB_LONG, 0, 1, 0,
	 "sapphire-rapids emerald-rapids granite-rapids sierra-forest",
	 {"granite-rapids-v2: fzrm, fsrs, fsrc, prefetchiti;"}},
	{"granite-rapids-linux-6.12", "Granite Rapids", BHB_LONG, 0, 1, 0,
	 "sapphire-rapids-v2 granite-rapids granite-rapids-v2",
	 {"diamond-rapids: cmpccxadd, avx_ifma, avx_vnni_int8, avx_ne_convert;"}},
	{"granite-rapids-cloud", "Granite Rapids", BHB_LONG, 0, 1, 0,
	 "sapphire-rapids granite-rapids", {"granite-rapids-v2: fzrm, fsrs, fsrc, prefetchiti;"}},
	{"sierra-forest-6731e", "Sierra Forest", BHB_SHORT, 0, 1, 1, "x86-64-v3 sierra-forest",
	 {"sierra-forest-v2: fsrs, cmpccxadd, avx_ifma, avx_vnni_int8, avx_ne_convert;",
	  "sapphire-rapids: avx512f"}},
	{"sierra-forest-6731e-linux-6.12", "Sierra Forest", BHB_SHORT, 0, 1, 1,
	 "sierra-forest sierra-forest-v2",
	 {"clearwater-forest: prefetchiti, sha512, sm3, sm4, avx_vnni_int16;"}},
	{"epyc-7601", "AMD", BHB_SHORT, 0, 0, 0, "x86-64-v3 epyc,-ibpb",
	 {"epyc: ibpb;", "epyc-rome: ibpb, clwb, umip, rdpid, wbnoinvd, amd_stibp, amd_ssbd;"}},
	{"epyc-7502", "AMD", BHB_SHORT, 0, 0, 0, "x86-64-v3 epyc epyc-rome",
	 {"epyc-rome-v2: xsaves;", "epyc-milan: pcid, invpcid, pku, vaes, vpclmulqdq, xsaves;"}},
	{"epyc-7713", "AMD", BHB_SHORT, 0, 0, 0, "epyc epyc-rome epyc-rome-v2 epyc-milan epyc-milan-v2",
	 {"epyc-genoa: avx512f"}},
	{"epyc-milan-cloud", "AMD", BHB_SHORT, 0, 0, 0, "epyc epyc-rome epyc-milan",
	 {"epyc-milan-v2: erms, fsrm;"}},
	{"epyc-9334", "AMD", BHB_SHORT, 0, 0, 0,
	 "x86-64-v4 epyc-rome epyc-milan-v2 epyc-genoa epyc-genoa-v2",
	 {"epyc-turin: avx_vnni, avx512_vp2intersect, movdiri, movdir64b;"}},
	{"epyc-9334-linux-6.12", "AMD", BHB_SHORT, 0, 0, 0, "epyc-milan-v2 epyc-genoa-v2", {NULL}},
	{"ryzen-9950x", "AMD", BHB_SHORT, 0, 0, 0,
	 "x86-64-v4 epyc-rome epyc-milan-v2,-pcid epyc-turin,-pcid,-la57",
	 {"epyc-turin: pcid, la57;"}},
	{"ryzen-9950x-linux-6.12", "AMD", BHB_SHORT, 0, 0, 0, "epyc-turin,-pcid,-la57", {NULL}},
	{"hygon-7185", "Hygon", BHB_SHORT, 0, 0, 0, "x86-64-v2 x86-64-v3",
	 {"x86-64-v4: vendor", "epyc: vendor"}},
};
/* clang-format on */

static void test_known(void **state)
{
	unsigned int n = 0;
	struct host_traits t;
	struct host_file f;
	struct dirent *d;
	DIR *dir;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(machines); i++) {
		const struct machine *m = &machines[i];

		read_host(m->file, &f);
		host_traits_derive(&f.facts, &t);
		if (strcmp(t.name, m->part) != 0 || t.bhb != m->bhb || t.rsba != m->rsba ||
		    t.rrsba != m->rrsba || t.atom_only != m->atom)
			fail_msg("%s: %s, BHB %d, RSBA %d, RRSBA %d, Atom %d", m->file, t.name,
				 t.bhb, t.rsba, t.rrsba, t.atom_only);
	}
	dir = opendir(HOSTS);
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		char *end = strstr(d->d_name, ".json");

		if (!end)
			continue;
		*end = '\0';
		read_host(d->d_name, &f);
		n += f.cpuid.n_leaves > 0;
	}
	closedir(dir);
	assert_int_equal(n, ARRAY_SIZE(machines)); /* no machine without a row */
}

static int give(const char *cpu_text, const struct host_file *f, struct err *e)
{
	struct cpuid_set set = f->cpuid;
	struct guest_cpu cpu;
	int ret = guest_cpu_parse(cpu_text, &cpu, e);

	return ret ? ret : guest_cpu_apply(&cpu, &set, e);
}

static void test_cpus(void **state)
{
	char word[96], wanted[160];
	struct host_file f;
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(machines); i++) {
		const char *list = machines[i].gives;
		int used;

		read_host(machines[i].file, &f);
		for (; sscanf(list, " %95s%n", word, &used) == 1; list += used) {
			struct err e = {0};

			if (give(word, &f, &e) < 0)
				fail_msg("%s cannot give %s", machines[i].file, e.text);
		}
		for (j = 0; j < ARRAY_SIZE(machines[i].lacks) && machines[i].lacks[j]; j++) {
			const char *lacks = machines[i].lacks[j], *colon = strchr(lacks, ':');
			struct err e = {0};

			snprintf(word, sizeof(word), "%.*s", (int)(colon - lacks), lacks);
			snprintf(wanted, sizeof(wanted), "lacks%s", colon);
			if (!strcmp(colon, ": vendor"))
				strcpy(wanted, "not a CPU of this host's vendor");
			if (give(word, &f, &e) == 0 || !strstr(e.text, wanted))
				fail_msg("%s, %s: '%s'", machines[i].file, lacks, e.text);
		}
	}
}

/* ---- from one machine to another ---- */

#define SHORT	  MITIGATION_BHB_CLEAR_SEQ_S
#define RETPOLINE MITIGATION_RETPOLINE_S
#define BHI	  SPEC_CTRL_BHI_DIS_S
#define RRSBA	  SPEC_CTRL_RRSBA_DIS_S
#define OK	  VERDICT_ALLOW
#define FORCED	  VERDICT_ALLOW_FORCED
#define WARN	  VERDICT_WARN
#define REFUSE	  VERDICT_REFUSE

/*
 * A guest is booted on @from, reports @uses if that is offered, and comes to @to. Without a pool it
 * is shown no more than both have, and no warning of the second's; with a pool, of both. The dumps
 * of Cascade and Ice Lake are from before microcode says RRSBA: the guest is not told, and a newer
 * part holds RRSBA_DIS_S for it.
 */
/* clang-format off */
static const struct {
	const char *from, *to;
	uint64_t uses;
	bool pool;
	enum verdict verdict, strict;
	uint64_t held, held_strict;
} moves[] = {
	{"broadwell", "skylake-sp", RETPOLINE, 0, WARN, REFUSE, 0, 0},
	{"broadwell", "skylake-sp-cloud", RETPOLINE, 0, WARN, REFUSE, 0, 0},
	{"broadwell", "skylake-sp", RETPOLINE, 1, OK, OK, 0, 0},
	{"haswell-ex", "coffee-lake", RETPOLINE, 0, WARN, REFUSE, 0, 0},
	{"skylake-sp-cloud", "skylake-sp-cloud", RETPOLINE, 0, OK, OK, 0, 0},
	{"broadwell", "cascade-lake", RETPOLINE, 0, WARN, REFUSE, 0, 0},
	{"broadwell", "cascade-lake", RETPOLINE, 1, OK, OK, 0, 0},
	{"sandy-bridge-ep", "broadwell", RETPOLINE, 0, OK, OK, 0, 0},
	{"broadwell", "sapphire-rapids-3408u", RETPOLINE, 0, FORCED, FORCED, RRSBA, BHI | RRSBA},
	{"broadwell", "sapphire-rapids-3408u", SHORT, 0, FORCED, FORCED, BHI, BHI},
	{"skylake-sp", "ice-lake-sp", SHORT, 1, OK, OK, 0, 0},
	{"ice-lake-sp", "sapphire-rapids-w7", SHORT, 0, FORCED, FORCED, BHI | RRSBA, BHI | RRSBA},
	{"ice-lake-sp", "sapphire-rapids-w7", SHORT, 1, FORCED, FORCED, BHI, BHI},
	{"ice-lake-sp", "emerald-rapids", SHORT, 0, FORCED, FORCED, BHI | RRSBA, BHI | RRSBA},
	{"ice-lake-sp", "granite-rapids-cloud", SHORT, 0, FORCED, FORCED, BHI | RRSBA, BHI | RRSBA},
	{"cascade-lake", "alder-lake-p", SHORT, 0, FORCED, FORCED, BHI | RRSBA, BHI | RRSBA},
	{"cascade-lake", "sierra-forest-6731e", SHORT, 0, FORCED, FORCED, RRSBA, RRSBA},
	{"snow-ridge", "sierra-forest-6731e", SHORT, 0, FORCED, FORCED, RRSBA, RRSBA},
	{"cascade-lake", "sierra-forest-6731e", SHORT, 1, OK, OK, 0, 0},
	{"sapphire-rapids-w7", "granite-rapids", 0, 0, OK, OK, 0, 0},
	{"sapphire-rapids-w7", "sapphire-rapids-3408u", 0, 1, OK, OK, 0, 0},
	{"epyc-7502", "epyc-7713", 0, 0, OK, OK, 0, 0},
	{"epyc-9334", "ryzen-9950x", 0, 1, OK, OK, 0, 0},
	{"ice-lake-sp", "epyc-7713", 0, 0, REFUSE, REFUSE, 0, 0},
	{"epyc-7713", "hygon-7185", 0, 0, REFUSE, REFUSE, 0, 0},
};
/* clang-format on */

static void move(const struct host_file *from, const struct host_file *to, uint64_t uses,
		 const struct pool_level *pool, bool strict, struct mitigation_decision *d)
{
	struct mitigation_input in = {.host = from->facts, .backend = from->backend};
	struct guest_contract *g = &in.guest;

	mitigation_policy_default(&in.policy);
	in.policy.strict = strict;
	g->leaf7_0_edx = from->facts.kvm_leaf7_0_edx;
	g->leaf7_2_edx = from->facts.kvm_leaf7_2_edx;
	g->arch_cap = from->facts.kvm_arch_cap;
	if (pool) {
		in.pool = pool->facts;
		pool_level_guest(pool, g);
	} else {
		g->leaf7_0_edx &= to->facts.kvm_leaf7_0_edx;
		g->leaf7_2_edx &= to->facts.kvm_leaf7_2_edx;
		g->arch_cap &= to->facts.kvm_arch_cap | arch_cap_warnings();
	}
	mitigation_advertise(&from->facts, &from->backend, &in.policy, &in.pool, g);
	uses &= g->mitigation_enum;
	in.report = (struct vcpu_report) {
		.aware = uses, .enum_read = uses, .written = uses, .ctrl = uses};
	mitigation_decide(&in, d);
	in.promise = (struct mitigation_promise) {true, d->mask, d->value, mitigation_left_weak(d)};
	in.host = to->facts;
	in.backend = to->backend;
	mitigation_decide(&in, d);
}

static void test_moves(void **state)
{
	struct mitigation_policy policy;
	struct pool_level level;
	size_t i;
	int strict;

	(void)state;
	mitigation_policy_default(&policy);
	for (i = 0; i < ARRAY_SIZE(moves); i++) {
		struct host_file from, to;
		struct pool_host both[2];

		read_host(moves[i].from, &from);
		read_host(moves[i].to, &to);
		both[0] = (struct pool_host) {from.facts, from.backend};
		both[1] = (struct pool_host) {to.facts, to.backend};
		pool_level(both, 2, &policy, &level);
		for (strict = 0; strict < 2; strict++) {
			const enum verdict wanted = strict ? moves[i].strict : moves[i].verdict;
			const uint64_t held = strict ? moves[i].held_strict : moves[i].held;
			struct mitigation_decision d;

			move(&from, &to, moves[i].uses, moves[i].pool ? &level : NULL, strict, &d);
			if (d.verdict != wanted || (wanted != REFUSE && d.value != held))
				fail_msg("%s to %s, 0x%llx%s%s: %s, held 0x%llx: %s", moves[i].from,
					 moves[i].to, (unsigned long long)moves[i].uses,
					 moves[i].pool ? ", pool" : "", strict ? ", strict" : "",
					 verdict_name(d.verdict), (unsigned long long)d.value,
					 d.n_steps ? d.step[d.n_steps - 1].reason : "");
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
