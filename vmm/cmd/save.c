/*
 * testudo save: makes the file, hands it to the guest's process, and gives it its name once all of
 * it is on the disk. The guest's process cannot open files itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/file_write.h"
#include "base/log.h"
#include "base/options.h"
#include "base/text.h"
#include "control/rundir.h"
#include "vmm/cmd.h"
#include "vmm/cmd/guest_wait.h"
#include "vmm/cmd/migrate_client.h"
#include "vmm/exit_code.h"

#define SUFFIX ".tmp"

struct command {
	const char *name, *path;
	bool keep_running, force;
	struct migrate_client client;

	int dir_fd, fd;
	char base[NAME_MAX + 1], tmp[NAME_MAX + 1]; /* names in the directory */
	bool was_running;
};

static const struct option_row save_rows[] = {
	{"keep-running", 0, NULL,
	 "the guest goes on afterwards; its disks then move on without the file",
	 OPTION_SETS(struct command, keep_running, true)},
	{"force", 0, NULL, "replace PATH if it is there", OPTION_SETS(struct command, force, true)},
	{"json", 0, NULL, "one JSON line an event on standard output",
	 OPTION_SETS(struct command, client.json, true)},
	OPTION_QUIET_ROW("only what went wrong, on standard error"),
	OPTION_HELP_ROW,
};

static const struct options save_options = {
	OPTIONS_TABLE(save_rows),
	.see = "testudo save --help",
	.head = "Usage: testudo save NAME PATH [OPTION]...\n\n"
		"Write a guest into the new file PATH and end it. testudo run --incoming file:PATH "
		"lets it\n"
		"go on from there.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 saved, 2 wrong usage, 3 no such guest or PATH cannot be made, 5 "
		"failed and\n"
		"the guest goes on\n",
	.indent = 4,
};

/* ---- the file ---- */

/* A guest is saved at places of its own choice: nothing but a regular file will do. */
static int find_place(struct command *c, struct err *e)
{
	struct file_place place;
	int ret = file_place_find("testudo save", c->path, &place, e);

	c->dir_fd = place.dir_fd;
	if (ret < 0)
		return ret;
	if (place.mode && !S_ISREG(place.mode))
		return err_set(e, -EINVAL,
			       "'%s' is %s, and a guest is saved into a regular file; give another "
			       "name",
			       c->path, file_kind(place.mode));
	if (place.mode && !c->force)
		return err_set(e, -EEXIST, "'%s' is there already; give another name, or --force",
			       c->path);
	memcpy(c->base, place.name, sizeof(c->base));
	if (snprintf(c->tmp, sizeof(c->tmp), "%s" SUFFIX, c->base) >= (int)sizeof(c->tmp))
		return err_set(e, -ENAMETOOLONG,
			       "'%.200s': the name is too long; leave room for " SUFFIX, c->path);
	return 0;
}

