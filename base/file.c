#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

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

int file_read(const char *what, const char *path, size_t max, char **out, size_t *len,
	      struct err *e)
{
	/* O_NONBLOCK: opening a FIFO must not wait; it says nothing about regular files */
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	AUTO_FREE char *buf = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(e, -errno, "%s %s: %s; give a file that can be read", what, path,
			       strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s %s: not a regular file; give one", what, path);
	buf = malloc(max + 2);
	if (!buf)
		return err_set(e, -ENOMEM, "out of memory");
	n = read_all(fd, buf, max + 1);
	if (n < 0)
		return err_set(e, (int)n, "%s %s: %s; give a file that can be read", what, path,
			       strerror((int)-n));
	if ((size_t)n > max)
		return err_set(e, -EFBIG, "%s %s: larger than %zu bytes; is it the right file?",
			       what, path, max);
	buf[n] = '\0';
	*len = (size_t)n;
	*out = buf;
	buf = NULL;
	return 0;
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
