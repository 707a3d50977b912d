#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "control/rundir.h"

/* numbers that are free in this program */
#define FD(n) (200 + (n))

static char top[64];

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/rundir-XXXXXX");
	assert_non_null(mkdtemp(top));
	return setenv("XDG_RUNTIME_DIR", top, 1);
}

static int teardown(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/testudo/.lock", top);
	unlink(path);
	snprintf(path, sizeof(path), "%s/testudo", top);
	rmdir(path);
	return rmdir(top); /* fails if a test left something */
}

static const char *at(const char *rest)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/testudo%s", top, rest);
	return path;
}

static bool there(const char *rest)
{
	return access(at(rest), F_OK) == 0;
}

static void open_ok(struct rundir *d, const char *name, int n)
{
	struct err e = {0};

	rundir_init(d);
	if (rundir_open(d, name, FD(2 * n), FD(2 * n + 1), &e) < 0)
		fail_msg("%s", e.text);
}

static void test_names(void **state)
{
	static const struct {
		const char *name;
		bool ok;
	} rows[] = {
		{"a", true},	{"guest-1.x_Y", true}, {"-a", true},   {"0", true},
		{"", false},	{".", false},	       {"..", false},  {".a", false},
		{"a/b", false}, {"a b", false},	       {"a\n", false}, {"\xc3\xa4", false},
	};
	char name[RUNDIR_NAME_MAX + 2];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err e = {0};

		assert_int_equal(rundir_check_name("--name", rows[i].name, &e),
				 rows[i].ok ? 0 : -EINVAL);
		assert_int_equal(e.text[0] != '\0' && !strchr(e.text, '\n'), !rows[i].ok);
	}
	memset(name, 'n', sizeof(name));
	name[RUNDIR_NAME_MAX] = '\0';
	assert_int_equal(rundir_check_name("--name", name, NULL), 0);
	name[RUNDIR_NAME_MAX] = 'n';
	name[RUNDIR_NAME_MAX + 1] = '\0';
	assert_int_equal(rundir_check_name("--name", name, NULL), -EINVAL);
}

