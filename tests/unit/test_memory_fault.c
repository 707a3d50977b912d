/* SIGBUS on guest memory is told and ends the process; on anything else it is a crash. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/memory_fault.h"

#define SIZE (4 * MiB)
#define CODE 77
#define PATH "saved\x1b[31m.snap"

enum touch { TOUCH_NONE, TOUCH_MEMORY, TOUCH_OTHER, TOUCH_KILL, TOUCH_FREED, TOUCH_EFAULT };

static void end(void *arg)
{
	if (write(STDERR_FILENO, arg, strlen(arg)) < 0)
		_exit(1);
}

static char *map_file(int fd)
{
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* In a child: memory from a file that is cut to @left bytes, then touched. */
static void child(enum touch touch, off_t left)
{
	static char said[] = "last words\n";
	const struct rlimit no_core = {0, 0};
	int fd = memfd_create("saved", MFD_CLOEXEC), other = memfd_create("other", MFD_CLOEXEC);
	volatile char *at;
	struct memory m;
	char *map;

	signal(SIGBUS, SIG_DFL); /* the test library has its own */
	setrlimit(RLIMIT_CORE, &no_core);
	if (ftruncate(fd, SIZE) < 0 || ftruncate(other, SIZE) < 0 ||
	    memory_fault_open(end, said, CODE, NULL) < 0 ||
	    memory_map_file(&m, fd, PATH, 0, SIZE, NULL) < 0)
		_exit(1);
	map = map_file(other);
	at = touch == TOUCH_OTHER ? map : (char *)m.map;
	if (ftruncate(fd, left) < 0 || ftruncate(other, 0) < 0 || !map)
		_exit(1);
	if (touch == TOUCH_FREED) {
		memory_fini(&m);
		at = map_file(fd);
	}
	if (touch == TOUCH_KILL)
		raise(SIGBUS);
	if (touch == TOUCH_EFAULT)
		_exit(memory_fault_explains(true) ? CODE : 1);
	if (touch != TOUCH_NONE)
		(void)*(at + SIZE - 1);
	_exit(memory_fault_explains(false) ? CODE : 0);
}

static const struct {
	const char *name;
	enum touch touch;
	off_t left;
	int code; /* negative: by this signal */
	const char *said, *not_said;
} cases[] = {
	{"whole file", TOUCH_MEMORY, SIZE, 0, "", NULL},
	{"cut", TOUCH_MEMORY, 0, CODE, "was cut short while the guest ran", NULL},
	{"cut by a page", TOUCH_MEMORY, SIZE - 4096, CODE, "was cut short", NULL},
	{"the guest crashes of it", TOUCH_NONE, SIZE - 1, CODE, "was cut short", "last words"},
	{"another mapping", TOUCH_OTHER, SIZE, -SIGBUS, "", NULL},
	{"kill -BUS", TOUCH_KILL, SIZE, -SIGBUS, "", NULL},
	{"no guest memory any more", TOUCH_FREED, 0, -SIGBUS, "", NULL},
	{"EFAULT of KVM", TOUCH_EFAULT, SIZE, CODE, "cannot be read any more", "last words"},
};

static void test_fault(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		char said[2048];
		int pipes[2], status;
		ssize_t n;
		pid_t pid;

		assert_int_equal(pipe(pipes), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			dup2(pipes[1], STDERR_FILENO);
			child(cases[i].touch, cases[i].left);
		}
		close(pipes[1]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		n = read(pipes[0], said, sizeof(said) - 1);
		close(pipes[0]);
		said[n < 0 ? 0 : n] = '\0';
		print_message("# %s: %s\n", cases[i].name, said);
		if (cases[i].code < 0) {
			assert_true(WIFSIGNALED(status));
			assert_int_equal(WTERMSIG(status), -cases[i].code);
		} else {
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), cases[i].code);
		}
		assert_non_null(strstr(said, cases[i].said));
		if (!*cases[i].said) {
			assert_string_equal(said, "");
			continue;
		}
		assert_non_null(strstr(said, "saved?[31m.snap"));
		assert_null(strchr(said, '\x1b'));
		assert_int_equal(strncmp(said, "testudo: error: guest memory: ", 30), 0);
		if (cases[i].not_said)
			assert_null(strstr(said, cases[i].not_said));
		else
			assert_non_null(strstr(said, "\nlast words\n"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
