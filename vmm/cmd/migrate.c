/*
 * testudo migrate: opens the way to the destination, hands it to the guest's process, and tells how
 * it goes. The guest's process cannot open connections itself.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "base/text.h"
#include "control/rundir.h"
#include "migration/move/status.h"
#include "migration/state/clock.h"
#include "migration/wire/socket.h"
#include "vmm/cmd.h"
#include "vmm/cmd/guest_wait.h"
#include "vmm/cmd/migrate_client.h"
#include "vmm/exit_code.h"

#define CONNECT_MS 10000

struct command {
	const char *name, *where; /* where: the URI's words */
	struct uri uri;
	uint64_t limit_ms, timeout_s, stall_s, channels;
	const char *on_timeout;
	bool local, dry_run;

	struct migrate_client client;
};

static int take_on_timeout(void *into, char *word, struct err *e)
{
	static const char *const words[] = {"cancel", "force", "throttle"};
	struct command *c = into;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(word, words[i]) == 0) {
			c->on_timeout = words[i];
			return 0;
		}
	return err_set(e, -EINVAL, "--on-timeout '%s': give cancel, force or throttle", word);
}

static const struct option_row migrate_rows[] = {
	{"downtime-ms", 0, "N", "how long the guest may stand still (default 20)",
	 OPTION_NUMBER_IN(struct command, limit_ms, 1, 2000000)},
	{"timeout", 0, "SECONDS",
	 "how long it may take until the guest is quiet enough (default: no limit)",
	 OPTION_NUMBER_IN(struct command, timeout_s, 1, 1000000)},
	{"on-timeout", 0, "cancel|force|throttle",
	 "then: give up (default), pause it whatever that takes, or slow it down all the way",
	 OPTION_CALLS(take_on_timeout)},
	{"stall-timeout", 0, "SECONDS",
	 "a destination that moves no byte for so long is taken for lost (default 10)",
	 OPTION_NUMBER_IN(struct command, stall_s, 1, 3600)},
	{"channels", 0, "N", "connections for memory, 1 to 16 (default 2)",
	 OPTION_NUMBER_IN(struct command, channels, 1, MIGRATE_MAX_CHANNELS)},
	{"local", 0, NULL,
	 "both on this host, over unix: hand the memory over instead of copying it",
	 OPTION_SETS(struct command, local, true)},
	{"dry-run", 0, NULL, "ask the destination whether it would work; nothing moves",
	 OPTION_SETS(struct command, dry_run, true)},
	{"json", 0, NULL, "one JSON line an event on standard output",
	 OPTION_SETS(struct command, client.json, true)},
	OPTION_QUIET_ROW("only what went wrong, on standard error"),
	OPTION_HELP_ROW,
};

static const struct options migrate_options = {
	OPTIONS_TABLE(migrate_rows),
	.see = "testudo migrate --help",
	.head = "Usage: testudo migrate NAME URI [OPTION]...\n\n"
		"Move a running guest to a testudo run --incoming at tcp:HOST:PORT or "
		"unix:PATH.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 moved (with --dry-run: it could be, and nothing moved), 2 wrong "
		"usage, 3 no such\n"
		"guest, 4 refused by policy, 5 failed and the guest goes on at the source, 6 "
		"outcome unknown: look\n"
		"at the destination\n",
	.indent = 4,
};

static bool is_listed(const char *list, const char *name)
{
	const size_t len = strlen(name);
	const char *at;

	for (at = list; (at = strstr(at, name)); at += len)
		if ((at == list || at[-1] == ' ') && (at[len] == '\0' || at[len] == ','))
			return true;
	return false;
}

/* The bits that are held at 1 for any vCPU, where it was until now and so where it is */
static void list_held(struct command *c, char *buf, size_t size)
{
	json_t *report = NULL;
	const json_t *v, *name;
	size_t i, k;

	buf[0] = '\0';
	if (migrate_client_execute(&c->client, "x-testudo-query-mitigation", NULL, &report, NULL) <
	    0)
		return;
	json_array_foreach(json_object_get(report, "vcpus"), i, v)
	{
		json_array_foreach(json_object_get(json_object_get(v, "held"), "at-1"), k,
				   name) if (!is_listed(buf, json_string_value(name)))
			text_list_add(buf, size, json_string_value(name));
	}
	json_decref(report);
}

