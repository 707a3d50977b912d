/*
 * testudo policy: mistakes in a policy file, and what a policy decides on a host, this one or one
 * that is only a fact file. Nothing is started and nothing changed: the what-if tool.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "base/text.h"
#include "cpuid/host.h"
#include "cpuid/subset.h"
#include "policy/explain.h"
#include "policy/policy_file.h"
#include "vmm/cmd.h"
#include "vmm/exit_code.h"
#include "vmm/guest/config.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/host_here.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/cpu_option.h"
#include "vmm/machine/vcpu.h"

#define CPU_MISSING "the guest was shown CPU features that this host or its KVM does not have: "

/* Within this file a failure travels as the negative exit code. */

/* What --guest says. */
struct guest_says {
	struct vcpu_report report;
	unsigned int reported, sees; /* words given of each, by bit of their tables */
	uint32_t leaf7_2_edx;
	uint64_t arch_cap;
};

struct ask {
	const char *policy, *host, *from, *cpu;
	uint32_t force_cap;
	struct guest_says guest;
	bool json;
};

static const struct see_word {
	const char *name;
	uint32_t leaf7_2_edx;
	uint64_t arch_cap;
} see_words[] = {
	{"bhi_ctrl", CPUID_BIT(7_2_EDX, bhi_ctrl), 0},
	{"rrsba_ctrl", CPUID_BIT(7_2_EDX, rrsba_ctrl), 0},
	{"ipred_ctrl", CPUID_BIT(7_2_EDX, ipred_ctrl), 0},
	{"ibrs_all", 0, ARCH_CAP_IBRS_ALL},
	{"rsba", 0, ARCH_CAP_RSBA},
	{"rrsba", 0, ARCH_CAP_RRSBA},
	{"bhi_no", 0, ARCH_CAP_BHI_NO},
	{"its_no", 0, ARCH_CAP_ITS_NO},
	{"none", 0, 0},
};

static const struct report_word {
	const char *name;
	bool aware;
	uint64_t ctrl;
} report_words[] = {
	{"short", true, MITIGATION_BHB_CLEAR_SEQ_S},
	{"retpoline", true, MITIGATION_RETPOLINE_S},
	{"none", true, 0}, /* this one and the next exclude all others */
	{"unaware", false, 0},
};

/* The names of a table of @n structures of @size bytes, each with the name as its first member */
static const char *name_at(const void *table, size_t size, size_t i)
{
	return *(const char *const *)((const char *)table + i * size);
}

/* Return: the row of @word; -EXIT_USAGE with the names in @e */
static int find_word(const char *key, const void *table, size_t size, size_t n, const char *word,
		     struct err *e)
{
	char legal[256] = "";
	size_t i;

	for (i = 0; i < n; i++)
		if (strcmp(word, name_at(table, size, i)) == 0)
			return (int)i;
	for (i = 0; i + 1 < n; i++)
		text_list_add(legal, sizeof(legal), name_at(table, size, i));
	text_list_end(legal, sizeof(legal), name_at(table, size, i));
	return err_set(e, -EXIT_USAGE, "--guest: %s=%s is not a value; give %s", key,
		       text_quote(word, strlen(word)).s, legal);
}

/* Return: 0; -EXIT_USAGE when one of the words @alone is not the only one of @given */
static int check_alone(unsigned int given, unsigned int alone, const char *which, struct err *e)
{
	if (!(given & alone) || !(given & (given - 1)))
		return 0;
	return err_set(e, -EXIT_USAGE, "--guest: %s; leave out the other words", which);
}

static int read_reported(struct guest_says *g, const char *word, struct err *e)
{
	const int i = find_word("reported", report_words, sizeof(report_words[0]),
				ARRAY_SIZE(report_words), word, e);

	if (i < 0)
		return i;
	g->reported |= 1u << i;
	g->report.ctrl |= report_words[i].ctrl;
	g->report.aware = g->report.enum_read = report_words[i].aware;
	g->report.written = g->report.ctrl != 0;
	return check_alone(g->reported, 3u << 2,
			   "reported=none and reported=unaware each stand alone", e);
}

