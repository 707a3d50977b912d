#include "base/file_write.h"

#include <errno.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#define MAX_LINKS	40 /* as the kernel */
#define READER_EVERY_MS 20 /* nobody tells that a FIFO has got a reader */
#define SAY_AFTER	50 /* such looks */

static int cannot_write(const char *what, const char *path, int error, struct err *e)
{
	if (error == EINTR)
		return err_set(e, -error, "%s %s: a signal came while it was waited for", what,
			       path);
	return err_set(e, -error, "%s %s: cannot be written: %s; give a path that you may write",
		       what, path, strerror(error));
}

static int refuse(const char *what, const char *path, mode_t mode, struct err *e)
{
	return err_set(e, S_ISDIR(mode) ? -EISDIR : -ENOTSUP,
		       "%s %s: is %s; give a file, or a FIFO or a character device to write into",
		       what, path, file_kind(mode));
}

static bool is_written_into(mode_t mode)
{
	return S_ISFIFO(mode) || S_ISCHR(mode);
}

/* A FIFO cannot be opened for writing alone before it has a reader. */
static int open_fifo(const char *what, const char *path, struct err *e)
{
	unsigned int looks;
	int fd, ret;

	for (looks = 0;; looks++) {
		fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		if (fd >= 0)
			return fd;
		if (errno != ENXIO)
			return cannot_write(what, path, errno, e);
		if (looks == SAY_AFTER)
			log_info("%s %s: waiting for somebody who reads it", what, path);
		ret = file_wait(-1, 0, READER_EVERY_MS);
		if (ret < 0)
			return cannot_write(what, path, -ret, e);
	}
}

int file_open_stream(const char *what, const char *path, mode_t mode, struct err *e)
{
	int flags = O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd;
	struct stat st;

	if (stat(path, &st) < 0) {
		if (errno != ENOENT)
			return cannot_write(what, path, errno, e);
		flags |= O_CREAT;
	} else if (S_ISFIFO(st.st_mode)) {
		return open_fifo(what, path, e);
	} else if (S_ISREG(st.st_mode)) {
		flags |= O_TRUNC;
	} else if (!is_written_into(st.st_mode)) {
		return refuse(what, path, st.st_mode, e);
	}
	fd = open(path, flags, mode);
	return fd < 0 ? cannot_write(what, path, errno, e) : fd;
}

int file_write_all(int fd, const void *data, size_t len, int cancel_fd, int timeout_ms)
{
	struct pollfd p[2] = {{.fd = cancel_fd, .events = POLLIN}, {.fd = fd, .events = POLLOUT}};
	const char *at = data;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			n = poll(p, 2, timeout_ms);
			if (n < 0 && errno != EINTR)
				return -errno;
			if (n > 0 && p[0].revents)
				return -EINTR;
			if (!n)
				return -ETIMEDOUT;
			continue;
		}
		if (n < 0)
			return -errno;
		if (!n)
			return -ENOSPC;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* ---- places ---- */

/* @path is a link: put in its place where it leads. Return: 0 or -errno */
static int follow(char *path, size_t size)
{
	char target[PATH_MAX], joined[PATH_MAX];
	const ssize_t n = readlink(path, target, sizeof(target));
	const char *slash = strrchr(path, '/');
	int len;

	if (n < 0)
		return -errno;
	if ((size_t)n == sizeof(target))
		return -ENAMETOOLONG;
	len = snprintf(joined, sizeof(joined), "%.*s%.*s",
		       target[0] == '/' || !slash ? 0 : (int)(slash - path + 1), path, (int)n,
		       target);
	if (len < 0 || (size_t)len >= size)
		return -ENAMETOOLONG;
	memcpy(path, joined, (size_t)len + 1);
	return 0;
}

static int follow_all(char *path, size_t size)
{
	struct stat st;
	int i, ret;

	for (i = 0; i < MAX_LINKS; i++) {
		if (lstat(path, &st) < 0)
			return errno == ENOENT ? 0 : -errno;
		if (!S_ISLNK(st.st_mode))
			return 0;
		ret = follow(path, size);
		if (ret < 0)
			return ret;
	}
	return -ELOOP;
}

/* The folder is opened so that it can be synced, where that is allowed. */
static int open_folder(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 && errno == EACCES ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : fd;
}

int file_place_find(const char *what, const char *path, struct file_place *p, struct err *e)
{
	char at[PATH_MAX];
	struct stat st;
	char *slash;
	int ret = 0;

	*p = (struct file_place) {.dir_fd = -1};
	if (snprintf(at, sizeof(at), "%s", path) >= (int)sizeof(at))
		return cannot_write(what, path, ENAMETOOLONG, e);
	p->mode = stat(at, &st) < 0 ? 0 : st.st_mode;
	if (!is_written_into(p->mode)) /* else links in procfs lead nowhere */
		ret = follow_all(at, sizeof(at));
	if (ret < 0)
		return cannot_write(what, path, -ret, e);
	slash = strrchr(at, '/');
	if (!at[0] || (slash && !slash[1] && !S_ISDIR(p->mode)))
		return err_set(e, -EINVAL, "%s %s: is no name for a file; give one", what, path);
	if (S_ISDIR(p->mode))
		return 0;
	if (snprintf(p->name, sizeof(p->name), "%s", slash ? slash + 1 : at) >=
	    (int)sizeof(p->name))
		return cannot_write(what, path, ENAMETOOLONG, e);
	if (slash)
		slash[slash == at] = '\0';
	p->dir_fd = open_folder(slash ? at : ".");
	return p->dir_fd < 0 ? cannot_write(what, path, errno, e) : 0;
}

