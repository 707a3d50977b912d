/* A data channel of RAM, sending or receiving: its descriptor, its buffer, its thread. */
#ifndef MIGRATION_RAM_CHANNEL_H
#define MIGRATION_RAM_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

struct ram_channel {
	int fd; /* the caller's */
	pthread_t thread;
	bool started;
	uint8_t *staging; /* RAM_FRAME_PAGES pages */
};

/**
 * ram_channel_open - the buffer of one of @n channels
 * Return: 0 or -ENOMEM; @ch may be given to ram_channel_close() in any case
 */
int ram_channel_open(struct ram_channel *ch, int fd, unsigned int n, struct err *e);

/** ram_channel_start - @fn(@arg) in its thread; @number: for messages. Return: 0 or -errno */
int ram_channel_start(struct ram_channel *ch, unsigned int number, void *(*fn)(void *), void *arg,
		      struct err *e);

/** ram_channel_join - wait for its thread, if there is one */
void ram_channel_join(struct ram_channel *ch);
/** ram_channel_close - the same, and give its buffer back; accepts a zeroed one */
void ram_channel_close(struct ram_channel *ch);

#endif
