/* One guest on its way here, at its destination: shared by the files dest_*.c alone. */
#ifndef MIGRATION_MOVE_ARRIVAL_H
#define MIGRATION_MOVE_ARRIVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/description/description.h"
#include "migration/move/dest.h"
#include "migration/ram/recv.h"
#include "migration/state/clock.h"
#include "migration/wire/channel.h"

/* How far it is; dest_run.c has the table that says what each of them means. */
enum dest_step {
	DEST_WAITS,    /* for a connection with a head of ours */
	DEST_LISTENS,  /* HELLO is due */
	DEST_JUDGES,   /* HELLO came: somebody means it. VERDICT is due from here */
	DEST_RECEIVES, /* VERDICT has gone: memory, STATE, FINISH */
	DEST_STARTS,   /* COMMIT came: the guest is ours, and a part of it may have run */
	DEST_HAS,      /* it runs */
};

struct arrival {
	struct migration_dest *d;
	enum dest_step step;
	struct channel control;
	int data_fd[MIGRATE_MAX_CHANNELS]; /* by channel number - 1; -1: it has not come yet */
	uint64_t data_session[MIGRATE_MAX_CHANNELS];
	unsigned int n_data;	  /* that came and are of this session */
	struct frame_hello hello; /* from DEST_JUDGES on */
	struct ram_recv ram;
	uint64_t data_pages; /* that came */
	uint32_t rounds;     /* whose end came */
	int memory_fd;	     /* passed by the source; -1: none */
	bool running;	     /* the guest is to run on arrival */
	struct machine_description *description;
	struct clock_link clocks; /* of the source, if it answers questions for them */
	uint32_t tsc_khz;	  /* of the guest; 0: not told */
	uint64_t earliest_ns;	  /* CLOCK_MONOTONIC: the guest was not saved before, */
	uint64_t latest_ns;	  /* and not after */
	char change[MIGRATE_TEXT_MAX];
	struct err *e;
};

/* ---- dest_channels.c ---- */

/** dest_accept_control - the control channel of a source; data channels may come before it */
int dest_accept_control(struct arrival *a);
/** dest_accept_data - all data channels that HELLO speaks of */
int dest_accept_data(struct arrival *a);
/** dest_close_channels - all of its connections */
void dest_close_channels(struct arrival *a);

/* ---- dest_clock.c ---- */

/** dest_hear_clocks - while the guest still runs; and tell the source, for those who ask it */
int dest_hear_clocks(struct arrival *a);
/** dest_ask_clock_again - if the clocks may have drifted since. Return: 0 or -errno */
int dest_ask_clock_again(struct arrival *a);
/** dest_when_saved - between which moments the guest was saved */
struct clock_window dest_when_saved(const struct arrival *a);
/** dest_judge_clocks - the wall clocks differ: a line, or the end. Return: 0 or -EPERM */
int dest_judge_clocks(struct arrival *a, int64_t apart_ns);

#endif
