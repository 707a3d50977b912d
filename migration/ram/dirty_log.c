#include "migration/ram/dirty_log.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"

/* One call clears this much of a range that is taken whole: 256 MiB of guest memory. */
#define CLEAR_WORDS 1024

int dirty_log_init(struct dirty_log *d, struct guest_mem *gm, const struct dirty_log_ops *ops,
		   void *ctx, struct err *e)
{
	uint64_t end = 0;
	unsigned int i;

	memset(d, 0, sizeof(*d));
	d->ops = ops;
	d->ctx = ctx;
	d->gm = gm;
	for (i = 0; i < gm->n_regions; i++) {
		const struct guest_mem_region *r = &gm->region[i];

		/* so that the words of a slot are words of the whole */
		if (r->fd_offset != end || r->fd_offset % (DIRTY_WORD_PAGES * GUEST_PAGE) ||
		    r->len_bytes % GUEST_PAGE)
			return err_set(e, -EINVAL,
				       "dirty log: memory at %#llx begins at %#llx of its file; "
				       "give a multiple of 256 KiB, without gaps",
				       (unsigned long long)r->gpa,
				       (unsigned long long)r->fd_offset);
		end += r->len_bytes;
	}
	d->n_pages = end / GUEST_PAGE;
	d->n_words = (d->n_pages + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
	d->kvm = guest_mem_map_bits(d->n_words);
	d->device = guest_mem_map_bits(d->n_words);
	if (!d->kvm || !d->device)
		return err_set(e, -ENOMEM, "dirty log: no memory for 2 bits a page of %llu MiB",
			       (unsigned long long)(end >> 20));
	return 0;
}

void dirty_log_fini(struct dirty_log *d)
{
	if (!d->ops)
		return;
	dirty_log_stop(d);
	if (d->kvm)
		munmap(d->kvm, d->n_words * sizeof(uint64_t));
	if (d->device)
		munmap(d->device, d->n_words * sizeof(uint64_t));
	memset(d, 0, sizeof(*d));
}

/* Zero again, and no memory behind it. */
static void forget(struct dirty_log *d)
{
	madvise(d->kvm, d->n_words * sizeof(uint64_t), MADV_DONTNEED);
	madvise(d->device, d->n_words * sizeof(uint64_t), MADV_DONTNEED);
}

/* Return: 0; -errno when one of them does not log, with all of them off again */
static int log_writers(struct dirty_log *d, bool on)
{
	struct guest_mem_writer *w;
	int ret = 0;

	for (w = d->gm->writers; w && !ret; w = w->next)
		ret = w->log(w, on);
	if (ret < 0)
		log_writers(d, false);
	return ret;
}

int dirty_log_start(struct dirty_log *d, struct err *e)
{
	int ret = d->ops->begin ? d->ops->begin(d->ctx, e) : 0;
	uint32_t i;

	if (ret < 0)
		return ret;
	forget(d);
	d->on = true;
	__atomic_store_n(&d->gm->dirty, d->device, __ATOMIC_SEQ_CST);
	ret = log_writers(d, true);
	if (ret < 0) {
		dirty_log_stop(d);
		return err_set(e, ret,
			       "dirty log: vhost does not log what it writes: %s; move the guest "
			       "without vhost (-n), or see the kernel's log",
			       strerror(-ret));
	}
	for (i = 0; i < d->gm->n_regions; i++) {
		ret = d->ops->watch(d->ctx, i, &d->gm->region[i], true);
		if (ret < 0) {
			dirty_log_stop(d);
			return err_set(e, ret,
				       "dirty log: KVM does not watch memory slot %u: %s; "
				       "see the kernel's log",
				       i, strerror(-ret));
		}
	}
	return 0;
}

void dirty_log_stop(struct dirty_log *d)
{
	uint32_t i;

	if (!d->on)
		return;
	log_writers(d, false);
	__atomic_store_n(&d->gm->dirty, NULL, __ATOMIC_SEQ_CST);
	for (i = 0; i < d->gm->n_regions; i++)
		d->ops->watch(d->ctx, i, &d->gm->region[i], false);
	forget(d);
	d->on = false;
}

static uint64_t word_now(const struct dirty_log *d, uint64_t word)
{
	return d->kvm[word] | __atomic_load_n(&d->device[word], __ATOMIC_RELAXED);
}

/* bits of the last word that are behind the end of memory are nobody's */
static uint64_t word_mask(const struct dirty_log *d, uint64_t word)
{
	const uint64_t left = d->n_pages - word * DIRTY_WORD_PAGES;

	return left >= DIRTY_WORD_PAGES ? UINT64_MAX : (1ULL << left) - 1;
}

int dirty_log_harvest(struct dirty_log *d, uint64_t *pages, struct err *e)
{
	struct guest_mem_writer *writer;
	uint64_t w, n = 0;
	uint32_t i;

	for (i = 0; i < d->gm->n_regions; i++) {
		const uint64_t first = d->gm->region[i].fd_offset / GUEST_PAGE / DIRTY_WORD_PAGES;
		const int ret = d->ops->get(d->ctx, i, d->kvm + first);

		if (ret == -EOVERFLOW)
			return err_set(e, ret,
				       "a dirty ring overflowed, so what was written is not "
				       "known; start the guest with a larger --dirty-ring, or "
				       "without");
		if (ret < 0)
			return err_set(e, ret,
				       "dirty log: KVM does not tell what was written in memory "
				       "slot %u: %s; see the kernel's log",
				       i, strerror(-ret));
	}
	if (d->n_words)
		d->kvm[d->n_words - 1] &= word_mask(d, d->n_words - 1);
	for (writer = d->gm->writers; writer; writer = writer->next)
		writer->harvest(writer);
	if (!pages)
		return 0;
	for (w = 0; w < d->n_words; w++) {
		const uint64_t bits = word_now(d, w);

		if (bits)
			n += (uint64_t)__builtin_popcountll(bits);
	}
	*pages = n;
	return 0;
}

uint64_t dirty_log_next(const struct dirty_log *d, uint64_t word)
{
	while (word < d->n_words && !word_now(d, word))
		word++;
	return word;
}

/* Clear the bits set in @bits; [word, word + n) lies in one slot. */
static int clear_in_slot(struct dirty_log *d, uint32_t slot, uint64_t word, uint64_t n,
			 const uint64_t *bits, struct err *e)
{
	const struct guest_mem_region *r = &d->gm->region[slot];
	const uint64_t first = word * DIRTY_WORD_PAGES - r->fd_offset / GUEST_PAGE;
	uint64_t pages = r->len_bytes / GUEST_PAGE - first;
	int ret;

	if (pages > n * DIRTY_WORD_PAGES)
		pages = n * DIRTY_WORD_PAGES;
	ret = d->ops->clear(d->ctx, slot, first, (uint32_t)pages, bits);
	if (ret < 0)
		return err_set(e, ret,
			       "KVM_CLEAR_DIRTY_LOG of slot %u, page %llu: %s; see the kernel's "
			       "log",
			       slot, (unsigned long long)first, strerror(-ret));
	return 0;
}

static int clear_words(struct dirty_log *d, uint64_t word, uint64_t n, const uint64_t *bits,
		       struct err *e)
{
	const uint64_t word_bytes = DIRTY_WORD_PAGES * GUEST_PAGE;
	uint32_t slot;
	int ret = 0;

	for (slot = 0; !ret && n && slot < d->gm->n_regions; slot++) {
		const struct guest_mem_region *r = &d->gm->region[slot];
		const uint64_t end = (r->fd_offset + r->len_bytes + word_bytes - 1) / word_bytes;
		const uint64_t part = end <= word ? 0 : end - word < n ? end - word : n;

		if (part)
			ret = clear_in_slot(d, slot, word, part, bits, e);
		word += part;
		bits += part;
		n -= part;
	}
	return ret;
}

int dirty_log_take(struct dirty_log *d, uint64_t word, unsigned int n, bool watch_on,
		   uint64_t *bits, struct err *e)
{
	bool any = false;
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++) {
		bits[i] = d->kvm[word + i];
		any = any || bits[i];
	}
	ret = any && watch_on ? clear_words(d, word, n, bits, e) : 0;
	for (i = 0; i < n; i++) {
		if (d->kvm[word + i])
			d->kvm[word + i] = 0;
		if (__atomic_load_n(&d->device[word + i], __ATOMIC_RELAXED))
			bits[i] |= __atomic_exchange_n(&d->device[word + i], 0, __ATOMIC_SEQ_CST);
	}
	return ret;
}

int dirty_log_take_all(struct dirty_log *d, uint64_t word, uint64_t n, struct err *e)
{
	uint64_t ones[CLEAR_WORDS], unused[CLEAR_WORDS];
	int ret = 0;

	memset(ones, 0xff, (n < CLEAR_WORDS ? n : CLEAR_WORDS) * sizeof(*ones));
	while (!ret && n) {
		const unsigned int part = n < CLEAR_WORDS ? (unsigned int)n : CLEAR_WORDS;

		ret = clear_words(d, word, part, ones, e);
		if (!ret)
			ret = dirty_log_take(d, word, part, false, unused, e);
		word += part;
		n -= part;
	}
	return ret;
}
