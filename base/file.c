#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file_magic.h"
#include "base/log.h"

#define SAY_AFTER_MS 1000  /* a wait that lasts is told */
#define COPY_CHUNK   65536 /* bytes */

const char *file_kind(mode_t mode)
{
	static const struct {
		mode_t type;
		const char *name;
	} kinds[] = {
		{S_IFREG, "a regular file"},
		{S_IFDIR, "a directory"},
		{S_IFIFO, "a FIFO"},
		{S_IFSOCK, "a socket"},
		{S_IFCHR, "a character device"},
		{S_IFBLK, "a block device"},
		{S_IFLNK, "a symbolic link"},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((mode & S_IFMT) == kinds[i].type)
			return kinds[i].name;
	return "no file";
}

/* Those that are blocked: any other ends the program by itself, or is not to. */
static void ending_signals(sigset_t *set)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
	sigset_t blocked;
	size_t i;

	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	sigemptyset(set);
	for (i = 0; i < ARRAY_SIZE(ending); i++)
		if (sigismember(&blocked, ending[i]))
			sigaddset(set, ending[i]);
}

int file_wait(int fd, short events, int timeout_ms)
{
	struct pollfd p[2] = {{.events = POLLIN}, {.fd = fd, .events = events}};
	sigset_t ending;
	int n;

	ending_signals(&ending);
	p[0].fd = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p[0].fd < 0)
		return -errno;
	do
		n = poll(p, 2, timeout_ms);
	while (n < 0 && errno == EINTR);
	n = n < 0 ? -errno : p[0].revents ? -EINTR : n;
	close(p[0].fd);
	return n;
}

/* Nothing but a FIFO without a writer and a terminal keep anybody waiting. */
static int wait_input(const char *what, const char *path, int fd)
{
	int ret = file_wait(fd, POLLIN, SAY_AFTER_MS);

	if (ret)
		return ret;
	log_info("%s %s: waiting for what somebody writes into it", what, path);
	return file_wait(fd, POLLIN, -1);
}

static bool is_null(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

static int refuse(const char *what, const char *path, mode_t mode, struct err *e)
{
	return err_set(e, -EINVAL,
		       "%s %s: is %s; give a regular file, or a FIFO or a terminal to read from",
		       what, path, file_kind(mode));
}

static int cannot_read(const char *what, const char *path, int error, struct err *e)
{
	if (error == EINTR)
		return err_set(e, -error, "%s %s: a signal came while it was waited for", what,
			       path);
	return err_set(e, -error, "%s %s: %s; give a file that can be read", what, path,
		       strerror(error));
}

/* Looked at before it is opened, since that may do something to a device. */
static int open_input(const char *what, const char *path, struct stat *st, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	int opened;

	if (stat(path, st) < 0)
		return cannot_read(what, path, errno, e);
	if (!S_ISREG(st->st_mode) && !S_ISFIFO(st->st_mode) && !S_ISCHR(st->st_mode))
		return refuse(what, path, st->st_mode, e);
	/* O_NONBLOCK: opening a FIFO must not wait; it says nothing about regular files */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, st) < 0)
		return cannot_read(what, path, errno, e);
	if (!S_ISREG(st->st_mode) && !S_ISFIFO(st->st_mode) && !is_null(st) && !isatty(fd))
		return refuse(what, path, st->st_mode, e);
	opened = fd;
	fd = -1;
	return opened;
}

