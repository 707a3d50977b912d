/*
 * testudo pause, resume and stop: what a person does with a running guest. Each is a client of its
 * control socket and can do nothing that another client could not.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "control/process.h"
#include "control/qmp_client.h"
#include "vmm/cmd.h"
#include "vmm/cmd/guest_wait.h"
#include "vmm/cmd/guest_words.h"

#define FORCE_MS     3000 /* for quit to work, then it is SIGKILL */
#define LOOK_MS	     500  /* at what a process does that is waited for */
#define STOP_SEC     60
#define STOP_SEC_MAX 86400

static const struct option_row plain_rows[] = {
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options pause_options = {
	OPTIONS_TABLE(plain_rows),
	.see = "testudo pause --help",
	.head = "Usage: testudo pause NAME\n\n"
		"Let a guest stand still until testudo resume.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 paused, 1 it does not answer or cannot be paused now, 2 wrong "
		"usage,\n"
		"3 no such guest\n",
	.indent = 4,
};

static const struct options resume_options = {
	OPTIONS_TABLE(plain_rows),
	.see = "testudo resume --help",
	.head = "Usage: testudo resume NAME\n\n"
		"Let a paused guest go on.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 it runs, 1 it does not answer or cannot be resumed now, 2 wrong "
		"usage,\n"
		"3 no such guest\n",
	.indent = 4,
};

static const struct option_row stop_rows[] = {
	{"timeout", 0, "SECONDS", "how long to wait (default 60)",
	 OPTION_NUMBER_IN(struct guest_words, timeout_sec, 0, STOP_SEC_MAX)},
	{"force", 0, NULL,
	 "end it at once, whatever it does; its process is killed if it does not answer",
	 OPTION_SETS(struct guest_words, force, true)},
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options stop_options = {
	OPTIONS_TABLE(stop_rows),
	.see = "testudo stop --help",
	.head = "Usage: testudo stop NAME [--timeout SECONDS] [--force]\n\n"
		"Press a guest's power button and wait until it has ended.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 it has ended, 1 it runs on, 2 wrong usage, 3 no such guest\n",
	.indent = 4,
};

static int one_command(int argc, char **argv, const struct options *o, const char *command)
{
	struct qmp_client c;
	struct err e = {0};
	struct guest_words w = {0};
	int code = guest_words_parse(&w, argc, argv, o, true), ret;

	if (code >= 0)
		return code;
	ret = qmp_client_open(&c, w.name, GUEST_ANSWER_MS, &e);
	if (!ret)
		ret = guest_await(&c, &e);
	if (!ret)
		ret = qmp_client_execute(&c, command, NULL, NULL, 0, NULL, &e);
	qmp_client_close(&c);
	return guest_words_finish(ret, &e);
}

int cmd_pause(int argc, char **argv)
{
	return one_command(argc, argv, &pause_options, "stop");
}

int cmd_resume(int argc, char **argv)
{
	return one_command(argc, argv, &resume_options, "cont");
}

/*
 * Wait until the process has closed its side, its last act.
 * Return: 0; -EHOSTDOWN it is stopped and will not; -ETIMEDOUT; -errno
 */
static int wait_end(struct qmp_client *c, uint64_t timeout_ms, struct err *e)
{
	const uint64_t deadline = monotonic_ms() + timeout_ms;
	uint64_t left;
	int ret;

	do {
		const uint64_t now = monotonic_ms();
		json_t *event = NULL;

		left = deadline > now ? deadline - now : 0;
		ret = qmp_client_event(c, (unsigned int)(left < LOOK_MS ? left : LOOK_MS), &event,
				       e);
		if (ret > 0)
			json_decref(event);
		if (!ret && process_check(c->name, c->pid, e) < 0)
			return -EHOSTDOWN;
	} while (ret > 0 || (!ret && left));
	return ret == -ECONNRESET ? 0 : !ret ? -ETIMEDOUT : ret;
}

/* Why a guest takes no notice of its button. */
static const struct deaf {
	const char *state, *why;
	bool resume; /* it would after that */
} deaf[] = {
	{"paused", "is paused and cannot shut down", true},
	{"prelaunch", "has not been started and cannot shut down", true},
	{"finish-migrate", "stands still to be moved or saved; try again when that is over", false},
	{"postmigrate", "has left, moved or saved; nothing but the process is here", false},
	{"shutdown", "is ending; wait for it", false},
	{NULL, "is in a state that testudo does not know", false},
};

/* Return: 0: it runs; -EBUSY, with what to do in @e; -errno */
static int check_state(struct qmp_client *c, struct err *e)
{
	const struct deaf *d = deaf;
	const char *state;
	json_t *status;
	int ret = qmp_client_execute(c, "query-status", NULL, NULL, 0, &status, e);

	if (ret < 0)
		return ret;
	state = json_string_value(json_object_get(status, "status"));
	if (state && strcmp(state, "running") == 0)
		d = NULL;
	while (d && d->state && (!state || strcmp(d->state, state) != 0))
		d++;
	json_decref(status);
	if (!d)
		return 0;
	return err_set(e, -EBUSY, "guest '%s' %s%s%s%s; testudo stop --force %s ends it as it is",
		       c->name, d->why, d->resume ? "; testudo resume " : "",
		       d->resume ? c->name : "", d->resume ? " first" : "", c->name);
}

static int press_button(struct qmp_client *c, const struct guest_words *w, struct err *e)
{
	int ret = check_state(c, e);

	if (ret < 0)
		return ret;
	ret = qmp_client_execute(c, "system_powerdown", NULL, NULL, 0, NULL, e);
	if (ret == -ECONNRESET)
		return 0;
	if (!ret)
		ret = wait_end(c, w->timeout_sec * 1000, e);
	if (ret == -ETIMEDOUT)
		return err_set(e, ret,
			       "guest '%s' has not shut down after %llu s, it may take no notice "
			       "of its power button; testudo stop "
			       "--force %s ends it",
			       w->name, (unsigned long long)w->timeout_sec, w->name);
	return ret;
}

/* The process holds its side of the connection: its pid cannot be another's by now. */
static int kill_process(struct qmp_client *c, struct err *e)
{
	int ret;

	if (kill(c->pid, SIGKILL) < 0 && errno != ESRCH)
		return err_set(e, -errno, "guest '%s': cannot kill process %d: %s", c->name,
			       (int)c->pid, strerror(errno));
	log_warn("guest '%s': process %d did not answer and was killed", c->name, (int)c->pid);
	ret = wait_end(c, FORCE_MS, e);
	if (ret < 0)
		return err_set(e, ret, "guest '%s': process %d is killed and does not end", c->name,
			       (int)c->pid);
	return rundir_clean(e);
}

static int force(struct qmp_client *c, struct err *e)
{
	struct err why = {0};
	int ret;

	c->timeout_ms = FORCE_MS;
	ret = qmp_client_negotiate(c, &why);
	if (!ret)
		ret = qmp_client_execute(c, "quit", NULL, NULL, 0, NULL, &why);
	if (!ret)
		ret = wait_end(c, FORCE_MS, &why);
	return !ret || ret == -ECONNRESET ? 0 : kill_process(c, e);
}

int cmd_stop(int argc, char **argv)
{
	struct qmp_client c;
	struct err e = {0};
	struct guest_words w = {.timeout_sec = STOP_SEC};
	int code = guest_words_parse(&w, argc, argv, &stop_options, true), ret;

	if (code >= 0)
		return code;
	ret = qmp_client_connect(&c, w.name, GUEST_ANSWER_MS, &e);
	if (!ret && w.force)
		ret = force(&c, &e);
	else if (!ret)
		ret = qmp_client_negotiate(&c, &e);
	if (!ret && !w.force)
		ret = guest_await(&c, &e);
	if (!ret && !w.force)
		ret = press_button(&c, &w, &e);
	qmp_client_close(&c);
	return guest_words_finish(ret, &e);
}
