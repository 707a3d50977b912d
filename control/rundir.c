#include "control/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/text.h"
#include "control/process.h"

#define BASE_NAME  "testudo"
#define FALLBACK   "/run"
#define GUEST_LOCK "lock"
#define NEW_SOCKET "qmp.new" /* no longer than RUNDIR_SOCKET: what fits the one fits the other */
#define BASE_LOCK  ".lock"
#define DIR_FLAGS  (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define LIST_MAX   4096
/* a starting or ending guest holds DIR/.lock for microseconds */
#define LOCK_TRIES   200
#define LOCK_WAIT_MS 5
#define MAKE_TRIES   8
#define BACKLOG	     128

int rundir_check_name(const char *what, const char *name, struct err *e)
{
	static const char legal[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789._-";
	const size_t len = strlen(name);

	if (len >= 1 && len <= RUNDIR_NAME_MAX && name[0] != '.' && strspn(name, legal) == len)
		return 0;
	return err_set(e, -EINVAL,
		       "%s %s: no name for a guest; give 1 to %d of A-Z a-z 0-9 . _ -, the first "
		       "of them no dot",
		       what, text_quote(name, len).s, RUNDIR_NAME_MAX);
}

/* XDG_RUNTIME_DIR counts only if nobody else can put things there: sudo, too, hands it down. */
static int base_path(char *buf, size_t size)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct stat st;
	int n;

	if (!dir || dir[0] != '/' || stat(dir, &st) < 0 || !S_ISDIR(st.st_mode) ||
	    st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
		dir = FALLBACK;
	n = snprintf(buf, size, "%s/" BASE_NAME, dir);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int check_owner(int fd, const char *path, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, -errno, "run directory %s: %s", path, strerror(errno));
	if (st.st_uid != geteuid())
		return err_set(e, -EPERM,
			       "run directory %s: belongs to user %u, not to %u; set "
			       "XDG_RUNTIME_DIR to a directory of yours",
			       path, st.st_uid, geteuid());
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return err_set(e, -EPERM, "run directory %s: mode %04o lets others in; chmod 700",
			       path, st.st_mode & 07777);
	return 0;
}

/* Return: DIR's descriptor, or -errno; -ENOENT without a word in @e unless it is to be made */
static int open_base(bool make, char *path, size_t size, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	int ret = base_path(path, size), opened;

	if (!ret && make && mkdir(path, 0700) < 0 && errno != EEXIST)
		ret = -errno;
	if (!ret) {
		fd = open(path, DIR_FLAGS);
		ret = fd < 0 ? -errno : 0;
	}
	if (ret == -ENOENT && !make)
		return ret;
	if (ret)
		return err_set(e, ret,
			       "run directory %s: %s; set XDG_RUNTIME_DIR to a directory of yours "
			       "with mode 0700",
			       path, strerror(-ret));
	ret = check_owner(fd, path, e);
	if (ret < 0)
		return ret;
	opened = fd;
	fd = -1;
	return opened;
}

/* Return: the lock's descriptor, to be closed, or -errno */
static int lock_base(int base_fd, struct err *e)
{
	const struct timespec wait = {.tv_nsec = LOCK_WAIT_MS * 1000000L};
	int fd = openat(base_fd, BASE_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int i, ret = fd < 0 ? -errno : -EWOULDBLOCK;

	for (i = 0; ret == -EWOULDBLOCK && i < LOCK_TRIES; i++) {
		ret = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
		if (ret == -EWOULDBLOCK)
			nanosleep(&wait, NULL);
	}
	if (!ret)
		return fd;
	if (fd >= 0)
		close(fd);
	return err_set(e, ret, "run directory: " BASE_LOCK ": %s%s", strerror(-ret),
		       ret == -EWOULDBLOCK ? "; a testudo that stands still holds it" : "");
}

/* Remove DIR/@name unless a process holds its lock; DIR/.lock is held. */
static void clean_one(int base_fd, const char *name)
{
	AUTO_CLOSE int dir = openat(base_fd, name, DIR_FLAGS), lock = -1;

	if (dir < 0)
		return;
	lock = openat(dir, GUEST_LOCK, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (lock < 0 && errno != ENOENT)
		return;
	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0)
		return;
	unlinkat(dir, NEW_SOCKET, 0);
	unlinkat(dir, RUNDIR_SOCKET, 0);
	unlinkat(dir, GUEST_LOCK, 0);
	unlinkat(base_fd, name, AT_REMOVEDIR);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int read_names(int base_fd, struct rundir_list *list)
{
	/* a description of its own: the position in the directory belongs to it */
	int fd = openat(base_fd, ".", DIR_FLAGS), ret = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	memset(list, 0, sizeof(*list));
	if (!dir) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return ret;
	}
	while (!ret && list->n < LIST_MAX && (entry = readdir(dir))) {
		void *more;

		if (rundir_check_name("", entry->d_name, NULL) < 0)
			continue;
		more = realloc(list->name, (list->n + 1) * sizeof(*list->name));
		if (!more) {
			ret = -ENOMEM;
			break;
		}
		list->name = more;
		memcpy(list->name[list->n++], entry->d_name, strlen(entry->d_name) + 1);
	}
	closedir(dir);
	if (list->n)
		qsort(list->name, list->n, sizeof(*list->name), compare_names);
	return ret;
}

/* Return: 0, or -errno; DIR/.lock is held */
static int clean_all(int base_fd)
{
	struct rundir_list list;
	size_t i;
	int ret = read_names(base_fd, &list);

	for (i = 0; i < list.n; i++)
		clean_one(base_fd, list.name[i]);
	rundir_list_free(&list);
	return ret;
}

int rundir_clean(struct err *e)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	AUTO_CLOSE int base = open_base(false, path, sizeof(path), e), lock = -1;

	if (base < 0)
		return base == -ENOENT ? 0 : base;
	lock = lock_base(base, e);
	return lock < 0 ? lock : clean_all(base);
}

void rundir_init(struct rundir *d)
{
	memset(d, 0, sizeof(*d));
	d->base_fd = d->dir_fd = d->lock_fd = -1;
}

/* Whose it is, for those who cannot connect. Nothing depends on it. */
static void write_pid(int lock_fd)
{
	if (dprintf(lock_fd, "%d\n", (int)getpid()) < 0)
		return;
}

/* A guest that ends at this moment may remove the fresh directory for its own: try again. */
static int make_guest(struct rundir *d, int base_fd, int *dir_fd)
{
	int i;

	for (i = 0; i < MAKE_TRIES; i++) {
		AUTO_CLOSE int dir = -1;

		if (mkdirat(base_fd, d->name, 0700) < 0)
			return -errno;
		dir = openat(base_fd, d->name, DIR_FLAGS);
		if (dir >= 0)
			d->lock_fd =
				openat(dir, GUEST_LOCK,
				       O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (d->lock_fd >= 0 && flock(d->lock_fd, LOCK_EX | LOCK_NB) == 0) {
			write_pid(d->lock_fd);
			*dir_fd = dir;
			dir = -1;
			return 0;
		}
		if (errno != ENOENT)
			break;
	}
	return -errno;
}

/* Move @fd to the number @wanted. Return: 0 or -errno; @fd is closed in any case */
static int move_fd(int fd, int wanted, int *out, struct err *e)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, wanted);
	int ret = moved < 0 ? -errno : 0;

	close(fd);
	if (moved == wanted) {
		*out = moved;
		return 0;
	}
	if (moved >= 0)
		close(moved);
	return err_set(e, ret ? ret : -EMFILE,
		       "run directory: descriptor %d is taken or above the limit of open files; "
		       "raise it (ulimit -n)",
		       wanted);
}

