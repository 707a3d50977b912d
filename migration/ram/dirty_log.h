/*
 * Which pages of guest memory were written since they were last read: KVM's dirty log (by vCPUs and
 * by KVM itself), or its dirty rings (dirty_ring.h), and the bitmap that devices mark
 * (guest_mem_mark()), which a harvest adds the logs of other writers to (struct guest_mem_writer:
 * vhost). Pages are numbered as they lie in the memory file, from 0, in units of GUEST_PAGE.
 *
 * The rule that keeps a migration whole: a page is first taken (its bits are forgotten and KVM
 * watches it anew), then read. A write after the taking is found by the next harvest.
 */
#ifndef MIGRATION_RAM_DIRTY_LOG_H
#define MIGRATION_RAM_DIRTY_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/guest_mem.h"

struct err;

#define DIRTY_WORD_PAGES 64

/*
 * The calls on one memory slot (slot i is region i of the guest_mem); KVM's, or a test's. Each
 * returns 0 or -errno.
 */
struct dirty_log_ops {
	/** begin - before all slots are watched; may be NULL */
	int (*begin)(void *ctx, struct err *e);
	/**
	 * watch - start or end watching the slot. After a start every page may count as written.
	 */
	int (*watch)(void *ctx, uint32_t slot, const struct guest_mem_region *r, bool on);
	/**
	 * get - set bit i of @bits when page i of the slot was written and not cleared since
	 * @bits: as the last get left it, less what was cleared or taken since; it may keep those
	 */
	int (*get)(void *ctx, uint32_t slot, uint64_t *bits);
	/**
	 * clear - forget and watch again the pages of [first, first + n) whose bit is set in @bits,
	 * counted from @first, a multiple of 64; so is @n but at the slot's end. From any thread.
	 */
	int (*clear)(void *ctx, uint32_t slot, uint64_t first, uint32_t n, const uint64_t *bits);
};

struct dirty_log {
	const struct dirty_log_ops *ops;
	void *ctx;
	struct guest_mem *gm;
	uint64_t n_pages, n_words;
	uint64_t *kvm;	  /* as of the last harvest, less what was taken since */
	uint64_t *device; /* what gm->dirty points to while the log is on */
	bool on;
};

/**
 * dirty_log_init - get ready; nothing is watched yet
 * @gm: the guest's memory, whose pages lie in one file without gaps from offset 0
 * @ops, @ctx: the calls on its slots; they outlive @d
 * Costs two bits of address space a page, and memory only for what is used of it. To be kept as
 * long as the VM: a device may look at the bitmap even after dirty_log_stop().
 * Return: 0; -ENOMEM; -EINVAL when a region does not begin at a multiple of 64 pages
 */
int dirty_log_init(struct dirty_log *d, struct guest_mem *gm, const struct dirty_log_ops *ops,
		   void *ctx, struct err *e);
/** dirty_log_fini - accepts a zeroed log; no device may run any more */
void dirty_log_fini(struct dirty_log *d);

/**
 * dirty_log_start - begin to watch all memory, under a running guest; what was known is forgotten
 * Until it has been taken once, any page may count as written.
 * Return: 0 or -errno, of the calls
 */
int dirty_log_start(struct dirty_log *d, struct err *e);
/**
 * dirty_log_stop - end watching; does nothing when it is not on
 * Takes milliseconds: not while a guest is paused for its migration.
 */
void dirty_log_stop(struct dirty_log *d);

/**
 * dirty_log_harvest - find what was written; nobody may take at the same time
 * @pages: how many pages wait to be taken now; may be NULL
 * Return: 0 or -errno
 */
int dirty_log_harvest(struct dirty_log *d, uint64_t *pages, struct err *e);

/**
 * dirty_log_take - take what the last harvest found in @n words from @word on, and what devices
 * marked there; from several threads, each word by one of them
 * @watch_on: false when nobody writes any more (the guest is paused): saves KVM's work
 * @bits: room for @n; bit i of word w is page (@word + w) * 64 + i
 */
int dirty_log_take(struct dirty_log *d, uint64_t word, unsigned int n, bool watch_on,
		   uint64_t *bits, struct err *e);

/** dirty_log_next - the next word from @word on that has a bit; n_words: there is none */
uint64_t dirty_log_next(const struct dirty_log *d, uint64_t word);

/** dirty_log_take_all - take all pages of @n words from @word on, written or not */
int dirty_log_take_all(struct dirty_log *d, uint64_t word, uint64_t n, struct err *e);

#endif
