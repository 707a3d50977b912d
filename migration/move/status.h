/*
 * What both sides of a migration and those who ask about it share: what was asked for, how far it
 * is, and how it ended. Names are those of QEMU's query-migrate where it has one.
 */
#ifndef MIGRATION_MOVE_STATUS_H
#define MIGRATION_MOVE_STATUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/move/converge.h"
#include "migration/ram/progress.h"

#define MIGRATE_MAX_CHANNELS	 16 /* data channels */
#define MIGRATE_DEFAULT_CHANNELS 2
#define MIGRATE_DEFAULT_LIMIT_MS 20
#define MIGRATE_STALL_MS	 10000 /* the default of @stall_ms */

/* QEMU's MigrationStatus, those that can happen here */
enum migrate_status {
	MIGRATE_NONE,
	MIGRATE_SETUP,
	MIGRATE_ACTIVE,
	MIGRATE_DEVICE, /* the guest stands, its state goes over */
	MIGRATE_COMPLETED,
	MIGRATE_FAILED,
	MIGRATE_CANCELLING,
	MIGRATE_CANCELLED,
	MIGRATE_CHECKED, /* a dry run that went well: it could have moved. Ours, not QEMU's */
};

/* Who has the guest now? */
enum migrate_outcome { OUTCOME_HERE, OUTCOME_MOVED, OUTCOME_UNKNOWN };

struct migrate_params {
	uint64_t limit_ns;   /* longest pause */
	uint64_t timeout_ns; /* of the live part; 0: none */
	enum converge_on_timeout on_timeout;
	unsigned int stall_ms; /* a peer that moves no byte for so long is gone */
	bool dry_run;
	bool keep_running; /* into a file: the guest goes on afterwards */
	bool local; /* both on one host, over a unix socket: hand the memory over, copy nothing */
};

#define MIGRATE_TEXT_MAX ERR_TEXT_MAX

struct migrate_stats {
	enum migrate_status status;
	enum migrate_outcome outcome;
	int code;		       /* -errno of the failure; -EPERM: refused */
	char error[MIGRATE_TEXT_MAX];  /* one line */
	char change[MIGRATE_TEXT_MAX]; /* of the mitigation, in words; empty before it is known */

	uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC; end_ns 0 while it goes on */
	uint64_t setup_ns;	   /* what the handshake took */
	uint64_t pause_ns;	   /* when the guest was stopped; 0: it was not yet */
	uint64_t downtime_ns, expected_downtime_ns;

	uint64_t ram_total, ram_left; /* bytes */
	uint64_t sent_bytes;	      /* on all channels */
	uint64_t pages_normal, pages_zero;
	uint32_t rounds;
	uint64_t dirty_pages_per_s;
	uint64_t bytes_per_s;
	uint64_t round_ns;     /* when what is counted by struct migrate_progress began */
	uint64_t time_left_ns; /* for what is left now, at the speed of now; 0: not known */
	uint32_t throttle_percent;
	bool stuck; /* see struct converge_step */
	bool clocks_known;
	int64_t clocks_apart_ns; /* this host's time of day less the destination's */
	bool into_file, dry_run;
	uint32_t writable_disks; /* of a saved guest */
};

/**
 * migrate_progress_show - put into @s what @p has beyond it: amounts, speed, an estimate
 * @now: monotonic_ns(). Pure but for reading @p.
 */
void migrate_progress_show(const struct migrate_progress *p, uint64_t now, struct migrate_stats *s);

/** names as QMP has them; never NULL */
const char *migrate_status_name(enum migrate_status status);
const char *migrate_outcome_name(enum migrate_outcome outcome);

#endif