static void test_life(void **state)
{
	struct rundir d;
	struct stat st;
	int fd;

	(void)state;
	open_ok(&d, "one", 0);
	assert_int_equal(d.base_fd, FD(0));
	assert_int_equal(d.dir_fd, FD(1));
	assert_int_equal(stat(at("/one"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(stat(at(""), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	fd = rundir_listen(&d, NULL);
	assert_true(fd >= 0);
	assert_true(there("/one/" RUNDIR_SOCKET));
	close(rundir_connect("one", 1000, NULL));
	close(fd);
	rundir_close(&d);
	assert_false(there("/one"));
	rundir_close(&d); /* again: harmless */
}

static void test_name_in_use_and_list(void **state)
{
	struct rundir a, b, c;
	struct rundir_list list;
	struct err e = {0};

	(void)state;
	assert_int_equal(rundir_list(&list, NULL), 0);
	assert_int_equal(list.n, 0);
	open_ok(&b, "b", 0);
	open_ok(&a, "a", 1);
	rundir_init(&c);
	assert_int_equal(rundir_open(&c, "a", FD(4), FD(5), &e), -EEXIST);
	assert_non_null(strstr(e.text, "--name a"));
	rundir_close(&c); /* removes nothing of the other's */
	assert_true(there("/a/lock"));
	assert_int_equal(rundir_list(&list, NULL), 0);
	assert_int_equal(list.n, 2);
	assert_string_equal(list.name[0], "a");
	assert_string_equal(list.name[1], "b");
	rundir_list_free(&list);
	assert_int_equal(rundir_connect("nobody", 1000, &(struct err) {0}), -ENOENT);
	rundir_close(&a);
	rundir_close(&b);
}

/* A guest that brings its name: whoever asks for it finds it, who has it keeps it. */
static void test_another_name(void **state)
{
	static const char *const bad[] = {"", ".", "..", "../x", "a/b", ".hidden", "a\n"};
	char longest[RUNDIR_NAME_MAX + 1];
	struct rundir a, b;
	struct err e = {0};
	size_t i;
	int fd;

	(void)state;
	open_ok(&a, "a", 0);
	open_ok(&b, "guest-1", 1);
	fd = rundir_listen(&b, NULL);
	assert_true(fd >= 0);
	assert_int_equal(rundir_rename(&b, "a", &e), -EEXIST);
	assert_non_null(strstr(e.text, "/a"));
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(rundir_rename(&b, bad[i], NULL), -EINVAL);
	assert_string_equal(b.name, "guest-1");
	assert_true(there("/guest-1/lock"));
	rundir_close(&a);
	assert_int_equal(rundir_rename(&b, "a", NULL), 0);
	assert_string_equal(b.name, "a");
	assert_string_equal(b.path, at("/a"));
	assert_false(there("/guest-1"));
	close(rundir_connect("a", 1000, NULL));
	assert_int_equal(rundir_clean(NULL), 0);
	assert_true(there("/a/lock")); /* it lives */
	memset(longest, 'n', RUNDIR_NAME_MAX);
	longest[RUNDIR_NAME_MAX] = '\0';
	assert_int_equal(rundir_rename(&b, longest, NULL), 0);
	close(fd);
	rundir_close(&b);
	assert_false(there("/a"));
}

/* What a killed process leaves: everything but the lock that it held. */
static void leave(struct rundir *d)
{
	close(rundir_listen(d, NULL));
	close(d->lock_fd);
	close(d->dir_fd);
	close(d->base_fd);
	free(d->path);
	rundir_init(d);
}

static void test_stale_ones_are_cleaned_and_no_live_one(void **state)
{
	struct rundir live, dead, next;
	struct err e = {0};

	(void)state;
	open_ok(&live, "live", 0);
	open_ok(&dead, "dead", 1);
	leave(&dead);
	assert_true(there("/dead/" RUNDIR_SOCKET));
	assert_int_equal(rundir_connect("dead", 1000, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.text, "killed"));
	mkdir(at("/empty"), 0700); /* killed between two steps */
	open_ok(&next, "next", 2);
	assert_false(there("/dead"));
	assert_false(there("/empty"));
	assert_true(there("/live/lock"));
	leave(&next);
	open_ok(&next, "next", 2); /* the same name again */
	leave(&next);
	assert_int_equal(rundir_clean(NULL), 0);
	assert_false(there("/next"));
	assert_true(there("/live/lock"));
	rundir_close(&live);
}

static void test_directories_of_others(void **state)
{
	static const mode_t modes[] = {0701, 0710, 0770, 0777, 01777};
	struct rundir d;
	size_t i;

	(void)state;
	mkdir(at(""), 0700);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		struct err e = {0};

		chmod(at(""), modes[i]);
		rundir_init(&d);
		assert_int_equal(rundir_open(&d, "g", FD(0), FD(1), &e), -EPERM);
		assert_non_null(strstr(e.text, "chmod 700"));
		rundir_close(&d);
		assert_false(there("/g"));
	}
	chmod(at(""), 0700);
}

static void test_descriptor_taken(void **state)
{
	struct rundir d;
	struct err e = {0};
	int null = open("/dev/null", O_RDONLY);

	(void)state;
	assert_int_equal(dup2(null, FD(1)), FD(1));
	rundir_init(&d);
	assert_int_equal(rundir_open(&d, "g", FD(0), FD(1), &e), -EMFILE);
	assert_non_null(strstr(e.text, "ulimit -n"));
	rundir_close(&d);
	close(FD(1));
	close(null);
	assert_int_equal(rundir_clean(NULL), 0);
	assert_false(there("/g"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test_setup_teardown(test_life, setup, teardown),
		cmocka_unit_test_setup_teardown(test_name_in_use_and_list, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stale_ones_are_cleaned_and_no_live_one, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_directories_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor_taken, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
