#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/kvm/memory.h"
#include "vmm/layout.h"

static const struct {
	const char *name;
	struct memory_options opt;
	unsigned int phys_bits;
	const char *says; /* NULL: accepted */
} checks[] = {
	{"smallest", {.size_bytes = 2 * MiB}, 36, NULL},
	{"too small", {.size_bytes = 2 * MiB - 4096}, 36, "too little"},
	{"not a page", {.size_bytes = 2 * MiB + 1}, 36, "not a multiple of 4 KiB"},
	{"not a huge page",
	 {.size_bytes = 3 * MiB, .hugepages = true},
	 36,
	 "not a multiple of 2 MiB"},
	{"63 GiB in 36 bits", {.size_bytes = 63 * GiB}, 36, NULL},
	{"64 GiB in 36 bits", {.size_bytes = 64 * GiB}, 36, "at most 64512"},
	{"64 GiB in 39 bits", {.size_bytes = 64 * GiB}, 39, NULL},
	{"all of it", {.size_bytes = ~UINT64_C(0) << 12}, 52, "do not fit"},
	/* a slot of KVM has at most 2^31 - 1 pages */
	{"as much as two slots take", {.size_bytes = 8391679 * MiB}, 52, NULL},
	{"a MiB more", {.size_bytes = 8391680 * MiB}, 52, "slot of KVM; give at most 8391679"},
	{"16 TiB", {.size_bytes = 16384 * GiB}, 52, "slot of KVM; give at most 8391679"},
};

static void test_check(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(checks); i++) {
		struct err e = {0};
		int ret = memory_check(&checks[i].opt, checks[i].phys_bits, &e);

		if ((ret == 0) != !checks[i].says || (ret && !strstr(e.text, checks[i].says)))
			fail_msg("%s: ret %d, '%s'", checks[i].name, ret, e.text);
	}
}

static const struct {
	uint64_t size_bytes;
	unsigned int n_regions;
	uint64_t low, high;
} layouts[] = {
	{128 * MiB, 1, 128 * MiB, 0},
	{3 * GiB, 1, 3 * GiB, 0},
	{3 * GiB + 4096, 2, 3 * GiB, 4096},
	{64 * GiB, 2, 3 * GiB, 61 * GiB},
};

static void test_layout(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct memory_options opt = {.size_bytes = layouts[i].size_bytes};
		struct memory m;
		struct stat st;
		uint8_t *p;

		assert_int_equal(memory_init(&m, &opt, NULL), 0);
		assert_int_equal(m.guest.n_regions, layouts[i].n_regions);
		assert_int_equal(m.guest.region[0].gpa, 0);
		assert_int_equal(m.guest.region[0].len_bytes, layouts[i].low);
		p = gpa_span(&m.guest, layouts[i].low - 1, 1);
		assert_ptr_equal(p, m.map + layouts[i].low - 1);
		assert_null(gpa_span(&m.guest, layouts[i].low, 1));
		if (layouts[i].high) {
			assert_int_equal(m.guest.region[1].gpa, LAYOUT_HOLE_END);
			assert_int_equal(m.guest.region[1].len_bytes, layouts[i].high);
			assert_int_equal(m.guest.region[1].fd_offset, layouts[i].low);
			p = gpa_span(&m.guest, LAYOUT_HOLE_END + layouts[i].high - 1, 1);
			assert_ptr_equal(p, m.map + layouts[i].size_bytes - 1);
			*p = 1;
			assert_null(gpa_span(&m.guest, LAYOUT_HOLE_END - 1, 2));
		}
		/* backed by what was touched, not by what was promised */
		assert_int_equal(fstat(m.fd, &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 <= 4 * MiB);
		memory_fini(&m);
		assert_int_equal(m.fd, -1);
	}
}

static void test_prealloc(void **state)
{
	const struct memory_options some = {.size_bytes = 16 * MiB, .prealloc = true};
	const struct memory_options all = {.size_bytes = UINT64_C(1) << 42, .prealloc = true};
	struct memory m;
	struct stat st;
	struct err e = {0};

	(void)state;
	assert_int_equal(memory_init(&m, &some, &e), 0);
	assert_int_equal(fstat(m.fd, &st), 0);
	assert_int_equal((uint64_t)st.st_blocks * 512, 16 * MiB);
	memory_fini(&m);
	assert_int_equal(memory_check(&all, 52, &e), -12);
	assert_non_null(strstr(e.text, "4194304 MiB wanted"));
}

/* More huge pages than any pool here holds: an error at once, not a fault later. */
static void test_hugepages_missing(void **state)
{
	const struct memory_options opt = {.size_bytes = UINT64_C(1) << 44, .hugepages = true};
	struct memory m;
	struct err e = {0};

	(void)state;
	assert_int_equal(memory_init(&m, &opt, &e), -12);
	assert_non_null(strstr(e.text, "vm.nr_hugepages"));
	memory_fini(&m);
}