static int read_sees(struct guest_says *g, const char *word, struct err *e)
{
	const int i =
		find_word("sees", see_words, sizeof(see_words[0]), ARRAY_SIZE(see_words), word, e);

	if (i < 0)
		return i;
	g->sees |= 1u << i;
	g->leaf7_2_edx |= see_words[i].leaf7_2_edx;
	g->arch_cap |= see_words[i].arch_cap;
	return check_alone(g->sees, 1u << (ARRAY_SIZE(see_words) - 1), "sees=none stands alone", e);
}

/*
 * "reported=short,retpoline,sees=bhi_ctrl": a word without = goes on with the key before it;
 * "unaware" at the beginning needs none.
 */
static int read_guest(struct guest_says *g, char *arg, struct err *e)
{
	enum { NO_KEY, REPORTED, SEES } key = NO_KEY;
	char *word, *rest = arg;
	int ret = 0;

	while (!ret && (word = strsep(&rest, ","))) {
		if (strncmp(word, "reported=", 9) == 0) {
			key = REPORTED;
			word += 9;
		} else if (strncmp(word, "sees=", 5) == 0) {
			key = SEES;
			word += 5;
		} else if (key == NO_KEY && strcmp(word, "unaware") == 0) {
			key = REPORTED;
		} else if (key == NO_KEY || strchr(word, '=')) {
			return err_set(e, -EXIT_USAGE,
				       "--guest: %s is not a word; give reported= or sees=",
				       text_quote(word, strlen(word)).s);
		}
		ret = key == REPORTED ? read_reported(g, word, e) : read_sees(g, word, e);
	}
	return ret;
}

static int take_guest(void *into, char *value, struct err *e)
{
	struct ask *ask = into;

	return read_guest(&ask->guest, value, e);
}