static int make(struct rundir *d, int base_fd, int dir_number, struct err *e)
{
	AUTO_CLOSE int lock = lock_base(base_fd, e);
	int ret, dir = -1;

	if (lock < 0)
		return lock;
	ret = clean_all(base_fd);
	if (!ret)
		ret = make_guest(d, base_fd, &dir);
	if (ret == -EEXIST)
		return err_set(e, ret,
			       "--name %s: a guest of that name runs (%s); choose another name, or "
			       "end that one with testudo stop %s",
			       d->name, d->path, d->name);
	if (ret < 0)
		return err_set(e, ret, "run directory %s: %s", d->path, strerror(-ret));
	return move_fd(dir, dir_number, &d->dir_fd, e);
}

int rundir_open(struct rundir *d, const char *name, int base_fd, int dir_fd, struct err *e)
{
	char base[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int ret = rundir_check_name("--name", name, e), fd;

	if (ret < 0)
		return ret;
	snprintf(d->name, sizeof(d->name), "%s", name);
	fd = open_base(true, base, sizeof(base), e);
	if (fd < 0)
		return fd;
	if (asprintf(&d->path, "%s/%s", base, name) < 0) {
		d->path = NULL;
		close(fd);
		return err_no_memory(e);
	}
	ret = move_fd(fd, base_fd, &d->base_fd, e);
	return ret < 0 ? ret : make(d, d->base_fd, dir_fd, e);
}

static int socket_address(const char *dir, const char *file, struct sockaddr_un *addr,
			  struct err *e)
{
	int n;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	n = snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/%s", dir, file);
	if (n > 0 && (size_t)n < sizeof(addr->sun_path))
		return 0;
	return err_set(e, -ENAMETOOLONG,
		       "control socket %s/" RUNDIR_SOCKET ": %d bytes, a socket's path has at most "
		       "%zu; choose a shorter --name or XDG_RUNTIME_DIR",
		       dir, n, sizeof(addr->sun_path) - 1);
}

int rundir_listen(const struct rundir *d, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	struct sockaddr_un addr;
	int ret = socket_address(d->path, RUNDIR_SOCKET, &addr, e);

	if (!ret)
		ret = socket_address(d->path, NEW_SOCKET, &addr, e);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Under another name until it listens: who sees the socket may connect to it. */
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(fd, BACKLOG) < 0 ||
	    renameat(d->dir_fd, NEW_SOCKET, d->dir_fd, RUNDIR_SOCKET) < 0)
		return err_set(e, -errno, "control socket in %s: %s", d->path, strerror(errno));
	ret = fd;
	fd = -1;
	return ret;
}