/* From here on memfd_create(2) gives this error: as a container's filter does. */
static void deny_memfd(int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_memfd_create, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned int)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog filter = {.len = ARRAY_SIZE(code), .filter = code};

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

#define LIMIT_NONE RLIM_NLIMITS

static const struct {
	const char *name;
	int limit; /* LIMIT_NONE: @deny is the error of memfd_create(2) */
	uint64_t value;
	int deny;
	bool hugepages;
	int code;
	const char *says, *not ; /* not blamed */
} denials[] = {
	{"ulimit -f", RLIMIT_FSIZE, 16 * MiB, 0, false, -EFBIG, "(ulimit -f)", "ulimit -v"},
	{"ulimit -n", RLIMIT_NOFILE, 3, 0, false, -EMFILE, "(ulimit -n)", "ulimit -v"},
	{"ulimit -v", RLIMIT_AS, 16 * MiB, 0, false, -ENOMEM, "(ulimit -v)", "ulimit -f"},
	{"seccomp", LIMIT_NONE, 0, EPERM, false, -EPERM, "seccomp filter", "ulimit"},
	{"seccomp as of old", LIMIT_NONE, 0, ENOSYS, false, -ENOSYS, "seccomp filter", "ulimit"},
	{"memfd_noexec", LIMIT_NONE, 0, EACCES, false, -EACCES, "vm.memfd_noexec", "ulimit"},
	{"full host", LIMIT_NONE, 0, ENFILE, false, -ENFILE, "fs.file-max", "ulimit"},
	{"no memory", LIMIT_NONE, 0, ENOMEM, false, -ENOMEM, "a smaller -m", "ulimit"},
	{"no hugetlbfs", LIMIT_NONE, 0, ENODEV, true, -ENODEV, "leave out --hugepages", "ulimit"},
	{"hugetlbfs not built", LIMIT_NONE, 0, ENOSYS, true, -ENOSYS, "leave out --hugepages",
	 "ulimit"},
};

/* What is to blame is blamed, and nothing else. */
static void test_denied(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(denials); i++) {
		struct memory_options opt = {.size_bytes = 64 * MiB,
					     .hugepages = denials[i].hugepages};
		const struct rlimit to = {denials[i].value, denials[i].value};
		int pipes[2], status;
		struct memory m;
		struct err e = {0};

		assert_int_equal(pipe(pipes), 0);
		if (!fork()) {
			signal(SIGXFSZ, SIG_IGN);
			if (denials[i].limit != LIMIT_NONE)
				setrlimit((__rlimit_resource_t)denials[i].limit, &to);
			else
				deny_memfd(denials[i].deny);
			e.code = 0;
			memory_init(&m, &opt, &e);
			_exit(write(pipes[1], &e, sizeof(e)) != sizeof(e));
		}
		close(pipes[1]);
		assert_int_equal(read(pipes[0], &e, sizeof(e)), sizeof(e));
		close(pipes[0]);
		wait(&status);
		print_message("# %s: %s\n", denials[i].name, e.text);
		assert_int_equal(status, 0);
		assert_int_equal(e.code, denials[i].code);
		assert_non_null(strstr(e.text, "-m: cannot "));
		assert_non_null(strstr(e.text, denials[i].says));
		assert_null(strstr(e.text, denials[i].not ));
	}
}

/* more than the whole address space of a process */
static void test_no_address_space(void **state)
{
	const struct memory_options opt = {.size_bytes = UINT64_C(1) << 47};
	struct memory m;
	struct err e = {0};

	(void)state;
	assert_int_equal(memory_init(&m, &opt, &e), -12);
	assert_non_null(strstr(e.text, "cannot map 134217728 MiB of guest memory"));
	memory_fini(&m);
	assert_int_equal(m.fd, -1);
}

/* What the machine before had set up goes with it; its memory stays mapped. */
static void test_move(void **state)
{
	const struct memory_options opt = {.size_bytes = 4 * MiB};
	struct guest_mem_writer writer = {0};
	uint64_t dirty[16] = {0};
	struct memory a, b;
	uint8_t *map;

	(void)state;
	assert_int_equal(memory_init(&a, &opt, NULL), 0);
	map = a.map;
	a.guest.dirty = dirty;
	guest_mem_add_writer(&a.guest, &writer);
	memory_move(&b, &a);
	assert_true(a.fd < 0 && !a.map && !a.guest.n_regions && !a.guest.writers);
	assert_ptr_equal(b.map, map);
	assert_ptr_equal(b.guest.region[0].hva, map);
	assert_null(b.guest.dirty);
	assert_null(b.guest.writers);
	memory_fini(&a);
	memory_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check),	 cmocka_unit_test(test_layout),
		cmocka_unit_test(test_prealloc), cmocka_unit_test(test_hugepages_missing),
		cmocka_unit_test(test_denied),	 cmocka_unit_test(test_no_address_space),
		cmocka_unit_test(test_move),
	};

	return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
