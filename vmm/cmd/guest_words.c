#include "vmm/cmd/guest_words.h"

#include <errno.h>

#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "control/rundir.h"
#include "vmm/exit_code.h"

/* Return: 0, or -EINVAL */
static int find_name(struct guest_words *w, int argc, char **argv, int words,
		     const struct options *o, bool wants_name, struct err *e)
{
	if (wants_name && words < argc)
		w->name = argv[words++];
	if (words < argc)
		return options_one_too_many(o, argv[words], e);
	if (!wants_name)
		return 0;
	if (!w->name)
		return err_set(e, -EINVAL, "no guest named; see testudo list, %s", o->see);
	return rundir_check_name("guest", w->name, e);
}

int guest_words_parse(struct guest_words *w, int argc, char **argv, const struct options *o,
		      bool wants_name)
{
	struct err e = {0};
	int ret = options_parse(o, w, argc, argv, &e);

	if (!ret)
		return options_print_help(o) ? 0 : EXIT_VMM_ERROR;
	if (ret > 0)
		ret = find_name(w, argc, argv, ret, o, wants_name, &e);
	if (!ret)
		return -1;
	log_err("%s", e.text);
	return EXIT_USAGE;
}

int guest_words_finish(int ret, const struct err *e)
{
	if (!ret)
		return 0;
	log_err("%s", e->text);
	return ret == -ENOENT || ret == -ECONNREFUSED ? EXIT_BAD_INPUT : EXIT_VMM_ERROR;
}
