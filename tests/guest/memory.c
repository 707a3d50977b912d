/* Pages from the heap between the image and ARENA_START, and the map of RAM above 4 GiB. */
#include "tests/guest/guest.h"

#define PAGE_TABLE	  7
#define PAGE_2M		  0xe7
#define PAGE_2M_SIZE	  (2 * MIB)
#define PAGE_MAP_MAX	  (512 * GIB)
#define PAGE_ADDRESS_MASK 0xffffffffff000

extern uint8_t _end[];
extern uint64_t page_pdpt[512];

static uint64_t heap_next;

void *page_alloc(size_t n)
{
	uint64_t len = n * PAGE_SIZE, start;

	if (!heap_next)
		heap_next = ((uint64_t)_end + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	start = __atomic_fetch_add(&heap_next, len, __ATOMIC_SEQ_CST);
	if (len > ARENA_START || start + len > ARENA_START)
		guest_done(opt_command(), "the heap is full");
	memset((void *)start, 0, len);
	return (void *)start;
}

void page_map(uint64_t addr, uint64_t len)
{
	uint64_t end = addr + len;

	if (end > PAGE_MAP_MAX || end < addr)
		guest_done(opt_command(), "memory ends above 512 GiB");
	for (addr &= ~(PAGE_2M_SIZE - 1); addr < end; addr += PAGE_2M_SIZE) {
		uint64_t *pdpte = &page_pdpt[addr / GIB], *dir;

		if (!*pdpte)
			*pdpte = (uint64_t)page_alloc(1) | PAGE_TABLE;
		dir = (uint64_t *)(*pdpte & PAGE_ADDRESS_MASK);
		dir[addr % GIB / PAGE_2M_SIZE] = addr | PAGE_2M;
	}
}
