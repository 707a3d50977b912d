/*
 * testudo migrate: opens the way to the destination, hands it to the guest's process, and tells how
 * it goes. The guest's process cannot open connections itself.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/num.h"
#include "control/qmp_client.h"
#include "migration/socket.h"
#include "vmm/cmd.h"
#include "vmm/migrate.h"

#define ANSWER_MS  10000
#define CONNECT_MS 10000
#define LOOK_MS	   100 /* between two looks at how far it is */
#define BAR_WIDTH  24

static const char help[] =
	"Usage: testudo migrate NAME URI [OPTION]...\n\n"
	"Move a running guest to a testudo run --incoming at tcp:HOST:PORT or unix:PATH.\n\n"
	"Options:\n"
	"    --downtime-ms N\n"
	"        how long the guest may stand still (default 20)\n"
	"    --timeout SECONDS\n"
	"        how long it may take until the guest is quiet enough (default: no limit)\n"
	"    --on-timeout cancel|force|throttle\n"
	"        then: give up (default), pause it whatever that takes, or slow it down all the "
	"way\n"
	"    --stall-timeout SECONDS\n"
	"        a destination that moves no byte for so long is taken for lost (default 10)\n"
	"    --channels N\n"
	"        connections for memory, 1 to 16 (default 2)\n"
	"    --local\n"
	"        both on this host, over unix: hand the memory over instead of copying it\n"
	"    --dry-run\n"
	"        ask the destination whether it would work; nothing moves\n"
	"    --json\n"
	"        one JSON line an event on standard output (as always where that is no terminal)\n"
	"  -h, --help\n"
	"        this text\n\n"
	"Exit codes: 0 moved (or would be), 2 wrong usage, 3 no such guest, 4 refused by policy,\n"
	"5 failed and the guest goes on here, 6 outcome unknown: look at the destination\n";

struct command {
	const char *name;
	struct uri uri;
	uint64_t limit_ms, timeout_s, stall_s, channels;
	const char *on_timeout;
	bool local, dry_run, json;

	struct qmp_client client;
	sigset_t signals; /* that mean: cancel */
	bool bar;	  /* a progress bar is on the terminal's last line */
	bool ended;	  /* the guest ended by itself, and with it its process */
	char reason[64];  /* then: why, as SHUTDOWN says it */
	char outcome[16]; /* as the last MIGRATION says it */
};

/* ---- telling ---- */

