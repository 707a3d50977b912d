#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/wire/socket.h"

static char dir[] = "/tmp/test_socket.XXXXXX";

static struct uri unix_uri(const char *name)
{
	struct uri u = {.kind = URI_UNIX, .fd = -1};

	snprintf(u.path, sizeof(u.path), "%s/%s", dir, name);
	return u;
}

static void expect_text(const struct err *e, const char *word)
{
	if (!strstr(e->text, word))
		fail_msg("'%s' is not in: %s", word, e->text);
	assert_null(strchr(e->text, '\n'));
}

/* Connect three times and tell the ends apart by a byte each. */
static void talk(struct socket_listener *l, const struct uri *u)
{
	int out[3], in[3], i;
	char c;

	assert_int_equal(socket_connect(u, 3, 1000, out, NULL), 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(socket_accept(l, 1000, -1, &in[i], NULL), 0);
		assert_true(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
		assert_true(fcntl(out[i], F_GETFD) & FD_CLOEXEC);
		assert_false(fcntl(out[i], F_GETFL) & O_NONBLOCK);
		c = (char)('a' + i);
		assert_int_equal(write(out[i], &c, 1), 1);
	}
	for (i = 0; i < 3; i++) {
		assert_int_equal(read(in[i], &c, 1), 1);
		assert_int_equal(c, 'a' + i);
		close(in[i]);
		close(out[i]);
	}
}

static void unix_sockets(void **state)
{
	struct uri u = unix_uri("mig");
	struct socket_listener l, second;
	struct err e = {0};
	struct stat st;
	int fd;

	(void)state;
	assert_int_equal(socket_connect(&u, 1, 100, &fd, &e), -ENOENT);
	expect_text(&e, "--incoming");
	assert_int_equal(socket_listen(&l, &u, NULL), 0);
	assert_int_equal(stat(u.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	talk(&l, &u);

	/* a second one leaves the first alone */
	e = (struct err) {0};
	assert_int_equal(socket_listen(&second, &u, &e), -EADDRINUSE);
	expect_text(&e, "another process listens there");
	assert_int_equal(access(u.path, F_OK), 0);
	talk(&l, &u);
	socket_listener_fini(&l);
	assert_int_equal(access(u.path, F_OK), -1); /* its own path is gone */
	socket_listener_fini(&l);
}

static void paths_in_the_way(void **state)
{
	struct uri u = unix_uri("stale"), file = unix_uri("file"), none = unix_uri("no/such");
	struct socket_listener l;
	struct err e = {0};
	int fd;

	(void)state;
	assert_int_equal(socket_listen(&l, &u, NULL), 0);
	l.at.path[0] = '\0'; /* as one that was killed would leave it */
	socket_listener_fini(&l);
	assert_int_equal(access(u.path, F_OK), 0);
	assert_int_equal(socket_connect(&u, 1, 100, &fd, &e), -ECONNREFUSED);
	expect_text(&e, "Connection refused");
	/* nobody listens there: it is taken over */
	assert_int_equal(socket_listen(&l, &u, NULL), 0);
	talk(&l, &u);
	socket_listener_fini(&l);
	assert_int_equal(access(u.path, F_OK), -1);

	fd = open(file.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	e = (struct err) {0};
	assert_int_equal(socket_listen(&l, &file, &e), -EADDRINUSE);
	expect_text(&e, "is a regular file");
	unlink(file.path);

	e = (struct err) {0};
	assert_int_equal(socket_listen(&l, &none, &e), -ENOENT);
	expect_text(&e, "may write to");
}

/* A path that became somebody else's is not removed. */
static void foreign_path_stays(void **state)
{
	struct uri u = unix_uri("moved");
	struct socket_listener l;
	int fd;

	(void)state;
	assert_int_equal(socket_listen(&l, &u, NULL), 0);
	unlink(u.path);
	fd = open(u.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	socket_listener_fini(&l);
	assert_int_equal(access(u.path, F_OK), 0);
	unlink(u.path);
}

static void tcp_sockets(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "localhost"};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct uri u = {.kind = URI_TCP, .fd = -1};
		struct socket_listener l, second;
		struct err e = {0};
		int fd;

		strcpy(u.host, hosts[i]);
		assert_int_equal(socket_listen(&l, &u, &e), 0);
		assert_int_not_equal(l.port, 0);
		u.port = l.port;
		talk(&l, &u);
		assert_int_equal(socket_listen(&second, &u, &e), -EADDRINUSE);
		expect_text(&e, "a free port");
		socket_listener_fini(&l);
		e = (struct err) {0};
		assert_int_equal(socket_connect(&u, 1, 1000, &fd, &e), -ECONNREFUSED);
		expect_text(&e, "cannot connect to tcp:");
	}
}

static void refused(void **state)
{
	struct uri fd_uri = {.kind = URI_FD, .fd = 3}, tcp = {.kind = URI_TCP, .fd = -1};
	struct socket_listener l;
	struct err e = {0};
	int fd;

	(void)state;
	assert_int_equal(socket_connect(&fd_uri, 1, 100, &fd, &e), -EINVAL);
	expect_text(&e, "give tcp: or unix:");
	assert_int_equal(socket_listen(&l, &fd_uri, NULL), -EINVAL);
	e = (struct err) {0};
	tcp.port = 1;
	assert_int_equal(socket_connect(&tcp, 1, 100, &fd, &e), -EINVAL);
	expect_text(&e, "host is missing");
	e = (struct err) {0};
	strcpy(tcp.host, "no-such-host.invalid");
	assert_int_equal(socket_connect(&tcp, 1, 100, &fd, &e), -EHOSTUNREACH);
	expect_text(&e, "tcp:no-such-host.invalid:1");
	/* an address that is not this host's */
	e = (struct err) {0};
	strcpy(tcp.host, "192.0.2.1");
	assert_int_equal(socket_listen(&l, &tcp, &e), -EADDRNOTAVAIL);
	expect_text(&e, "address of this host");
}

static void waiting_ends(void **state)
{
	struct uri u = unix_uri("wait");
	int cancel = eventfd(0, EFD_CLOEXEC), fd;
	struct socket_listener l;
	struct err e = {0};

	(void)state;
	assert_int_equal(socket_listen(&l, &u, NULL), 0);
	assert_int_equal(socket_accept(&l, 20, cancel, &fd, &e), -ETIMEDOUT);
	expect_text(&e, "within 20 ms");
	eventfd_write(cancel, 1);
	assert_int_equal(socket_accept(&l, 0, cancel, &fd, NULL), -ECANCELED);
	socket_listener_fini(&l);
	close(cancel);
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

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(unix_sockets),
		cmocka_unit_test(paths_in_the_way),
		cmocka_unit_test(foreign_path_stays),
		cmocka_unit_test(tcp_sockets),
		cmocka_unit_test(refused),
		cmocka_unit_test(waiting_ends),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
