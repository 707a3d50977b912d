#include "control/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

/* "PID (NAME) STATE ...": the name may hold anything, so the last parenthesis counts. */
static char read_state(pid_t pid)
{
	char path[64], text[512];
	AUTO_CLOSE int fd = -1;
	const char *end;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return '\0';
	text[n] = '\0';
	end = strrchr(text, ')');
	return end && end[1] == ' ' ? end[2] : '\0';
}

bool process_stopped(pid_t pid, char *why, size_t size)
{
	const char state = read_state(pid);

	if (state == 'T')
		snprintf(why, size,
			 "is stopped, by a signal or by its terminal; let it go on with fg in its "
			 "shell, or kill -CONT %d",
			 (int)pid);
	else if (state == 't')
		snprintf(why, size, "is stopped by a debugger; let it go on there");
	else
		return false;
	return true;
}

int process_check(const char *guest, pid_t pid, struct err *e)
{
	char why[PROCESS_WHY_MAX];

	if (!process_stopped(pid, why, sizeof(why)))
		return 0;
	return err_set(e, -EHOSTDOWN, "guest '%s': process %d %s", guest, (int)pid, why);
}
