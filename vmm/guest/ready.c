#include "vmm/guest/ready.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "vmm/guest/config.h"

void ready_init(struct ready *r)
{
	*r = (struct ready) {.line_fd = -1, .notify_fd = -1, .parent_fd = -1, .null_fd = -1};
}

/* sd_notify(3): a datagram to the path in NOTIFY_SOCKET, '@' for the abstract name space. */
static void open_notify(struct ready *r)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	socklen_t len;

	if (!path || !*path)
		return;
	if ((path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(a.sun_path)) {
		log_warn("NOTIFY_SOCKET '%s' is no path of a socket; nobody is told that the guest "
			 "is ready",
			 path);
		return;
	}
	memcpy(a.sun_path, path, strlen(path));
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = '\0';
	r->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (r->notify_fd >= 0 && connect(r->notify_fd, (struct sockaddr *)&a, len) == 0)
		return;
	log_warn("NOTIFY_SOCKET '%s': %s; nobody is told that the guest is ready", path,
		 strerror(errno));
	if (r->notify_fd >= 0)
		close(r->notify_fd);
	r->notify_fd = -1;
}

int ready_open(struct ready *r, const struct run_config *config, struct err *e)
{
	const int flags = config->ready_fd ? fcntl(config->ready_fd, F_GETFL) : 0;

	if (flags < 0)
		return err_set(e, -EBADF,
			       "--ready-fd %d: no such descriptor is open; give one that the "
			       "starting program has opened",
			       config->ready_fd);
	if (config->ready_fd && (flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY))
		return err_set(e, -EBADF,
			       "--ready-fd %d: is not open for writing; give one that is, as with "
			       "%d>FILE in a shell",
			       config->ready_fd, config->ready_fd);
	if (config->ready_fd)
		r->line_fd = config->ready_fd;
	if (r->line_fd > STDERR_FILENO)
		fcntl(r->line_fd, F_SETFD, FD_CLOEXEC);
	open_notify(r);
	return 0;
}

/* ---- --daemonize ---- */

/* Return: how the parent ends; a signal that ended the child in *sig */
static int await_child(int fd, pid_t child, int *sig)
{
	int status = 0;
	ssize_t n;
	char c;

	do
		n = read(fd, &c, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		return 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		*sig = WTERMSIG(status);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int ready_daemonize(struct ready *r, int *code, int *sig, struct err *e)
{
	const pid_t parent = getpid();
	int p[2];
	pid_t child;

	r->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (r->null_fd < 0 || pipe2(p, O_CLOEXEC) < 0)
		return err_set(e, -errno, "--daemonize: %s", strerror(errno));
	child = fork();
	if (child < 0) {
		close(p[0]);
		close(p[1]);
		return err_set(e, -errno, "--daemonize: no process: %s", strerror(errno));
	}
	if (child) {
		close(p[1]);
		*code = await_child(p[0], child, sig);
		close(p[0]);
		return 1;
	}
	close(p[0]);
	r->parent_fd = p[1];
	/* who is killed while it waits does not want the guest either */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		raise(SIGTERM);
	return 0;
}

/* What is said from here on goes where standard error leads, if that is a file, or nowhere. */
static void leave_streams(const struct ready *r)
{
	struct stat st;

	dup2(r->null_fd, STDIN_FILENO);
	dup2(r->null_fd, STDOUT_FILENO);
	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		dup2(r->null_fd, STDERR_FILENO);
}

static void release_parent(struct ready *r)
{
	if (r->parent_fd < 0)
		return;
	prctl(PR_SET_PDEATHSIG, 0);
	setsid();
	leave_streams(r);
	if (write(r->parent_fd, "r", 1) != 1)
		log_debug("--daemonize: nobody waits any more");
	close(r->parent_fd);
	close(r->null_fd);
	r->parent_fd = r->null_fd = -1;
}

/* ---- telling ---- */

static void tell_line(struct ready *r, const char *line)
{
	struct pollfd p = {.fd = r->line_fd, .events = POLLOUT};
	const size_t len = strlen(line);

	if (r->line_fd < 0)
		return;
	/* a reader that does not read must not keep the guest waiting */
	if (poll(&p, 1, 0) != 1 || write(r->line_fd, line, len) != (ssize_t)len)
		log_warn("--ready-fd %d: %s; nobody was told there", r->line_fd,
			 errno ? strerror(errno) : "full");
	if (r->line_fd > STDERR_FILENO)
		close(r->line_fd);
	r->line_fd = -1;
}

static void tell_manager(struct ready *r, const char *name, const char *status)
{
	char text[192];
	int len;

	if (r->notify_fd < 0)
		return;
	len = snprintf(text, sizeof(text), "READY=1\nSTATUS=guest %s: %s\nMAINPID=%d",
		       name ? name : "", status, (int)getpid());
	if (send(r->notify_fd, text, (size_t)len, MSG_NOSIGNAL) != len)
		log_warn("NOTIFY_SOCKET: %s; the service manager was not told that the guest is "
			 "ready",
			 strerror(errno));
	close(r->notify_fd);
	r->notify_fd = -1;
}

void ready_tell(struct ready *r, const char *name, const char *status, const char *where)
{
	char line[512];

	if (r->told)
		return;
	r->told = true;
	snprintf(line, sizeof(line) - 1, "ready%s%s pid=%d status=%s%s%s", name ? " name=" : "",
		 name ? name : "", (int)getpid(), status, where ? " incoming=" : "",
		 where ? where : "");
	text_printable(line); /* it stays one, whatever a socket's path holds */
	strcat(line, "\n");
	errno = 0;
	tell_line(r, line);
	tell_manager(r, name, status);
	release_parent(r);
}

void ready_close(struct ready *r)
{
	if (r->line_fd > STDERR_FILENO)
		close(r->line_fd);
	if (r->notify_fd >= 0)
		close(r->notify_fd);
	if (r->parent_fd >= 0)
		close(r->parent_fd);
	if (r->null_fd >= 0)
		close(r->null_fd);
	ready_init(r);
}
