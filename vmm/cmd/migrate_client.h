/*
 * What the subcommands that let a guest migrate have in common: watching it over the control
 * socket, and telling people or machines how far it is.
 */
#ifndef VMM_CMD_MIGRATE_CLIENT_H
#define VMM_CMD_MIGRATE_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "control/qmp_client.h"

struct err;

#define MIGRATE_ANSWER_MS 10000 /* that a guest's process may take to answer */

struct migrate_client {
	const char *name; /* of the guest */
	bool json;	  /* a line an event */
	bool bar_wanted;  /* standard output is a terminal, and not to be quiet */
	bool into_file;
	bool limited; /* somebody said how long it may take */
	struct qmp_client qmp;
	bool bar;	  /* the progress bar is on the terminal's last line */
	bool told_stuck;  /* the user knows that it may go on for ever */
	bool asked;	  /* a signal asked to cancel */
	bool ended;	  /* the guest ended by itself, and with it its process */
	char reason[64];  /* then: why, as SHUTDOWN says it */
	char outcome[16]; /* as the last MIGRATION says it */
};

/** migrate_client_block_signals - SIGINT, SIGTERM and SIGHUP wait until migrate_client_watch() */
void migrate_client_block_signals(void);

/** migrate_client_execute - as qmp_client_execute(), without descriptors */
int migrate_client_execute(struct migrate_client *c, const char *command, json_t *args,
			   json_t **ret, struct err *e);

/**
 * migrate_client_pass - give the guest's process a descriptor under a name
 * @fd: stays the caller's. Return: 0 or -errno
 */
int migrate_client_pass(struct migrate_client *c, const char *name, int fd, struct err *e);

/**
 * migrate_client_watch - tell how far it is until it is over; a signal cancels it, a second one is
 * not waited for
 * @state: receives the last answer of query-migrate, a new reference
 * Return: 0; -errno when the guest's process ended or does not answer; see @c->ended then
 */
int migrate_client_watch(struct migrate_client *c, json_t **state, struct err *e);

/** migrate_client_no_guest - the exit code when qmp_client_open() returned @ret: none, or none that
 * answers */
int migrate_client_no_guest(int ret);

/** migrate_client_init - @into_file: the guest is saved. What to show is found out: --json comes
 * later */
void migrate_client_init(struct migrate_client *c, bool into_file);

/** migrate_client_end_bar - nothing is left of it on the terminal */
void migrate_client_end_bar(struct migrate_client *c);
/** migrate_client_tell_json - one line: @state with "event": @event */
void migrate_client_tell_json(const char *event, const json_t *state);

/**
 * migrate_client_end_guest - the guest is somewhere else now: end this process of it, and wait
 * A warning tells when that fails.
 */
void migrate_client_end_guest(struct migrate_client *c);

/* members of an answer; 0 and "" when there are none */
json_int_t migrate_client_int(const json_t *o, const char *name);
const char *migrate_client_text(const json_t *o, const char *name);

#endif
