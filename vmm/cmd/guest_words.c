#include "vmm/cmd/guest_words.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/num.h"
#include "base/options.h"
#include "control/rundir.h"
#include "vmm/exit_code.h"

#define STOP_SEC     60
#define STOP_SEC_MAX 86400

int guest_words_parse(struct guest_words *w, int argc, char **argv, const char *help, int takes)
{
	static const struct {
		int takes; /* 0: every command */
		struct option o;
	} all[] = {
		{GUEST_TAKES_JSON, {"json", no_argument, NULL, 'j'}},
		{GUEST_TAKES_STOP, {"force", no_argument, NULL, 'f'}},
		{GUEST_TAKES_STOP, {"timeout", required_argument, NULL, 't'}},
		{0, {"help", no_argument, NULL, 'h'}},
	};
	struct option longs[ARRAY_SIZE(all) + 1] = {0};
	char see[48];
	size_t i, n = 0;
	struct err e = {0};
	int value;

	*w = (struct guest_words) {.timeout_sec = STOP_SEC};
	for (i = 0; i < ARRAY_SIZE(all); i++)
		if (!all[i].takes || takes & all[i].takes)
			longs[n++] = all[i].o;
	snprintf(see, sizeof(see), "testudo %s --help", argv[0]);
	optind = 0;
	opterr = 0;
	while ((value = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (value == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (value == '?' || value == ':') {
			options_wrong(see, longs, argv, value, &e);
			log_err("%s", e.text);
			return EXIT_USAGE;
		}
		w->json |= value == 'j';
		w->force |= value == 'f';
		if (value == 't' &&
		    num_parse_u64("--timeout", optarg, 0, STOP_SEC_MAX, &w->timeout_sec, &e) < 0) {
			log_err("%s", e.text);
			return EXIT_USAGE;
		}
	}
	if (takes & GUEST_WANTS_NAME && optind < argc)
		w->name = argv[optind++];
	if (optind < argc) {
		log_err("'%s' is one word too many; see testudo %s --help", argv[optind], argv[0]);
		return EXIT_USAGE;
	}
	if (takes & GUEST_WANTS_NAME && !w->name) {
		log_err("no guest named; see testudo list, testudo %s --help", argv[0]);
		return EXIT_USAGE;
	}
	if (w->name && rundir_check_name("guest", w->name, &e) < 0) {
		log_err("%s", e.text);
		return EXIT_USAGE;
	}
	return -1;
}

int guest_words_finish(int ret, const struct err *e)
{
	if (!ret)
		return 0;
	log_err("%s", e->text);
	return ret == -ENOENT || ret == -ECONNREFUSED ? EXIT_BAD_INPUT : EXIT_VMM_ERROR;
}
