/*
 * Guest memory as devices and loaders see it. There is one way from a guest-physical address to a
 * pointer, gpa_span(), and it checks address and length together: a caller cannot hold a pointer
 * to less than it asked for.
 */
#ifndef BASE_GUEST_MEM_H
#define BASE_GUEST_MEM_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t gpa_t;

#define GUEST_MEM_MAX_REGIONS 4
#define GUEST_PAGE	      4096

/* Guest RAM that is contiguous both for the guest and in this process. */
struct guest_mem_region {
	gpa_t gpa;
	uint64_t len_bytes;
	uint8_t *hva;
	uint64_t fd_offset; /* of the region in the backing memfd */
};

/*
 * Somebody outside this process who writes guest memory and keeps a log of it, as vhost does.
 * Storage of the device that it works for; as long there as the memory is used.
 */
struct guest_mem_writer {
	/**
	 * log - begin to log, knowing nothing yet, or end it; harmless when it is so already
	 * What is written before this returns need not be in the log. Return: 0 or -errno
	 */
	int (*log)(struct guest_mem_writer *w, bool on);
	/** harvest - take what was logged, and guest_mem_mark() it; by the thread that calls log */
	void (*harvest)(struct guest_mem_writer *w);
	struct guest_mem_writer *next;
};

struct guest_mem {
	unsigned int n_regions;
	struct guest_mem_region region[GUEST_MEM_MAX_REGIONS];
	/* a bit for each GUEST_PAGE of the memfd that devices wrote; atomic, NULL: nobody asks */
	uint64_t *dirty;
	struct guest_mem_writer *writers; /* none is added while the guest runs */
};

/**
 * gpa_span - translate a span of guest-physical addresses
 * @gm: the guest's memory
 * @gpa: first byte; any value, it comes from the guest
 * @len_bytes: length of the span; any value. 0 is legal where @gpa itself is RAM.
 * The bytes behind the pointer may change at any time under a running guest: copy once, check the
 * copy.
 * Return: pointer to @len_bytes bytes, or NULL when any of them is not RAM
 */
void *gpa_span(const struct guest_mem *gm, gpa_t gpa, uint64_t len_bytes);

/** guest_mem_mark_in - guest_mem_mark() with the bitmap at hand */
void guest_mem_mark_in(const struct guest_mem *gm, uint64_t *dirty, const void *hva,
		       uint64_t len_bytes);

/**
 * guest_mem_mark - say that the VMM wrote guest memory, which KVM's dirty log does not see
 * @hva: what gpa_span() gave, or a place behind it; @len_bytes of that span. Anything else is
 *       ignored.
 * Call it after the write: a page that is marked first may be read before the write. From any
 * thread.
 */
static inline void guest_mem_mark(const struct guest_mem *gm, const void *hva, uint64_t len_bytes)
{
	uint64_t *dirty = __atomic_load_n(&gm->dirty, __ATOMIC_ACQUIRE);

	if (dirty)
		guest_mem_mark_in(gm, dirty, hva, len_bytes);
}

/**
 * guest_mem_map_bits - @n_words of 64 zero bits, for a bit a page; they cost memory where used
 * Return: munmap(2) gives them back; NULL when there is no address space
 */
uint64_t *guest_mem_map_bits(uint64_t n_words);

/**
 * guest_mem_add - append a region; regions must not overlap, in ascending order
 * Return: 0, -ENOSPC when all GUEST_MEM_MAX_REGIONS are taken, -EINVAL on overlap or wrap-around
 */
int guest_mem_add(struct guest_mem *gm, const struct guest_mem_region *r);

/** guest_mem_add_writer - @w writes @gm's memory, too */
static inline void guest_mem_add_writer(struct guest_mem *gm, struct guest_mem_writer *w)
{
	w->next = gm->writers;
	gm->writers = w;
}

#endif
