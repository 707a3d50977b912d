/*
 * What a PVH kernel is told at its start, as in Xen's public ABI (xen/include/public/arch-x86/hvm/
 * start_info.h, version 1). Native little-endian, naturally aligned without holes.
 */
#ifndef VMM_MACHINE_BOOT_PVH_H
#define VMM_MACHINE_BOOT_PVH_H

#include <stdint.h>

#define PVH_MAGIC   0x336ec578 /* "xEn3", bit 31 clear */
#define PVH_VERSION 1	       /* the first with a memory map */

/* the ELF note that gives the 32-bit entry point */
#define PVH_NOTE_OWNER "Xen"
#define PVH_NOTE_TYPE  18 /* XEN_ELFNOTE_PHYS32_ENTRY */

struct pvh_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct pvh_module {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct pvh_memmap_entry {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

#endif
