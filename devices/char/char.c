#include "devices/char/char.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file_write.h"
#include "base/log.h"
#include "base/std_fds.h"
#include "devices/char/terminal.h"

#define ESCAPE	      0x01 /* Ctrl-a */
#define FOREGROUND_MS 200

/*
 * Input is edge-triggered and read until it runs dry, so that a peer that hung up, or a guest that
 * takes nothing, cannot spin the loop. Output is waited for once each time the outside is full.
 */
#define IN_EVENTS  (EPOLLIN | EPOLLET)
#define OUT_EVENTS (EPOLLOUT | EPOLLONESHOT)

static const char escape_help[] =
	"\r\nCtrl-a x  end the guest\r\nCtrl-a b  send a break (SysRq)\r\n"
	"Ctrl-a a  send Ctrl-a\r\nCtrl-a h  this help\r\n";

static struct char_backend *backend_of(struct chardev *dev)
{
	return container_of(dev, struct char_backend, dev);
}

static size_t char_write_locked(struct char_backend *c, const uint8_t *data, size_t len)
{
	struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};
	ssize_t n;

	if (c->out_fd < 0)
		return len; /* nobody there: the line is open, bytes are lost */
	/*
	 * Asked first, because stdio may not be made non-blocking: the mode belongs to the open
	 * file, which the user's shell shares. A FIFO's worth of bytes fits where POLLOUT is
	 * reported.
	 */
	if (poll(&p, 1, 0) <= 0)
		goto wait;
	if (p.revents & POLLHUP)
		return len;
	n = write(c->out_fd, data, len);
	if (n >= 0)
		return (size_t)n;
	if (errno == EAGAIN || errno == EINTR)
		goto wait;
	if (!c->write_failed && c->kind != CHAR_UNIX) {
		log_warn("serial output is lost from here on: %s", strerror(errno));
		c->write_failed = true;
	}
	return len;
wait:
	if (c->out.fd >= 0)
		loop_mod(c->loop, &c->out, OUT_EVENTS);
	return 0;
}

