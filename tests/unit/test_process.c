#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/process.h"

static pid_t child(bool traced)
{
	const pid_t pid = fork();

	if (pid == 0) {
		if (traced)
			ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_running(void **state)
{
	char why[PROCESS_WHY_MAX];

	(void)state;
	assert_false(process_stopped(getpid(), why, sizeof(why)));
}

static void test_stopped(void **state)
{
	const pid_t pid = child(false);
	char why[PROCESS_WHY_MAX];

	(void)state;
	assert_true(process_stopped(pid, why, sizeof(why)));
	assert_non_null(strstr(why, "kill -CONT "));
	end(pid);
	assert_false(process_stopped(pid, why, sizeof(why)));
}

static void test_traced(void **state)
{
	const pid_t pid = child(true);
	char why[PROCESS_WHY_MAX];

	(void)state;
	assert_true(process_stopped(pid, why, sizeof(why)));
	assert_non_null(strstr(why, "debugger"));
	end(pid);
}

static void test_nobody(void **state)
{
	char why[PROCESS_WHY_MAX];

	(void)state;
	assert_false(process_stopped(0, why, sizeof(why)));
	assert_false(process_stopped(-1, why, sizeof(why)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_running),
		cmocka_unit_test(test_stopped),
		cmocka_unit_test(test_traced),
		cmocka_unit_test(test_nobody),
	};

	return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
