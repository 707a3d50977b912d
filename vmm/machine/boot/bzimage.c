/*
 * Linux bzImage: a real-mode part with a header that describes the kernel, then the kernel proper,
 * which is entered in long mode 0x200 bytes after its start. The real-mode part is not used.
 * Source: Linux Documentation/arch/x86/boot.rst; structures from <asm/bootparam.h>.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/loader.h"

#define BOOT_FLAG	0xaa55
#define VERSION_MIN	0x020c /* the first with xloadflags, which promises the 64-bit entry */
#define ENTRY_64_OFFSET 0x200
#define LOADER_UNKNOWN	0xff /* type_of_loader: none of those with a number */

#define SECTOR_SIZE	    512
#define SETUP_SECTS_IF_ZERO 4
#define SYSSIZE_UNIT	    16
#define HEADER_OFFSET	    offsetof(struct boot_params, hdr)
#define HEADER_MAX_END	    offsetof(struct boot_params, edd_mbr_sig_buffer)
#define HEADER_FIELD(f)	    (HEADER_OFFSET + offsetof(struct setup_header, f))
/* the header's length is in the second byte of the jump over it, counted from there on */
#define HEADER_LENGTH_OFFSET (HEADER_FIELD(jump) + 1)
/* protocol 2.12 ends with handover_offset */
#define HEADER_MIN_END HEADER_FIELD(kernel_info_offset)

_Static_assert(sizeof(struct boot_params) == GUEST_PAGE, "boot_params is one page");
_Static_assert(HEADER_OFFSET == 0x1f1 && HEADER_MIN_END == 0x268, "boot.rst offsets");

/* where the parts of a checked file are, and where they go */
struct bzimage {
	struct setup_header hdr;
	uint32_t header_end;  /* offset of the first byte after the header */
	uint64_t code_offset; /* of the kernel proper in the file */
	uint64_t code_bytes;  /* that syssize says */
	uint64_t code_read;   /* of them in the file: the last unit may be begun only */
	gpa_t load;
	gpa_t end; /* of the memory that the kernel needs before it reads the memory map */
};

static int read_header(const struct loader *l, struct bzimage *bz, struct err *e)
{
	struct setup_header *h = &bz->hdr;
	uint32_t len;

	bz->header_end = HEADER_FIELD(header) + l->head[HEADER_LENGTH_OFFSET];
	len = bz->header_end - HEADER_OFFSET;
	if (len > sizeof(*h))
		len = sizeof(*h);
	if (len > l->head_len - HEADER_OFFSET)
		len = l->head_len - HEADER_OFFSET;
	memset(h, 0, sizeof(*h));
	memcpy(h, l->head + HEADER_OFFSET, len);

	if (h->boot_flag != BOOT_FLAG)
		return image_err(&l->kernel, e,
				 "boot_flag is 0x%04x, a bzImage has 0x%04x there; the file is "
				 "damaged",
				 h->boot_flag, BOOT_FLAG);
	if (l->head_len < bz->header_end || l->head_len < HEADER_FIELD(realmode_swtch))
		return image_err(
			&l->kernel, e,
			"setup header cut: it ends at 0x%x, the file at 0x%x; give a whole "
			"bzImage",
			bz->header_end, l->head_len);
	if (h->version < VERSION_MIN)
		return image_err(&l->kernel, e,
				 "boot protocol version is %u.%02u; 2.12 or later is needed "
				 "(Linux 3.8 or later)",
				 h->version >> 8, h->version & 0xff);
	if (bz->header_end < HEADER_MIN_END || bz->header_end > HEADER_MAX_END)
		return image_err(&l->kernel, e,
				 "setup header ends at 0x%x by its length byte; 0x%zx to 0x%zx fit "
				 "boot protocol 2.12 or later",
				 bz->header_end, HEADER_MIN_END, HEADER_MAX_END);
	if (!(h->loadflags & LOADED_HIGH))
		return image_err(
			&l->kernel, e,
			"loadflags is 0x%02x without LOADED_HIGH (1): a zImage; give a bzImage",
			h->loadflags);
	if (!(h->xloadflags & XLF_KERNEL_64))
		return image_err(
			&l->kernel, e,
			"xloadflags is 0x%04x without XLF_KERNEL_64 (1): a 32-bit kernel; give "
			"one for x86-64",
			h->xloadflags);
	return 0;
}

