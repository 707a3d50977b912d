/* The command lines of the subcommands that act on running guests, and how each of them ends. */
#ifndef VMM_CMD_GUEST_WORDS_H
#define VMM_CMD_GUEST_WORDS_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct options;

#define GUEST_ANSWER_MS 5000 /* how long a guest may take to answer a command */

struct guest_words {
	const char *name; /* of the guest, if wanted */
	bool json, force;
	uint64_t timeout_sec;
};

/**
 * guest_words_parse - read the words from the subcommand's name on
 * @w: what holds where no option says otherwise
 * @o: its options, which fill a struct guest_words
 * @wants_name: of a guest
 * Return: -1 to go on; else the exit code, everything being said
 */
int guest_words_parse(struct guest_words *w, int argc, char **argv, const struct options *o,
		      bool wants_name);

/** guest_words_finish - log the text of a failure. Return: the exit code for @ret, 0 or -errno */
int guest_words_finish(int ret, const struct err *e);

#endif
