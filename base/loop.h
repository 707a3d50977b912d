/*
 * The event loop: one thread waits on descriptors and calls back. Watches are storage of their
 * owner; adding and removing is allowed from any thread, callbacks run on the loop's thread only.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct loop {
	int epfd;
	bool stop;
};

struct loop_watch {
	int fd;		 /* -1: not watched */
	uint32_t events; /* EPOLL* bits, for ready(): why it is called */
	void (*ready)(struct loop_watch *w);
};

/* A way for other threads to have work done on the loop's thread. */
struct loop_call {
	struct loop *loop; /* NULL: not initialized */
	struct loop_watch watch;
	pthread_mutex_t lock;
	pthread_cond_t done_cond, free_cond;
	int (*fn)(void *arg);
	void *arg;
	int result;
	bool busy, done, closed;
};

/** loop_init - make an empty loop. Return: 0 or -errno. */
int loop_init(struct loop *l);
/** loop_fini - release the loop; accepts a loop whose epfd is -1 */
void loop_fini(struct loop *l);

/**
 * loop_add - watch @w->fd for @events (EPOLLIN, EPOLLOUT; level-triggered)
 * @w must stay where it is until loop_del() was called on the loop's thread, or the loop ended: a
 * callback already chosen may still run once after a loop_del() from another thread.
 * Return: 0 or -errno
 */
int loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
	     void (*ready)(struct loop_watch *));
/** loop_mod - change the watched events. Return: 0 or -errno. */
int loop_mod(struct loop *l, struct loop_watch *w, uint32_t events);
/** loop_del - stop watching; does nothing if @w is not watched. Does not close the descriptor. */
void loop_del(struct loop *l, struct loop_watch *w);

/** loop_run - dispatch until loop_stop(). Return: 0, or -errno of epoll_wait(2). */
int loop_run(struct loop *l);
/**
 * loop_turn - one callback at most
 * @timeout_ms: how long to wait for one that is due; -1: until there is
 * Return: 1 it has run; 0 none was due; -errno of epoll_wait(2)
 */
int loop_turn(struct loop *l, int timeout_ms);
/**
 * loop_call_init, loop_call_fini - let other threads have functions run on the loop's thread
 * Return: 0 or -errno; @c may be given to loop_call_fini() in any case once it is zeroed
 */
int loop_call_init(struct loop_call *c, struct loop *l);
void loop_call_fini(struct loop_call *c);

/**
 * loop_call - run @fn(@arg) on the loop's thread and wait until it has returned
 * From any other thread; calls of several are done one after another. The loop must be running
 * until then.
 * Return: what @fn returned; -ECANCELED when the loop ended before it began (loop_call_close())
 */
int loop_call(struct loop_call *c, int (*fn)(void *arg), void *arg);

/** loop_call_close - on the loop's thread: no call begins any more, a waiting one is refused */
void loop_call_close(struct loop_call *c);
/** loop_call_open - calls may begin again */
void loop_call_open(struct loop_call *c);

/** loop_stop - make loop_run() return after the current callback; loop's thread only */
void loop_stop(struct loop *l);

#endif