static const struct option_row explain_rows[] = {
	{"policy", 0, "FILE", "the policy (default: what holds where none is given)",
	 OPTION_TEXT_IN(struct ask, policy)},
	{"host", 0, "FILE", "the host, a file made by testudo host --json (default: this host)",
	 OPTION_TEXT_IN(struct ask, host)},
	{"from", 0, "FILE", "the guest started on that host, and comes from there",
	 OPTION_TEXT_IN(struct ask, from)},
	{"cpu", 0, "CPU",
	 "the CPU that the guest is shown, as for testudo run (help lists them);\n"
	 "features that an older fact file does not tell are taken to be there",
	 OPTION_TEXT_IN(struct ask, cpu)},
	{"guest", 0, "WORD[,WORD]...",
	 "reported=short,retpoline  what the guest reports by the virtual MSRs; none: it\n"
	 "                          knows them and uses neither; unaware (default, also\n"
	 "                          without reported=): it does not know them\n"
	 "sees=bhi_ctrl,...         what the guest is shown of bhi_ctrl, rrsba_ctrl,\n"
	 "                          ipred_ctrl, ibrs_all, rsba, rrsba, bhi_no, its_no; or\n"
	 "                          none (default: what its first host and the pool\n"
	 "                          offer; this replaces it, the pool takes nothing away)",
	 OPTION_CALLS(take_guest)},
	{CONFIG_FORCE_CAP, 0, "N",
	 "this host's number of KVM_CAP_FORCE_SPEC_CTRL, as for testudo run",
	 OPTION_NUMBER_IN(struct ask, force_cap, 1, CONFIG_FORCE_CAP_MAX)},
	{"json", 0, NULL, "for machines", OPTION_SETS(struct ask, json, true)},
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options explain_options = {
	OPTIONS_TABLE(explain_rows),
	.see = "testudo policy --help",
	.head = "Usage: testudo policy check FILE...\n"
		"       testudo policy explain [OPTION]...\n\n"
		"check reads policy files, and the fact files of their pools, and names the first "
		"mistake.\n"
		"explain tells what a policy decides for a guest on a host, and why.\n\n"
		"Options of explain:\n",
	.tail = "\nExit codes: 0 allowed (or no mistake), 1 KVM cannot be asked, 2 wrong usage, 3 "
		"bad policy or\n"
		"fact file, 4 refused\n",
	.indent = 4,
};

/* Return: 1: help was asked for; 0; -EXIT_USAGE */
static int read_options(struct ask *ask, int argc, char **argv, struct err *e)
{
	const int words = options_parse(&explain_options, ask, argc, argv, e);

	if (words <= 0)
		return words ? -EXIT_USAGE : 1;
	if (ask->cpu && ask->guest.sees)
		return err_set(e, -EXIT_USAGE,
			       "policy explain: --cpu and sees= of --guest both say what the guest "
			       "is shown; give one");
	if (words < argc) {
		options_one_too_many(&explain_options, argv[words], e);
		return -EXIT_USAGE;
	}
	return 0;
}

/* ---- the question as input of the decision ---- */

struct question {
	struct policy policy;
	struct host_file host, from;
	bool assumed;		/* not all hosts' files tell the CPUID of their KVM */
	struct cpuid_set guest; /* what the guest is shown */
	struct mitigation_input in;
	char missing[1024]; /* what of it the host cannot show */
};

static int load_pool(const struct ask *ask, const struct question *q, const struct host_file *self,
		     struct pool_level *level, struct err *e)
{
	const struct pool_host here = {.host = self->facts, .backend = self->backend};

	return policy_load_pool(&q->policy, ask->policy, &here, level, e) < 0 ? -EXIT_BAD_INPUT : 0;
}

/* What a host's KVM offers, as far as its file tells, and the VMM's own bits. */
static void offered_cpuid(const struct question *q, const struct host_file *f, bool nested,
			  struct cpuid_set *set)
{
	const struct kvm kvm = {.tsc_deadline = true};

	if (q->assumed)
		host_facts_to_cpuid(&f->facts, set);
	else
		*set = f->cpuid;
	vcpu_base_cpuid(set, &kvm, nested);
}

/* What --guest or --cpu says, or all that @first offers. */
static int show_cpu(const struct ask *ask, struct question *q, const struct host_file *first,
		    struct err *e)
{
	const bool here = !ask->host && !ask->from;
	struct guest_contract *g = &q->in.guest;
	struct kvm kvm = {.fd = -1};
	int ret = 0;

	offered_cpuid(q, first, true, &q->guest);
	g->arch_cap = first->facts.kvm_arch_cap;
	if (ask->cpu) {
		if (here && kvm_open(&kvm, e) < 0)
			return -EXIT_VMM_ERROR;
		ret = cpu_option_shown(ask->cpu, here ? &kvm : NULL, q->policy.nested_shown,
				       q->assumed, &q->guest, &g->arch_cap, e);
		kvm_close(&kvm);
		if (ret == -EINVAL && !cpu_option_is_path(ask->cpu))
			return -EXIT_USAGE;
		if (ret < 0)
			return -EXIT_BAD_INPUT;
	}
	vcpu_base_cpuid(&q->guest, &(struct kvm) {.tsc_deadline = true}, q->policy.nested_shown);
	contract_read_cpuid(g, &q->in.nested, &q->guest);
	if (q->assumed && cpu_vendor_from_id(first->facts.vendor_id) == CPU_VENDOR_INTEL)
		g->leaf80000008_ebx = 0; /* AMD's way to enumerate: nothing to assume */
	if (ask->guest.sees) {
		g->leaf7_2_edx = ask->guest.leaf7_2_edx;
		g->arch_cap = ask->guest.arch_cap;
	}
	if (!(g->leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)))
		g->arch_cap = 0;
	return 0;
}

/* What the guest is shown on @first, where it starts; as testudo run does it. */
static int make_contract(const struct ask *ask, struct question *q, const struct host_file *first,
			 struct err *e)
{
	const struct guest_says *w = &ask->guest;
	struct guest_contract *g = &q->in.guest;
	struct pool_level pool;
	struct cpuid_leaf *l;
	int ret = load_pool(ask, q, first, &pool, e);