/* ---- replacing ---- */

void file_replace_init(struct file_replace *f)
{
	*f = (struct file_replace) {.dir_fd = -1, .into_fd = -1};
}

/* Is @path a name for a descriptor, as /dev/stdout is? */
static bool is_open_file(const char *path)
{
	char at[PATH_MAX];
	struct statfs fs;
	struct stat st;
	char *slash;
	int i;

	if (snprintf(at, sizeof(at), "%s", path) >= (int)sizeof(at))
		return false;
	for (i = 0; i < MAX_LINKS && lstat(at, &st) == 0 && S_ISLNK(st.st_mode); i++) {
		char folder[PATH_MAX];

		memcpy(folder, at, sizeof(folder));
		slash = strrchr(folder, '/');
		if (slash)
			slash[slash == folder] = '\0';
		if (statfs(slash ? folder : ".", &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC)
			return true;
		if (follow(at, sizeof(at)) < 0)
			return false;
	}
	return false;
}

/* Move @fd to the number @wanted. Return: 0 or -errno; @fd is closed in any case */
static int move_fd(int fd, int wanted, int *out)
{
	const int moved = fcntl(fd, F_DUPFD_CLOEXEC, wanted);

	close(fd);
	if (moved == wanted) {
		*out = moved;
		return 0;
	}
	if (moved >= 0)
		close(moved);
	return -EMFILE;
}

static int open_temp(const struct file_replace *f)
{
	const int fd = openat(f->dir_fd, f->temp_name, FILE_REPLACE_FLAGS, f->mode);

	return fd < 0 ? -errno : fd;
}

static int try_temp(const struct file_replace *f, struct err *e)
{
	int fd;

	unlinkat(f->dir_fd, f->temp_name, 0); /* of a run that was killed in the middle */
	fd = open_temp(f);
	if (fd < 0)
		return cannot_write(f->what, f->path, -fd, e);
	close(fd);
	unlinkat(f->dir_fd, f->temp_name, 0);
	return 0;
}

static int open_into(struct file_replace *f, mode_t mode, struct err *e)
{
	if (!S_ISREG(mode)) {
		f->into_fd = file_open_stream(f->what, f->path, 0, e);
		return f->into_fd < 0 ? f->into_fd : 0;
	}
	f->into_fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
	return f->into_fd < 0 ? cannot_write(f->what, f->path, errno, e) : 0;
}

int file_replace_open(struct file_replace *f, const char *what, const char *path, mode_t mode,
		      int dir_number, struct err *e)
{
	struct file_place place;
	struct stat st;
	int ret;

	file_replace_init(f);
	f->what = what;
	f->path = path;
	f->mode = mode;
	if (stat(path, &st) == 0 && (is_written_into(st.st_mode) || is_open_file(path)))
		return open_into(f, st.st_mode, e);
	ret = file_place_find(what, path, &place, e);
	if (ret < 0)
		return ret;
	if (place.mode && !S_ISREG(place.mode)) {
		if (place.dir_fd >= 0)
			close(place.dir_fd);
		return refuse(what, path, place.mode, e);
	}
	if (move_fd(place.dir_fd, dir_number, &f->dir_fd) < 0)
		return err_set(e, -EMFILE,
			       "%s %s: descriptor %d is taken or above the limit of open "
			       "files; raise it (ulimit -n)",
			       what, path, dir_number);
	f->name = strdup(place.name);
	if (!f->name || asprintf(&f->temp_name, ".%s.new", place.name) < 0) {
		f->temp_name = NULL;
		return err_no_memory(e);
	}
	return try_temp(f, e);
}

static int write_into(struct file_replace *f, const void *data, size_t len, int cancel_fd,
		      int timeout_ms)
{
	int ret = file_write_all(f->into_fd, data, len, cancel_fd, timeout_ms);

	if (ret < 0) {
		close(f->into_fd);
		f->into_fd = -1;
	}
	return ret;
}

int file_replace_write(struct file_replace *f, const void *data, size_t len, int cancel_fd,
		       int timeout_ms)
{
	AUTO_CLOSE int fd = -1;
	int ret;

	if (f->dir_fd < 0)
		return f->into_fd < 0 ? -EPIPE : write_into(f, data, len, cancel_fd, timeout_ms);
	fd = open_temp(f);
	if (fd < 0)
		return fd;
	ret = file_write_all(fd, data, len, -1, -1);
	if (!ret && renameat(f->dir_fd, f->temp_name, f->dir_fd, f->name) < 0)
		ret = -errno;
	if (ret)
		unlinkat(f->dir_fd, f->temp_name, 0);
	return ret;
}

void file_replace_close(struct file_replace *f)
{
	if (f->dir_fd >= 0)
		close(f->dir_fd);
	if (f->into_fd >= 0)
		close(f->into_fd);
	free(f->name);
	free(f->temp_name);
	file_replace_init(f);
}
