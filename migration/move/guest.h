/*
 * What a migration asks of the guest that it moves, and all that it knows of it. One side describes,
 * pauses and saves the guest, the other builds, loads and starts it. A VMM has these calls done where
 * its guest lives; a test, on an array of bytes.
 */
#ifndef MIGRATION_MOVE_GUEST_H
#define MIGRATION_MOVE_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/move/status.h"

struct clock_reading;
struct clock_window;
struct dirty_log;
struct err;
struct machine_description;
struct rbuf;
struct wbuf;

/* Guest RAM in this process. */
struct migration_ram {
	uint8_t *map; /* of all of it, page 0 first */
	uint64_t n_bytes;
	int fd;	       /* the memory file; -1: there is none that another process could map */
	bool no_pages; /* the file takes no pwrite(2), and its holes are larger than a page */
};

/* How the guest was found by pause(). */
struct migration_pause {
	bool ran;	/* it was running */
	bool stopped;	/* we paused it */
	uint64_t at_ns; /* CLOCK_MONOTONIC, before its vCPUs stopped */
};

/* Where the memory of a guest that is to be built comes from. */
struct migration_memory {
	enum { MEMORY_EMPTY, MEMORY_PASSED, MEMORY_FILE } how;
	int fd;		  /* PASSED: taken over, also on failure. FILE: still the caller's */
	uint64_t offset;  /* FILE: of RAM in it */
	const char *path; /* FILE: for messages */
};

/*
 * Called from the thread of the migration, one at a time. Each returns 0; -ECANCELED when there is
 * no guest any more, or none yet, to do that with; or -errno, with one line in @e.
 */
struct migration_guest_ops {
	/* ---- the side that has it ---- */

	/** describe - fill @d with what the guest is made of */
	int (*describe)(void *ctx, struct machine_description *d, struct err *e);
	/** pause - stop its vCPUs; it stays as it is until take_back(), stay_paused() or the end */
	int (*pause)(void *ctx, struct migration_pause *p, struct err *e);
	/**
	 * save - the state of the paused guest into @state, from its beginning
	 * @base: the clocks when the migration began
	 * @hand_over: also write its disks back and unlock them, for a destination
	 */
	int (*save)(void *ctx, const struct clock_reading *base, bool hand_over, struct wbuf *state,
		    struct err *e);
	/** flush - write its disks back; they stay locked */
	int (*flush)(void *ctx, struct err *e);
	/**
	 * take_back - lock the disks again, then let it go on if it ran when it was paused
	 * Return: also -EBUSY while another process still has a disk; the guest stays paused
	 */
	int (*take_back)(void *ctx, struct migration_pause *p, struct err *e);
	/** stay_paused - it does not go on; from here on it is the user's to resume */
	int (*stay_paused)(void *ctx, struct err *e);
	/** throttle - it is to write @percent less than it would */
	int (*throttle)(void *ctx, unsigned int percent, struct err *e);
	/** log_start - watch what is written from here on; *@log is the guest's */
	int (*log_start)(void *ctx, struct dirty_log **log, struct err *e);
	/** log_stop - at the end, whatever it was: full speed, and nothing is watched */
	void (*log_stop)(void *ctx);

	/* ---- the side that gets it ---- */

	/**
	 * build - become what @d says, as far as a paused guest without state
	 * @memory: NULL: only tell whether it could be (a dry run)
	 * @tsc_khz: of the guest; 0: not told
	 * @change: receives what is held differently than where it came from, in one line
	 * Return: also -EPERM when policy refuses; -EINVAL or -ENODEV when this is not made for it
	 */
	int (*build)(void *ctx, const struct machine_description *d, uint32_t tsc_khz,
		     const struct migration_memory *memory, char change[MIGRATE_TEXT_MAX],
		     struct err *e);
	/**
	 * load - the state
	 * @when: it was saved; @off_ns: receives by how much it says otherwise (clock_passed())
	 */
	int (*load)(void *ctx, const struct clock_window *when, int64_t *off_ns, struct rbuf *state,
		    char change[MIGRATE_TEXT_MAX], struct err *e);
	/** take_over - lock its disks here. Return: also -EBUSY while another process has one */
	int (*take_over)(void *ctx, struct err *e);
	/** start - it is this side's guest from here on. @run: it ran where it came from */
	int (*start)(void *ctx, bool run, struct err *e);

	/* ---- both ---- */

	/** ram - where it is; of a guest that exists or was built */
	void (*ram)(void *ctx, struct migration_ram *ram);
	/** progress - whoever wants to know is told how far it is */
	void (*progress)(void *ctx, enum migrate_status status);
};

struct migration_guest {
	const struct migration_guest_ops *ops;
	void *ctx;
	uint32_t tsc_khz;      /* of its TSCs; 0: not known */
	const char *host_name; /* as this host calls itself, printable; "": not known */
};

#define MIGRATION_GUEST_ENDED "the guest or its process ended, or it reset, meanwhile"

#endif