	if (ret < 0)
		return ret;
	q->in.pool = pool.facts;
	g->vendor = cpu_vendor_from_id(first->facts.vendor_id);
	ret = show_cpu(ask, q, first, e);
	if (ret < 0)
		return ret;
	if (!w->sees)
		pool_level_guest(&pool, g);
	mitigation_advertise(&first->facts, &first->backend, &q->policy.mitigation, &pool.facts, g);
	if (w->report.aware && !(g->virt_enum & VIRT_ENUM_MITIGATION))
		return err_set(e, -EXIT_USAGE,
			       "--guest: reported=: this guest is not offered the virtual MSRs (by "
			       "the policy, the pool, the back end, or not an Intel host), so it "
			       "cannot report; leave it out or give unaware");
	l = cpuid_find(&q->guest, 7, 0);
	if (l)
		l->edx = g->leaf7_0_edx;
	l = cpuid_find(&q->guest, 7, 2);
	if (l)
		l->edx = g->leaf7_2_edx;
	return 0;
}

static int load_host(const struct ask *ask, const char *path, struct host_file *f, struct err *e)
{
	if (!path)
		return host_here_read(f, ask->force_cap, e) < 0 ? -EXIT_VMM_ERROR : 0;
	return host_facts_load(path, f, e) < 0 ? -EXIT_BAD_INPUT : 0;
}

/* What was held where the guest comes from. */
static void make_promise(struct question *q)
{
	struct mitigation_input there = q->in;
	struct mitigation_decision d;

	there.host = q->from.facts;
	there.backend = q->from.backend;
	mitigation_decide(&there, &d);
	q->in.promise = (struct mitigation_promise) {
		.valid = true, .mask = d.mask, .value = d.value, .weak = mitigation_left_weak(&d)};
}

static int make_question(const struct ask *ask, struct question *q, struct err *e)
{
	struct pool_level pool;
	int ret = 0;

	if (policy_load(ask->policy, &q->policy, e) < 0)
		return -EXIT_BAD_INPUT;
	ret = load_host(ask, ask->host, &q->host, e);
	if (!ret && ask->from)
		ret = load_host(ask, ask->from, &q->from, e);
	q->assumed = !q->host.cpuid.n_leaves || (ask->from && !q->from.cpuid.n_leaves);
	if (!ret)
		ret = make_contract(ask, q, ask->from ? &q->from : &q->host, e);
	if (ret < 0)
		return ret;
	q->in.report = ask->guest.report;
	q->in.policy = q->policy.mitigation;
	if (ask->from)
		make_promise(q);
	q->in.host = q->host.facts;
	q->in.backend = q->host.backend;
	if (!ask->from)
		return 0;
	ret = load_pool(ask, q, &q->host, &pool, e);
	if (!ret)
		q->in.pool = pool.facts;
	return ret;
}

/* The same question that a host asks itself when a guest comes, after the policy. */
static void decide_cpu(struct question *q, struct mitigation_decision *d)
{
	struct cpuid_set host;

	offered_cpuid(q, &q->host, true, &host);
	if (cpuid_list_missing(&q->guest, &host, q->missing + strlen(CPU_MISSING),
			       sizeof(q->missing) - strlen(CPU_MISSING))) {
		memcpy(q->missing, CPU_MISSING, strlen(CPU_MISSING));
		mitigation_add_cpu(d, q->missing);
	}
}

static int print_json(const struct ask *ask, const struct question *q,
		      const struct mitigation_decision *d, struct err *e)
{
	json_t *root = explain_json(&q->in, d);
	int ret = 0;

	if (root && ask->from)
		ret = json_object_set_new(root, "cpu-compared",
					  json_string(q->assumed ? "leaf 7 only" : "all"));
	if (!ret)
		ret = root ? json_dumpf(root, stdout, JSON_INDENT(8)) : -1;
	json_decref(root);
	putchar('\n');
	return ret ? err_set(e, -EXIT_VMM_ERROR, "cannot print: out of memory or output closed")
		   : 0;
}

