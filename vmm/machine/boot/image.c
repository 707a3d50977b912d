/* Reading kernel and initrd files: every read is checked against the size that was found first. */
#include "vmm/machine/boot/image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

int image_err(const struct image *im, struct err *e, const char *fmt, ...)
{
	char text[ERR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(e, -EINVAL, "%s %s: %s", im->what, im->path, text);
}

int image_init(struct image *im, const char *what, const char *path, int fd, struct err *e)
{
	struct stat st;

	*im = (struct image) {.what = what, .path = path, .fd = fd};
	if (fstat(fd, &st))
		return err_set(e, -errno, "%s %s: cannot be examined: %s", what, path,
			       strerror(errno));
	if (!S_ISREG(st.st_mode))
		return image_err(im, e, "is not a regular file; give the path of a %s file", what);
	if (!st.st_size)
		return image_err(im, e, "is empty (0 bytes); give a whole %s", what);
	im->size_bytes = (uint64_t)st.st_size;
	return 0;
}

int image_read(const struct image *im, uint64_t offset, void *buf, uint64_t len_bytes,
	       struct err *e)
{
	uint8_t *p = buf;

	if (offset > im->size_bytes || len_bytes > im->size_bytes - offset)
		return image_err(im, e,
				 "0x%llx bytes at offset 0x%llx lie beyond the file's end at "
				 "0x%llx; the file is cut or damaged",
				 (unsigned long long)len_bytes, (unsigned long long)offset,
				 (unsigned long long)im->size_bytes);
	while (len_bytes) {
		ssize_t n = pread(im->fd, p, len_bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, -errno, "%s %s: cannot be read at offset 0x%llx: %s",
				       im->what, im->path, (unsigned long long)offset,
				       strerror(errno));
		if (!n)
			return image_err(im, e,
					 "ended at offset 0x%llx while being read, it had 0x%llx "
					 "bytes; do not change it while testudo runs",
					 (unsigned long long)offset,
					 (unsigned long long)im->size_bytes);
		p += n;
		offset += (uint64_t)n;
		len_bytes -= (uint64_t)n;
	}
	return 0;
}
