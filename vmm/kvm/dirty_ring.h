/*
 * KVM's dirty rings: each vCPU tells by itself which pages it wrote, in a ring that it shares with
 * this process, in the place of KVM's dirty log. They are chosen when the VM is made, and the calls
 * of the log are gone with them; to the rest they are the calls of a dirty log all the same.
 *
 * Theory. A page that was written has one entry and may be written on without another until it is
 * reset: the entry is marked as seen, and KVM_RESET_DIRTY_RINGS watches the page anew. Nobody may
 * read a page between the two, so the pages found are kept here, under a lock that is held until
 * they were reset, and only then given to the log. The lock also keeps a second reset from
 * returning while KVM still makes the CPUs forget what the first one watches.
 *
 * All writes of KVM on x86 are some vCPU's and in its ring; the bitmap beside the rings
 * (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) is for interrupt controllers of other architectures.
 * KVM sends a vCPU out while its ring still has room, so that none overflows. One that did all the
 * same (kvm-pvm, where it emulates a guest's kernel in long runs) is seen, and what is written is
 * not known any more: the migration fails, and the guest goes on.
 * A running vCPU may keep up to 512 pages to itself (PML) until it leaves the guest: they are
 * found later, and all are found when the guest is paused.
 * Source: api.rst 8.29 KVM_CAP_DIRTY_LOG_RING
 */
#ifndef VMM_KVM_DIRTY_RING_H
#define VMM_KVM_DIRTY_RING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/guest_mem.h"
#include "migration/ram/dirty_log.h"

struct err;
struct kvm_dirty_gfn;

#define DIRTY_RING_MIN 1024 /* entries; KVM keeps up to 576 of them for itself */
#define DIRTY_RING_MAX 65536

struct dirty_ring_vcpu {
	struct kvm_dirty_gfn *gfn; /* the ring; NULL: not mapped */
	uint32_t next;		   /* entry to be looked at, counted on and on */
	uint64_t pages;		   /* found so far, again after each reset; atomic */
	uint64_t pages_when_full;  /* @pages when the vCPU was last sent out to make room */
};

struct dirty_ring {
	int vm_fd;
	const struct guest_mem *gm;
	int (*reset)(void *ctx); /* KVM_RESET_DIRTY_RINGS, or a test's */
	void *ctx;
	uint32_t entries; /* of each ring; 0: there are none, and KVM's log is used */
	unsigned int n_vcpus;
	struct dirty_ring_vcpu *vcpu;
	pthread_mutex_t lock; /* of all below, and of the rings' entries */
	uint64_t *found;      /* by page of the memory file: reset, and not given to the log yet */
	uint64_t n_words;
	bool broken; /* an overflow or nonsense since the watch began: pages may be missing */
};

/* For dirty_log_init(), with the struct dirty_ring as ctx */
extern const struct dirty_log_ops dirty_ring_ops;

/**
 * dirty_ring_check - can this KVM do it?
 * @kvm_fd: /dev/kvm or a VM. @entries: a power of two of DIRTY_RING_MIN to DIRTY_RING_MAX
 * Return: number of the capability to enable; -ENOTSUP with cause and cure in @e
 */
int dirty_ring_check(int kvm_fd, uint32_t entries, struct err *e);

/**
 * dirty_ring_init - let a VM without vCPUs have rings of @entries; 0: it has none
 * @gm: its memory slots, which must be those of the guest memory regions
 * Return: 0 or -errno; @r may be given to dirty_ring_fini() in any case
 */
int dirty_ring_init(struct dirty_ring *r, const struct guest_mem *gm, int vm_fd, uint32_t entries,
		    unsigned int n_vcpus, struct err *e);
/** dirty_ring_init_reset - without KVM: the caller gives the rings and what resets them */
int dirty_ring_init_reset(struct dirty_ring *r, const struct guest_mem *gm, uint32_t entries,
			  unsigned int n_vcpus, int (*reset)(void *ctx), void *ctx, struct err *e);
/** dirty_ring_fini - accepts a zeroed one; no vCPU may run any more */
void dirty_ring_fini(struct dirty_ring *r);

/** dirty_ring_map - share the ring of a new vCPU; does nothing when there are none. 0 or -errno */
int dirty_ring_map(struct dirty_ring *r, unsigned int vcpu, int vcpu_fd, struct err *e);

/**
 * dirty_ring_full - on the vCPU's thread, at KVM_EXIT_DIRTY_RING_FULL: make room in its ring
 * Return: 0; -errno when there is none to be had, and the vCPU cannot go on
 */
int dirty_ring_full(struct dirty_ring *r, unsigned int vcpu);

/** dirty_ring_pages - pages that the vCPU was found to have written, ever; from any thread */
uint64_t dirty_ring_pages(const struct dirty_ring *r, unsigned int vcpu);

#endif
