/* How far a round, a file is that is at work; atomic, counted by whoever does it. */
#ifndef MIGRATION_RAM_PROGRESS_H
#define MIGRATION_RAM_PROGRESS_H

#include <stdint.h>

struct migrate_progress {
	uint64_t bytes; /* sent, written, read */
	uint64_t done;	/* of RAM, bytes: it need not be looked at again in this round */
};

/** migrate_progress_add - from any thread; @p may be NULL */
void migrate_progress_add(struct migrate_progress *p, uint64_t bytes, uint64_t done);

#endif
