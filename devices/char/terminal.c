#include "devices/char/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/bytes.h"

/*
 * File-scope on purpose: a handler of a fatal signal has no argument to find the old mode by, and
 * a process has one controlling terminal.
 */
static struct {
	int fd;
	volatile sig_atomic_t is_raw;
	int hooked;
	struct termios before, raw;
} term = {.fd = -1};

bool terminal_is_ours(int fd)
{
	const pid_t foreground = tcgetpgrp(fd);

	return foreground < 0 || foreground == getpgrp();
}

void terminal_restore(void)
{
	if (!term.is_raw)
		return;
	term.is_raw = 0;
	if (terminal_is_ours(term.fd))
		tcsetattr(term.fd, TCSANOW, &term.before);
}

void terminal_lost(void)
{
	term.is_raw = 0;
}

static void restore_and_die(int sig)
{
	terminal_restore();
	raise(sig); /* SA_RESETHAND: the default action, with its core dump and status */
}

static void terminal_hook(void)
{
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGQUIT};
	struct sigaction act = {.sa_handler = restore_and_die, .sa_flags = (int)SA_RESETHAND}, old;
	size_t i;

	if (term.hooked)
		return;
	term.hooked = 1;
	atexit(terminal_restore);
	for (i = 0; i < ARRAY_SIZE(fatal); i++) {
		/* a sanitizer's own handler stays: its report is worth more */
		if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &act, NULL);
	}
}

int terminal_raw(int fd)
{
	if (!term.is_raw && tcgetattr(fd, &term.before) < 0)
		return -errno;
	term.fd = fd;
	term.raw = term.before;
	cfmakeraw(&term.raw);
	term.raw.c_oflag |= OPOST;
	terminal_hook();
	term.is_raw = 1;
	if (tcsetattr(fd, TCSANOW, &term.raw) < 0) {
		term.is_raw = 0;
		return -errno;
	}
	return 0;
}

void terminal_make_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t) == 0) {
		cfmakeraw(&t);
		tcsetattr(fd, TCSANOW, &t);
	}
}