static int explain(int argc, char **argv, struct err *e)
{
	AUTO_FREE struct question *q = calloc(1, sizeof(*q));
	struct mitigation_decision d;
	struct ask ask = {.force_cap = BACKEND_FIND_CAP};
	int ret = read_options(&ask, argc, argv, e);

	if (ret < 0)
		return ret;
	if (ret > 0)
		return options_print_help(&explain_options) ? 0 : EXIT_VMM_ERROR;
	if (ask.cpu && strcmp(ask.cpu, CPU_OPTION_HELP) == 0)
		return cpu_option_print_names() ? 0 : EXIT_VMM_ERROR;
	if (!q)
		return err_set(e, -EXIT_VMM_ERROR, "out of memory");
	ret = make_question(&ask, q, e);
	if (ret < 0)
		return ret;
	mitigation_decide(&q->in, &d);
	if (ask.from)
		decide_cpu(q, &d);
	if (ask.json)
		ret = print_json(&ask, q, &d, e);
	else
		explain_text(stdout, &q->in, &d);
	if (!ask.json && ask.from && q->assumed)
		fputs("\nOf the CPU only leaf 7 was compared: a fact file does not tell the rest; "
		      "make both anew\nwith testudo host --json.\n",
		      stdout);
	if (ret < 0)
		return ret;
	return d.verdict == VERDICT_REFUSE ? EXIT_POLICY : 0;
}

/* ---- check ---- */

static int check_file(const char *path, struct policy *p, struct host_file *member, struct err *e)
{
	unsigned int i;

	if (policy_load(path, p, e) < 0)
		return -EXIT_BAD_INPUT;
	for (i = 0; i < p->n_pool_paths; i++) {
		AUTO_FREE char *full = policy_pool_path(p, i, path);

		if (!full)
			return err_set(e, -EXIT_VMM_ERROR, "out of memory");
		if (host_facts_load(full, member, e) < 0)
			return -EXIT_BAD_INPUT;
	}
	if (!log_enabled(LOG_INFO))
		return 0;
	if (p->n_pool_paths)
		text_say("%s: no mistakes, %u host fact files read", path, p->n_pool_paths);
	else
		text_say("%s: no mistakes", path);
	return 0;
}

static const struct option_row check_rows[] = {
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options check_options = {
	OPTIONS_TABLE(check_rows),
	.see = "testudo policy --help",
};

static int check(int argc, char **argv, struct err *e)
{
	AUTO_FREE struct policy *p = malloc(sizeof(*p));
	AUTO_FREE struct host_file *member = malloc(sizeof(*member));
	const int words = options_parse(&check_options, NULL, argc, argv, e);
	int i, ret = 0;

	if (words < 0)
		return -EXIT_USAGE;
	if (!words)
		options_print_help(&explain_options);
	else if (words == argc)
		ret = err_set(e, -EXIT_USAGE,
			      "policy check: no file; give one: testudo policy check FILE");
	else if (!p || !member)
		ret = err_set(e, -EXIT_VMM_ERROR, "out of memory");
	for (i = words; words && !ret && i < argc; i++)
		ret = check_file(argv[i], p, member, e);
	return ret;
}

int cmd_policy(int argc, char **argv)
{
	struct err e = {0};
	int i, ret;

	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return options_print_help(&explain_options) ? 0 : EXIT_VMM_ERROR;
	if (argc < 2)
		ret = err_set(&e, -EXIT_USAGE,
			      "policy: no word; give check or explain, see testudo policy --help");
	else if (strcmp(argv[1], "check") == 0)
		ret = check(argc - 1, argv + 1, &e);
	else if (strcmp(argv[1], "explain") == 0)
		ret = explain(argc - 1, argv + 1, &e);
	else
		ret = err_set(&e, -EXIT_USAGE,
			      argv[1][0] == '-' ? "policy: option %s is unknown; give check or "
						  "explain first, see testudo policy --help"
						: "policy: %s is no word; give check or explain, "
						  "see testudo policy --help",
			      text_quote(argv[1], strlen(argv[1])).s);
	if (ret < 0)
		log_err("%s", e.text);
	return ret < 0 ? -ret : ret;
}
