/*
 * Receiving guest RAM over data channels into memory that is all zero at first. Each channel has a
 * thread; nothing runs on that memory until the last round is complete.
 */
#ifndef MIGRATION_RAM_RECV_H
#define MIGRATION_RAM_RECV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/ram/channel.h"
#include "migration/ram/frame.h"

struct ram_recv_config {
	uint8_t *map; /* of all RAM, page 0 first, writable */
	int fd;	      /* the memory file if it takes pwrite(2): no page is zeroed in vain.
		       * -1: write through @map */
	uint64_t n_pages;
	const int *fds;	       /* stream sockets, still the caller's; copied */
	unsigned int n;	       /* 1 to RAM_CHANNELS_MAX */
	int cancel_fd;	       /* readable: give up. -1: never */
	unsigned int stall_ms; /* give up when a frame has begun and nothing came for so long */
};

struct ram_recv;

struct ram_recv_channel {
	struct ram_recv *recv;
	struct ram_channel ch;
	struct ram_run run[RAM_FRAME_RUNS];
};

struct ram_recv {
	struct ram_recv_config config;
	struct ram_io io;
	struct ram_recv_channel *channel;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t met;
	unsigned int waiting; /* threads at the end of this round */
	uint32_t round;	      /* from 1; all threads are in the same one */
	bool last;
	bool complete;
	uint64_t pages, zero_pages, bytes; /* so far; atomic */
	int result;
	struct err err;
};

/**
 * ram_recv_start - receive until the end of the last round, in threads
 * Return: 0 or -errno; @r may be given to ram_recv_fini() in any case
 */
int ram_recv_start(struct ram_recv *r, const struct ram_recv_config *c, struct err *e);

/**
 * ram_recv_join - wait for the end of the last round
 * Return: 0 with all memory in place; -EPROTO, -EILSEQ, -ERANGE: the stream is wrong; -ECANCELED,
 * -ETIMEDOUT, -ECONNRESET, -errno. On failure the memory is of no use.
 */
int ram_recv_join(struct ram_recv *r, struct err *e);

/** ram_recv_stop - let the threads end, for a reason that is the caller's. Idempotent */
void ram_recv_stop(struct ram_recv *r);

/** ram_recv_failed - has a channel failed, or was it stopped? Any thread, as below */
bool ram_recv_failed(struct ram_recv *r);

/** ram_recv_complete - has the last round ended? Any thread, between start and fini */
bool ram_recv_complete(struct ram_recv *r);

/** ram_recv_fini - stops the threads if they still run; accepts a zeroed @r */
void ram_recv_fini(struct ram_recv *r);

#endif
