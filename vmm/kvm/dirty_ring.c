#include "vmm/kvm/dirty_ring.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/kvm/dirty_log_kvm.h"

/* @gfn.slot: the address space, of which guests here have one, and the slot (api.rst 8.29) */
#define SLOT_BITS 16

int dirty_ring_check(int kvm_fd, uint32_t entries, struct err *e)
{
	static const int caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(caps); i++) {
		const int bytes = ioctl(kvm_fd, KVM_CHECK_EXTENSION, caps[i]);
		const uint64_t max = bytes > 0 ? (uint64_t)bytes / sizeof(struct kvm_dirty_gfn) : 0;

		if (max && entries > max)
			return err_set(e, -ENOTSUP,
				       "--dirty-ring %u: this host's KVM has rings of at most %llu "
				       "entries; give fewer",
				       entries, (unsigned long long)max);
		if (max)
			return caps[i];
	}
	return err_set(e, -ENOTSUP,
		       "--dirty-ring %u: this host's KVM has no dirty rings; use a host kernel "
		       "from 5.11 on, or leave --dirty-ring out",
		       entries);
}

static int kvm_reset(void *ctx)
{
	int ret;

	do /* a kick of this vCPU may come in between: the rest is still to be done */
		ret = ioctl(*(int *)ctx, KVM_RESET_DIRTY_RINGS, 0);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

int dirty_ring_init_reset(struct dirty_ring *r, const struct guest_mem *gm, uint32_t entries,
			  unsigned int n_vcpus, int (*reset)(void *ctx), void *ctx, struct err *e)
{
	const struct guest_mem_region *last = &gm->region[gm->n_regions - 1];

	memset(r, 0, sizeof(*r));
	r->vm_fd = -1;
	r->gm = gm;
	r->reset = reset;
	r->ctx = ctx;
	r->n_vcpus = n_vcpus;
	r->n_words = ((last->fd_offset + last->len_bytes) / GUEST_PAGE + DIRTY_WORD_PAGES - 1) /
		     DIRTY_WORD_PAGES;
	r->vcpu = calloc(n_vcpus, sizeof(*r->vcpu));
	r->found = guest_mem_map_bits(r->n_words);
	if (!r->vcpu || !r->found) {
		free(r->vcpu);
		if (r->found)
			munmap(r->found, r->n_words * sizeof(uint64_t));
		memset(r, 0, sizeof(*r));
		return err_set(e, -ENOMEM, "--dirty-ring: out of memory");
	}
	r->entries = entries;
	pthread_mutex_init(&r->lock, NULL);
	return 0;
}

int dirty_ring_init(struct dirty_ring *r, const struct guest_mem *gm, int vm_fd, uint32_t entries,
		    unsigned int n_vcpus, struct err *e)
{
	struct kvm_enable_cap cap = {.args = {entries * sizeof(struct kvm_dirty_gfn)}};
	int ret;

	memset(r, 0, sizeof(*r));
	if (!entries)
		return 0;
	ret = dirty_ring_check(vm_fd, entries, e);
	if (ret < 0)
		return ret;
	cap.cap = (uint32_t)ret;
	ret = dirty_ring_init_reset(r, gm, entries, n_vcpus, kvm_reset, NULL, e);
	if (ret < 0)
		return ret;
	r->vm_fd = vm_fd;
	r->ctx = &r->vm_fd;
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set(e, -errno,
			       "--dirty-ring %u: KVM refuses rings of that size: %s; give another "
			       "power of two",
			       entries, strerror(errno));
	return 0;
}

int dirty_ring_map(struct dirty_ring *r, unsigned int vcpu, int vcpu_fd, struct err *e)
{
	const off_t at = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE);
	void *p;

	if (!r->entries)
		return 0;
	p = mmap(NULL, r->entries * sizeof(struct kvm_dirty_gfn), PROT_READ | PROT_WRITE,
		 MAP_SHARED, vcpu_fd, at);
	if (p == MAP_FAILED)
		return err_set(e, -errno, "vCPU %u: cannot map its dirty ring: %s", vcpu,
			       strerror(errno));
	r->vcpu[vcpu].gfn = p;
	return 0;
}

void dirty_ring_fini(struct dirty_ring *r)
{
	unsigned int i;

	if (!r->entries)
		return;
	/* rings of tests are theirs */
	for (i = 0; r->vm_fd >= 0 && i < r->n_vcpus; i++)
		if (r->vcpu[i].gfn)
			munmap(r->vcpu[i].gfn, r->entries * sizeof(struct kvm_dirty_gfn));
	munmap(r->found, r->n_words * sizeof(uint64_t));
	free(r->vcpu);
	pthread_mutex_destroy(&r->lock);
	memset(r, 0, sizeof(*r));
}

static uint64_t region_pages(const struct dirty_ring *r, uint32_t slot)
{
	return r->gm->region[slot].len_bytes / GUEST_PAGE;
}

static void note_page(struct dirty_ring *r, uint32_t slot, uint64_t offset)
{
	uint64_t page;

	/* a bit of an address space makes the slot too large as well */
	if (slot >> SLOT_BITS || slot >= r->gm->n_regions || offset >= region_pages(r, slot)) {
		r->broken = true;
		return;
	}
	page = r->gm->region[slot].fd_offset / GUEST_PAGE + offset;
	r->found[page / DIRTY_WORD_PAGES] |= 1ULL << page % DIRTY_WORD_PAGES;
}

