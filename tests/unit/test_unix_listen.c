/* A socket that was left behind has one heir. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/unix_listen.h"

#define HEIRS  8
#define ROUNDS 50

static char dir[] = "/tmp/test_unix.XXXXXX";
static char path[64];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

static int listen_here(struct unix_listener *l, struct err *e)
{
	return unix_listen(l, "thing:", path, 0, 1, e);
}

static void leave_behind(void)
{
	struct unix_listener l;

	assert_int_equal(listen_here(&l, NULL), 0);
	l.path[0] = '\0';
	unix_listener_fini(&l);
	assert_int_equal(access(path, F_OK), 0);
}

static void left_behind_is_taken_over(void **state)
{
	struct unix_listener l;
	struct stat st;

	(void)state;
	leave_behind();
	assert_int_equal(listen_here(&l, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	unix_listener_fini(&l);
	assert_int_equal(access(path, F_OK), -1);
}

static void others_stay(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct unix_listener l;
	struct err e = {0};
	int fd;

	(void)state;
	/* bound, and not listening yet */
	memcpy(a.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen_here(&l, &e), -EADDRINUSE);
	assert_non_null(strstr(e.text, "another process listens there"));
	unix_listener_fini(&l);
	close(fd);
	unlink(path);

	/* a link is no socket, wherever it leads */
	assert_int_equal(symlink("nowhere", path), 0);
	e = (struct err) {0};
	assert_int_equal(listen_here(&l, &e), -EADDRINUSE);
	assert_non_null(strstr(e.text, "is a symbolic link"));
	unix_listener_fini(&l);
	assert_int_equal(unlink(path), 0);
}

/* Return: exit status: 0 it is ours, 1 somebody else was faster, 2 anything else */
static int inherit(int go, int won)
{
	struct unix_listener l;
	char c;
	int ret;

	if (read(go, &c, 1) < 0) /* the end of the pipe: all at once */
		return 2;
	ret = listen_here(&l, NULL);
	if (!ret && write(won, "x", 1) != 1)
		return 2;
	if (!ret)
		pause();
	return ret == -EADDRINUSE ? 1 : 2;
}

static void one_heir(void **state)
{
	int round;

	(void)state;
	for (round = 0; round < ROUNDS; round++) {
		int go[2], won[2], i, status, losers = 0;
		pid_t pid[HEIRS], winner;
		char c;

		leave_behind();
		assert_int_equal(pipe(go), 0);
		assert_int_equal(pipe(won), 0);
		for (i = 0; i < HEIRS; i++) {
			pid[i] = fork();
			if (!pid[i]) {
				close(go[1]);
				_exit(inherit(go[0], won[1]));
			}
		}
		close(go[0]);
		close(go[1]);
		assert_int_equal(read(won[0], &c, 1), 1);
		while (losers < HEIRS - 1) {
			assert_true(wait(&status) > 0);
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 1);
			losers++;
		}
		for (i = 0, winner = 0; i < HEIRS; i++)
			if (kill(pid[i], SIGKILL) == 0)
				winner = pid[i];
		assert_int_equal(waitpid(winner, &status, 0), winner);
		close(won[0]);
		close(won[1]);
		unlink(path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(left_behind_is_taken_over),
		cmocka_unit_test(others_stay),
		cmocka_unit_test(one_heir),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
