/* Opens a disk image and finds out what it can do; every refusal says what to do about it. */
#include "devices/virtio/blk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file_magic.h"
#include "base/log.h"

#define BLK_MAX_BLOCK_SIZE 4096
/* QEMU, block/file-posix.c: locks start at byte 100, permission bit 1 is "write" */
#define BLK_QEMU_WRITE_BYTE 101

static int blk_fail_open(const struct blk_options *opt, int code, struct err *e)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
		return err_set(e, code,
			       "disk image '%s' does not exist; check the path, or make one with "
			       "truncate -s 8G FILE",
			       opt->path);
	case -EACCES:
	case -EPERM:
	case -EROFS:
	case -ETXTBSY:
		if (opt->readonly)
			return err_set(e, code,
				       "no permission to read disk image '%s': %s; run as a user "
				       "who may, or change its mode",
				       opt->path, strerror(-code));
		return err_set(
			e, code,
			"no permission to write disk image '%s': %s; change its mode, or add "
			"',ro' if the guest need not write",
			opt->path, strerror(-code));
	case -EBUSY:
		return err_set(e, code,
			       "block device '%s' is mounted or in use; unmount it, or add ',ro'",
			       opt->path);
	case -EINVAL:
		if (opt->direct)
			return err_set(e, code,
				       "the file system of disk image '%s' knows no direct I/O; "
				       "drop ',direct'",
				       opt->path);
		break;
	default:
		break;
	}
	return err_set(e, code, "cannot open disk image '%s': %s; it must be a readable raw image",
		       opt->path, strerror(-code));
}

static int blk_open_fd(struct blk_file *f, const struct blk_options *opt, mode_t *type,
		       struct err *e)
{
	int flags = O_CLOEXEC | (opt->readonly ? O_RDONLY : O_RDWR);
	struct stat st;

	/* looked at before the open, since opening a FIFO would block and a tape would rewind */
	if (stat(opt->path, &st) < 0)
		return blk_fail_open(opt, -errno, e);
	*type = st.st_mode & S_IFMT;
	if (*type != S_IFREG && *type != S_IFBLK)
		return err_set(e, *type == S_IFDIR ? -EISDIR : -EINVAL,
			       "disk image '%s' is %s; give a raw image file or a block device",
			       opt->path,
			       *type == S_IFDIR ? "a directory"
						: "neither a regular file nor a block device");
	if (opt->direct)
		flags |= O_DIRECT;
	/* on a block device O_EXCL means: not while it is mounted or claimed */
	if (*type == S_IFBLK && !opt->readonly)
		flags |= O_EXCL;
	f->fd = open(opt->path, flags);
	return f->fd < 0 ? blk_fail_open(opt, -errno, e) : 0;
}

/*
 * QEMU only ever holds read locks, on single bytes with a meaning each: a read lock of ours would
 * not meet them. Return: true if a QEMU that writes has the image.
 */
static bool blk_qemu_writes(int fd)
{
	struct flock lock = {.l_type = F_WRLCK,
			     .l_whence = SEEK_SET,
			     .l_start = BLK_QEMU_WRITE_BYTE,
			     .l_len = 1};

	/* length 0 is the whole file: one of our own kind, and reading too */
	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_len;
}

/* The lock belongs to the open file, not to the process, and goes with the last descriptor. */
int blk_file_lock(const struct blk_file *f, struct err *e)
{
	struct flock lock = {.l_type = f->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
	const bool locked = fcntl(f->fd, F_OFD_SETLK, &lock) == 0;

	if (!locked && errno != EAGAIN && errno != EACCES) {
		log_warn("disk image cannot be locked, keep a second writer away yourself: "
			 "path=%s error=\"%s\"",
			 f->path, strerror(errno));
		return 0;
	}
	if (locked && !(f->readonly && blk_qemu_writes(f->fd)))
		return 0;
	if (f->readonly)
		return err_set(e, -EBUSY,
			       "disk image '%s' is being written by another virtual machine; stop "
			       "that one first",
			       f->path);
	return err_set(e, -EBUSY,
		       "disk image '%s' is in use by another virtual machine; stop that one, or "
		       "add ',ro' to both",
		       f->path);
}

int blk_file_take_over(const struct blk_file *f, struct err *e)
{
	int ret = blk_file_lock(f, e);

	/* what was read before is from a time when somebody else could write */
	if (!ret)
		posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
	return ret;
}

static void blk_unlock(const struct blk_file *f)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	fcntl(f->fd, F_OFD_SETLK, &lock); /* where locks do not work there was none */
}

int blk_file_flush(const struct blk_file *f, struct err *e)
{
	if (!f->readonly && fdatasync(f->fd) < 0)
		return err_set(e, -errno,
			       "disk image '%s': cannot write back: %s; look at the disk", f->path,
			       strerror(errno));
	return 0;
}

int blk_file_hand_over(const struct blk_file *f, struct err *e)
{
	int ret = blk_file_flush(f, e);

	if (ret < 0)
		return ret;
	blk_unlock(f);
	return 0;
}

/* Taken for raw, it would be destroyed by the guest's first write. */
static int blk_check_raw(const struct blk_file *f, struct err *e)
{
	const off_t size = lseek(f->fd, 0, SEEK_END);
	const struct file_magic *m = size > 0 ? file_magic_find(f->fd, (uint64_t)size) : NULL;
	char cure[FILE_CURE_MAX];

	if (!m || m->class == FILE_RAW || m->class == FILE_OTHER_KERNEL)
		return 0;
	return err_set(e, -EINVAL,
		       "disk image '%s' is %s, not a raw image; %s, or add ',format=raw' if a "
		       "guest wrote that on its own disk",
		       f->path, m->name, file_magic_cure(m, true, cure));
}

