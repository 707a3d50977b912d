/*
 * Sending guest RAM over data channels while the guest runs, round after round. A page is taken
 * from the dirty log, then copied, and only the copy is summed and sent.
 */
#ifndef MIGRATION_RAM_SEND_H
#define MIGRATION_RAM_SEND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/ram/dirty_log.h"
#include "migration/ram/channel.h"
#include "migration/ram/frame.h"
#include "migration/ram/progress.h"

struct ram_send_config {
	const uint8_t *map;    /* of all RAM, page 0 first */
	int hole_fd;	       /* the memory file, whose holes read as zero through @map; -1: no */
	struct dirty_log *log; /* started by the caller before the first round */
	const int *fds;	       /* stream sockets, still the caller's; copied */
	unsigned int n;	       /* 1 to RAM_CHANNELS_MAX */
	int cancel_fd;	       /* readable: give up. -1: never */
	struct migrate_progress *progress; /* counts as it goes; NULL: nobody looks */
	unsigned int stall_ms;		   /* give up when a channel has not moved for so long */
};

/* One round, or what was counted in one. */
struct ram_round {
	uint32_t number;     /* from 1 */
	uint64_t pages;	     /* sent with their content */
	uint64_t zero_pages; /* found zero; in the first round not sent */
	uint64_t hole_pages; /* of the first round: known to be zero without reading */
	uint64_t bytes;	     /* on the channels */
	uint64_t ns;
};

struct ram_send;

struct ram_send_channel {
	struct ram_send *send;
	struct ram_channel ch;
	struct ram_run run[RAM_FRAME_RUNS];
	unsigned int n_runs, n_pages;
	struct ram_round count; /* of this channel in this round */
};

struct ram_send {
	struct ram_send_config config;
	struct ram_io io;
	struct ram_send_channel *channel;
	pthread_mutex_t lock; /* of all below; held while work is handed out */
	pthread_cond_t work, done;
	uint64_t next_word;	       /* work begins here */
	uint64_t data_first, data_end; /* pages known not to be a hole */
	uint32_t round;
	bool first, last;
	unsigned int busy;   /* threads that have not finished the round */
	uint32_t generation; /* of the work the threads wait for */
	bool quit;
	int result;
	struct err err;
};

enum ram_round_flags {
	RAM_ROUND_FIRST = 1, /* all memory; what is zero need not be sent */
	RAM_ROUND_LAST = 2,  /* the guest is paused, devices touch nothing */
};

/**
 * ram_send_init - make ready: a staging buffer and, from the second on, a thread for each channel
 * Return: 0 or -errno; @s may be given to ram_send_fini() in any case
 */
int ram_send_init(struct ram_send *s, const struct ram_send_config *c, struct err *e);
/** ram_send_fini - ends the threads; accepts a zeroed @s */
void ram_send_fini(struct ram_send *s);

/**
 * ram_send_round - harvest the dirty log and send what it says; from one thread
 * @flags: of enum ram_round_flags; the first round of a migration has RAM_ROUND_FIRST, to a
 *         receiver whose memory is all zero
 * After the first error every later round fails as well.
 * Return: 0, -ECANCELED, -ETIMEDOUT, -errno with the cause in @e
 */
int ram_send_round(struct ram_send *s, unsigned int flags, struct ram_round *out, struct err *e);

#endif
