/* testudo host: what this host is, as a page for people or as a fact file for a pool. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "policy/explain.h"
#include "vmm/cmd.h"
#include "vmm/exit_code.h"
#include "vmm/guest/config.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/host_here.h"

struct host_words {
	bool json;
	uint32_t force_cap;
};

static const struct option_row host_rows[] = {
	{"json", 0, NULL, "as a fact file, for a policy's pool and for testudo policy explain",
	 OPTION_SETS(struct host_words, json, true)},
	{CONFIG_FORCE_CAP, 0, "N",
	 "the number of KVM_CAP_FORCE_SPEC_CTRL on a patched kernel, as for testudo run",
	 OPTION_NUMBER_IN(struct host_words, force_cap, 1, CONFIG_FORCE_CAP_MAX)},
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options host_options = {
	OPTIONS_TABLE(host_rows),
	.see = "testudo host --help",
	.head = "Usage: testudo host [OPTION]...\n\n"
		"Print what decides about a guest's protection on this host: processor, what KVM "
		"offers\n"
		"to guests, the way to hold bits of IA32_SPEC_CTRL, microcode, kernel and what the "
		"kernel\n"
		"says about vulnerabilities.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 printed, 1 KVM cannot be asked, 2 wrong usage\n",
	.indent = 4,
};

static void print_text(const struct host_file *f)
{
	unsigned int i;

	explain_host(stdout, &f->facts, &f->backend);
	printf("microcode   %s\nkernel      %s\n", f->info.microcode, f->info.kernel);
	for (i = 0; i < f->info.n_vulns; i++)
		printf("%s%-27s %s\n", i ? "            " : "sysfs       ", f->info.vuln[i].name,
		       f->info.vuln[i].text);
}

static int print_json(const struct host_file *f)
{
	char *text = host_file_format(f);

	if (text)
		fputs(text, stdout);
	else
		log_err("out of memory");
	free(text);
	return text ? 0 : EXIT_VMM_ERROR;
}

static int print(const struct host_words *w, struct err *e)
{
	struct host_file f;

	if (host_here_read(&f, w->force_cap, e) < 0)
		return EXIT_VMM_ERROR;
	if (w->json)
		return print_json(&f);
	print_text(&f);
	return 0;
}

int cmd_host(int argc, char **argv)
{
	struct host_words w = {.force_cap = BACKEND_FIND_CAP};
	struct err e = {0};
	int code, words = options_parse(&host_options, &w, argc, argv, &e);

	if (!words)
		return options_print_help(&host_options) ? 0 : EXIT_VMM_ERROR;
	if (words > 0 && words < argc)
		words = options_one_too_many(&host_options, argv[words], &e);
	code = words < 0 ? EXIT_USAGE : print(&w, &e);
	if (e.code)
		log_err("%s", e.text);
	return code;
}
