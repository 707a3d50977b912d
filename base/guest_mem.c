#include "base/guest_mem.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

void *gpa_span(const struct guest_mem *gm, gpa_t gpa, uint64_t len_bytes)
{
	unsigned int i;

	for (i = 0; i < gm->n_regions; i++) {
		const struct guest_mem_region *r = &gm->region[i];
		uint64_t off = gpa - r->gpa;

		/* off is huge when gpa < r->gpa; no sum is formed that could wrap */
		if (off < r->len_bytes && len_bytes <= r->len_bytes - off)
			return r->hva + off;
	}
	return NULL;
}

void guest_mem_mark_in(const struct guest_mem *gm, uint64_t *dirty, const void *hva,
		       uint64_t len_bytes)
{
	unsigned int i;

	for (i = 0; len_bytes && i < gm->n_regions; i++) {
		const struct guest_mem_region *r = &gm->region[i];
		uint64_t off = (uintptr_t)hva - (uintptr_t)r->hva, page, last;

		if (off >= r->len_bytes || len_bytes > r->len_bytes - off)
			continue;
		page = (r->fd_offset + off) / GUEST_PAGE;
		last = (r->fd_offset + off + len_bytes - 1) / GUEST_PAGE;
		for (; page <= last; page++)
			__atomic_fetch_or(&dirty[page / 64], 1ULL << page % 64, __ATOMIC_SEQ_CST);
		return;
	}
}

uint64_t *guest_mem_map_bits(uint64_t n_words)
{
	void *p = mmap(NULL, n_words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int guest_mem_add(struct guest_mem *gm, const struct guest_mem_region *r)
{
	uint64_t end;

	if (gm->n_regions == GUEST_MEM_MAX_REGIONS)
		return -ENOSPC;
	if (!r->len_bytes || __builtin_add_overflow(r->gpa, r->len_bytes, &end))
		return -EINVAL;
	if (gm->n_regions) {
		const struct guest_mem_region *last = &gm->region[gm->n_regions - 1];

		if (r->gpa < last->gpa + last->len_bytes)
			return -EINVAL;
	}
	gm->region[gm->n_regions++] = *r;
	return 0;
}
