/* --serial stdio as a job of a shell: in the background the terminal is left alone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "devices/char/char.h"

#define WAIT_MS 20000

/* ---- the job: gives back what it is sent, as upper case ---- */

struct job {
	struct char_backend c;
	struct chardev_user user;
	struct loop loop;
	struct loop_watch signals;
	struct vm_event_sink sink;
};

static size_t job_room(struct chardev_user *u)
{
	(void)u;
	return 16;
}

static void job_receive(struct chardev_user *u, const uint8_t *data, size_t len)
{
	struct job *j = container_of(u, struct job, user);
	uint8_t out;
	size_t i;

	for (i = 0; i < len; i++) {
		out = data[i] & (uint8_t)~0x20;
		j->c.dev.ops->write(&j->c.dev, &out, 1);
	}
}

static void job_nothing(struct chardev_user *u)
{
	(void)u;
}

static void job_raise(struct vm_event_sink *sink, enum vm_event event)
{
	(void)event;
	loop_stop(&container_of(sink, struct job, sink)->loop);
}

static void job_signal(struct loop_watch *w)
{
	struct job *j = container_of(w, struct job, signals);
	struct signalfd_siginfo info;

	if (read(w->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCONT) {
		char_continue(&j->c);
		return;
	}
	char_stop(&j->c);
	raise(SIGSTOP);
}

/* As run.c does it; ended by the escape key. */
static int run_job(void)
{
	static struct job j;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	j.user = (struct chardev_user) {job_room, job_receive, job_nothing, job_nothing};
	j.sink.raise = job_raise;
	if (loop_init(&j.loop) < 0 ||
	    loop_add(&j.loop, &j.signals, signalfd(-1, &set, 0), EPOLLIN, job_signal) < 0 ||
	    char_open(&j.c, "stdio", &j.loop, &j.sink, NULL) < 0)
		return 1;
	j.c.dev.user = &j.user;
	j.c.dev.ops->write(&j.c.dev, (const uint8_t *)"ready", 5);
	if (loop_run(&j.loop) < 0)
		return 1;
	char_close(&j.c);
	return 0;
}

/* ---- the shell: starts it in the background; its orders come through a pipe ---- */

struct shell {
	int master, slave;
	int order, answer;
	pid_t pid, job;
	char seen[4096];
	size_t n_seen;
};

/* 'f': the job to the foreground, 'b': the shell, 's': wait until the job has stopped, 'w': ended,
 * 'r': read a line of the terminal */
static void obey(char order, pid_t job, const struct termios *mode)
{
	char line[64];
	int status = 0;

	if (order == 'f')
		tcsetpgrp(0, job);
	if (order == 'b') {
		tcsetpgrp(0, getpgrp());
		tcsetattr(0, TCSANOW, mode);
	}
	if (order == 's')
		waitpid(job, &status, WUNTRACED);
	if (order == 'w')
		waitpid(job, &status, 0);
	if (order == 'r' && read(0, line, sizeof(line)) < 0)
		status = -1;
	if ((order == 's' && !WIFSTOPPED(status)) || (order == 'w' && status) ||
	    (order == 'r' && status))
		_exit(1);
}

static void run_shell(int slave, int order_fd, int answer_fd)
{
	struct termios mode;
	pid_t job;
	char order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	ioctl(slave, TIOCSCTTY, 0);
	dup2(slave, 0);
	dup2(slave, 1);
	signal(SIGTTOU, SIG_IGN);
	tcgetattr(0, &mode);
	job = fork();
	if (!job) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		signal(SIGTTOU, SIG_DFL);
		_exit(run_job());
	}
	setpgid(job, job);
	if (write(answer_fd, &job, sizeof(job)) != sizeof(job))
		_exit(1);
	while (read(order_fd, &order, 1) == 1) {
		obey(order, job, &mode);
		if (write(answer_fd, &order, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

/* @lflag: local modes that the terminal has besides */
static void shell_start(struct shell *s, tcflag_t lflag)
{
	int order[2], answer[2];
	struct termios t;

	memset(s, 0, sizeof(*s));
	assert_int_equal(openpty(&s->master, &s->slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(s->slave, &t), 0);
	t.c_lflag |= lflag;
	assert_int_equal(tcsetattr(s->slave, TCSANOW, &t), 0);
	assert_int_equal(pipe2(order, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answer, O_CLOEXEC), 0);
	s->pid = fork();
	if (!s->pid) {
		close(order[1]);
		close(answer[0]);
		run_shell(s->slave, order[0], answer[1]);
	}
	close(order[0]);
	close(answer[1]);
	s->order = order[1];
	s->answer = answer[0];
	assert_int_equal(read(s->answer, &s->job, sizeof(s->job)), sizeof(s->job));
}

static void tell(struct shell *s, char order)
{
	char c = 0;

	assert_int_equal(write(s->order, &order, 1), 1);
	assert_int_equal(read(s->answer, &c, 1), 1);
	assert_int_equal(c, order);
}

static void shell_end(struct shell *s)
{
	int status;

	close(s->order);
	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	assert_int_equal(status, 0);
	close(s->answer);
	close(s->master);
	close(s->slave);
}

static void type(struct shell *s, const char *text)
{
	memset(s->seen, 0, sizeof(s->seen));
	s->n_seen = 0;
	assert_int_equal(write(s->master, text, strlen(text)), (ssize_t)strlen(text));
}

static void see(struct shell *s, const char *text)
{
	struct pollfd p = {.fd = s->master, .events = POLLIN};

	while (!strstr(s->seen, text)) {
		ssize_t n;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		n = read(s->master, s->seen + s->n_seen, sizeof(s->seen) - 1 - s->n_seen);
		assert_true(n > 0);
		s->n_seen += (size_t)n;
	}
}

static bool is_raw(const struct shell *s)
{
	struct termios t;

	assert_int_equal(tcgetattr(s->slave, &t), 0);
	return !(t.c_lflag & (ICANON | ECHO | ISIG));
}

/* Nothing else tells that the job has taken the terminal. */
static void await_raw(const struct shell *s)
{
	int i;

	for (i = 0; !is_raw(s) && i < WAIT_MS / 10; i++)
		poll(NULL, 0, 10);
	assert_true(is_raw(s));
}

static void background_and_foreground(void **state)
{
	struct shell s;

	(void)state;
	shell_start(&s, 0);
	see(&s, "ready");
	assert_false(is_raw(&s));
	type(&s, "shell\n"); /* for the shell: the job gives nothing back */
	tell(&s, 'r');
	assert_null(strstr(s.seen, "SHELL"));

	tell(&s, 'f');
	await_raw(&s);
	type(&s, "job");
	see(&s, "JOB");

	/* stopped, on again in the background, and once more in the foreground */
	kill(s.job, SIGTSTP);
	tell(&s, 's');
	assert_false(is_raw(&s));
	tell(&s, 'b');
	kill(s.job, SIGCONT);
	type(&s, "again\n");
	tell(&s, 'r');
	assert_false(is_raw(&s));
	tell(&s, 'f');
	await_raw(&s);
	type(&s, "more");
	see(&s, "MORE");

	type(&s, "\x01x");
	tell(&s, 'w');
	assert_false(is_raw(&s));
	shell_end(&s);
}

/* SIGSTOP leaves no time to give the terminal back. */
static void stopped_by_force(void **state)
{
	struct shell s;

	(void)state;
	shell_start(&s, 0);
	tell(&s, 'f');
	see(&s, "ready");
	await_raw(&s);
	kill(s.job, SIGSTOP);
	tell(&s, 's');
	tell(&s, 'b');
	kill(s.job, SIGCONT);
	type(&s, "shell\n");
	tell(&s, 'r');
	assert_false(is_raw(&s));
	tell(&s, 'f');
	await_raw(&s);
	type(&s, "job");
	see(&s, "JOB");
	type(&s, "\x01x");
	tell(&s, 'w');
	assert_false(is_raw(&s));
	shell_end(&s);
}

/* stty tostop stops who writes from the background; not a guest. */
static void output_is_not_stopped(void **state)
{
	struct shell s;

	(void)state;
	shell_start(&s, TOSTOP);
	see(&s, "ready");
	assert_false(is_raw(&s));
	tell(&s, 'f');
	await_raw(&s);
	type(&s, "a\x01x");
	see(&s, "A");
	tell(&s, 'w');
	shell_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(background_and_foreground),
		cmocka_unit_test(stopped_by_force),
		cmocka_unit_test(output_is_not_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
