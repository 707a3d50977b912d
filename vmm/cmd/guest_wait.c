#include "vmm/cmd/guest_wait.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "control/qmp_client.h"

#define ARRIVE_MS 10000
#define LOOK_MS	  50

static bool signal_waits(void)
{
	sigset_t pending;

	sigemptyset(&pending);
	sigpending(&pending);
	return sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
	       sigismember(&pending, SIGHUP);
}

/* Return: 1 it is awaited still; 0; -errno */
static int is_awaited(struct qmp_client *c, struct err *e)
{
	json_t *status;
	int ret = qmp_client_execute(c, "query-status", NULL, NULL, 0, &status, e);

	if (ret < 0)
		return ret;
	ret = strcmp(json_string_value(json_object_get(status, "status")), "inmigrate") == 0;
	json_decref(status);
	return ret;
}

/* Where it listens, and whether a source has begun, as query-migrate has it. */
static int ask_source(struct qmp_client *c, char *where, size_t size, bool *arriving, struct err *e)
{
	const char *text;
	json_t *state;
	int ret = qmp_client_execute(c, "query-migrate", NULL, NULL, 0, &state, e);

	if (ret < 0)
		return ret;
	text = json_string_value(json_object_get(state, "status"));
	*arriving = text && strcmp(text, "active") == 0;
	text = json_string_value(json_object_get(state, "x-testudo-incoming"));
	snprintf(where, size, "%s", text ? text : "its source");
	json_decref(state);
	return 0;
}

static int say_late(struct qmp_client *c, struct err *e)
{
	char where[160];
	bool arriving;
	int ret = ask_source(c, where, sizeof(where), &arriving, e);

	if (ret < 0)
		return ret;
	return err_set(e, -EAGAIN,
		       "guest '%s' %s at %s and has not come after %d s; %s, or give it up with "
		       "testudo stop --force %s",
		       c->name, arriving ? "arrives" : "is awaited", where, ARRIVE_MS / 1000,
		       arriving ? "try again later" : "start the migration at its source", c->name);
}

int guest_await(struct qmp_client *c, struct err *e)
{
	unsigned int waited;
	int ret = is_awaited(c, e);

	for (waited = 0; ret > 0 && waited < ARRIVE_MS; waited += LOOK_MS) {
		json_t *event = NULL;

		if (signal_waits())
			return err_set(e, -EINTR, "not waited for guest '%s'", c->name);
		ret = qmp_client_event(c, LOOK_MS, &event, e);
		if (ret > 0)
			json_decref(event);
		if (ret == -ECONNRESET)
			return err_set(e, ret, "guest '%s' ended", c->name);
		if (ret >= 0)
			ret = is_awaited(c, e);
	}
	return ret > 0 ? say_late(c, e) : ret;
}

int guest_await_arriving(struct qmp_client *c, struct err *e)
{
	char where[160];
	bool arriving = false;
	int ret = is_awaited(c, e);

	if (ret > 0)
		ret = ask_source(c, where, sizeof(where), &arriving, e);
	return ret < 0 || !arriving ? ret : guest_await(c, e);
}
