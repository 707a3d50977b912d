/*
 * mem: the first and the last page of every RAM region hold their own pattern all at once, so that
 * missing memory and one page seen at two addresses both show. The pages get their contents back:
 * the guest's own image is in one of them.
 */
#include "tests/guest/guest.h"

#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(uint64_t))
#define MAX_PAGES      (2 * BOOT_MAX_REGIONS)

struct probe {
	uint64_t *page, *saved;
};

static uint64_t pattern(const uint64_t *at)
{
	return (uint64_t)at * 0x9e3779b97f4a7c15 ^ 0x5555aaaa3333cccc;
}

static uint32_t probe_add(struct probe *p, uint32_t n, uint64_t addr)
{
	if (n && (uint64_t)p[n - 1].page == addr)
		return n;
	page_map(addr, PAGE_SIZE);
	p[n].page = (uint64_t *)addr;
	p[n].saved = page_alloc(1);
	return n + 1;
}

const char *cmd_mem(void)
{
	static struct probe probe[MAX_PAGES];
	uint64_t total = 0, above_4g = 0, bad = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < boot.n_regions; i++) {
		const struct boot_region *r = &boot.region[i];
		uint64_t first = (r->addr + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
		uint64_t end = (r->addr + r->size) & ~(PAGE_SIZE - 1);

		if (r->type != BOOT_RAM)
			continue;
		total += r->size;
		if (r->addr >= 4 * GIB)
			above_4g += r->size;
		if (first >= end)
			continue;
		n = probe_add(probe, n, first);
		n = probe_add(probe, n, end - PAGE_SIZE);
	}
	for (uint32_t i = 0; i < n; i++)
		memcpy(probe[i].saved, probe[i].page, PAGE_SIZE);
	for (uint32_t i = 0; i < n; i++) {
		for (uint64_t *p = probe[i].page; p < probe[i].page + WORDS_PER_PAGE; p++)
			WRITE_ONCE(*p, pattern(p));
	}
	for (uint32_t i = 0; i < n; i++) {
		for (uint64_t *p = probe[i].page; p < probe[i].page + WORDS_PER_PAGE; p++)
			bad += READ_ONCE(*p) != pattern(p);
	}
	for (uint32_t i = 0; i < n; i++)
		memcpy(probe[i].page, probe[i].saved, PAGE_SIZE);
	for (uint32_t i = 0; i < n; i++)
		print("mem page=0x%lx\n", (uint64_t)probe[i].page);
	print("mem total_kib=%lu above_4g_kib=%lu pages=%u bad_words=%lu\n", total / KIB,
	      above_4g / KIB, n, bad);
	return bad ? "memory does not keep what is written" : NULL;
}
