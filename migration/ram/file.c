#include "migration/ram/file.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "migration/ram/frame.h"

/* The limit is that of the guest's process, which writes. */
static const char *write_cure(int error)
{
	return error == EFBIG ? "start the guest with a higher limit of file sizes (ulimit -f)"
			      : "give a file on a disk with more room";
}

static int write_all(int fd, const uint8_t *p, uint64_t len, uint64_t at, struct err *e)
{
	while (len) {
		const ssize_t n = pwrite(fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n < 0 ? -errno : -ENOSPC,
				       "save: memory cannot be written at offset %llu: %s; %s",
				       (unsigned long long)at, n < 0 ? strerror(errno) : "no room",
				       write_cure(n < 0 ? errno : ENOSPC));
		p += n;
		at += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* One part, without its zero pages. */
static int save_part(struct ram_file *f, const uint8_t *map, uint64_t part, uint64_t n_pages,
		     struct err *e)
{
	const uint64_t start = part * RAM_FILE_PART;
	const uint8_t *p = map + start;
	uint64_t i, first;
	bool zero = true;
	int ret = 0;

	for (i = 0; !ret && i < n_pages; i++) {
		for (first = i; i < n_pages && !ram_page_is_zero(p + i * GUEST_PAGE); i++)
			;
		if (i == first)
			continue;
		zero = false;
		ret = write_all(f->fd, p + first * GUEST_PAGE, (i - first) * GUEST_PAGE,
				f->offset + start + first * GUEST_PAGE, e);
		migrate_progress_add(&f->progress, (i - first) * GUEST_PAGE, 0);
	}
	f->crc[part] = zero ? 0 : crc32c_pages(p, n_pages);
	return ret;
}

/* The part at or after @part in which the file has data; @n if there is none */
static uint64_t next_part(int fd, uint64_t offset, uint64_t part, uint64_t n)
{
	const off_t at = (off_t)(offset + part * RAM_FILE_PART);
	const off_t data = fd < 0 ? at : lseek(fd, at, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? n : part; /* cannot be told: read it */
	part = ((uint64_t)data - offset) / RAM_FILE_PART;
	return part < n ? part : n;
}

static uint64_t part_bytes(uint64_t n_bytes, uint64_t part)
{
	const uint64_t left = n_bytes - part * RAM_FILE_PART;

	return left < RAM_FILE_PART ? left : RAM_FILE_PART;
}

static bool is_cancelled(const struct ram_file *f)
{
	struct pollfd cancel = {.fd = f->cancel_fd, .events = POLLIN};

	return poll(&cancel, 1, 0) > 0;
}

static void note_done(struct ram_file *f, uint64_t done)
{
	__atomic_store_n(&f->progress.done, done, __ATOMIC_RELAXED);
}

int ram_file_save(struct ram_file *f, const uint8_t *map, int hole_fd, struct err *e)
{
	const uint64_t n = ram_file_parts(f->n_bytes), end = f->offset + f->n_bytes;
	uint64_t part = 0;
	int ret = 0;

	memset(f->crc, 0, n * sizeof(*f->crc));
	while (!ret) {
		part = next_part(hole_fd, 0, part, n);
		note_done(f, part < n ? part * RAM_FILE_PART : f->n_bytes);
		if (part == n)
			break;
		if (is_cancelled(f))
			return err_set(e, -ECANCELED, "save: cancelled");
		ret = save_part(f, map, part, part_bytes(f->n_bytes, part) / GUEST_PAGE, e);
		part++;
	}
	if (!ret && ftruncate(f->fd, (off_t)end) < 0)
		ret = err_set(e, -errno, "save: the file cannot be made %llu bytes long: %s; %s",
			      (unsigned long long)end, strerror(errno), write_cure(errno));
	return ret;
}

static int check_part(int fd, uint64_t at, uint8_t *buf, uint64_t len, uint32_t crc, struct err *e)
{
	uint64_t done = 0, i;
	bool zero = true;

	while (done < len) {
		const ssize_t n = pread(fd, buf + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n < 0 ? -errno : -EILSEQ,
				       "saved guest: memory at offset %llu: %s",
				       (unsigned long long)(at + done),
				       n < 0 ? strerror(errno) : "the file ends");
		done += (uint64_t)n;
	}
	for (i = 0; zero && i < len; i += GUEST_PAGE)
		zero = ram_page_is_zero(buf + i);
	if ((zero ? 0 : crc32c_pages(buf, len / GUEST_PAGE)) != crc)
		return err_set(e, -EILSEQ,
			       "saved guest: memory at offset %llu does not fit its checksum; the "
			       "file is damaged, use another copy",
			       (unsigned long long)at);
	return 0;
}

int ram_file_check(struct ram_file *f, struct err *e)
{
	const uint64_t n = ram_file_parts(f->n_bytes);
	uint64_t part, data = 0;
	uint8_t *buf = mmap(NULL, RAM_FILE_PART, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int ret = 0;

	if (buf == MAP_FAILED)
		return err_no_memory(e);
	for (part = 0; !ret && part < n; part++) {
		if (part >= data)
			data = next_part(f->fd, f->offset, part, n);
		/* a hole that ought to have data in it is read, and found wrong */
		if (part < data && !f->crc[part])
			continue;
		note_done(f, part * RAM_FILE_PART);
		if (is_cancelled(f))
			ret = err_set(e, -ECANCELED, "saved guest: the check was cancelled");
		else
			ret = check_part(f->fd, f->offset + part * RAM_FILE_PART, buf,
					 part_bytes(f->n_bytes, part), f->crc[part], e);
		data = part >= data ? part + 1 : data;
		migrate_progress_add(&f->progress, part_bytes(f->n_bytes, part), 0);
		if (f->tell)
			f->tell(f);
	}
	munmap(buf, RAM_FILE_PART);
	return ret;
}
