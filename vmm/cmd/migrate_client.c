#include "vmm/cmd/migrate_client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/exit_code.h"

#define LOOK_MS	  100 /* between two looks at how far it is */
#define END_MS	  10000
#define BAR_WIDTH 24

/* ---- telling ---- */

json_int_t migrate_client_int(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

const char *migrate_client_text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

void migrate_client_tell_json(const char *event, const json_t *state)
{
	json_t *line = json_copy((json_t *)state);

	json_object_set_new(line, "event", json_string(event));
	json_dumpf(line, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(line);
}

/* "about 3 min": two digits are enough for an estimate */
static const char *left_text(json_int_t ms, char *buf, size_t size)
{
	if (ms <= 0)
		return "";
	if (ms < 90000)
		snprintf(buf, size, "  about %lld s left", (long long)(ms + 999) / 1000);
	else if (ms < 90 * 60000)
		snprintf(buf, size, "  about %lld min left", (long long)(ms + 59999) / 60000);
	else
		snprintf(buf, size, "  about %lld h left", (long long)(ms + 3599999) / 3600000);
	return buf;
}

/* One bar for all: how far this round, or the file, is, how fast it goes and how long it takes. */
static void tell_bar(struct migrate_client *c, const json_t *state)
{
	const json_t *ram = json_object_get(state, "ram");
	const json_int_t total = migrate_client_int(ram, "total");
	const json_int_t left = migrate_client_int(ram, "remaining");
	const unsigned int full = total ? (unsigned int)((total - left) * BAR_WIDTH / total) : 0;
	const double rate = json_number_value(json_object_get(ram, "mbps")) / 8;
	char left_words[40] = "";
	unsigned int i;

	printf("\r[");
	for (i = 0; i < BAR_WIDTH; i++)
		putchar(i < full ? '#' : '.');
	printf("] %s", migrate_client_text(state, "status"));
	if (!c->into_file)
		printf("  round %lld", (long long)migrate_client_int(ram, "dirty-sync-count"));
	printf("  %.0f of %.0f MiB  %.*f MB/s%s", (double)(total - left) / (double)MiB,
	       (double)total / (double)MiB, rate < 10 ? 1 : 0, rate,
	       left_text(migrate_client_int(state, "x-testudo-time-left"), left_words,
			 sizeof(left_words)));
	if (migrate_client_int(ram, "dirty-sync-count"))
		printf("  dirty %lld pages/s  pause ~%lld ms",
		       (long long)migrate_client_int(ram, "dirty-pages-rate"),
		       (long long)migrate_client_int(state, "expected-downtime"));
	printf("%s \033[K",
	       migrate_client_int(state, "cpu-throttle-percentage") ? ", slowed down" : "");
	fflush(stdout);
	c->bar = true;
}

int migrate_client_no_guest(int ret)
{
	return ret == -ENOENT || ret == -ECONNREFUSED ? EXIT_BAD_INPUT : EXIT_MIGRATE_FAILED;
}

void migrate_client_init(struct migrate_client *c, bool into_file)
{
	*c = (struct migrate_client) {
		.into_file = into_file,
		.bar_wanted = isatty(STDOUT_FILENO) && log_enabled(LOG_INFO),
		.qmp.fd = -1,
	};
}

void migrate_client_end_bar(struct migrate_client *c)
{
	if (c->bar)
		printf("\r\033[K");
	c->bar = false;
}

/* ---- acting ---- */

int migrate_client_execute(struct migrate_client *c, const char *command, json_t *args,
			   json_t **ret, struct err *e)
{
	return qmp_client_execute(&c->qmp, command, args, NULL, 0, ret, e);
}

int migrate_client_pass(struct migrate_client *c, const char *name, int fd, struct err *e)
{
	return qmp_client_execute(&c->qmp, "getfd", json_pack("{ss}", "fdname", name), &fd, 1, NULL,
				  e);
}

static void tell_stuck(struct migrate_client *c, const json_t *state)
{
	if (c->told_stuck || !json_is_true(json_object_get(state, "x-testudo-stuck")))
		return;
	c->told_stuck = true;
	migrate_client_end_bar(c);
	log_warn(
		"guest '%s' writes more than can be sent, also slowed down by %lld%%: rounds go on "
		"until it writes less, %s, or until Ctrl-C; allow a longer pause (--downtime-ms)%s",
		c->name, (long long)migrate_client_int(state, "cpu-throttle-percentage"),
		c->limited ? "until --timeout" : "however long that takes",
		c->limited ? "" : ", or end it by --timeout with --on-timeout");
}

static void our_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGHUP);
}

