/* The command lines of the subcommands that act on running guests, and how each of them ends. */
#ifndef VMM_CMD_GUEST_WORDS_H
#define VMM_CMD_GUEST_WORDS_H

#include <stdbool.h>
#include <stdint.h>

struct err;

#define GUEST_ANSWER_MS 5000 /* how long a guest may take to answer a command */

enum {
	GUEST_WANTS_NAME = 1,
	GUEST_TAKES_JSON = 2,
	GUEST_TAKES_STOP = 4, /* --force and --timeout */
};

struct guest_words {
	const char *name; /* of the guest, if wanted */
	bool json, force;
	uint64_t timeout_sec;
};

/**
 * guest_words_parse - read the words from the subcommand's name on
 * @help: printed for --help
 * @takes: GUEST_* bits
 * Return: -1 to go on; else the exit code, everything being said
 */
int guest_words_parse(struct guest_words *w, int argc, char **argv, const char *help, int takes);

/** guest_words_finish - log the text of a failure. Return: the exit code for @ret, 0 or -errno */
int guest_words_finish(int ret, const struct err *e);

#endif
