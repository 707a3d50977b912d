#include "base/unix_listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

/* who takes a path over holds its folder's lock for microseconds */
#define LOCK_TRIES   200
#define LOCK_WAIT_MS 5

void unix_listener_zero(struct unix_listener *l)
{
	*l = (struct unix_listener) {.fd = -1};
}

/*
 * Does a socket that nobody holds open lie there? Asked without a connection that its owner would
 * take for a client: a datagram socket may not connect to a stream socket, but only if there is one
 * (EPROTOTYPE), also when it does not listen yet.
 */
static bool is_left_behind(const struct sockaddr_un *a)
{
	AUTO_CLOSE int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return probe >= 0 && connect(probe, (const struct sockaddr *)a, sizeof(*a)) < 0 &&
	       errno == ECONNREFUSED;
}

/* Nothing stays behind: the lock is the folder's own. Return: its descriptor, or -errno */
static int lock_folder(const char *path)
{
	const struct timespec wait = {.tv_nsec = LOCK_WAIT_MS * 1000000L};
	char copy[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int fd, i, ret = -EWOULDBLOCK;

	memcpy(copy, path, strlen(path) + 1);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (i = 0; ret == -EWOULDBLOCK && i < LOCK_TRIES; i++) {
		ret = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
		if (ret == -EWOULDBLOCK)
			nanosleep(&wait, NULL);
	}
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

static int taken(const char *what, const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return err_set(e, -EADDRINUSE,
			       "%s%s: is %s; give a path that does not exist yet, or a socket's",
			       what, path, file_kind(st.st_mode));
	return err_set(e, -EADDRINUSE, "%s%s: another process listens there; give another path",
		       what, path);
}

static int bind_path(const struct unix_listener *l, const struct sockaddr_un *a)
{
	return bind(l->fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? -errno : 0;
}

/* The path is there. Return: 0 when it was left behind and is ours now; -EADDRINUSE; -errno */
static int take_over(const struct unix_listener *l, const struct sockaddr_un *a)
{
	AUTO_CLOSE int lock = -1;
	struct stat st;

	if (lstat(a->sun_path, &st) < 0)
		return bind_path(l, a); /* it has gone in between */
	if (!S_ISSOCK(st.st_mode) || !is_left_behind(a))
		return -EADDRINUSE;
	lock = lock_folder(a->sun_path);
	if (lock < 0)
		return lock;
	/* another one may have taken it before we had the lock */
	if (is_left_behind(a) && unlink(a->sun_path) < 0 && errno != ENOENT)
		return -errno;
	return bind_path(l, a);
}

int unix_listen(struct unix_listener *l, const char *what, const char *path, int flags, int backlog,
		struct err *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct stat st;
	int ret;

	unix_listener_zero(l);
	if (!*path || strlen(path) >= sizeof(a.sun_path))
		return err_set(e, -ENAMETOOLONG,
			       "%s%s: a socket's path has 1 to %zu bytes; give a shorter one", what,
			       path, sizeof(a.sun_path) - 1);
	memcpy(a.sun_path, path, strlen(path) + 1);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	/* On Linux the mode of the socket before bind(2) is the mode of the path. */
	if (l->fd < 0 || fchmod(l->fd, 0600) < 0)
		return err_set(e, -errno, "%s%s: no socket: %s", what, path, strerror(errno));
	ret = bind_path(l, &a);
	if (ret == -EADDRINUSE)
		ret = take_over(l, &a);
	if (ret == -EADDRINUSE)
		return taken(what, path, e);
	if (ret < 0)
		return err_set(
			e, ret,
			"%s%s: cannot listen: %s; give a path in a folder that this user may "
			"write to",
			what, path, strerror(-ret));
	if (lstat(path, &st) == 0) {
		memcpy(l->path, a.sun_path, sizeof(l->path));
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	return listen(l->fd, backlog) < 0
		       ? err_set(e, -errno, "%s%s: cannot listen: %s; give another path", what,
				 path, strerror(errno))
		       : 0;
}

void unix_listener_fini(struct unix_listener *l)
{
	struct stat st;

	if (l->fd >= 0)
		close(l->fd);
	if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	unix_listener_zero(l);
}
