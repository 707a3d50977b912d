/* The guest's memory map, built once for both forms in which a kernel is told of it. */
#ifndef VMM_MACHINE_BOOT_MEMORY_MAP_H
#define VMM_MACHINE_BOOT_MEMORY_MAP_H

#include "base/guest_mem.h"

struct err;

/* numbered as in ACPI's address range types, which e820 and PVH both use */
enum memory_map_type { MEMORY_MAP_RAM = 1, MEMORY_MAP_RESERVED = 2 };

struct memory_map_entry {
	gpa_t gpa;
	uint64_t len_bytes;
	enum memory_map_type type;
};

#define MEMORY_MAP_MAX (GUEST_MEM_MAX_REGIONS + 2)

struct memory_map {
	unsigned int n_entries;
	gpa_t low_end; /* end of the RAM that starts at 0 */
	struct memory_map_entry entry[MEMORY_MAP_MAX];
};

/**
 * memory_map_build - describe @gm: conventional memory, the reserved area up to 1 MiB, and all RAM
 * from there on
 * Return: 0, or -EINVAL when memory does not start at 0 or ends at or below 1 MiB
 */
int memory_map_build(const struct guest_mem *gm, struct memory_map *map, struct err *e);

#endif
