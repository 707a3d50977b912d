#include "devices/guest_mem.h"

#include <errno.h>
#include <stddef.h>

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