static size_t char_write(struct chardev *dev, const uint8_t *data, size_t len)
{
	struct char_backend *c = backend_of(dev);
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = char_write_locked(c, data, len);
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void char_kick(struct chardev *dev)
{
	struct char_backend *c = backend_of(dev);
	const uint64_t one = 1;

	if (c->wake_fd >= 0 && write(c->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: a wake-up is pending */
}

static const struct chardev_ops char_ops = {.write = char_write, .kick = char_kick};

/* The two directions end apart: a client may close its sending half and go on reading, and one that
 * hung up may have left input behind. */
static void close_direction(struct char_backend *c, struct loop_watch *w, int *fd)
{
	pthread_mutex_lock(&c->lock);
	loop_del(c->loop, w);
	if (c->owns_fds && *fd >= 0)
		close(*fd);
	*fd = -1;
	pthread_mutex_unlock(&c->lock);
}

static void output_ready(struct loop_watch *w)
{
	struct char_backend *c = container_of(w, struct char_backend, out);

	if (c->kind == CHAR_UNIX && w->events & (EPOLLHUP | EPOLLERR))
		close_direction(c, &c->out, &c->out_fd);
	else if (c->kind == CHAR_UNIX)
		loop_mod(c->loop, &c->out, EPOLLONESHOT);
	if (c->dev.user)
		c->dev.user->writable(c->dev.user);
}

static void watch_foreground(struct char_backend *c, bool on);

/* Take the escape sequences out of what was typed; returns what is left for the guest. */
static size_t filter_escape(struct char_backend *c, uint8_t *buf, size_t len)
{
	size_t from, to = 0;

	for (from = 0; from < len; from++) {
		uint8_t ch = buf[from];

		if (!c->escape) {
			if (ch == ESCAPE)
				c->escape = true;
			else
				buf[to++] = ch;
			continue;
		}
		c->escape = false;
		switch (ch) {
		case 'x':
			c->sink->raise(c->sink, VM_EVENT_QUIT);
			break;
		case 'b':
			if (c->dev.user)
				c->dev.user->brk(c->dev.user);
			break;
		case 'h':
			fputs(escape_help, stderr);
			break;
		case 'a':
		case ESCAPE:
			buf[to++] = ESCAPE;
			break;
		}
	}
	return to;
}

/* One read, only if it will not block. Returns false when the input is dry or ended. */
static bool read_input(struct char_backend *c)
{
	struct pollfd p = {.fd = c->in_fd, .events = POLLIN};
	uint8_t *buf = c->pending + c->pending_len;
	size_t space = sizeof(c->pending) - c->pending_len;
	uint8_t overrun[64];
	ssize_t n;

	if (c->in_fd < 0 || c->background || poll(&p, 1, 0) <= 0)
		return false;
	if (!space) { /* only a terminal gets here: the escape key must work on a guest that hangs
		       */
		buf = overrun;
		space = sizeof(overrun);
	}
	n = read(c->in_fd, buf, space);
	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0) {
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0 && c->is_terminal && !terminal_is_ours(c->in_fd)) {
			terminal_lost();
			watch_foreground(c, true);
			return false;
		}
		/*
		 * a pty reads EIO while nobody has the other side open; the next byte is a new edge
		 */
		if (c->kind != CHAR_PTY)
			close_direction(c, &c->in, &c->in_fd);
		return false;
	}
	if (c->is_terminal)
		n = (ssize_t)filter_escape(c, buf, (size_t)n);
	if (buf != overrun)
		c->pending_len += (size_t)n;
	return true;
}

static void deliver(struct char_backend *c)
{
	struct chardev_user *u = c->dev.user;
	size_t n = u ? u->room(u) : 0;

	if (n > c->pending_len)
		n = c->pending_len;
	if (!n)
		return;
	u->receive(u, c->pending, n);
	c->pending_len -= n;
	memmove(c->pending, c->pending + n, c->pending_len);
}

/* Move input as far as the guest takes it. A pipe's rest stays in the pipe, where it stalls the
 * writer as a serial line's handshake would. */
static void pump_input(struct char_backend *c)
{
	do
		deliver(c);
	while ((c->is_terminal || !c->pending_len) && read_input(c));
	deliver(c);
}

static void input_ready(struct loop_watch *w)
{
	pump_input(container_of(w, struct char_backend, in));
}

static void wake_ready(struct loop_watch *w)
{
	struct char_backend *c = container_of(w, struct char_backend, wake);
	uint64_t n;

	if (read(c->wake_fd, &n, sizeof(n)) == sizeof(n))
		pump_input(c);
}

static int watch_fds(struct char_backend *c)
{
	int ret = loop_add(c->loop, &c->in, c->in_fd, IN_EVENTS, input_ready);

	/* epoll refuses regular files and /dev/null; they are always ready, kick() alone drives
	 * them */
	if (ret < 0 && ret != -EPERM)
		return ret;
	ret = loop_add(c->loop, &c->out, c->out_fd, EPOLLONESHOT, output_ready);
	return ret == -EPERM ? 0 : ret;
}

/* ---- stdio on a terminal ---- */

/*
 * Nothing tells a process that the shell has put it into the foreground, unless it was stopped
 * before: looked at by a timer, which runs only while the terminal is another's.
 */
static void watch_foreground(struct char_backend *c, bool on)
{
	const struct itimerspec every = {
		.it_interval.tv_nsec = on ? FOREGROUND_MS * 1000000L : 0,
		.it_value.tv_nsec = on ? FOREGROUND_MS * 1000000L : 0,
	};

	c->background = on;
	timerfd_settime(c->timer_fd, 0, &every, NULL);
}

/* Return: 0; -errno of raw mode */
static int take_terminal(struct char_backend *c)
{
	int ret = terminal_raw(c->in_fd);

	if (ret < 0)
		return ret;
	watch_foreground(c, false);
	return 0;
}

static void timer_ready(struct loop_watch *w)
{
	struct char_backend *c = container_of(w, struct char_backend, timer);
	uint64_t n;

	if (read(c->timer_fd, &n, sizeof(n)) != sizeof(n) || !c->background || c->in_fd < 0 ||
	    !terminal_is_ours(c->in_fd) || take_terminal(c) < 0)
		return;
	pump_input(c);
}

void char_stop(struct char_backend *c)
{
	if (c->is_terminal)
		terminal_restore();
}

void char_continue(struct char_backend *c)
{
	if (!c->is_terminal || c->in_fd < 0)
		return;
	if (!terminal_is_ours(c->in_fd)) {
		terminal_lost();
		watch_foreground(c, true);
	} else if (take_terminal(c) == 0) {
		pump_input(c);
	}
}

static int open_terminal(struct char_backend *c, struct err *e)
{
	int ret;

	c->is_terminal = true;
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ret = c->timer_fd < 0 ? -errno
			      : loop_add(c->loop, &c->timer, c->timer_fd, EPOLLIN, timer_ready);
	if (ret < 0)
		return err_set(e, ret,
			       "--serial stdio: no timer: %s; raise the limit of open files "
			       "(ulimit -n)",
			       strerror(-ret));
	/* what the guest writes must not stop it (stty tostop), nor a read that comes too late */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	if (!terminal_is_ours(c->in_fd)) {
		watch_foreground(c, true);
		log_info("the guest runs in the background and without input; fg lets it read the "
			 "terminal");
		return 0;
	}
	ret = take_terminal(c);
	return ret < 0 ? err_set(e, ret,
				 "--serial stdio: the terminal refuses raw mode (%s); "
				 "use --serial pty, or redirect standard input",
				 strerror(-ret))
		       : 0;
}

static int open_stdio(struct char_backend *c, struct err *e)
{
	const bool no_input = std_fd_was_closed(STDIN_FILENO);
	int ret;

	if (no_input || std_fd_was_closed(STDOUT_FILENO))
		return err_set(e, -EBADF,
			       "--serial stdio: standard %s is closed; use %s, or --serial none",
			       no_input ? "input" : "output",
			       no_input ? "</dev/null" : ">/dev/null");
	c->in_fd = STDIN_FILENO;
	c->out_fd = STDOUT_FILENO;
	if (isatty(c->in_fd)) {
		ret = open_terminal(c, e);
		if (ret < 0)
			return ret;
	}
	ret = watch_fds(c);
	if (ret < 0)
		return err_set(e, ret,
			       "--serial stdio: cannot wait for standard input and output: %s; "
			       "use --serial none, pty or unix:PATH",
			       strerror(-ret));
	return 0;
}

/* ---- the others ---- */

static int open_file(struct char_backend *c, const char *path, struct err *e)
{
	int ret;

	c->out_fd = file_open_stream("--serial file", path, 0600, e);
	if (c->out_fd < 0)
		return c->out_fd;
	/* a FIFO or a device may be full; epoll refuses regular files, which never are */
	ret = loop_add(c->loop, &c->out, c->out_fd, EPOLLONESHOT, output_ready);
	return !ret || ret == -EPERM
		       ? 0
		       : err_set(e, ret, "--serial file:%s: cannot wait: %s", path, strerror(-ret));
}

static void client_ready(struct loop_watch *w)
{
	struct char_backend *c = container_of(w, struct char_backend, listen);
	int fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int ret;

	if (fd < 0)
		return;
	if (c->out_fd >= 0) { /* one client at a time */
		close(fd);
		return;
	}
	close_direction(c, &c->in,
			&c->in_fd); /* what one that hung up left, and the guest never took */
	pthread_mutex_lock(&c->lock);
	c->in_fd = fd;
	c->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	ret = c->out_fd < 0 ? -errno : watch_fds(c);
	pthread_mutex_unlock(&c->lock);
	if (ret < 0) {
		close_direction(c, &c->in, &c->in_fd);
		close_direction(c, &c->out, &c->out_fd);
	}
}

static int open_unix(struct char_backend *c, const char *path, struct err *e)
{
	int ret = unix_listen(&c->listener, "--serial unix:", path, SOCK_NONBLOCK, 1, e);

	if (ret < 0)
		return ret;
	ret = loop_add(c->loop, &c->listen, c->listener.fd, EPOLLIN, client_ready);
	return ret ? err_set(e, ret, "--serial unix:%s: cannot wait: %s", path, strerror(-ret)) : 0;
}

static int open_pty(struct char_backend *c, struct err *e)
{
	int tty_fd, ret;
	char name[64];

	/* opened and closed once: from then on the kernel reports "nobody there" as a hang-up */
	if (openpty(&c->in_fd, &tty_fd, name, NULL, NULL) < 0)
		return err_set(
			e, -errno,
			"--serial pty: no pseudo-terminal to be had: %s; is /dev/pts mounted?",
			strerror(errno));
	terminal_make_raw(tty_fd);
	close(tty_fd);
	c->out_fd = fcntl(c->in_fd, F_DUPFD_CLOEXEC, 0);
	if (c->out_fd < 0 || fcntl(c->in_fd, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(c->in_fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(e, -errno, "--serial pty: %s", strerror(errno));
	ret = watch_fds(c);
	if (ret < 0)
		return err_set(e, ret, "--serial pty: cannot wait: %s", strerror(-ret));
	log_info("serial port is on %s", name);
	return 0;
}

static int open_spec(struct char_backend *c, const char *spec, struct err *e)
{
	if (strcmp(spec, "none") == 0)
		return 0;
	if (strcmp(spec, "stdio") == 0) {
		c->kind = CHAR_STDIO;
		return open_stdio(c, e);
	}
	c->owns_fds = true;
	if (strcmp(spec, "pty") == 0) {
		c->kind = CHAR_PTY;
		return open_pty(c, e);
	}
	if (strncmp(spec, "file:", 5) == 0) {
		c->kind = CHAR_FILE;
		return open_file(c, spec + 5, e);
	}
	if (strncmp(spec, "unix:", 5) == 0) {
		c->kind = CHAR_UNIX;
		return open_unix(c, spec + 5, e);
	}
	return err_set(
		e, -EINVAL,
		"--serial: '%s' is no back end; give stdio, file:PATH, unix:PATH, pty or none",
		spec);
}

int char_open(struct char_backend *c, const char *spec, struct loop *loop,
	      struct vm_event_sink *sink, struct err *e)
{
	int ret;

	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	c->dev.ops = &char_ops;
	c->loop = loop;
	c->sink = sink;
	c->in_fd = c->out_fd = -1;
	unix_listener_zero(&c->listener);
	c->in.fd = c->out.fd = c->listen.fd = c->wake.fd = c->timer.fd = c->timer_fd = -1;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = c->wake_fd < 0 ? -errno : loop_add(loop, &c->wake, c->wake_fd, EPOLLIN, wake_ready);
	if (ret < 0)
		return err_set(e, ret,
			       "--serial: no eventfd to be had: %s; raise the limit of open "
			       "files (ulimit -n)",
			       strerror(-ret));
	return open_spec(c, spec, e);
}

void char_close(struct char_backend *c)
{
	if (!c->loop)
		return;
	if (c->is_terminal)
		terminal_restore();
	close_direction(c, &c->in, &c->in_fd);
	close_direction(c, &c->out, &c->out_fd);
	loop_del(c->loop, &c->listen);
	loop_del(c->loop, &c->wake);
	loop_del(c->loop, &c->timer);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	unix_listener_fini(&c->listener);
	pthread_mutex_destroy(&c->lock);
	memset(c, 0, sizeof(*c));
}
