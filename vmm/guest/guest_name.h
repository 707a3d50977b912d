/*
 * The name of a guest that arrives: it keeps the one it had where it came from, unless --name was
 * given here. Until it can have it, it is listed under the number of its process.
 */
#ifndef VMM_GUEST_GUEST_NAME_H
#define VMM_GUEST_GUEST_NAME_H

#include <stdbool.h>

#include "base/loop.h"
#include "control/rundir.h"

struct control;
struct err;

struct guest_name {
	struct control *control;
	struct loop *loop;
	/* what the guest is called wherever it is; "": by the number of its process */
	char name[RUNDIR_NAME_MAX + 1];
	bool wanted; /* it is to become the run directory's */
	int timer_fd;
	struct loop_watch timer;
	unsigned int tries;
};

/** guest_name_init - an empty one: guest_name_close() is safe from here on */
void guest_name_init(struct guest_name *n);

/**
 * guest_name_open - before the sandbox
 * @given: --name, or NULL
 * @comes: a guest is to arrive. Return: 0 or -errno
 */
int guest_name_open(struct guest_name *n, struct control *control, struct loop *loop,
		    const char *given, bool comes, struct err *e);
void guest_name_close(struct guest_name *n);

/**
 * guest_name_hear - the guest that comes is called @name there, "": by a number
 * Return: 0; -EINVAL for what is no name: it comes from another process, or from a file
 */
int guest_name_hear(struct guest_name *n, const char *name, struct err *e);

/**
 * guest_name_take - the guest is here: it gets its name, if that is to be had
 * @wait: it may be its source that has the name, on this host; asked for again until that has gone
 */
void guest_name_take(struct guest_name *n, bool wait);

#endif