void rundir_remove(const struct rundir *d)
{
	if (d->dir_fd < 0)
		return;
	unlinkat(d->dir_fd, NEW_SOCKET, 0);
	unlinkat(d->dir_fd, RUNDIR_SOCKET, 0);
	unlinkat(d->dir_fd, GUEST_LOCK, 0);
	unlinkat(d->base_fd, d->name, AT_REMOVEDIR);
}

int rundir_rename(struct rundir *d, const char *name, struct err *e)
{
	struct sockaddr_un addr;
	char *path = NULL;
	int ret = rundir_check_name("guest", name, e);

	if (ret < 0)
		return ret;
	/* DIR/NAME without the NAME of today */
	if (asprintf(&path, "%.*s%s", (int)(strlen(d->path) - strlen(d->name)), d->path, name) < 0)
		return err_no_memory(e);
	ret = socket_address(path, RUNDIR_SOCKET, &addr, e);
	if (!ret && renameat2(d->base_fd, d->name, d->base_fd, name, RENAME_NOREPLACE) < 0)
		ret = err_set(e, -errno,
			      errno == EEXIST ? "%s is there: a guest of that name runs"
					      : "%s: the run directory keeps its name",
			      path);
	if (ret < 0) {
		free(path);
		return ret;
	}
	free(d->path);
	d->path = path;
	snprintf(d->name, sizeof(d->name), "%s", name);
	return 0;
}

void rundir_close(struct rundir *d)
{
	rundir_remove(d);
	if (d->dir_fd >= 0)
		close(d->dir_fd);
	if (d->base_fd >= 0)
		close(d->base_fd);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d->path);
	rundir_init(d);
}

