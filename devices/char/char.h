/*
 * The back ends for `--serial`: the terminal, a file, a unix socket, a pseudo-terminal, nothing.
 * One struct serves them all: a pair of descriptors watched by the event loop; what differs is how
 * they come to be and what happens when the other side leaves.
 */
#ifndef DEVICES_CHAR_CHAR_H
#define DEVICES_CHAR_CHAR_H

#include <pthread.h>
#include <stdbool.h>

#include "base/loop.h"
#include "base/unix_listen.h"
#include "devices/chardev.h"
#include "devices/vm_event.h"

struct err;

enum char_kind { CHAR_NONE, CHAR_STDIO, CHAR_FILE, CHAR_UNIX, CHAR_PTY };

#define CHAR_PENDING_MAX 4096

struct char_backend {
	struct chardev dev;
	enum char_kind kind;
	struct loop *loop;
	struct vm_event_sink *sink; /* for the escape key */
	bool owns_fds;
	pthread_mutex_t lock; /* the descriptors and watches against a vCPU that writes or kicks */
	int in_fd, out_fd;    /* -1: that direction is closed */
	struct loop_watch in, out;
	int wake_fd; /* eventfd: the device has room again */
	struct loop_watch wake;
	bool write_failed; /* told once */
	/* read but not taken by the device yet; loop's thread only */
	size_t pending_len;
	uint8_t pending[CHAR_PENDING_MAX];
	/* stdio on a terminal */
	bool is_terminal;
	bool background; /* it is another process's now: not read, and looked at by the timer */
	int timer_fd;
	struct loop_watch timer;
	bool escape; /* Ctrl-a was typed */
	/* unix */
	struct unix_listener listener;
	struct loop_watch listen;
};

/**
 * char_open - open a back end as the user spelled it
 * @spec: "stdio", "none", "pty", "file:PATH" (truncated), "unix:PATH" (listens, one client at a
 *        time; output without a client is dropped)
 * @loop: its thread does the reading
 * @sink: gets VM_EVENT_QUIT from the escape key Ctrl-a x
 * stdio on a terminal switches it to raw mode; see terminal.h for how it is restored. In the
 * background that waits until the process comes to the foreground; output goes out all the same.
 * pty logs the name of the terminal to attach to.
 * Return: 0 or -errno; @c may be given to char_close() in any case
 */
int char_open(struct char_backend *c, const char *spec, struct loop *loop,
	      struct vm_event_sink *sink, struct err *e);

/** char_stop - the process is about to stop: give the terminal back */
void char_stop(struct char_backend *c);
/** char_continue - it goes on, in the foreground or in the background */
void char_continue(struct char_backend *c);

/** char_close - restore the terminal, close and unlink what char_open() made */
void char_close(struct char_backend *c);

#endif
