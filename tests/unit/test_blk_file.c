#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file_magic.h"
#include "devices/virtio/blk_file.h"

/* Each test runs in a fresh directory. */
static int enter_dir(void **state)
{
	char *dir = strdup("test-blk-file-XXXXXX");

	*state = dir;
	return !dir || !mkdtemp(dir) || chmod(dir, 0755) < 0 || chdir(dir) < 0;
}

static int leave_dir(void **state)
{
	DIR *d = opendir(".");
	struct dirent *entry;
	int ret;

	while (d && (entry = readdir(d))) {
		if (entry->d_name[0] != '.' && unlink(entry->d_name) < 0)
			rmdir(entry->d_name);
	}
	if (d)
		closedir(d);
	ret = chdir("..") < 0 || rmdir(*state) < 0;
	free(*state);
	return ret;
}

static void make_file(const char *path, off_t size)
{
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static int open_image(struct blk_file *f, const char *path, bool readonly, struct err *e)
{
	const struct blk_options opt = {.path = path, .readonly = readonly};

	memset(e, 0, sizeof(*e));
	return blk_file_open(f, &opt, e);
}

static unsigned int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static const struct {
	const char *path;
	bool readonly;
	int ret;
	const char *says[2]; /* cause and cure */
} opens[] = {
	{"good", false, 0, {NULL, NULL}},
	{"good", true, 0, {NULL, NULL}},
	{"link", false, 0, {NULL, NULL}},
	{"missing", false, -ENOENT, {"does not exist", "truncate"}},
	{"good/below", false, -ENOTDIR, {"does not exist", "path"}},
	{"dangling", false, -ENOENT, {"does not exist", "path"}},
	{"dir", false, -EISDIR, {"a directory", "raw image"}},
	{"dir", true, -EISDIR, {"a directory", "raw image"}},
	{"fifo", true, -EINVAL, {"neither", "block device"}},
	{"fifo", false, -EINVAL, {"neither", "block device"}},
	{"/dev/null", false, -EINVAL, {"neither", "block device"}},
	{"empty", false, -EINVAL, {"empty", "truncate -s"}},
	{"odd", false, -EINVAL, {"1000 bytes", "truncate -s 1024"}},
	{"tiny", true, -EINVAL, {"1 bytes", "truncate -s 512"}},
	{"loop", false, -ELOOP, {"cannot open", "raw image"}},
};

static void test_open(void **state)
{
	unsigned int fds;
	size_t i;

	(void)state;
	make_file("good", 8 * MiB);
	make_file("empty", 0);
	make_file("odd", 1000);
	make_file("tiny", 1);
	assert_int_equal(mkdir("dir", 0755), 0);
	assert_int_equal(mkfifo("fifo", 0644), 0);
	assert_int_equal(symlink("good", "link"), 0);
	assert_int_equal(symlink("nothing", "dangling"), 0);
	assert_int_equal(symlink("loop", "loop"), 0);
	fds = count_fds();
	for (i = 0; i < ARRAY_SIZE(opens); i++) {
		struct blk_file f;
		struct err e;
		unsigned int s;

		if (open_image(&f, opens[i].path, opens[i].readonly, &e) != opens[i].ret)
			fail_msg("%s: %d %s", opens[i].path, e.code, e.text);
		if (!opens[i].ret) {
			assert_int_equal(f.size_bytes, 8 * MiB);
			assert_int_equal(f.block_size, 512);
			assert_int_equal(f.can_discard, !opens[i].readonly);
			assert_int_equal(f.can_write_zeroes, !opens[i].readonly);
		} else {
			assert_non_null(strstr(e.text, opens[i].path));
			for (s = 0; s < 2; s++) {
				if (!strstr(e.text, opens[i].says[s]))
					fail_msg("%s: '%s' not in: %s", opens[i].path,
						 opens[i].says[s], e.text);
			}
			assert_null(strchr(e.text, '\n'));
		}
		blk_file_close(&f);
		blk_file_close(&f);
		assert_int_equal(count_fds(), fds);
	}
	/* the probe for holes left the image as it was */
	{
		struct stat st;

		assert_int_equal(stat("good", &st), 0);
		assert_int_equal(st.st_size, 8 * MiB);
		assert_int_equal(st.st_blocks, 0);
	}
}

/* Taken for raw, each of them would be destroyed by the guest's first write. */
static void test_other_formats(void **state)
{
	static const bool yes[] = {false, true};
	const struct file_magic *table;
	size_t i, r, d, n;

	(void)state;
	table = file_magic_table(&n);
	for (i = 0; i < n; i++) {
		const off_t size = (off_t)(MiB + (i % 2 ? 0 : 100)); /* not to be padded either */
		const bool refused =
			table[i].class != FILE_RAW && table[i].class != FILE_OTHER_KERNEL;
		int fd;

		make_file("image", size);
		fd = open("image", O_WRONLY | O_CLOEXEC);
		assert_int_equal(pwrite(fd, table[i].bytes, table[i].len,
					table[i].offset + (table[i].offset < 0 ? size : 0)),
				 table[i].len);
		close(fd);
		for (r = 0; r < 2; r++)
			for (d = 0; d < 2; d++) {
				struct blk_options opt = {
					.path = "image", .readonly = yes[r], .direct = yes[d]};
				struct err e = {0};
				struct blk_file f;
				int ret = blk_file_open(&f, &opt, &e);

				if (refused &&
				    (ret != -EINVAL || !strstr(e.text, table[i].name) ||
				     !strstr(e.text, "'image'") || !strstr(e.text, ",format=raw")))
					fail_msg("%s: %d %s", table[i].name, ret, e.text);
				if (!refused && strstr(e.text, "format"))
					fail_msg("%s: %s", table[i].name, e.text);
				blk_file_close(&f);
				if (size % BLK_SECTOR)
					continue;
				opt.raw = true;
				e = (struct err) {0};
				if (blk_file_open(&f, &opt, &e))
					fail_msg("%s as raw: %s", table[i].name, e.text);
				blk_file_close(&f);
			}
		assert_int_equal(unlink("image"), 0);
	}
}

/* In a child, which may drop its rights. Return: 0 if the error is @code and its text has @says */
static int child_open(const char *path, bool readonly, int code, const char *says)
{
	struct blk_file f;
	struct err e;
	int ret = open_image(&f, path, readonly, &e);

	blk_file_close(&f);
	if (ret == code && (!says || strstr(e.text, says)))
		return 0;
	fprintf(stderr, "%s: %d '%s'\n", path, ret, e.text);
	return 1;
}

static void check_child(pid_t pid)
{
	int status;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_permissions(void **state)
{
	pid_t pid;

	(void)state;
	make_file("locked-away", MiB);
	make_file("read-only", MiB);
	assert_int_equal(chmod("locked-away", 0), 0);
	assert_int_equal(chmod("read-only", 0444), 0);
	pid = fork();
	if (!pid) {
		/* root may do anything; nobody may not */
		if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
			_exit(77);
		_exit(child_open("locked-away", false, -EACCES, ",ro") |
		      child_open("locked-away", true, -EACCES, "no permission to read") |
		      child_open("read-only", false, -EACCES, ",ro") |
		      child_open("read-only", true, 0, NULL));
	}
	check_child(pid);
}

static const struct {
	const char *name;
	bool first_ro, second_ro;
	int ret;
} locks[] = {
	{"two writers", false, false, -EBUSY},
	{"reader behind a writer", false, true, -EBUSY},
	{"writer behind a reader", true, false, -EBUSY},
	{"two readers", true, true, 0},
};

static void test_locks(void **state)
{
	size_t i;

	(void)state;
	make_file("image", MiB);
	for (i = 0; i < ARRAY_SIZE(locks); i++) {
		struct blk_file a, b;
		struct err e;

		assert_int_equal(open_image(&a, "image", locks[i].first_ro, &e), 0);
		if (open_image(&b, "image", locks[i].second_ro, &e) != locks[i].ret)
			fail_msg("%s: %d %s", locks[i].name, e.code, e.text);
		if (locks[i].ret)
			assert_non_null(strstr(e.text, "'image'"));
		blk_file_close(&b);
		/* the refused one took nothing of the first one's lock with it */
		if (locks[i].ret) {
			assert_int_equal(open_image(&b, "image", locks[i].second_ro, &e), -EBUSY);
			blk_file_close(&b);
		}
		/* and no lock outlives its holder, not even for a moment */
		blk_file_close(&a);
		assert_int_equal(open_image(&b, "image", false, &e), 0);
		blk_file_close(&b);
	}
}

/* QEMU's locks: bytes 100 + n for permissions in use, 200 + n for those not shared */
static const struct {
	const char *name;
	off_t byte[3];
	bool readonly;
	int ret;
} qemu[] = {
	{"QEMU writes, we would write", {100, 101, 201}, false, -EBUSY},
	{"QEMU writes, we would read", {100, 101, 201}, true, -EBUSY},
	{"QEMU reads, we would write", {100, 201, 203}, false, -EBUSY},
	{"QEMU reads, we would read", {100, 201, 203}, true, 0},
};

static void test_qemu_locks(void **state)
{
	size_t i, k;

	(void)state;
	make_file("image", MiB);
	for (i = 0; i < ARRAY_SIZE(qemu); i++) {
		int fd = open("image", O_RDWR | O_CLOEXEC);
		struct blk_file f;
		struct err e;

		assert_true(fd >= 0);
		for (k = 0; k < 3; k++) {
			struct flock l = {.l_type = F_RDLCK,
					  .l_whence = SEEK_SET,
					  .l_start = qemu[i].byte[k],
					  .l_len = 1};

			assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
		}
		if (open_image(&f, "image", qemu[i].readonly, &e) != qemu[i].ret)
			fail_msg("%s: %d %s", qemu[i].name, e.code, e.text);
		blk_file_close(&f);
		close(fd);
	}
}

static int ring_do(struct blk_file *f, void (*prep)(struct blk_file *, struct io_uring_sqe *))
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&f->ring.uring);
	struct io_uring_cqe *cqe;
	int res;

	assert_non_null(sqe);
	prep(f, sqe);
	assert_int_equal(io_uring_submit(&f->ring.uring), 1);
	assert_int_equal(io_uring_wait_cqe(&f->ring.uring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(&f->ring.uring, cqe);
	return res;
}

static void prep_fsync(struct blk_file *f, struct io_uring_sqe *sqe)
{
	io_uring_prep_fsync(sqe, f->fd, 0);
}

static void prep_openat(struct blk_file *f, struct io_uring_sqe *sqe)
{
	(void)f;
	io_uring_prep_openat(sqe, AT_FDCWD, "image", O_RDONLY, 0);
}

static void prep_socket_send(struct blk_file *f, struct io_uring_sqe *sqe)
{
	io_uring_prep_send(sqe, f->fd, "x", 1, 0);
}

static void prep_nop(struct blk_file *f, struct io_uring_sqe *sqe)
{
	(void)f;
	io_uring_prep_nop(sqe);
}

/* A ring that could open files would be a hole in the sandbox. */
static void test_ring_is_restricted(void **state)
{
	struct io_uring_probe *probe;
	struct blk_file f;
	struct err e;

	(void)state;
	make_file("image", MiB);
	assert_int_equal(open_image(&f, "image", false, &e), 0);
	assert_int_equal(ring_do(&f, prep_fsync), 0);
	assert_int_equal(ring_do(&f, prep_openat), -EACCES);
	assert_int_equal(ring_do(&f, prep_socket_send), -EACCES);
	assert_int_equal(ring_do(&f, prep_nop), -EACCES);
	/* nor can the restriction be changed */
	probe = io_uring_get_probe_ring(&f.ring.uring);
	assert_null(probe);
	assert_int_equal(syscall(SYS_io_uring_register, f.ring.uring.ring_fd,
				 IORING_REGISTER_RESTRICTIONS, NULL, 0),
			 -1);
	blk_file_close(&f);
}

static const struct {
	int error;
	const char *says;
} denied[] = {
	{EPERM, "/proc/sys/kernel/io_uring_disabled"},
	{ENOSYS, "CONFIG_IO_URING"},
	{ENOMEM, "ulimit -l"},
	{EMFILE, "ulimit -n"},
	{EINVAL, "Linux 6.1"},
};

/* What a container's seccomp profile, the sysctl and limits make of io_uring_setup(2) */
static void test_no_io_uring(void **state)
{
	size_t i;

	(void)state;
	make_file("image", MiB);
	for (i = 0; i < ARRAY_SIZE(denied); i++) {
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
			BPF_STMT(BPF_RET | BPF_K,
				 SECCOMP_RET_ERRNO | (unsigned int)denied[i].error),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog prog = {.len = ARRAY_SIZE(code), .filter = code};
		const pid_t pid = fork();

		if (!pid) {
			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
			    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
				_exit(77);
			_exit(child_open("image", false, -denied[i].error, denied[i].says));
		}
		check_child(pid);
	}
}

/* A loop device of 4096-byte blocks over @path. Return: its name, NULL without rights to one. */
static char *loop_make(const char *path, char *name, size_t size)
{
	struct loop_config c = {.block_size = 4096, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1, n = -1;

	c.fd = (uint32_t)open(path, O_RDWR | O_CLOEXEC);
	if (ctl >= 0)
		n = ioctl(ctl, LOOP_CTL_GET_FREE);
	if (n >= 0) {
		snprintf(name, size, "/dev/loop%d", n);
		fd = open(name, O_RDWR | O_CLOEXEC);
	}
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &c) < 0) {
		close(fd);
		fd = -1;
	}
	close((int)c.fd);
	if (ctl >= 0)
		close(ctl);
	/* fd stays open: the last close of the device takes it apart */
	return fd >= 0 ? name : NULL;
}

static void test_block_device(void **state)
{
	struct blk_file a, b;
	struct err e;
	char name[32];

	(void)state;
	make_file("image", MiB);
	if (!loop_make("image", name, sizeof(name))) {
		print_message("# SKIP: no rights to make a loop device\n");
		skip();
	}
	if (open_image(&a, name, false, &e))
		fail_msg("%s", e.text);
	assert_int_equal(a.size_bytes, MiB);
	assert_int_equal(a.block_size, 4096);
	assert_true(a.can_write_zeroes);
	assert_true(a.can_discard);
	/* what is mounted has a claim on the device just as the first opener has */
	assert_int_equal(open_image(&b, name, false, &e), -EBUSY);
	assert_non_null(strstr(e.text, "mounted"));
	assert_non_null(strstr(e.text, name));
	blk_file_close(&b);
	blk_file_close(&a);
	assert_int_equal(open_image(&a, name, true, &e), 0);
	assert_int_equal(open_image(&b, name, true, &e), 0);
	assert_false(b.can_discard);
	assert_false(b.can_write_zeroes);
	blk_file_close(&b);
	blk_file_close(&a);
}

/* The guest that arrives knows its disk; what the host cannot be stays the host's. */
static void test_suit(void **state)
{
	static const struct {
		bool host_readonly, readonly;
		uint32_t block_size; /* that the guest knows */
		bool want_readonly;
		uint32_t want_block_size;
	} rows[] = {
		{false, false, 512, false, 512},   {false, true, 512, true, 512},
		{true, false, 512, true, 512},	   {true, true, 4096, true, 4096},
		{false, false, 4096, false, 4096}, {false, false, 8192, false, 512},
		{false, false, 1536, false, 512},  {false, false, 0, false, 512},
		{false, false, 256, false, 512},   {false, false, UINT32_MAX, false, 512},
		{false, false, 2048, false, 512}, /* the image is no multiple of it, below */
	};
	struct blk_file f;
	struct err e;
	size_t i;

	(void)state;
	make_file("image", MiB);
	make_file("odd", MiB + 512);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const bool odd = rows[i].block_size == 2048;

		assert_int_equal(open_image(&f, odd ? "odd" : "image", rows[i].host_readonly, &e),
				 0);
		/* one after the other: nothing of the first stays */
		blk_file_suit(&f, !rows[i].readonly, 1024);
		blk_file_suit(&f, rows[i].readonly, rows[i].block_size);
		assert_int_equal(f.readonly, rows[i].want_readonly);
		assert_int_equal(f.block_size, rows[i].want_block_size);
		blk_file_close(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_open, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_other_formats, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_permissions, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_locks, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_qemu_locks, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_ring_is_restricted, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_no_io_uring, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_suit, enter_dir, leave_dir),
		cmocka_unit_test_setup_teardown(test_block_device, enter_dir, leave_dir),
	};

	return cmocka_run_group_tests_name("blk_file", tests, NULL, NULL);
}
