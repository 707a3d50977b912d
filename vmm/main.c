/* The table of contents: which subcommands there are, and how to reach them. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/options.h"
#include "base/std_fds.h"
#include "base/text.h"
#include "base/version.h"
#include "vmm/cmd.h"
#include "vmm/exit_code.h"

static int cmd_version(int argc, char **argv);
static int cmd_help(int argc, char **argv);

static bool is_quiet(const char *word)
{
	static const char name[] = "--quiet";
	const size_t len = strlen(word);

	if (word[0] == '-' && word[1] == 'q')
		return strspn(word + 1, "q") == len - 1;
	/* shortened, as getopt takes it */
	return len > 2 && strncmp(word, name, len) == 0;
}

/*
 * -q, --quiet of every command: nothing but what went wrong, and what was asked for (list, --json).
 * Taken here, since it may stand before policy's word, and version and help have no table of
 * options. testudo run's table takes it itself: what follows its -p is for the guest.
 * Return: the number of words that are left, or -1 after a message
 */
static int take_quiet(int argc, char **argv)
{
	int i, n = 0;

	for (i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (i && strncmp(argv[i], "--quiet=", 8) == 0) {
			log_err("option %s: --quiet takes no value; leave out %s",
				text_quote(argv[i], strlen(argv[i])).s,
				text_quote(argv[i] + 7, strlen(argv[i] + 7)).s);
			return -1;
		}
		if (i && is_quiet(argv[i]))
			log_set_level(LOG_ERR);
		else
			argv[n++] = argv[i];
	}
	for (; i < argc; i++)
		argv[n++] = argv[i];
	argv[n] = NULL;
	return n;
}

static const struct command {
	const char *name, *summary;
	int (*run)(int argc, char **argv);
	bool prints; /* what it is for is its output */
} commands[] = {
	{"run", "boot a guest and wait until it ends", cmd_run, false},
	{"list", "list the guests that run", cmd_list, true},
	{"stat", "print a guest's state, exits and mitigations", cmd_stat, true},
	{"pause", "let a guest stand still", cmd_pause, false},
	{"resume", "let a paused guest go on", cmd_resume, false},
	{"stop", "press a guest's power button and wait for its end", cmd_stop, false},
	{"migrate", "move a running guest to another host or process", cmd_migrate, false},
	{"save", "write a running guest into a file", cmd_save, false},
	{"host", "print what this host is, and what can be held on it", cmd_host, true},
	{"policy", "check a policy, or explain what it decides on a host", cmd_policy, true},
	{"version", "print the version", cmd_version, true},
	{"help", "print this text, or that of a command", cmd_help, true},
};

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int no_command(const char *name)
{
	struct nearest n = {.word = name};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++)
		nearest_try(&n, commands[i].name);
	if (name[0] == '-')
		log_err("option %s is unknown; before a command there are --help and --version, "
			"see testudo help",
			text_quote(name, strlen(name)).s);
	else
		log_err("%s is no command; %s%s%ssee testudo help",
			text_quote(name, strlen(name)).s, n.name ? "the nearest is " : "",
			n.name ? n.name : "", n.name ? "; " : "");
	return EXIT_USAGE;
}

/* version and help: a command's name at most, and no option but --help */
static int too_many(int argc, char **argv, int takes)
{
	if (argc - 1 <= takes && (argc < 2 || argv[1][0] != '-'))
		return 0;
	log_err(argv[argc - 1][0] == '-' ? "%s: option %s is unknown; see testudo help"
					 : "%s: %s is one word too many; see testudo help",
		argv[0], text_quote(argv[argc - 1], strlen(argv[argc - 1])).s);
	return EXIT_USAGE;
}

static int cmd_version(int argc, char **argv)
{
	const int code = too_many(argc, argv, 0);

	if (code)
		return code;
	printf("testudo %s\n", TESTUDO_VERSION);
	return 0;
}

static int cmd_help(int argc, char **argv)
{
	char help[] = "--help";
	size_t i;
	int code = too_many(argc, argv, 1);

	if (code)
		return code;
	if (argc > 1 && strcmp(argv[1], "help") != 0 && strcmp(argv[1], "version") != 0 &&
	    argv[1][0]) {
		const struct command *c = find_command(argv[1]);
		char *words[] = {argv[1], help, NULL};

		return c ? c->run(2, words) : no_command(argv[1]);
	}
	printf("Usage: testudo COMMAND [ARGUMENT]...\n\n"
	       "testudo is a small virtual machine monitor on /dev/kvm.\n\nCommands:\n");
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-8s  %s\n", commands[i].name, commands[i].summary);
	printf("\ntestudo COMMAND --help tells more.\n");
	return 0;
}

/* Output that nobody gets is an error, of the command only where it is what the command is for. */
static int end_output(int code, bool prints)
{
	const int ret = std_out_flush();

	if (!ret)
		return code;
	if (std_fd_was_closed(STDOUT_FILENO))
		log_err("standard output is closed; leave it open, or give >/dev/null");
	else
		log_err("cannot write to standard output: %s; look at where it goes",
			strerror(-ret));
	return code || !prints ? code : EXIT_VMM_ERROR;
}

static int run_command(int argc, char **argv, bool *prints)
{
	const struct command *c;

	*prints = true;
	if (argc < 2) {
		log_err("no command given; see testudo help");
		return EXIT_USAGE;
	}
	if (is_help(argv[1]))
		return cmd_help(1, argv + 1);
	if (strcmp(argv[1], "--version") == 0)
		return cmd_version(argc - 1, argv + 1);
	c = find_command(argv[1]);
	if (!c)
		return no_command(argv[1]);
	*prints = c->prints;
	if (argc > 2 && (c->run == cmd_version || c->run == cmd_help) && is_help(argv[2]))
		return cmd_help(1, argv + 1);
	argc--;
	argv++;
	if (c->run != cmd_run)
		argc = take_quiet(argc, argv);
	return argc < 0 ? EXIT_USAGE : c->run(argc, argv);
}

int main(int argc, char **argv)
{
	bool prints;
	int code;

	std_fds_hold();
	code = run_command(argc, argv, &prints);
	return end_output(code, prints);
}