static int make_file(struct command *c, struct err *e)
{
	int ret = find_place(c, e);

	if (ret < 0)
		return ret;
	c->fd = openat(c->dir_fd, c->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (c->fd < 0 && errno == EEXIST)
		return err_set(e, -EEXIST,
			       "'%s" SUFFIX
			       "' is there already: another testudo save is at work, or "
			       "was killed; remove it then",
			       c->path);
	return c->fd < 0 ? err_set(e, -errno, "'%s" SUFFIX "' cannot be made: %s", c->path,
				   strerror(errno))
			 : 0;
}

static int name_file(const struct command *c)
{
	unsigned int flags = c->force ? 0 : RENAME_NOREPLACE;

	if (renameat2(c->dir_fd, c->tmp, c->dir_fd, c->base, flags) == 0)
		return 0;
	/* some file systems know no flags */
	return errno == EINVAL && renameat(c->dir_fd, c->tmp, c->dir_fd, c->base) == 0 ? 0 : -errno;
}

/* Return: 0: the file is there, whole, whatever happens to the host now */
static int keep_file(struct command *c, struct err *e)
{
	int ret = fsync(c->fd) < 0 ? -errno : name_file(c);

	if (ret < 0)
		return err_set(e, ret, "'%s': %s", c->path, strerror(-ret));
	c->tmp[0] = '\0';
	if (fsync(c->dir_fd) < 0)
		log_warn("'%s' is written, but its directory is not on the disk yet: %s", c->path,
			 strerror(errno));
	return 0;
}

static void drop_file(struct command *c)
{
	if (c->fd >= 0) {
		close(c->fd);
		if (c->tmp[0])
			unlinkat(c->dir_fd, c->tmp, 0);
	}
	if (c->dir_fd >= 0)
		close(c->dir_fd);
}

/* ---- the guest ---- */

static int start(struct command *c, struct err *e)
{
	json_t *status;
	int ret = migrate_client_execute(&c->client, "query-status", NULL, &status, e);

	if (ret < 0)
		return ret;
	c->was_running = json_is_true(json_object_get(status, "running"));
	json_decref(status);
	ret = migrate_client_pass(&c->client, "save", c->fd, e);
	if (ret < 0)
		return ret;
	return migrate_client_execute(&c->client, "migrate",
				      json_pack("{ss sb}", "uri", "fd:save",
						"x-testudo-keep-running", c->keep_running),
				      NULL, e);
}

/* It was written, and then something went wrong here: the guest waits to be told. */
static void let_go_on(struct command *c)
{
	struct err e = {0};

	if (c->was_running && !c->keep_running &&
	    migrate_client_execute(&c->client, "cont", NULL, NULL, &e) < 0)
		log_err("guest '%s' stands still: %s; testudo resume %s", c->name, e.text, c->name);
}

static void tell_end(const struct command *c, const json_t *state)
{
	const json_t *ram = json_object_get(state, "ram");
	const long long disks = migrate_client_int(state, "x-testudo-writable-disks");

	if (c->client.json)
		migrate_client_tell_json("completed", state);
	else if (log_enabled(LOG_INFO))
		text_say("guest '%s' saved in %lld ms: %.1f of %.1f MiB of memory are in '%s'; it "
			 "%s",
			 c->name, (long long)migrate_client_int(state, "total-time"),
			 (double)migrate_client_int(ram, "transferred") / (double)MiB,
			 (double)migrate_client_int(ram, "total") / (double)MiB, c->path,
			 !c->keep_running ? "ends"
			 : c->was_running ? "goes on"
					  : "stays paused");
	if (c->keep_running && disks)
		log_warn("guest '%s' goes on writing to %lld disk%s: what is in '%s' fits only a "
			 "copy of %s from this moment",
			 c->name, disks, disks > 1 ? "s" : "", c->path, disks > 1 ? "them" : "it");
}

/* Ctrl-C may have come after the last look. */
static bool is_cancelled(const struct command *c)
{
	sigset_t pending;

	sigemptyset(&pending);
	sigpending(&pending);
	return c->client.asked || sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
	       sigismember(&pending, SIGHUP);
}

static int finish(struct command *c, const json_t *state, struct err *e)
{
	const char *status = migrate_client_text(state, "status");
	int ret = 0;

	if (strcmp(status, "completed") != 0) {
		if (c->client.json)
			migrate_client_tell_json(status, state);
		return err_set(e, -EREMOTEIO, "guest '%s' was not saved: %s; it goes on", c->name,
			       migrate_client_text(state, "error-desc"));
	}
	if (is_cancelled(c))
		ret = err_set(e, -ECANCELED, "guest '%s' was not saved: cancelled; it goes on",
			      c->name);
	if (!ret)
		ret = keep_file(c, e);
	if (ret < 0) {
		let_go_on(c);
		return ret;
	}
	tell_end(c, state);
	if (!c->keep_running)
		migrate_client_end_guest(&c->client);
	return 0;
}

static int run(struct command *c, struct err *e)
{
	json_t *state = NULL;
	int ret = qmp_client_open(&c->client.qmp, c->name, MIGRATE_ANSWER_MS, e);

	if (ret < 0)
		return migrate_client_no_guest(ret);
	if (make_file(c, e) < 0)
		return EXIT_BAD_INPUT;
	ret = guest_await(&c->client.qmp, e);
	if (!ret)
		ret = start(c, e);
	if (!ret) {
		ret = migrate_client_watch(&c->client, &state, e);
		if (ret < 0) {
			const struct err why = *e;

			*e = (struct err) {0};
			if (c->client.ended)
				err_set(e, ret, "guest '%s' ended while it was saved (%s)", c->name,
					c->client.reason);
			else
				err_set(e, ret,
					"%s; nothing was saved; if testudo list shows it, testudo "
					"resume %s",
					why.text, c->name);
		}
	}
	if (!ret)
		ret = finish(c, state, e);
	json_decref(state);
	return ret ? EXIT_MIGRATE_FAILED : 0;
}

/* ---- the command ---- */

/* Return: 1: help was asked for; 0; -EINVAL */
static int parse(struct command *c, int argc, char **argv, struct err *e)
{
	const int words = options_parse(&save_options, c, argc, argv, e);

	if (words <= 0)
		return words ? words : 1;
	if (argc - words != 2)
		return err_set(e, -EINVAL, "give a guest and a file: testudo save NAME PATH");
	c->name = c->client.name = argv[words];
	c->path = argv[words + 1];
	return rundir_check_name("guest", c->name, e);
}

int cmd_save(int argc, char **argv)
{
	struct command c = {
		.dir_fd = -1,
		.fd = -1,
	};
	struct err e = {0};
	int code;

	migrate_client_init(&c.client, true);
	code = parse(&c, argc, argv, &e);

	if (code > 0)
		return options_print_help(&save_options) ? 0 : EXIT_VMM_ERROR;
	signal(SIGPIPE, SIG_IGN);
	migrate_client_block_signals(); /* nothing but the end of this function removes the file */
	code = code < 0 ? EXIT_USAGE : run(&c, &e);
	drop_file(&c);
	qmp_client_close(&c.client.qmp);
	if (e.code)
		log_err("%s", e.text);
	return code;
}