static void tell_mitigations(struct command *c, const char *change)
{
	char held[256];

	if (*change) {
		printf("mitigations: %s\n", change);
		return;
	}
	list_held(c, held, sizeof(held));
	if (held[0])
		printf("mitigations: %s held as before\n", held);
	else
		printf("mitigations: nothing held, as before\n");
}

static void tell_end(struct command *c, const json_t *state)
{
	const json_t *ram = json_object_get(state, "ram");
	const char *change = migrate_client_text(state, "x-testudo-mitigation");

	if (c->dry_run) {
		text_say("dry run: guest '%s' could move to %s now; nothing was moved", c->name,
			 c->where);
	} else {
		printf("guest '%s' moved in %lld ms; it stood still for %.1f ms; %.1f MiB sent in "
		       "%lld rounds\n",
		       c->name, (long long)migrate_client_int(state, "total-time"),
		       (double)migrate_client_int(state, "x-testudo-downtime-us") / 1000,
		       (double)migrate_client_int(ram, "transferred") / (double)MiB,
		       (long long)migrate_client_int(ram, "dirty-sync-count"));
	}
	tell_mitigations(c, change);
}

/* ---- the migration ---- */

static int set_parameters(struct command *c, struct err *e)
{
	json_t *args = json_pack("{sI sI sI}", "downtime-limit", (json_int_t)c->limit_ms,
				 "x-testudo-timeout", (json_int_t)c->timeout_s,
				 "x-testudo-stall-timeout", (json_int_t)c->stall_s);

	json_object_set_new(args, "x-testudo-on-timeout", json_string(c->on_timeout));
	return migrate_client_execute(&c->client, "migrate-set-parameters", args, NULL, e);
}

/* Open the connections, and give each a name over there. */
static int pass_channels(struct command *c, json_t *names, struct err *e)
{
	const unsigned int n = 1 + (c->local ? 0 : (unsigned int)c->channels);
	int fd[1 + MIGRATE_MAX_CHANNELS];
	unsigned int i;
	char name[32];
	int ret = socket_connect(&c->uri, n, CONNECT_MS, fd, e);

	if (ret < 0)
		return ret;
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "migrate%u", i);
		if (!ret)
			ret = migrate_client_pass(&c->client, name, fd[i], e);
		if (i)
			json_array_append_new(names, json_string(name));
		close(fd[i]);
	}
	return ret;
}

static int start(struct command *c, struct err *e)
{
	json_t *names = json_array(), *args;
	int ret = set_parameters(c, e);

	if (!ret)
		ret = pass_channels(c, names, e);
	if (ret < 0) {
		json_decref(names);
		return ret;
	}
	/* from here on a signal means: cancel. Before, nothing has begun */
	migrate_client_block_signals();
	args = json_pack("{ss so sb sb}", "uri", "fd:migrate0", "x-testudo-channels", names,
			 "x-testudo-dry-run", c->dry_run, "x-testudo-local", c->local);
	return migrate_client_execute(&c->client, "migrate", args, NULL, e);
}

static bool runs_here(struct command *c)
{
	json_t *status = NULL;
	bool runs;

	migrate_client_execute(&c->client, "query-status", NULL, &status, NULL);
	runs = json_is_true(json_object_get(status, "running"));
	json_decref(status);
	return runs;
}

/* The guest's own clocks do not follow; its users may wonder all the same. */
static void tell_clocks(const json_t *state)
{
	const json_int_t ms = migrate_client_int(state, "x-testudo-clock-difference-ms");
	char text[160];

	if (!clock_is_apart(ms * 1000000, 0))
		return;
	clock_tell_apart("this host", "the destination", ms * 1000000, text, sizeof(text));
	log_warn("%s; let NTP set both", text);
}