/* "no guest of that name", and which there are */
static int no_guest(const char *name, const char *base, struct err *e)
{
	struct rundir_list list;
	char known[512] = "";
	size_t i;

	rundir_list(&list, NULL);
	for (i = 0; i < list.n; i++)
		text_list_add(known, sizeof(known), list.name[i]);
	rundir_list_free(&list);
	if (known[0])
		return err_set(e, -ENOENT, "no guest '%s' in %s; there are: %s", name, base, known);
	return err_set(e, -ENOENT, "no guest '%s': none runs in %s; see testudo list", name, base);
}

/* Return: of the process that has the directory, as it wrote it; 0 not known */
static pid_t read_pid(const char *dir)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;
	char text[16] = "";
	int pid;

	if (asprintf(&path, "%s/" GUEST_LOCK, dir) < 0) {
		path = NULL;
		return 0;
	}
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || sscanf(text, "%9d", &pid) != 1)
		return 0;
	return pid;
}

/* A process that takes no connections fills its queue of them; it is not waited for if it is
 * stopped. Return: 0; -EHOSTDOWN, with what to do in @e; -errno */
static int connect_to(int fd, const struct sockaddr_un *addr, const char *name, const char *dir,
		      struct err *e)
{
	const int flags = fcntl(fd, F_GETFL);
	int ret;

	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	ret = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	fcntl(fd, F_SETFL, flags);
	if (ret != -EAGAIN)
		return ret;
	ret = process_check(name, read_pid(dir), e);
	if (ret < 0)
		return ret;
	return connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
}

int rundir_connect(const char *name, unsigned int timeout_ms, struct err *e)
{
	const struct timeval limit = {.tv_sec = timeout_ms / 1000,
				      .tv_usec = timeout_ms % 1000 * 1000};
	char base[sizeof(((struct sockaddr_un *)0)->sun_path)];
	AUTO_FREE char *dir = NULL;
	AUTO_CLOSE int fd = -1;
	struct sockaddr_un addr;
	int ret = rundir_check_name("guest", name, e);

	if (!ret && base_path(base, sizeof(base)) < 0)
		ret = err_set(e, -ENAMETOOLONG, "XDG_RUNTIME_DIR: too long for a socket's path");
	if (!ret && asprintf(&dir, "%s/%s", base, name) < 0) {
		dir = NULL;
		ret = err_no_memory(e);
	}
	if (!ret)
		ret = socket_address(dir, RUNDIR_SOCKET, &addr, e);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		return err_set(e, -errno, "socket: %s", strerror(errno));
	ret = connect_to(fd, &addr, name, dir, e);
	if (ret < 0) {
		if (ret == -ENOENT)
			return no_guest(name, base, e);
		if (ret == -ECONNREFUSED)
			return err_set(e, ret,
				       "guest '%s' does not run any more, it was killed; the next "
				       "testudo run removes %s",
				       name, dir);
		return err_set(e, ret, "guest '%s': %s: %s%s", name, addr.sun_path, strerror(-ret),
			       ret == -EACCES ? "; only its owner and root may control it" : "");
	}
	ret = fd;
	fd = -1;
	return ret;
}

struct rundir_where rundir_where(void)
{
	struct rundir_where w;

	base_path(w.s, sizeof(w.s));
	return w;
}

int rundir_list(struct rundir_list *list, struct err *e)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	AUTO_CLOSE int base = -1;
	int ret;

	memset(list, 0, sizeof(*list));
	base = open_base(false, path, sizeof(path), e);
	if (base < 0)
		return base == -ENOENT ? 0 : base;
	ret = read_names(base, list);
	return ret < 0 ? err_set(e, ret, "run directory %s: %s", path, strerror(-ret)) : 0;
}

void rundir_list_free(struct rundir_list *list)
{
	free(list->name);
	memset(list, 0, sizeof(*list));
}
