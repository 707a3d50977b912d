#include "vmm/migrate.h"

#include <time.h>

const char *migrate_status_name(enum migrate_status status)
{
	static const char *const name[] = {
		[MIGRATE_NONE] = "none",
		[MIGRATE_SETUP] = "setup",
		[MIGRATE_ACTIVE] = "active",
		[MIGRATE_DEVICE] = "device",
		[MIGRATE_COMPLETED] = "completed",
		[MIGRATE_FAILED] = "failed",
		[MIGRATE_CANCELLING] = "cancelling",
		[MIGRATE_CANCELLED] = "cancelled",
	};

	return name[status];
}

const char *migrate_outcome_name(enum migrate_outcome outcome)
{
	static const char *const name[] = {
		[OUTCOME_HERE] = "here",
		[OUTCOME_MOVED] = "moved",
		[OUTCOME_UNKNOWN] = "unknown",
	};

	return name[outcome];
}

uint64_t migrate_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