static json_int_t get_int(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static const char *get_text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

static void tell_json(const char *event, const json_t *state)
{
	json_t *line = json_copy((json_t *)state);

	json_object_set_new(line, "event", json_string(event));
	json_dumpf(line, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(line);
}

static void tell_bar(struct command *c, const json_t *state)
{
	const json_t *ram = json_object_get(state, "ram");
	const json_int_t total = get_int(ram, "total"), left = get_int(ram, "remaining");
	const unsigned int full = total ? (unsigned int)((total - left) * BAR_WIDTH / total) : 0;
	unsigned int i;

	printf("\r[");
	for (i = 0; i < BAR_WIDTH; i++)
		putchar(i < full ? '#' : '.');
	printf("] %-9s round %lld  %6.0f MB/s  dirty %lld pages/s  pause ~%lld ms \033[K",
	       get_text(state, "status"), (long long)get_int(ram, "dirty-sync-count"),
	       json_number_value(json_object_get(ram, "mbps")) / 8,
	       (long long)get_int(ram, "dirty-pages-rate"),
	       (long long)get_int(state, "expected-downtime"));
	fflush(stdout);
	c->bar = true;
}

static void end_bar(struct command *c)
{
	if (c->bar)
		printf("\r\033[K");
	c->bar = false;
}

static void tell_end(struct command *c, const json_t *state)
{
	const json_t *ram = json_object_get(state, "ram");
	const char *change = get_text(state, "x-testudo-mitigation");

	end_bar(c);
	if (c->dry_run) {
		printf("guest '%s' could move there now\n", c->name);
	} else {
		printf("guest '%s' moved in %lld ms; it stood still for %.1f ms; %.1f MiB sent in "
		       "%lld rounds\n",
		       c->name, (long long)get_int(state, "total-time"),
		       (double)get_int(state, "x-testudo-downtime-us") / 1000,
		       (double)get_int(ram, "transferred") / (double)MiB,
		       (long long)get_int(ram, "dirty-sync-count"));
	}
	printf("mitigations: %s\n", *change ? change : "held as before");
}

/* ---- the migration ---- */

static int execute(struct command *c, const char *name, json_t *args, json_t **ret, struct err *e)
{
	return qmp_client_execute(&c->client, name, args, NULL, 0, ret, e);
}

static int set_parameters(struct command *c, struct err *e)
{
	json_t *args = json_pack("{sI sI sI}", "downtime-limit", (json_int_t)c->limit_ms,
				 "x-testudo-timeout", (json_int_t)c->timeout_s,
				 "x-testudo-stall-timeout", (json_int_t)c->stall_s);

	json_object_set_new(args, "x-testudo-on-timeout", json_string(c->on_timeout));
	return execute(c, "migrate-set-parameters", args, NULL, e);
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
			ret = qmp_client_execute(&c->client, "getfd",
						 json_pack("{ss}", "fdname", name), &fd[i], 1, NULL,
						 e);
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
	pthread_sigmask(SIG_BLOCK, &c->signals, NULL);
	args = json_pack("{ss so sb sb}", "uri", "fd:migrate0", "x-testudo-channels", names,
			 "x-testudo-dry-run", c->dry_run, "x-testudo-local", c->local);
	return execute(c, "migrate", args, NULL, e);
}

/* What the guest's process said last tells who has the guest when it has ended. */
static void note_event(struct command *c, const json_t *event)
{
	const json_t *data = json_object_get(event, "data");
	const char *name = get_text(event, "event");

	if (strcmp(name, "MIGRATION") == 0)
		snprintf(c->outcome, sizeof(c->outcome), "%s", get_text(data, "x-testudo-outcome"));
	if (strcmp(name, "SHUTDOWN") != 0)
		return;
	/* one that somebody ended here may have been handed over a moment before */
	c->ended = json_is_true(json_object_get(data, "guest"));
	snprintf(c->reason, sizeof(c->reason), "%.63s", get_text(data, "reason"));
}

static bool is_over(const json_t *state)
{
	const char *status = get_text(state, "status");

	return strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 ||
	       strcmp(status, "cancelled") == 0;
}

/* Ctrl-C, or the terminal is gone and nobody looks on any more */
static void cancel_if_asked(struct command *c, bool *asked)
{
	const struct timespec now = {0};
	struct err e = {0};

	if (*asked || sigtimedwait(&c->signals, NULL, &now) < 0)
		return;
	*asked = true;
	if (execute(c, "migrate_cancel", NULL, NULL, &e) < 0)
		log_warn("%s", e.text);
}

/* Wait a little, or until the guest's process tells of something; and remember what that was. */
static void wait_for_news(struct command *c)
{
	unsigned int ms = LOOK_MS;
	json_t *event = NULL;

	while (qmp_client_event(&c->client, ms, &event, NULL) > 0) {
		note_event(c, event);
		json_decref(event);
		ms = 0;
	}
}

/* Return: 0 with the last state in *@state; -errno when the guest's process is not there any more
 */
static int watch(struct command *c, json_t **state, struct err *e)
{
	bool asked = false;
	int ret;

	for (;;) {
		ret = execute(c, "query-migrate", NULL, state, e);
		if (ret < 0) {
			wait_for_news(c); /* what came before the end */
			return ret;
		}
		if (is_over(*state))
			return 0;
		if (c->json)
			tell_json("progress", *state);
		else
			tell_bar(c, *state);
		json_decref(*state);
		*state = NULL;
		cancel_if_asked(c, &asked);
		wait_for_news(c);
	}
}

/* The copy that stayed behind has no use any more. */
static void end_source(struct command *c)
{
	struct err e = {0};

	if (execute(c, "quit", NULL, NULL, &e) < 0 && e.code != -ECONNRESET)
		log_warn("the copy at the source did not end: %s", e.text);
}

static bool runs_here(struct command *c)
{
	json_t *status = NULL;
	bool runs;

	execute(c, "query-status", NULL, &status, NULL);
	runs = json_is_true(json_object_get(status, "running"));
	json_decref(status);
	return runs;
}

static int finish(struct command *c, const json_t *state)
{
	const char *status = get_text(state, "status"), *outcome;
	const bool moved = strcmp(status, "completed") == 0;

	if (c->json)
		tell_json(status, state);
	end_bar(c);
	if (moved) {
		if (!c->json)
			tell_end(c, state);
		if (!c->dry_run)
			end_source(c);
		return 0;
	}
	outcome = get_text(state, "x-testudo-outcome");
	if (strcmp(outcome, "unknown") == 0) {
		log_err("guest '%s': outcome unknown: %s; it stands still here: if it runs at the "
			"destination, testudo stop --force %s, else testudo resume %s",
			c->name, get_text(state, "error-desc"), c->name, c->name);
		return EXIT_MIGRATE_UNKNOWN;
	}
	log_err("guest '%s' %s: %s; it %s here", c->name,
		c->dry_run ? "cannot move" : "was not moved", get_text(state, "error-desc"),
		runs_here(c) ? "goes on" : "stays paused");
	return json_is_true(json_object_get(state, "x-testudo-refused")) ? EXIT_POLICY
									 : EXIT_MIGRATE_FAILED;
}

static int run(struct command *c, struct err *e)
{
	json_t *state = NULL;
	int code, ret = qmp_client_open(&c->client, c->name, ANSWER_MS, e);

	if (ret < 0)
		return EXIT_BAD_INPUT;
	if (start(c, e) < 0)
		return EXIT_MIGRATE_FAILED;
	ret = watch(c, &state, e);
	if (ret < 0) {
		end_bar(c);
		*e = (struct err) {0};
		if (c->ended || strcmp(c->outcome, "here") == 0) {
			err_set(e, ret,
				"guest '%s' ended while it moved (%s); nothing runs at the "
				"destination",
				c->name, c->reason[0] ? c->reason : "its log says why");
			return EXIT_MIGRATE_FAILED;
		}
		err_set(e, ret,
			"the process of guest '%s' %s; look at the destination whether it is there",
			c->name, ret == -ETIMEDOUT ? "does not answer" : "ended");
		return EXIT_MIGRATE_UNKNOWN;
	}
	code = finish(c, state);
	json_decref(state);
	return code;
}

/* ---- options ---- */

enum {
	OPT_DOWNTIME = 256,
	OPT_TIMEOUT,
	OPT_STALL,
	OPT_ON_TIMEOUT,
	OPT_CHANNELS,
	OPT_LOCAL,
	OPT_DRY,
	OPT_JSON
};

static const struct option longs[] = {
	{"downtime-ms", required_argument, NULL, OPT_DOWNTIME},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"stall-timeout", required_argument, NULL, OPT_STALL},
	{"on-timeout", required_argument, NULL, OPT_ON_TIMEOUT},
	{"channels", required_argument, NULL, OPT_CHANNELS},
	{"local", no_argument, NULL, OPT_LOCAL},
	{"dry-run", no_argument, NULL, OPT_DRY},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static int set_on_timeout(struct command *c, const char *word, struct err *e)
{
	static const char *const words[] = {"cancel", "force", "throttle"};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(word, words[i]) == 0) {
			c->on_timeout = words[i];
			return 0;
		}
	return err_set(e, -EINVAL, "--on-timeout '%s': give cancel, force or throttle", word);
}

static int apply(struct command *c, int option, struct err *e)
{
	switch (option) {
	case OPT_DOWNTIME:
		return num_parse_u64("--downtime-ms", optarg, 1, 2000000, &c->limit_ms, e);
	case OPT_TIMEOUT:
		return num_parse_u64("--timeout", optarg, 1, 1000000, &c->timeout_s, e);
	case OPT_STALL:
		return num_parse_u64("--stall-timeout", optarg, 1, 3600, &c->stall_s, e);
	case OPT_ON_TIMEOUT:
		return set_on_timeout(c, optarg, e);
	case OPT_CHANNELS:
		return num_parse_u64("--channels", optarg, 1, MIGRATE_MAX_CHANNELS, &c->channels,
				     e);
	case OPT_LOCAL:
		c->local = true;
		return 0;
	case OPT_DRY:
		c->dry_run = true;
		return 0;
	case OPT_JSON:
		c->json = true;
		return 0;
	default:
		return err_set(e, -EINVAL, "%s; see testudo migrate --help",
			       option == ':' ? "an option lacks its value" : "unknown option");
	}
}

/* Return: 1: help was asked for; 0; -EINVAL */
static int parse(struct command *c, int argc, char **argv, struct err *e)
{
	int option, ret;

	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (option == 'h')
			return 1;
		ret = apply(c, option, e);
		if (ret < 0)
			return ret;
	}
	if (argc - optind != 2)
		return err_set(e, -EINVAL,
			       "give a guest and where it is to go: testudo migrate NAME URI");
	c->name = argv[optind];
	ret = uri_parse("URI", argv[optind + 1], &c->uri, e);
	if (ret < 0)
		return ret;
	if (c->uri.kind != URI_TCP && c->uri.kind != URI_UNIX)
		return err_set(e, -EINVAL,
			       "URI '%s': a guest moves to tcp:HOST:PORT or unix:PATH; testudo "
			       "save writes files",
			       argv[optind + 1]);
	if (c->local && c->uri.kind != URI_UNIX)
		return err_set(e, -EINVAL, "--local: memory is handed over by unix:PATH only");
	return 0;
}

int cmd_migrate(int argc, char **argv)
{
	struct command c = {
		.limit_ms = MIGRATE_DEFAULT_LIMIT_MS,
		.stall_s = MIGRATE_STALL_MS / 1000,
		.channels = MIGRATE_DEFAULT_CHANNELS,
		.on_timeout = "cancel",
		.json = !isatty(STDOUT_FILENO),
		.client.fd = -1,
	};
	struct err e = {0};
	int code = parse(&c, argc, argv, &e);

	if (code > 0) {
		fputs(help, stdout);
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&c.signals);
	sigaddset(&c.signals, SIGINT);
	sigaddset(&c.signals, SIGTERM);
	sigaddset(&c.signals, SIGHUP);
	code = code < 0 ? EXIT_USAGE : run(&c, &e);
	qmp_client_close(&c.client);
	if (e.code)
		log_err("%s", e.text);
	return code;
}