/* Look at what is new in a ring, in order, once round at most. Return: how many entries */
static uint32_t collect(struct dirty_ring *r, struct dirty_ring_vcpu *v)
{
	uint32_t n;

	for (n = 0; v->gfn && n < r->entries; n++, v->next++) {
		struct kvm_dirty_gfn *g = &v->gfn[v->next & (r->entries - 1)];

		/* what KVM wrote before the flag; what was seen before it is marked as such */
		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		note_page(r, g->slot, g->offset);
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&v->pages, v->pages + n, __ATOMIC_RELAXED);
	return n;
}

/* KVM stops at an entry that is not marked: one that it wrote over, in a ring that overflowed. */
static bool was_reset(const struct dirty_ring *r, const struct dirty_ring_vcpu *v)
{
	const struct kvm_dirty_gfn *last =
		v->gfn ? &v->gfn[(v->next - 1) & (r->entries - 1)] : NULL;

	return !last || !(__atomic_load_n(&last->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET);
}

/*
 * Of vCPUs from @first up to @end; under the lock, which nobody may let go in between.
 * Return: how many entries, or -errno
 */
static int64_t harvest(struct dirty_ring *r, unsigned int first, unsigned int end)
{
	int64_t all = 0;
	unsigned int i;
	int ret;

	for (i = first; i < end; i++) {
		const uint32_t n = collect(r, &r->vcpu[i]);

		/* KVM keeps some back, so that a ring is never full to the last entry */
		if (n == r->entries)
			r->broken = true;
		all += n;
	}
	if (!all)
		return 0;
	ret = r->reset(r->ctx);
	for (i = first; i < end; i++)
		if (ret < 0 || !was_reset(r, &r->vcpu[i]))
			r->broken = true;
	return ret < 0 ? ret : all;
}

/*
 * After an overflow, entries that were written twice are missing at the end: KVM goes on behind a
 * gap that it believes to be full. Give it the gap back, up to what is new: no more at a time than
 * surely is in use. What is in it is old, and harmless.
 */
static int skip_gap(const struct dirty_ring *r, struct dirty_ring_vcpu *v)
{
	uint32_t n;

	for (n = 0; v->gfn && n < r->entries / 4; n++, v->next++) {
		struct kvm_dirty_gfn *g = &v->gfn[v->next & (r->entries - 1)];

		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_DIRTY)
			break;
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	return r->reset(r->ctx);
}

/*
 * Whoever harvests all rings may have been here between the exit and the lock: then there is room
 * and nothing left to find. In front of a gap the vCPU is back at once, and nothing was found
 * since.
 */
int dirty_ring_full(struct dirty_ring *r, unsigned int vcpu)
{
	struct dirty_ring_vcpu *v;
	int64_t n;

	if (!r->entries)
		return -EINVAL;
	pthread_mutex_lock(&r->lock);
	v = &r->vcpu[vcpu];
	n = harvest(r, vcpu, vcpu + 1);
	if (!n && v->pages == v->pages_when_full) {
		r->broken = true;
		n = skip_gap(r, v);
	}
	v->pages_when_full = v->pages;
	pthread_mutex_unlock(&r->lock);
	return n < 0 ? (int)n : 0;
}

uint64_t dirty_ring_pages(const struct dirty_ring *r, unsigned int vcpu)
{
	return __atomic_load_n(&r->vcpu[vcpu].pages, __ATOMIC_RELAXED);
}

/* ---- the calls of a dirty log ---- */

static uint64_t first_word(const struct dirty_ring *r, uint32_t slot)
{
	return r->gm->region[slot].fd_offset / GUEST_PAGE / DIRTY_WORD_PAGES;
}

static uint64_t slot_words(const struct dirty_ring *r, uint32_t slot)
{
	return (region_pages(r, slot) + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
}

/* What an earlier migration left is forgotten, before anything is watched again. */
static int ring_watch(void *ctx, uint32_t slot, const struct guest_mem_region *region, bool on)
{
	struct dirty_ring *r = ctx;
	int64_t ret = 0;

	if (on) {
		pthread_mutex_lock(&r->lock);
		ret = harvest(r, 0, r->n_vcpus);
		r->broken = ret < 0;
		memset(r->found + first_word(r, slot), 0, slot_words(r, slot) * sizeof(uint64_t));
		pthread_mutex_unlock(&r->lock);
	}
	return ret < 0 ? (int)ret : vm_watch_slot(r->vm_fd, slot, region, on);
}

static int ring_get(void *ctx, uint32_t slot, uint64_t *bits)
{
	struct dirty_ring *r = ctx;
	uint64_t *found = r->found + first_word(r, slot);
	const uint64_t n = slot_words(r, slot);
	int64_t ret;
	uint64_t i;

	pthread_mutex_lock(&r->lock);
	ret = harvest(r, 0, r->n_vcpus);
	if (ret >= 0)
		ret = r->broken ? -EOVERFLOW : 0;
	for (i = 0; !ret && i < n; i++) {
		if (!found[i])
			continue;
		bits[i] |= found[i];
		found[i] = 0;
	}
	pthread_mutex_unlock(&r->lock);
	return (int)ret;
}

/* Done by the reset already. */
static int ring_clear(void *ctx, uint32_t slot, uint64_t first, uint32_t n, const uint64_t *bits)
{
	(void)ctx;
	(void)slot;
	(void)first;
	(void)n;
	(void)bits;
	return 0;
}

const struct dirty_log_ops dirty_ring_ops = {
	.watch = ring_watch,
	.get = ring_get,
	.clear = ring_clear,
};
