#include "migration/move/status.h"

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
		[MIGRATE_CHECKED] = "dry-run-passed",
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

/* Below this a speed is that of the first buffers. */
#define MEASURED_NS 50000000

void migrate_progress_show(const struct migrate_progress *p, uint64_t now, struct migrate_stats *s)
{
	const uint64_t bytes = __atomic_load_n(&p->bytes, __ATOMIC_RELAXED);
	const uint64_t done = __atomic_load_n(&p->done, __ATOMIC_RELAXED);
	const double elapsed = now > s->round_ns ? (double)(now - s->round_ns) : 0;
	double rate = (double)s->bytes_per_s / 1e9; /* of RAM, bytes a ns */

	s->sent_bytes += bytes;
	s->ram_left -= done < s->ram_left ? done : s->ram_left;
	if (s->round_ns && done && (elapsed >= MEASURED_NS || !s->bytes_per_s) && elapsed > 0) {
		s->bytes_per_s = (uint64_t)((double)bytes / elapsed * 1e9);
		rate = (double)done / elapsed;
	}
	/* beyond a year it is no estimate */
	if (rate > 0 && (double)s->ram_left / rate < 3.2e16)
		s->time_left_ns = (uint64_t)((double)s->ram_left / rate);
}