static int blk_find_size(struct blk_file *f, struct err *e)
{
	const off_t size = lseek(f->fd, 0, SEEK_END);

	if (size < 0)
		return err_set(e, -errno,
			       "cannot tell the size of disk image '%s': %s; it must be "
			       "a raw image",
			       f->path, strerror(errno));
	f->size_bytes = (uint64_t)size;
	if (!size)
		return err_set(e, -EINVAL,
			       "disk image '%s' is empty; give it a size, as with truncate -s 8G",
			       f->path);
	if (f->size_bytes % BLK_SECTOR)
		return err_set(e, -EINVAL,
			       "disk image '%s' has %llu bytes, not a multiple of 512; is it a raw "
			       "image? truncate -s %llu would pad it",
			       f->path, (unsigned long long)f->size_bytes,
			       (unsigned long long)(f->size_bytes / BLK_SECTOR + 1) * BLK_SECTOR);
	return 0;
}

/*
 * Direct I/O on a file works in units of the disk below it. The kernel's own answer (statx with
 * STATX_DIOALIGN) is missing for many file systems, a trial read is not.
 */
static uint32_t blk_probe_direct(int fd)
{
	uint32_t size = BLK_SECTOR;
	AUTO_FREE void *buf = NULL;

	if (posix_memalign(&buf, BLK_MAX_BLOCK_SIZE, (size_t)2 * BLK_MAX_BLOCK_SIZE))
		return BLK_MAX_BLOCK_SIZE;
	/* @size is too small if either the length or the buffer's address is refused */
	while (size < BLK_MAX_BLOCK_SIZE && pread(fd, (char *)buf + size, size, 0) < 0)
		size *= 2;
	return size;
}

static int blk_find_block_size(struct blk_file *f, mode_t type, struct err *e)
{
	int size = 0;

	f->block_size = BLK_SECTOR;
	if (type == S_IFBLK) {
		if (ioctl(f->fd, BLKSSZGET, &size) < 0 || size < BLK_SECTOR || size & (size - 1))
			return err_set(
				e, -EINVAL,
				"block device '%s' has no usable logical block size; it must "
				"be a power of 2 from 512 on",
				f->path);
		f->block_size = (uint32_t)size;
	} else if (f->direct) {
		f->block_size = blk_probe_direct(f->fd);
	}
	if (f->size_bytes % f->block_size)
		return err_set(
			e, -EINVAL,
			"disk image '%s' has %llu bytes, not a multiple of the %u-byte blocks "
			"of its disk; drop ',direct' or pad the image",
			f->path, (unsigned long long)f->size_bytes, f->block_size);
	return 0;
}

/* Return: true if the device of @f has a fast way to write zeroes, which may also unmap */
static bool blk_device_unmaps(int fd)
{
	/* the second is the way from a partition to its disk */
	static const char *const where[] = {"queue", "../queue"};
	struct stat st;
	size_t i;

	if (fstat(fd, &st) < 0)
		return false;
	for (i = 0; i < 2; i++) {
		unsigned long long max = 0;
		char path[96];
		FILE *file;
		int n;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/write_zeroes_max_bytes",
			 major(st.st_rdev), minor(st.st_rdev), where[i]);
		file = fopen(path, "re");
		if (!file)
			continue;
		n = fscanf(file, "%llu", &max);
		fclose(file);
		return n == 1 && max > 0;
	}
	return false;
}

static void blk_find_features(struct blk_file *f, mode_t type)
{
	const off_t end = (off_t)((f->size_bytes + BLK_MAX_BLOCK_SIZE - 1) / BLK_MAX_BLOCK_SIZE *
				  BLK_MAX_BLOCK_SIZE);

	if (f->readonly)
		return;
	if (type == S_IFBLK) {
		f->can_discard = blk_device_unmaps(f->fd);
		f->can_write_zeroes = true; /* the kernel writes them if the device cannot */
		return;
	}
	/* a hole behind the end of the file changes nothing */
	f->can_discard = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end,
				   BLK_MAX_BLOCK_SIZE) == 0;
	/* where a range cannot be zeroed in place, a hole reads as zeroes too */
	f->can_write_zeroes = f->can_discard;
}

int blk_file_open(struct blk_file *f, const struct blk_options *opt, struct err *e)
{
	mode_t type = 0;
	int ret;

	memset(f, 0, sizeof(*f));
	f->fd = -1;
	f->ring.event_fd = -1;
	f->path = opt->path;
	f->readonly = opt->readonly;
	f->direct = opt->direct;
	ret = blk_open_fd(f, opt, &type, e);
	if (!ret && !opt->unlocked)
		ret = blk_file_lock(f, e);
	if (!ret && !opt->raw)
		ret = blk_check_raw(f, e);
	if (!ret)
		ret = blk_find_size(f, e);
	if (!ret)
		ret = blk_find_block_size(f, type, e);
	if (ret)
		return ret;
	f->host_readonly = f->readonly;
	f->host_block_size = f->block_size;
	blk_find_features(f, type);
	return blk_ring_init(&f->ring, BLK_MAX_IN_FLIGHT, e);
}

void blk_file_suit(struct blk_file *f, bool readonly, uint32_t block_size)
{
	const bool larger = block_size > f->host_block_size && block_size <= BLK_MAX_BLOCK_SIZE &&
			    block_size % f->host_block_size == 0 &&
			    !(block_size & (block_size - 1)) && f->size_bytes % block_size == 0;

	f->readonly = f->host_readonly || readonly;
	f->block_size = larger ? block_size : f->host_block_size;
}

void blk_file_close(struct blk_file *f)
{
	blk_ring_fini(&f->ring);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}
