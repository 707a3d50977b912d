/* Writes the PVH start information: one page, the parts one after the other. */
#include "vmm/machine/boot/pvh.h"

#include "base/bytes.h"
#include "base/guest_mem.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/loader.h"

struct pvh_page {
	struct pvh_start_info info;
	struct pvh_module initrd;
	struct pvh_memmap_entry memmap[MEMORY_MAP_MAX];
};

_Static_assert(sizeof(struct pvh_start_info) == 56, "start_info.h version 1");
_Static_assert(sizeof(struct pvh_page) <= GUEST_PAGE, "LAYOUT_PVH_INFO is one page");

int pvh_write_info(const struct loader *l, const struct initrd *initrd, struct err *e)
{
	struct pvh_page page = {
		.info =
			{
				.magic = PVH_MAGIC,
				.version = PVH_VERSION,
				.cmdline_paddr = LAYOUT_CMDLINE,
				.rsdp_paddr = l->rsdp,
				.memmap_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, memmap),
				.memmap_entries = l->map.n_entries,
			},
	};
	void *dst = gpa_span(l->gm, LAYOUT_PVH_INFO, sizeof(page));
	unsigned int i;

	if (!dst)
		return image_err(
			&l->kernel, e,
			"guest memory does not reach hvm_start_info at 0x%x; give more with "
			"-m",
			LAYOUT_PVH_INFO);
	if (initrd->len_bytes) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, initrd);
		page.initrd.paddr = initrd->gpa;
		page.initrd.size = initrd->len_bytes;
	}
	for (i = 0; i < l->map.n_entries; i++) {
		page.memmap[i].addr = l->map.entry[i].gpa;
		page.memmap[i].size = l->map.entry[i].len_bytes;
		page.memmap[i].type = l->map.entry[i].type;
	}
	memcpy(dst, &page, sizeof(page));
	return 0;
}
