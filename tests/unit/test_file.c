/* Files of every kind, read and replaced. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/file_write.h"

#define DIR_FD 40 /* of the folder in which a file is replaced */

static char dir[] = "/tmp/test_file.XXXXXX";

static const char *in_dir(const char *name)
{
	static char path[4][128];
	static unsigned int n;

	n = (n + 1) % 4;
	snprintf(path[n], sizeof(path[n]), "%s/%s", dir, name);
	return path[n];
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir); /* fails when something was left in it */
}

static void expect_text(const struct err *e, const char *part)
{
	if (!strstr(e->text, part))
		fail_msg("no '%s' in '%s'", part, e->text);
}

/* ---- reading ---- */

static void *write_twice(void *path)
{
	FILE *f = fopen(path, "w");

	fputs("one ", f);
	fflush(f);
	fputs("two", f);
	fclose(f);
	return NULL;
}

static void fifo_is_read(void **state)
{
	char path[128], *out, text[8] = "";
	struct err e = {0};
	pthread_t writer;
	size_t len;
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	pthread_create(&writer, NULL, write_twice, path);
	assert_int_equal(file_read("thing", path, 7, &out, &len, &e), 0);
	assert_string_equal(out, "one two");
	free(out);
	pthread_join(writer, NULL);

	pthread_create(&writer, NULL, write_twice, path);
	assert_int_equal(file_read("thing", path, 6, &out, &len, &e), -EFBIG);
	pthread_join(writer, NULL);

	/* a copy can be read at any place */
	pthread_create(&writer, NULL, write_twice, path);
	fd = file_open_whole("thing", path, 7, NULL);
	assert_true(fd >= 0);
	pthread_join(writer, NULL);
	assert_int_equal(pread(fd, text, sizeof(text), 4), 3);
	assert_string_equal(text, "two");
	close(fd);
	unlink(path);
}

/* Blocked signals end every wait, and stay for whoever blocked them. */
static void signal_ends_waiting(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	const char *path = in_dir("fifo");
	sigset_t set, old;
	struct err e;
	size_t i, len;
	char *out;
	int sig;

	(void)state;
	assert_int_equal(mkfifo(path, 0600), 0);
	for (i = 0; i < ARRAY_SIZE(signals); i++) {
		sigemptyset(&set);
		sigaddset(&set, signals[i]);
		pthread_sigmask(SIG_BLOCK, &set, &old);
		pthread_kill(pthread_self(), signals[i]);
		e = (struct err) {0};
		assert_int_equal(file_read("thing", path, 9, &out, &len, &e), -EINTR);
		assert_int_equal(file_open_whole("thing", path, 9, NULL), -EINTR);
		assert_int_equal(file_open_stream("thing", path, 0600, NULL), -EINTR);
		expect_text(&e, "a signal came");
		assert_int_equal(sigwait(&set, &sig), 0);
		assert_int_equal(sig, signals[i]);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	unlink(path);
}

static void what_cannot_be_read(void **state)
{
	const struct {
		const char *path;
		int ret;
		const char *say;
	} rows[] = {
		{dir, -EINVAL, "is a directory"},
		{"/dev/zero", -EINVAL, "is a character device"},
		{in_dir("none"), -ENOENT, "No such file"},
	};
	size_t i, len;
	char *out;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err e = {0};

		assert_int_equal(file_read("thing", rows[i].path, 9, &out, &len, &e), rows[i].ret);
		expect_text(&e, rows[i].say);
		expect_text(&e, rows[i].path);
		assert_int_equal(file_open_whole("thing", rows[i].path, 9, NULL), rows[i].ret);
	}
	assert_int_equal(file_read("thing", "/dev/null", 9, &out, &len, NULL), 0);
	assert_int_equal(len, 0);
	free(out);
}

/* ---- writing ---- */

static void replace_with(const char *path, const char *text, int ret)
{
	struct file_replace f;
	int got = file_replace_open(&f, "thing", path, 0600, DIR_FD, NULL);

	if (!got)
		got = file_replace_write(&f, text, strlen(text), -1, -1);
	file_replace_close(&f);
	assert_int_equal(got, ret);
}

static void expect_content(const char *path, const char *text)
{
	char *out;
	size_t len;

	assert_int_equal(file_read("thing", path, 99, &out, &len, NULL), 0);
	assert_string_equal(out, text);
	free(out);
}

static bool is_kind(const char *path, mode_t type)
{
	struct stat st;

	return lstat(path, &st) == 0 && (st.st_mode & S_IFMT) == type;
}

static void files_are_replaced(void **state)
{
	const char *file = in_dir("file"), *link = in_dir("link"), *folder = in_dir("sub");
	struct stat before, after;

	(void)state;
	replace_with(file, "one", 0);
	expect_content(file, "one");
	assert_int_equal(stat(file, &before), 0);
	replace_with(file, "two", 0);
	expect_content(file, "two");
	assert_int_equal(stat(file, &after), 0);
	assert_int_not_equal(before.st_ino, after.st_ino);

	/* the link stays; what it names is replaced in its own folder */
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(symlink("sub/target", link), 0);
	replace_with(link, "three", 0);
	replace_with(link, "four", 0);
	assert_true(is_kind(link, S_IFLNK));
	expect_content(in_dir("sub/target"), "four");
	unlink(link);
	assert_int_equal(symlink("link", link), 0);
	replace_with(link, "five", -ELOOP);
	unlink(link);

	unlink(in_dir("sub/target"));
	rmdir(in_dir("sub"));
	unlink(in_dir("file"));
}

static void what_is_not_replaced(void **state)
{
	const char *fifo = in_dir("fifo");
	char text[8] = "";
	struct err e = {0};
	struct file_replace f;
	int fd;

	(void)state;
	replace_with("/dev/null", "text", 0);
	assert_true(is_kind("/dev/null", S_IFCHR));
	replace_with("/dev/full", "text", -ENOSPC);

	assert_int_equal(mkfifo(fifo, 0600), 0);
	fd = open(fifo, O_RDONLY | O_NONBLOCK);
	replace_with(fifo, "text", 0);
	assert_true(is_kind(fifo, S_IFIFO));
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_string_equal(text, "text");
	close(fd);
	unlink(fifo);

	replace_with(dir, "text", -EISDIR);
	assert_int_equal(file_replace_open(&f, "thing", dir, 0600, DIR_FD, &e), -EISDIR);
	expect_text(&e, "is a directory");
	file_replace_close(&f);
	replace_with("", "text", -EINVAL);
	replace_with(in_dir("no/such"), "text", -ENOENT);
}

/* A reader that takes nothing: the wait is bounded, and no half message is followed by another. */
static void slow_reader(void **state)
{
	static char much[1 << 20];
	const char *fifo = in_dir("fifo");
	struct file_replace f;
	int fd;

	(void)state;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	fd = open(fifo, O_RDONLY | O_NONBLOCK);
	assert_int_equal(file_replace_open(&f, "thing", fifo, 0600, DIR_FD, NULL), 0);
	assert_int_equal(file_replace_write(&f, much, sizeof(much), -1, 1), -ETIMEDOUT);
	assert_int_equal(file_replace_write(&f, "x", 1, -1, 1), -EPIPE);
	file_replace_close(&f);
	close(fd);
	unlink(fifo);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fifo_is_read),		cmocka_unit_test(signal_ends_waiting),
		cmocka_unit_test(what_cannot_be_read),	cmocka_unit_test(files_are_replaced),
		cmocka_unit_test(what_is_not_replaced), cmocka_unit_test(slow_reader),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
