/* One move at its source, for as long as its thread runs: shared by the files source_*.c alone. */
#ifndef MIGRATION_MOVE_TRANSFER_H
#define MIGRATION_MOVE_TRANSFER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/move/converge.h"
#include "migration/move/source.h"
#include "migration/ram/send.h"
#include "migration/state/buf.h"

/* How far it is; source_run.c has the table that says what each of them means. */
enum source_step {
	SOURCE_CONNECTS,
	SOURCE_GREETS,	   /* heads, HELLO, DESCRIPTION; VERDICT is due */
	SOURCE_COPIES,	   /* memory, while the guest runs */
	SOURCE_HANDS_OVER, /* paused: the last round, STATE, FINISH; READY is due */
	SOURCE_COMMITS,	   /* COMMIT has left, or may have; ACK is due */
	SOURCE_GAVE,	   /* ACK came */
};

struct transfer {
	struct migration_source *s;
	enum source_step step;
	struct migration_pause pause;
	struct migration_ram memory;
	struct dirty_log *log; /* NULL: it was not started */
	struct ram_send ram;
	struct converge converge;
	struct wbuf state;
	struct frame_finish finish;
	uint64_t begin_ns;
	char after[ERR_TEXT_MAX]; /* why it does not go on here, though it should */
	bool told_stuck;	  /* that nothing ends it, once */
	bool forced;		  /* the pause will take longer than allowed, and that is known */
	struct err *e;
};

/** source_enter - @step begins: what may be cancelled, and what is told, follow */
void source_enter(struct transfer *t, enum source_step step);

/* ---- source_wire.c: what is said and heard on the control channel ---- */

/** source_greet - up to VERDICT. Return: 0; -EPERM when its policy refuses, -EREMOTEIO, -errno */
int source_greet(struct transfer *t);
/** source_end_round - the mark of a round that was sent */
int source_end_round(struct transfer *t, const struct ram_round *round);
/** source_finish - FINISH, up to READY */
int source_finish(struct transfer *t);
/**
 * source_commit - COMMIT, up to ACK
 * Where the guest is then is told by t->step: SOURCE_HANDS_OVER, here; SOURCE_COMMITS, unknown.
 */
int source_commit(struct transfer *t);

/* ---- source_copy.c: memory ---- */

/** source_start_copying - watch what is written, and make ready to send */
int source_start_copying(struct transfer *t);
/** source_copy - round after round, until the guest is to be paused. Return: 0 or -errno */
int source_copy(struct transfer *t);
/** source_copy_last - what is left, of a paused guest */
int source_copy_last(struct transfer *t);
/**
 * source_paused_too_late - did the guest write more in its last moment than a pause has room for?
 * @taken_back: how often that was so. Return: 1: let it go on; 0; -errno
 */
int source_paused_too_late(struct transfer *t, unsigned int *taken_back);

#endif
