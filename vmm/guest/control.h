/*
 * A running guest's control plane: what state the guest is in, in QEMU's words, the commands that
 * look at it and change it, and the events that tell clients of it. It outlives the machine, like
 * everything that is the host's. All on the loop's thread: from others, by loop_call().
 */
#ifndef VMM_GUEST_CONTROL_H
#define VMM_GUEST_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "control/qmp_server.h"
#include "control/rundir.h"
#include "devices/vm_event.h"
#include "vmm/hold/mitigation.h"

struct isolation;
struct machine;
struct run_config;

/* QEMU's RunState, as far as there is a use for it. */
enum run_state {
	RUN_PRELAUNCH, /* not started yet; also after a reset of a guest that was paused */
	RUN_INMIGRATE, /* waits for a guest to arrive */
	RUN_RUNNING,
	RUN_PAUSED,
	RUN_FINISH_MIGRATE, /* paused, the rest of it is on its way */
	RUN_POSTMIGRATE,    /* it has gone, and must not run here again */
	RUN_SHUTDOWN,	    /* it has ended */
};

/* Return: 0; -errno, with what keeps the guest from running in @e */
typedef int control_gate_fn(void *ctx, struct err *e);

struct control {
	struct rundir dir;
	struct qmp_server server;
	struct qmp_table table; /* of control_commands.h */
	struct err why_not;	/* there is no control socket */
	struct loop *loop;
	const struct run_config *config;
	struct vm_event_sink *sink;
	struct mitigation *mitigation;
	const struct isolation *isolation;

	struct machine *machine; /* its present life, or NULL */
	enum run_state state;
	control_gate_fn *may_run; /* of control_set_gate(); NULL: nobody is asked */
	void *may_run_ctx;
	bool hold;	  /* the next life of the machine waits for cont */
	bool quit, reset; /* a client asked for it: what the event will say */

	struct mitigation_listener listener;
	unsigned int changes; /* bits of enum mitigation_change not told yet, atomic */
	int change_fd;	      /* a timer that runs while there are any */
	struct loop_watch change;
};

/** control_init - an empty one: every function below is safe from here on */
void control_init(struct control *c);

/**
 * control_open - run directory, socket, server; before the sandbox
 * Without --name a guest does without where there is no run directory to be had: a warning.
 * Return: 0; -EEXIST and others with the cure in @e; @c may be given to control_close() always
 */
int control_open(struct control *c, const struct run_config *config, struct loop *loop,
		 struct vm_event_sink *sink, struct err *e);
void control_close(struct control *c);

/** control_set_mitigation - once there is one to ask and to listen to; before the sandbox.
 * Return: 0 or -errno */
int control_set_mitigation(struct control *c, struct mitigation *m, const struct isolation *iso,
			   struct err *e);

/** control_add_commands - one more owner's; @t is storage of the caller's (commands, n, ctx) */
void control_add_commands(struct control *c, struct qmp_table *t);

/** control_set_gate - @fn(@ctx) is asked before a client makes a paused guest go on or begin again */
void control_set_gate(struct control *c, control_gate_fn *fn, void *ctx);

/** control_version - the version object of the greeting and of query-version */
json_t *control_version(void);

/** control_event - tell every client; @data: takes the reference, NULL for none */
void control_event(struct control *c, const char *name, json_t *data);

/** run_state_name - QEMU's word */
const char *run_state_name(enum run_state state);

/** control_set_state - for changes that neither pause nor resume anything; no event */
void control_set_state(struct control *c, enum run_state state);

/**
 * control_pause - the machine stands still, the state is @state from here on
 * @state: RUN_PAUSED, RUN_FINISH_MIGRATE
 * Clients are told STOP if it ran. Only when there is a machine.
 */
void control_pause(struct control *c, enum run_state state);

/**
 * control_resume - the machine goes on, or starts if it never did; clients are told RESUME
 * Return: 0, also if it runs already; -errno of a start that failed
 */
int control_resume(struct control *c, struct err *e);

/**
 * control_begin - @m is the machine from here on, built and loaded
 * Return: true: start it; false: it waits for cont, since the one before was paused
 */
bool control_begin(struct control *c, struct machine *m);
/**
 * control_arrive - @m came from another process, restored, and is the machine from here on
 * @running: let it go on; else it stands, paused. Clients are told RESUME.
 * Return: 0 or -errno of the start
 */
int control_arrive(struct control *c, struct machine *m, bool running, struct err *e);
/** control_end - the machine of control_begin() is about to go */
void control_end(struct control *c);

/** control_tell_reset - a new life begins after @c's last */
void control_tell_reset(struct control *c);
/** control_tell_shutdown - the last life has ended; @by_signal: the user's signal did it */
void control_tell_shutdown(struct control *c, enum vm_event event, bool by_signal);

#endif
