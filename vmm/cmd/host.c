/* testudo host: what this host is, as a page for people or as a fact file for a pool. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "policy/explain.h"
#include "vmm/cmd.h"
#include "vmm/exit_code.h"
#include "vmm/guest/config.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/host_here.h"

static const char help[] =
	"Usage: testudo host [OPTION]...\n\n"
	"Print what decides about a guest's protection on this host: processor, what KVM offers\n"
	"to guests, the way to hold bits of IA32_SPEC_CTRL, microcode, kernel and what the kernel\n"
	"says about vulnerabilities.\n\n"
	"Options:\n"
	"    --json\n"
	"        as a fact file, for a policy's pool and for testudo policy explain\n"
	"    --kvm-cap-force-spec-ctrl N\n"
	"        the number of KVM_CAP_FORCE_SPEC_CTRL on a patched kernel, as for testudo run\n"
	"  -q, --quiet\n"
	"        only what went wrong on standard error\n"
	"  -h, --help\n"
	"        this text\n\n"
	"Exit codes: 0 printed, 1 KVM cannot be asked, 2 wrong usage\n";

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

int cmd_host(int argc, char **argv)
{
	static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
					      {CONFIG_FORCE_CAP, required_argument, NULL, 'k'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	uint32_t force_cap = BACKEND_FIND_CAP;
	struct host_file f;
	struct err e = {0};
	int value, json = 0, ret = 0;

	optind = 0;
	opterr = 0;
	while ((value = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (value == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (value == 'k') {
			if (config_parse_force_cap(optarg, &force_cap, &e) == 0)
				continue;
			log_err("%s", e.text);
			return EXIT_USAGE;
		}
		if (value != 'j') {
			options_wrong("testudo host --help", longs, argv, value, &e);
			log_err("%s", e.text);
			return EXIT_USAGE;
		}
		json = 1;
	}
	if (optind < argc) {
		log_err("'%s' is one word too many; see testudo host --help", argv[optind]);
		return EXIT_USAGE;
	}
	if (host_here_read(&f, force_cap, &e) < 0) {
		log_err("%s", e.text);
		return EXIT_VMM_ERROR;
	}
	if (json)
		ret = print_json(&f);
	else
		print_text(&f);
	return ret;
}