static int finish(struct command *c, const json_t *state)
{
	const char *status = migrate_client_text(state, "status"), *outcome;
	const bool went_well = strcmp(status, c->dry_run ? "dry-run-passed" : "completed") == 0;

	if (c->client.json)
		migrate_client_tell_json(status, state);
	if (went_well) {
		if (!c->client.json && log_enabled(LOG_INFO))
			tell_end(c, state);
		tell_clocks(state);
		if (!c->dry_run)
			migrate_client_end_guest(&c->client);
		return 0;
	}
	outcome = migrate_client_text(state, "x-testudo-outcome");
	if (strcmp(outcome, "unknown") == 0) {
		log_err("guest '%s': outcome unknown: %s; it stands still at the source: if it "
			"runs at the "
			"destination, testudo stop --force %s, else testudo resume %s",
			c->name, migrate_client_text(state, "error-desc"), c->name, c->name);
		return EXIT_MIGRATE_UNKNOWN;
	}
	log_err("guest '%s' %s: %s; it %s at the source", c->name,
		c->dry_run ? "cannot move" : "was not moved",
		migrate_client_text(state, "error-desc"),
		runs_here(c) ? "goes on" : "stays paused");
	return json_is_true(json_object_get(state, "x-testudo-refused")) ? EXIT_POLICY
									 : EXIT_MIGRATE_FAILED;
}

static int run(struct command *c, struct err *e)
{
	json_t *state = NULL;
	int code, ret = qmp_client_open(&c->client.qmp, c->name, MIGRATE_ANSWER_MS, e);

	if (ret < 0)
		return migrate_client_no_guest(ret);
	if (guest_await(&c->client.qmp, e) < 0 || start(c, e) < 0)
		return EXIT_MIGRATE_FAILED;
	ret = migrate_client_watch(&c->client, &state, e);
	if (ret < 0) {
		const struct err why = *e;

		*e = (struct err) {0};
		if (c->client.ended || strcmp(c->client.outcome, "here") == 0) {
			err_set(e, ret,
				"guest '%s' ended while it moved (%s); nothing runs at the "
				"destination",
				c->name,
				c->client.reason[0] ? c->client.reason : "its log says why");
			return EXIT_MIGRATE_FAILED;
		}
		err_set(e, ret, "%s; look at the destination whether the guest runs on it",
			why.text);
		return EXIT_MIGRATE_UNKNOWN;
	}
	code = finish(c, state);
	json_decref(state);
	return code;
}

/* ---- the command ---- */

/* Return: 0; -EINVAL */
static int parse_uri(struct command *c, struct err *e)
{
	int ret = uri_parse("URI", "tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH", c->where, &c->uri,
			    e);

	if (ret < 0)
		return ret;
	if (c->uri.kind != URI_TCP && c->uri.kind != URI_UNIX)
		return err_set(e, -EINVAL,
			       "URI '%s': a guest moves to tcp:HOST:PORT or unix:PATH; testudo "
			       "save writes files",
			       c->where);
	if (c->local && c->uri.kind != URI_UNIX)
		return err_set(e, -EINVAL, "--local: memory is handed over by unix:PATH only");
	return 0;
}

/* Return: 1: help was asked for; 0; -EINVAL */
static int parse(struct command *c, int argc, char **argv, struct err *e)
{
	const int words = options_parse(&migrate_options, c, argc, argv, e);
	int ret;

	if (words <= 0)
		return words ? words : 1;
	if (argc - words != 2)
		return err_set(e, -EINVAL,
			       "give a guest and where it is to go: testudo migrate NAME URI");
	c->name = c->client.name = argv[words];
	c->where = argv[words + 1];
	ret = rundir_check_name("guest", c->name, e);
	return ret ? ret : parse_uri(c, e);
}

int cmd_migrate(int argc, char **argv)
{
	struct command c = {
		.limit_ms = MIGRATE_DEFAULT_LIMIT_MS,
		.stall_s = MIGRATE_STALL_MS / 1000,
		.channels = MIGRATE_DEFAULT_CHANNELS,
		.on_timeout = "cancel",
	};
	struct err e = {0};
	int code;

	migrate_client_init(&c.client, false);
	code = parse(&c, argc, argv, &e);

	if (code > 0)
		return options_print_help(&migrate_options) ? 0 : EXIT_VMM_ERROR;
	c.client.limited = c.timeout_s;
	signal(SIGPIPE, SIG_IGN);
	code = code < 0 ? EXIT_USAGE : run(&c, &e);
	qmp_client_close(&c.client.qmp);
	if (e.code)
		log_err("%s", e.text);
	return code;
}
