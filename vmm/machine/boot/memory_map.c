/* From regions of guest memory to the map that firmware would give to a kernel. */
#include "vmm/machine/boot/memory_map.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"

static void add(struct memory_map *map, gpa_t gpa, gpa_t end, enum memory_map_type type)
{
	map->entry[map->n_entries++] = (struct memory_map_entry) {gpa, end - gpa, type};
}

int memory_map_build(const struct guest_mem *gm, struct memory_map *map, struct err *e)
{
	const struct guest_mem_region *low = &gm->region[0];
	unsigned int i;

	*map = (struct memory_map) {0};
	if (!gm->n_regions || low->gpa || low->len_bytes <= LAYOUT_HIGH_START)
		return err_set(e, -EINVAL,
			       "guest memory has 0x%llx bytes, a kernel is loaded from 0x%x on; "
			       "give more with -m",
			       (unsigned long long)(gm->n_regions ? low->len_bytes : 0),
			       LAYOUT_HIGH_START);
	map->low_end = low->len_bytes;
	add(map, 0, LAYOUT_LOW_END, MEMORY_MAP_RAM);
	/* the ACPI tables are in here */
	add(map, LAYOUT_LOW_END, LAYOUT_HIGH_START, MEMORY_MAP_RESERVED);
	add(map, LAYOUT_HIGH_START, map->low_end, MEMORY_MAP_RAM);
	for (i = 1; i < gm->n_regions; i++)
		add(map, gm->region[i].gpa, gm->region[i].gpa + gm->region[i].len_bytes,
		    MEMORY_MAP_RAM);
	return 0;
}
