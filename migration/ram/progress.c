#include "migration/ram/progress.h"

void migrate_progress_add(struct migrate_progress *p, uint64_t bytes, uint64_t done)
{
	if (!p)
		return;
	__atomic_fetch_add(&p->bytes, bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&p->done, done, __ATOMIC_RELAXED);
}
