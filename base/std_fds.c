#include "base/std_fds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>

#define N_STD 3

/* File-scope on purpose: a process has them once. */
static bool was_closed[N_STD];
static int out_error;

void std_fds_hold(void)
{
	int fd;

	for (fd = 0; fd < N_STD; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			continue;
		was_closed[fd] = true;
		/* gets the lowest number that is free, which is @fd; knows no read(2), write(2) */
		if (epoll_create1(EPOLL_CLOEXEC) != fd)
			return;
	}
}

bool std_fd_was_closed(int fd)
{
	return fd >= 0 && fd < N_STD && was_closed[fd];
}

int std_out_flush(void)
{
	if (fflush(stdout) != 0 && !out_error)
		out_error = -errno;
	if (ferror(stdout) && !out_error)
		out_error = -EIO;
	return out_error;
}