void migrate_client_block_signals(void)
{
	sigset_t signals;

	our_signals(&signals);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

static int cancel_if_asked(struct migrate_client *c, const sigset_t *signals, struct err *e)
{
	const struct timespec now = {0};
	struct err why = {0};

	if (sigtimedwait(signals, NULL, &now) < 0)
		return 0;
	if (c->asked)
		return err_set(e, -EINTR, "not waited for");
	c->asked = true;
	if (migrate_client_execute(c, "migrate_cancel", NULL, NULL, &why) < 0)
		log_warn("%s", why.text);
	return 0;
}

/* What the guest's process said last tells who has the guest when it has ended. */
static void note_event(struct migrate_client *c, const json_t *event)
{
	const json_t *data = json_object_get(event, "data");
	const char *name = migrate_client_text(event, "event");

	if (strcmp(name, "MIGRATION") == 0)
		snprintf(c->outcome, sizeof(c->outcome), "%s",
			 migrate_client_text(data, "x-testudo-outcome"));
	if (strcmp(name, "SHUTDOWN") != 0)
		return;
	/* one that somebody ended here may have been handed over a moment before */
	c->ended = json_is_true(json_object_get(data, "guest"));
	snprintf(c->reason, sizeof(c->reason), "%.63s", migrate_client_text(data, "reason"));
}

/* Wait a little, or until the guest's process tells of something; and remember what that was. */
static void wait_for_news(struct migrate_client *c)
{
	unsigned int ms = LOOK_MS;
	json_t *event = NULL;

	while (qmp_client_event(&c->qmp, ms, &event, NULL) > 0) {
		note_event(c, event);
		json_decref(event);
		ms = 0;
	}
}

static bool is_over(const json_t *state)
{
	const char *status = migrate_client_text(state, "status");

	return strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 ||
	       strcmp(status, "cancelled") == 0 || strcmp(status, "dry-run-passed") == 0;
}

static int watch(struct migrate_client *c, json_t **state, struct err *e)
{
	sigset_t signals;
	int ret;

	our_signals(&signals);
	for (;;) {
		ret = migrate_client_execute(c, "query-migrate", NULL, state, e);
		if (ret < 0)
			wait_for_news(c); /* what came before the end */
		if (ret < 0 || is_over(*state))
			return ret;
		if (c->json)
			migrate_client_tell_json("progress", *state);
		else if (c->bar_wanted)
			tell_bar(c, *state);
		tell_stuck(c, *state);
		json_decref(*state);
		*state = NULL;
		ret = cancel_if_asked(c, &signals, e);
		if (ret < 0)
			return ret;
		wait_for_news(c);
	}
}

int migrate_client_watch(struct migrate_client *c, json_t **state, struct err *e)
{
	int ret = watch(c, state, e);

	migrate_client_end_bar(c);
	return ret;
}

void migrate_client_end_guest(struct migrate_client *c)
{
	struct err e = {0};
	int ret = migrate_client_execute(c, "quit", NULL, NULL, &e);

	while (ret >= 0) {
		json_t *event = NULL;

		ret = qmp_client_event(&c->qmp, END_MS, &event, &e);
		if (ret > 0)
			json_decref(event);
		if (!ret)
			ret = err_set(&e, -ETIMEDOUT, "it does not end");
	}
	if (ret != -ECONNRESET)
		log_warn("the copy that stays behind did not end: %s", e.text);
}