static int find_code(const struct loader *l, struct bzimage *bz, struct err *e)
{
	const uint32_t sects = bz->hdr.setup_sects ? bz->hdr.setup_sects : SETUP_SECTS_IF_ZERO;
	const uint64_t size = l->kernel.size_bytes;

	bz->code_offset = (uint64_t)(sects + 1) * SECTOR_SIZE;
	bz->code_bytes = (uint64_t)bz->hdr.syssize * SYSSIZE_UNIT;
	if (bz->code_offset >= size)
		return image_err(&l->kernel, e,
				 "setup_sects is %u: the kernel proper starts at 0x%llx, the file "
				 "ends at 0x%llx; give a whole bzImage",
				 bz->hdr.setup_sects, (unsigned long long)bz->code_offset,
				 (unsigned long long)size);
	bz->code_read = size - bz->code_offset;
	if (bz->code_read > bz->code_bytes)
		bz->code_read = bz->code_bytes; /* a signature or so follows */
	if (bz->code_bytes - bz->code_read >= SYSSIZE_UNIT)
		return image_err(&l->kernel, e,
				 "syssize is 0x%x: the kernel proper has 0x%llx bytes from 0x%llx "
				 "on, the file ends at 0x%llx; give a whole bzImage",
				 bz->hdr.syssize, (unsigned long long)bz->code_bytes,
				 (unsigned long long)bz->code_offset, (unsigned long long)size);
	if (bz->code_read <= ENTRY_64_OFFSET)
		return image_err(&l->kernel, e,
				 "syssize is 0x%x: the kernel proper has 0x%llx bytes, its 64-bit "
				 "entry is at 0x%x; the file is damaged",
				 bz->hdr.syssize, (unsigned long long)bz->code_bytes,
				 ENTRY_64_OFFSET);
	return 0;
}

/*
 * The preferred address serves kernels that can be moved as well: they decompress to it or above
 * wherever they were loaded, and here they take no memory besides.
 */
static int place(const struct loader *l, struct bzimage *bz, struct err *e)
{
	uint64_t need = bz->hdr.init_size;
	char what[80];

	if (need < bz->code_bytes)
		need = bz->code_bytes;
	bz->load = bz->hdr.pref_address;
	if (bz->load < LAYOUT_HIGH_START || bz->load >= LAYOUT_HOLE_START)
		return image_err(&l->kernel, e,
				 "pref_address is 0x%llx; 0x%x to 0x%x can hold a kernel, give one "
				 "built for that",
				 (unsigned long long)bz->load, LAYOUT_HIGH_START,
				 LAYOUT_HOLE_START);
	bz->end = bz->load + need;
	if (!gpa_span(l->gm, bz->load, need)) {
		snprintf(what, sizeof(what), "init_size 0x%x at pref_address 0x%llx",
			 bz->hdr.init_size, (unsigned long long)bz->load);
		return loader_err_memory(l, what, bz->load, bz->end, e);
	}
	return 0;
}

static void fill_e820(const struct memory_map *map, struct boot_params *bp)
{
	unsigned int i;

	for (i = 0; i < map->n_entries; i++)
		bp->e820_table[i] = (struct boot_e820_entry) {
			map->entry[i].gpa, map->entry[i].len_bytes, map->entry[i].type};
	bp->e820_entries = (uint8_t)map->n_entries;
}

/* All addresses are below 4 GiB by layout, so the ext_ fields, their upper halves, stay zero. */
static int write_boot_params(const struct loader *l, const struct bzimage *bz,
			     const struct initrd *initrd, struct err *e)
{
	struct boot_params bp = {0};
	uint8_t *dst = gpa_span(l->gm, LAYOUT_BOOT_PARAMS, sizeof(bp));

	if (!dst)
		return image_err(
			&l->kernel, e,
			"guest memory does not reach boot_params at 0x%x; give more with -m",
			LAYOUT_BOOT_PARAMS);
	/* also what a newer header has more than our struct: the kernel knows it */
	memcpy((uint8_t *)&bp + HEADER_OFFSET, l->head + HEADER_OFFSET,
	       bz->header_end - HEADER_OFFSET);
	bp.hdr.type_of_loader = LOADER_UNKNOWN;
	bp.hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	bp.hdr.ramdisk_image = (uint32_t)initrd->gpa;
	bp.hdr.ramdisk_size = (uint32_t)initrd->len_bytes;
	bp.hdr.code32_start = (uint32_t)bz->load;
	bp.hdr.setup_data = 0;
	bp.acpi_rsdp_addr = l->rsdp;
	fill_e820(&l->map, &bp);
	memcpy(dst, &bp, sizeof(bp));
	return 0;
}

int bzimage_load(const struct loader *l, struct boot_entry *entry, struct err *e)
{
	struct initrd initrd;
	struct bzimage bz;
	int ret;

	ret = read_header(l, &bz, e);
	if (!ret)
		ret = find_code(l, &bz, e);
	if (!ret)
		ret = place(l, &bz, e);
	if (!ret)
		ret = cmdline_load(l, bz.hdr.cmdline_size, e);
	if (!ret)
		ret = initrd_check(l, e);
	if (!ret)
		ret = initrd_load(l, bz.end, (gpa_t)bz.hdr.initrd_addr_max + 1, &initrd, e);
	if (!ret)
		ret = write_boot_params(l, &bz, &initrd, e);
	if (!ret)
		ret = image_read(&l->kernel, bz.code_offset, gpa_span(l->gm, bz.load, bz.code_read),
				 bz.code_read, e);
	if (!ret)
		*entry = (struct boot_entry) {BOOT_LONG64, bz.load + ENTRY_64_OFFSET,
					      LAYOUT_BOOT_PARAMS};
	return ret;
}