/* Until the end or @max bytes. st_size is not believed: files of procfs have none. */
static ssize_t read_all(int fd, char *buf, size_t max)
{
	size_t n = 0;

	while (n < max) {
		ssize_t got = read(fd, buf + n, max - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

/*
 * The same for what may keep us waiting. Before the first byte the end that read(2) tells may be a
 * FIFO that has no writer yet, and poll(2) knows; from then on it is the end, and poll(2) need not
 * know, as of a FIFO whose writer had left before we opened it.
 * @begun: true after the first byte
 */
static ssize_t read_stream(const char *what, const char *path, int fd, char *buf, size_t max,
			   bool *begun)
{
	size_t n = 0;

	while (n < max) {
		ssize_t got = *begun ? 0 : wait_input(what, path, fd);

		if (got < 0)
			return got;
		got = read(fd, buf + n, max - n);
		if (!got)
			break;
		if (got > 0) {
			n += (size_t)got;
			*begun = true;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		got = file_wait(fd, POLLIN, -1);
		if (got < 0)
			return got;
	}
	return (ssize_t)n;
}

static int too_large(const char *what, const char *path, uint64_t max, struct err *e)
{
	return err_set(e, -EFBIG, "%s %s: larger than %llu bytes; is it the right file?", what,
		       path, (unsigned long long)max);
}

int file_read(const char *what, const char *path, size_t max, char **out, size_t *len,
	      struct err *e)
{
	AUTO_FREE char *buf = NULL;
	struct stat st;
	AUTO_CLOSE int fd = open_input(what, path, &st, e);
	const struct file_magic *m;
	char cure[FILE_CURE_MAX];
	bool begun = false;
	ssize_t n;

	if (fd < 0)
		return fd;
	m = S_ISREG(st.st_mode) ? file_magic_find(fd, (uint64_t)st.st_size) : NULL;
	if (m)
		return err_set(e, -EINVAL, "%s %s: is %s; %s", what, path, m->name,
			       file_magic_cure(m, false, cure));
	buf = malloc(max + 2);
	if (!buf)
		return err_no_memory(e);
	n = S_ISREG(st.st_mode) ? read_all(fd, buf, max + 1)
				: read_stream(what, path, fd, buf, max + 1, &begun);
	if (n < 0)
		return cannot_read(what, path, (int)-n, e);
	if ((size_t)n > max)
		return too_large(what, path, max, e);
	buf[n] = '\0';
	*len = (size_t)n;
	*out = buf;
	buf = NULL;
	return 0;
}

/* Return: 0; -EFBIG; -EDQUOT: a limit of the process; -errno of either side */
static int copy_stream(const char *what, const char *path, int from, int to, uint64_t max)
{
	AUTO_FREE char *buf = malloc(COPY_CHUNK);
	uint64_t total = 0;
	bool begun = false;
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	while ((n = read_stream(what, path, from, buf, COPY_CHUNK, &begun)) > 0) {
		total += (uint64_t)n;
		if (total > max)
			return -EFBIG;
		errno = 0;
		if (write(to, buf, (size_t)n) != n)
			return errno == EFBIG ? -EDQUOT : -ENOMEM; /* ulimit -f */
	}
	return (int)n;
}

int file_open_whole(const char *what, const char *path, uint64_t max, struct err *e)
{
	struct stat st;
	AUTO_CLOSE int fd = open_input(what, path, &st, e), copy = -1;
	int ret;

	if (fd < 0 || S_ISREG(st.st_mode)) {
		ret = fd;
		fd = -1;
		return ret;
	}
	copy = memfd_create(what, MFD_CLOEXEC);
	if (copy < 0)
		return err_set(e, -errno,
			       "%s %s: no memory for a copy of it: %s; give a regular "
			       "file",
			       what, path, strerror(errno));
	ret = copy_stream(what, path, fd, copy, max);
	if (ret == -EFBIG)
		return too_large(what, path, max, e);
	if (ret == -EDQUOT)
		return err_set(e, ret,
			       "%s %s: the limit of file sizes (ulimit -f) allows no copy of it in "
			       "memory; raise it, or give a regular file",
			       what, path);
	if (ret == -ENOMEM)
		return err_set(e, ret, "%s %s: no memory for a copy of it; give a regular file",
			       what, path);
	if (ret < 0)
		return cannot_read(what, path, -ret, e);
	ret = copy;
	copy = -1;
	return ret;
}

int file_read_line(const char *path, char *buf, size_t size)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	buf[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read_all(fd, buf, size - 1);
	buf[n < 0 ? 0 : n] = '\0';
	if (n < 0)
		return (int)n;
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}
