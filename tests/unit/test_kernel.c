/*
 * Loading kernels from files made here: good ones of each kind, ones with each fault, random ones.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/kernel.h"
#include "vmm/machine/boot/pvh.h"

#define RSDP	  0xe0000
#define PATH	  "some/kernel"
#define IMAGE_MAX 0x4000
#define GUARD	  0x10000

/* Guest memory between two inaccessible areas, so that a step outside it ends the test. */
struct guest {
	struct guest_mem gm;
	uint8_t *map;
	size_t map_len;
};

static void guest_init(struct guest *g, uint64_t low, uint64_t high)
{
	struct guest_mem_region r = {.gpa = 0, .len_bytes = low};
	uint64_t at = GUARD;

	memset(g, 0, sizeof(*g));
	g->map_len = low + high + 3 * GUARD;
	g->map = mmap(NULL, g->map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		      0);
	assert_ptr_not_equal(g->map, MAP_FAILED);
	r.hva = g->map + at;
	assert_int_equal(mprotect(r.hva, low, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(guest_mem_add(&g->gm, &r), 0);
	if (!high)
		return;
	at += low + GUARD;
	r = (struct guest_mem_region) {LAYOUT_HOLE_END, high, g->map + at, low};
	assert_int_equal(mprotect(r.hva, high, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(guest_mem_add(&g->gm, &r), 0);
}

static void guest_fini(struct guest *g)
{
	munmap(g->map, g->map_len);
}

static int make_file(const void *data, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, 0), len);
	return fd;
}

struct image {
	uint8_t data[IMAGE_MAX];
	size_t len; /* may be more than the data: the rest of the file is a hole */
};

/* bzImage: offsets are those of boot.rst, on purpose not of the struct that the loader uses */
#define BZ_CODE_OFFSET 0x400 /* setup_sects 1 */
#define BZ_CODE_LEN    0x1000
#define BZ_PREF	       0x1000000
#define BZ_INIT_SIZE   0x200000
#define BZ_CMDLINE_MAX 2047

static void make_bzimage(struct image *im)
{
	uint8_t *p = im->data;
	size_t i;

	memset(im, 0, sizeof(*im));
	im->len = BZ_CODE_OFFSET + BZ_CODE_LEN;
	memcpy(p, "MZ", 2);
	p[0x1ef] = 0xff; /* sentinel: must not reach boot_params */
	p[0x1f1] = 1;
	put_le32(p + 0x1f4, BZ_CODE_LEN / 16);
	put_le16(p + 0x1fe, 0xaa55);
	p[0x200] = 0xeb;
	p[0x201] = 0x6a; /* the header ends at 0x26c, as that of protocol 2.15 */
	memcpy(p + 0x202, "HdrS", 4);
	put_le16(p + 0x206, 0x020f);
	p[0x211] = 1; /* LOADED_HIGH */
	put_le32(p + 0x22c, 0x7fffffff);
	put_le32(p + 0x230, 0x200000);
	p[0x234] = 1;
	put_le16(p + 0x236, 0x7f);
	put_le32(p + 0x238, BZ_CMDLINE_MAX);
	put_le64(p + 0x258, BZ_PREF);
	put_le32(p + 0x260, BZ_INIT_SIZE);
	put_le32(p + 0x268, 0x12345678); /* kernel_info_offset */
	for (i = BZ_CODE_OFFSET; i < im->len; i++)
		p[i] = (uint8_t)(i * 7 + (i >> 8));
}

/* ELF: two segments and notes, each at a fixed place in the file */
#define ELF_PHDRS 0x40
#define ELF_NOTES 0x200
#define ELF_SEG0  0x400
#define ELF_SEG1  0x800
#define ELF_ENTRY 0x100020

struct elf_form {
	const char *name;
	bool is_64;
	uint16_t machine;
	uint32_t note_align; /* p_align of the notes */
	uint32_t descsz;
	uint32_t extra; /* bytes in the names of the notes before, to try paddings */
};

static size_t put_note(uint8_t *p, size_t at, size_t align, const char *name, uint32_t namesz,
		       uint32_t type, uint64_t desc, uint32_t descsz)
{
	size_t desc_at = align_up(at + 12 + namesz, align);

	put_le32(p + at, namesz);
	put_le32(p + at + 4, descsz);
	put_le32(p + at + 8, type);
	memset(p + at + 12, 'n', namesz);
	memcpy(p + at + 12, name, strlen(name) + 1 < namesz ? strlen(name) + 1 : namesz);
	put_le64(p + desc_at, desc);
	return align_up(desc_at + descsz, align);
}

static void put_phdr(const struct elf_form *f, uint8_t *p, uint32_t type, uint64_t offset,
		     uint64_t paddr, uint64_t filesz, uint64_t memsz, uint32_t align)
{
	const Elf64_Phdr p64 = {.p_type = type,
				.p_offset = offset,
				.p_vaddr = ~paddr,
				.p_paddr = paddr,
				.p_filesz = filesz,
				.p_memsz = memsz,
				.p_align = align};
	const Elf32_Phdr p32 = {.p_type = type,
				.p_offset = (uint32_t)offset,
				.p_vaddr = (uint32_t)~paddr,
				.p_paddr = (uint32_t)paddr,
				.p_filesz = (uint32_t)filesz,
				.p_memsz = (uint32_t)memsz,
				.p_align = align};

	if (f->is_64)
		memcpy(p, &p64, sizeof(p64));
	else
		memcpy(p, &p32, sizeof(p32));
}

static void make_elf(struct image *im, const struct elf_form *f)
{
	const size_t align = f->note_align == 8 ? 8 : 4;
	const size_t phsize = f->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	uint8_t *p = im->data, *notes = p + ELF_NOTES;
	size_t i, n;

	memset(im, 0, sizeof(*im));
	im->len = 0x1000;
	memcpy(p, ELFMAG, SELFMAG);
	p[EI_CLASS] = f->is_64 ? ELFCLASS64 : ELFCLASS32;
	p[EI_DATA] = ELFDATA2LSB;
	p[EI_VERSION] = EV_CURRENT;
	if (f->is_64) {
		Elf64_Ehdr h = {.e_type = ET_EXEC,
				.e_machine = f->machine,
				.e_phoff = ELF_PHDRS,
				.e_phentsize = sizeof(Elf64_Phdr),
				.e_phnum = 3};
		memcpy(h.e_ident, p, EI_NIDENT);
		memcpy(p, &h, sizeof(h));
	} else {
		Elf32_Ehdr h = {.e_type = ET_EXEC,
				.e_machine = f->machine,
				.e_phoff = ELF_PHDRS,
				.e_phentsize = sizeof(Elf32_Phdr),
				.e_phnum = 3};
		memcpy(h.e_ident, p, EI_NIDENT);
		memcpy(p, &h, sizeof(h));
	}
	n = put_note(notes, 0, align, "GNU", 4 + f->extra, 3, 0x1111, 20);
	n = put_note(notes, n, align, "Xen", 4, 6, 0x2222, 6);		    /* other type */
	n = put_note(notes, n, align, "Xeno", 5, PVH_NOTE_TYPE, 0x3333, 4); /* other owner */
	n = put_note(notes, n, align, "Xen", 4, PVH_NOTE_TYPE, ELF_ENTRY, f->descsz);
	put_phdr(f, p + ELF_PHDRS, PT_NOTE, ELF_NOTES, 0, n, n, f->note_align);
	put_phdr(f, p + ELF_PHDRS + phsize, PT_LOAD, ELF_SEG0, 0x100000, 0x300, 0x5000, 0x1000);
	put_phdr(f, p + ELF_PHDRS + 2 * phsize, PT_LOAD, ELF_SEG1, 0x1000, 0x80, 0x80, 0x1000);
	for (i = ELF_SEG0; i < im->len; i++)
		p[i] = (uint8_t)(i * 5 + (i >> 8));
}

static const struct elf_form elf_forms[] = {
	{"ELF64, note aligned 4, desc 8", true, EM_X86_64, 4, 8, 0},
	{"ELF64, note aligned 4, desc 4", true, EM_X86_64, 4, 4, 0},
	{"ELF64, note aligned 8, desc 8", true, EM_X86_64, 8, 8, 0},
	{"ELF64, note aligned 8, desc 4", true, EM_X86_64, 8, 4, 3},
	{"ELF64, note aligned 0", true, EM_X86_64, 0, 4, 1},
	{"ELF64, note aligned 1", true, EM_X86_64, 1, 4, 2},
	{"ELF64, note aligned 2", true, EM_X86_64, 2, 8, 5},
	{"ELF32 i386, desc 4", false, EM_386, 4, 4, 0},
	{"ELF32 i386, desc 8, aligned 8", false, EM_386, 8, 8, 7},
	{"ELF32 x86-64, desc 4", false, EM_X86_64, 4, 4, 3},
	{"ELF64 i386", true, EM_386, 4, 4, 0},
};

static int load(const struct guest *g, const struct image *im, const char *cmdline,
		size_t initrd_len, struct boot_entry *entry, struct err *e)
{
	struct kernel_config cfg = {.kernel_path = PATH, .cmdline = cmdline, .initrd_fd = -1};
	int ret;

	cfg.kernel_fd = make_file(im->data, im->len < IMAGE_MAX ? im->len : IMAGE_MAX);
	if (initrd_len) {
		uint8_t *data = malloc(initrd_len);

		assert_non_null(data);
		memset(data, 0xa5, initrd_len);
		cfg.initrd_path = "some/initrd";
		cfg.initrd_fd = make_file(data, initrd_len);
		free(data);
	}
	assert_int_equal(ftruncate(cfg.kernel_fd, (off_t)im->len), 0);
	ret = kernel_load(&cfg, &g->gm, RSDP, entry, e);
	assert_int_equal(lseek(cfg.kernel_fd, 0, SEEK_CUR), 0);
	kernel_close(&cfg);
	assert_int_equal(cfg.kernel_fd, -1);
	assert_int_equal(cfg.initrd_fd, -1);
	return ret;
}

static void must_load(const char *name, const struct guest *g, const struct image *im,
		      const char *cmdline, size_t initrd_len, struct boot_entry *entry)
{
	struct err e = {0};

	if (load(g, im, cmdline, initrd_len, entry, &e))
		fail_msg("%s: %s", name, e.text);
}

static void check_bytes(const struct guest *g, gpa_t gpa, const void *want, size_t len)
{
	const void *got = gpa_span(&g->gm, gpa, len);

	assert_non_null(got);
	assert_memory_equal(got, want, len);
}

static void check_initrd(const struct guest *g, uint64_t gpa, uint64_t len, uint64_t want_len,
			 uint64_t limit)
{
	const uint8_t *p = gpa_span(&g->gm, gpa, len);

	assert_int_equal(len, want_len);
	assert_int_equal(gpa, (limit - len) & ~0xfffULL);
	assert_non_null(p);
	assert_int_equal(p[0], 0xa5);
	assert_int_equal(p[len - 1], 0xa5);
}

/* { address, size, type } for a guest of @low, @high bytes, in e820's and PVH's numbers */
static size_t expected_map(uint64_t low, uint64_t high, uint64_t out[][3])
{
	const uint64_t map[][3] = {
		{0, 0x9fc00, 1},
		{0x9fc00, 0x100000 - 0x9fc00, 2},
		{0x100000, low - 0x100000, 1},
		{0x100000000, high, 1},
	};

	memcpy(out, map, sizeof(map));
	return high ? 4 : 3;
}

struct patch {
	uint32_t offset;
	uint32_t size; /* 1, 2, 4, 8 bytes; 0: none */
	uint64_t value;
};

static void apply(struct image *im, const struct patch *p, size_t n)
{
	for (; n && p->size; n--, p++)
		memcpy(im->data + p->offset, &p->value, p->size);
}

static const struct {
	const char *name;
	struct patch patch[3];
	uint64_t low, high;
	size_t initrd_len;
	uint64_t initrd_limit;
	gpa_t load;
	uint32_t code_offset;
} good_bzimages[] = {
	{"plain", {{0}}, 64 * MiB, 0, 0, 0, BZ_PREF, BZ_CODE_OFFSET},
	{"exactly enough memory", {{0}}, BZ_PREF + BZ_INIT_SIZE, 0, 0, 0, BZ_PREF, BZ_CODE_OFFSET},
	{"initrd", {{0}}, 64 * MiB, 0, 5000, 64 * MiB, BZ_PREF, BZ_CODE_OFFSET},
	{"initrd of whole pages", {{0}}, 64 * MiB, 0, 8192, 64 * MiB, BZ_PREF, BZ_CODE_OFFSET},
	{"initrd down to the kernel's end",
	 {{0}},
	 64 * MiB,
	 0,
	 46 * MiB,
	 64 * MiB,
	 BZ_PREF,
	 BZ_CODE_OFFSET},
	{"initrd_addr_max",
	 {{0x22c, 4, 0x1ffffff}},
	 64 * MiB,
	 0,
	 5000,
	 32 * MiB,
	 BZ_PREF,
	 BZ_CODE_OFFSET},
	{"initrd_addr_max of all ones",
	 {{0x22c, 4, 0xffffffff}},
	 64 * MiB,
	 0,
	 5000,
	 64 * MiB,
	 BZ_PREF,
	 BZ_CODE_OFFSET},
	{"memory above 4 GiB",
	 {{0}},
	 LAYOUT_HOLE_START,
	 GiB,
	 5000,
	 2 * GiB,
	 BZ_PREF,
	 BZ_CODE_OFFSET},
	{"not relocatable", {{0x234, 1, 0}}, 64 * MiB, 0, 0, 0, BZ_PREF, BZ_CODE_OFFSET},
	{"pref_address 1 MiB", {{0x258, 8, 0x100000}}, 64 * MiB, 0, 0, 0, 0x100000, BZ_CODE_OFFSET},
	{"setup_sects 0 means 4",
	 {{0x1f1, 1, 0}, {0x1f4, 4, 0x40}},
	 64 * MiB,
	 0,
	 0,
	 0,
	 BZ_PREF,
	 0xa00},
	{"protocol 2.12",
	 {{0x206, 2, 0x20c}, {0x201, 1, 0x66}},
	 64 * MiB,
	 0,
	 0,
	 0,
	 BZ_PREF,
	 BZ_CODE_OFFSET},
	{"longest header", {{0x201, 1, 0x290 - 0x202}}, 64 * MiB, 0, 0, 0, BZ_PREF, BZ_CODE_OFFSET},
	{"init_size 0", {{0x260, 4, 0}}, 64 * MiB, 0, 0, 0, BZ_PREF, BZ_CODE_OFFSET},
};

static void test_good_bzimages(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(good_bzimages); i++) {
		struct boot_entry entry;
		struct boot_params bp;
		uint64_t map[4][3];
		struct image im;
		struct guest g;

		print_message("# %s\n", good_bzimages[i].name);
		guest_init(&g, good_bzimages[i].low, good_bzimages[i].high);
		make_bzimage(&im);
		apply(&im, good_bzimages[i].patch, ARRAY_SIZE(good_bzimages[i].patch));
		must_load(good_bzimages[i].name, &g, &im, "console=ttyS0",
			  good_bzimages[i].initrd_len, &entry);
		assert_int_equal(entry.mode, BOOT_LONG64);
		assert_int_equal(entry.rip, good_bzimages[i].load + 0x200);
		assert_int_equal(entry.info, LAYOUT_BOOT_PARAMS);
		check_bytes(&g, good_bzimages[i].load, im.data + good_bzimages[i].code_offset,
			    0x400);
		check_bytes(&g, LAYOUT_CMDLINE, "console=ttyS0", 14);

		memcpy(&bp, gpa_span(&g.gm, entry.info, sizeof(bp)), sizeof(bp));
		assert_int_equal(bp.sentinel, 0);
		assert_int_equal(bp.hdr.header, 0x53726448);
		assert_int_equal(bp.hdr.type_of_loader, 0xff);
		assert_int_equal(bp.hdr.cmd_line_ptr, LAYOUT_CMDLINE);
		assert_int_equal(bp.ext_cmd_line_ptr, 0);
		assert_int_equal(bp.hdr.setup_data, 0);
		assert_int_equal(bp.hdr.init_size, get_le32(im.data + 0x260));
		assert_int_equal(bp.hdr.kernel_info_offset,
				 im.data[0x201] >= 0x6a ? 0x12345678 : 0);
		assert_int_equal(bp.acpi_rsdp_addr, RSDP);
		assert_int_equal(bp.ext_ramdisk_image, 0);
		assert_int_equal(bp.ext_ramdisk_size, 0);
		if (good_bzimages[i].initrd_len)
			check_initrd(&g, bp.hdr.ramdisk_image, bp.hdr.ramdisk_size,
				     good_bzimages[i].initrd_len, good_bzimages[i].initrd_limit);
		else
			assert_int_equal(bp.hdr.ramdisk_image | bp.hdr.ramdisk_size, 0);
		assert_int_equal(bp.e820_entries,
				 expected_map(good_bzimages[i].low, good_bzimages[i].high, map));
		for (j = 0; j < bp.e820_entries; j++) {
			assert_int_equal(bp.e820_table[j].addr, map[j][0]);
			assert_int_equal(bp.e820_table[j].size, map[j][1]);
			assert_int_equal(bp.e820_table[j].type, map[j][2]);
		}
		guest_fini(&g);
	}
}

static void check_pvh(const struct guest *g, const struct boot_entry *entry, uint64_t low,
		      uint64_t high, size_t initrd_len)
{
	struct pvh_start_info info;
	uint64_t map[4][3];
	size_t i;

	assert_int_equal(entry->mode, BOOT_PVH32);
	assert_int_equal(entry->rip, ELF_ENTRY);
	assert_int_equal(entry->info, LAYOUT_PVH_INFO);
	memcpy(&info, gpa_span(&g->gm, entry->info, sizeof(info)), sizeof(info));
	assert_int_equal(info.magic, 0x336ec578);
	assert_int_equal(info.version, 1);
	assert_int_equal(info.flags, 0);
	assert_int_equal(info.cmdline_paddr, LAYOUT_CMDLINE);
	assert_int_equal(info.rsdp_paddr, RSDP);
	assert_int_equal(info.nr_modules, initrd_len ? 1 : 0);
	if (initrd_len) {
		struct pvh_module m;

		memcpy(&m, gpa_span(&g->gm, info.modlist_paddr, sizeof(m)), sizeof(m));
		check_initrd(g, m.paddr, m.size, initrd_len, low);
		assert_int_equal(m.cmdline_paddr, 0);
	}
	assert_int_equal(info.memmap_entries, expected_map(low, high, map));
	for (i = 0; i < info.memmap_entries; i++) {
		struct pvh_memmap_entry m;

		memcpy(&m, gpa_span(&g->gm, info.memmap_paddr + i * sizeof(m), sizeof(m)),
		       sizeof(m));
		assert_int_equal(m.addr, map[i][0]);
		assert_int_equal(m.size, map[i][1]);
		assert_int_equal(m.type, map[i][2]);
		assert_int_equal(m.reserved, 0);
	}
}

/* syssize counts units of 16 bytes that are begun; a signature may follow what it counts. */
static void test_bzimage_length(void **state)
{
	static const size_t lens[] = {0x13f1, 0x13f8, 0x13ff, 0x1400, 0x1401, 0x1408, 0x2000};
	const uint8_t *code;
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		const size_t len = lens[i] < 0x1400 ? lens[i] : 0x1400;
		struct boot_entry entry;
		struct image im;
		struct guest g;

		print_message("# 0x%zx bytes\n", lens[i]);
		guest_init(&g, 64 * MiB, 0);
		make_bzimage(&im);
		memset(im.data + len, 0x5a, sizeof(im.data) - len);
		im.len = lens[i];
		must_load("length", &g, &im, "", 5000, &entry);
		check_bytes(&g, BZ_PREF, im.data + BZ_CODE_OFFSET, len - BZ_CODE_OFFSET);
		code = gpa_span(&g.gm, BZ_PREF, IMAGE_MAX);
		assert_non_null(code);
		for (j = len - BZ_CODE_OFFSET; j < IMAGE_MAX; j++)
			assert_int_equal(code[j], 0);
		guest_fini(&g);
	}
}

static void test_good_elf(void **state)
{
	static const struct {
		uint64_t low, high;
		size_t initrd_len;
	} sizes[] = {{4 * MiB, 0, 0}, {4 * MiB, 0, 70000}, {LAYOUT_HOLE_START, 2 * GiB, 70000}};
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(elf_forms); i++)
		for (j = 0; j < ARRAY_SIZE(sizes); j++) {
			struct boot_entry entry;
			struct image im;
			struct guest g;

			print_message("# %s, size %zu\n", elf_forms[i].name, j);
			guest_init(&g, sizes[j].low, sizes[j].high);
			make_elf(&im, &elf_forms[i]);
			must_load(elf_forms[i].name, &g, &im, "a=b", sizes[j].initrd_len, &entry);
			check_pvh(&g, &entry, sizes[j].low, sizes[j].high, sizes[j].initrd_len);
			check_bytes(&g, LAYOUT_CMDLINE, "a=b", 4);
			check_bytes(&g, 0x100000, im.data + ELF_SEG0, 0x300);
			check_bytes(&g, 0x1000, im.data + ELF_SEG1, 0x80);
			guest_fini(&g);
		}
}

/* a guest reboot: fresh memory, the same descriptors */
static void test_reload(void **state)
{
	struct kernel_config cfg = {.kernel_path = PATH, .initrd_fd = -1};
	struct boot_entry entry[2];
	struct image im;
	struct guest g;
	int i;

	(void)state;
	make_elf(&im, &elf_forms[0]);
	cfg.kernel_fd = make_file(im.data, im.len);
	assert_int_equal(lseek(cfg.kernel_fd, 77, SEEK_SET), 77);
	for (i = 0; i < 2; i++) {
		guest_init(&g, 4 * MiB, 0);
		assert_int_equal(kernel_load(&cfg, &g.gm, RSDP, &entry[i], NULL), 0);
		check_bytes(&g, 0x100000, im.data + ELF_SEG0, 0x300);
		check_bytes(&g, LAYOUT_CMDLINE, "", 1);
		guest_fini(&g);
	}
	assert_memory_equal(&entry[0], &entry[1], sizeof(entry[0]));
	kernel_close(&cfg);
}

enum kind { BZ, ELF64, ELF32, TEXT };

/* program header n and its fields in the 64- and 32-bit images */
#define P64(n, field) (ELF_PHDRS + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))
#define P32(n, field) (ELF_PHDRS + (n) * sizeof(Elf32_Phdr) + offsetof(Elf32_Phdr, field))
/* the first note of the 64-bit image */
#define NOTE(field) (ELF_NOTES + offsetof(Elf64_Nhdr, field))
/* its fourth, the PVH note: after notes of 36, 24 and 24 bytes */
#define PVH_NOTE(field) (ELF_NOTES + 36 + 24 + 24 + offsetof(Elf64_Nhdr, field))

static const struct bad {
	const char *name;
	enum kind kind;
	struct patch patch[3];
	size_t cut; /* length of the file, 0: whole */
	uint64_t low;
	size_t cmdline_len, initrd_len;
	const char *text; /* instead of an image, kind TEXT */
	const char *say[4];
} bads[] = {
	/* not a kernel */
	{"one byte",
	 TEXT,
	 {{0}},
	 1,
	 0,
	 0,
	 0,
	 "x",
	 {"not a kernel", "starts with 78;", "bzImage", "PVH"}},
	{"script",
	 TEXT,
	 {{0}},
	 0,
	 0,
	 0,
	 0,
	 "#!/bin/sh\n",
	 {"not a kernel", "starts with 23 21 2f 62 69 6e 2f 73;"}},
	{"gzip", TEXT, {{0}}, 0, 0, 0, 0, "\x1f\x8b\x08\x00", {"compressed", "gzip -d"}},
	{"xz",
	 TEXT,
	 {{0}},
	 6,
	 0,
	 0,
	 0,
	 "\xfd"
	 "7zXZ\0",
	 {"compressed", "xz -d"}},
	{"zstd", TEXT, {{0}}, 4, 0, 0, 0, "\x28\xb5\x2f\xfd", {"compressed", "zstd -d"}},
	{"lz4", TEXT, {{0}}, 4, 0, 0, 0, "\x04\x22\x4d\x18", {"compressed", "lz4 -d"}},
	{"lz4 of Linux", TEXT, {{0}}, 4, 0, 0, 0, "\x02\x21\x4c\x18", {"compressed", "lz4 -d"}},
	{"bzip2", TEXT, {{0}}, 4, 0, 0, 0, "BZh9", {"compressed", "bzip2 -d"}},
	{"lzma", TEXT, {{0}}, 4, 0, 0, 0, "\x5d\0\0\0", {"compressed", "lzma -d"}},
	{"arm64 Image",
	 TEXT,
	 {{0x38, 4, 0x644d5241}},
	 0x1000,
	 0,
	 0,
	 0,
	 "MZ",
	 {"kernel for arm64", "x86-64"}},
	{"RISC-V Image",
	 TEXT,
	 {{0x38, 4, 0x05435352}},
	 0x1000,
	 0,
	 0,
	 0,
	 "MZ",
	 {"kernel for RISC-V", "x86-64"}},
	{"memory of 1 MiB", BZ, {{0}}, 0, MiB, 0, 0, NULL, {"0x100000 bytes", "-m"}},

	/* bzImage: header */
	{"cut before the magic",
	 BZ,
	 {{0}},
	 0x1ff,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup header cut", "0x1ff bytes", "0x202"}},
	{"cut in the magic", BZ, {{0}}, 0x205, 0, 0, 0, NULL, {"setup header cut", "0x205 bytes"}},
	{"cut after the magic",
	 BZ,
	 {{0}},
	 0x206,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup header cut", "ends at 0x26c", "the file at 0x206"}},
	{"cut at the header's end",
	 BZ,
	 {{0}},
	 0x26b,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup header cut", "ends at 0x26c", "the file at 0x26b"}},
	{"boot_flag",
	 BZ,
	 {{0x1fe, 2, 0x1234}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"boot_flag is 0x1234", "0xaa55"}},
	{"old version", BZ, {{0x206, 2, 0x20b}}, 0, 0, 0, 0, NULL, {"version is 2.11", "2.12"}},
	{"ancient version", BZ, {{0x206, 2, 0x105}}, 0, 0, 0, 0, NULL, {"version is 1.05", "2.12"}},
	{"short header",
	 BZ,
	 {{0x201, 1, 0x65}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup header ends at 0x267", "0x268 to 0x290"}},
	{"long header",
	 BZ,
	 {{0x201, 1, 0x8f}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup header ends at 0x291", "0x268 to 0x290"}},
	{"zImage",
	 BZ,
	 {{0x211, 1, 0x80}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"loadflags is 0x80", "LOADED_HIGH", "zImage"}},
	{"32-bit kernel",
	 BZ,
	 {{0x236, 2, 0x7e}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"xloadflags is 0x007e", "XLF_KERNEL_64", "32-bit"}},

	/* bzImage: sizes */
	{"setup_sects",
	 BZ,
	 {{0x1f1, 1, 255}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup_sects is 255", "0x20000", "0x1400"}},
	{"cut at the setup's end",
	 BZ,
	 {{0}},
	 0x400,
	 0,
	 0,
	 0,
	 NULL,
	 {"setup_sects is 1", "starts at 0x400", "ends at 0x400"}},
	{"cut in the kernel",
	 BZ,
	 {{0}},
	 0x13f0,
	 0,
	 0,
	 0,
	 NULL,
	 {"syssize is 0x100", "0x1000 bytes from 0x400", "ends at 0x13f0"}},
	{"syssize",
	 BZ,
	 {{0x1f4, 4, 0xffffffff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"syssize is 0xffffffff", "0xffffffff0 bytes", "0x1400"}},
	{"syssize 0",
	 BZ,
	 {{0x1f4, 4, 0}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"syssize is 0x0", "entry is at 0x200"}},
	{"syssize to the entry",
	 BZ,
	 {{0x1f4, 4, 0x20}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"syssize is 0x20", "0x200 bytes"}},
	{"pref_address low",
	 BZ,
	 {{0x258, 8, 0x90000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"pref_address is 0x90000", "0x100000 to 0xc0000000"}},
	{"pref_address high",
	 BZ,
	 {{0x258, 8, 0xfffffffffffff000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"pref_address is 0xfffffffffffff000", "0x100000 to 0xc0000000"}},
	{"pref_address beyond memory",
	 BZ,
	 {{0x258, 8, 0x20000000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"pref_address 0x20000000", "514 MiB", "the guest has 64", "-m"}},
	{"init_size",
	 BZ,
	 {{0x260, 4, 0x5000000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"init_size 0x5000000", "96 MiB", "the guest has 64", "-m"}},
	{"one byte too little memory",
	 BZ,
	 {{0}},
	 0,
	 BZ_PREF + BZ_INIT_SIZE - 1,
	 0,
	 0,
	 NULL,
	 {"init_size 0x200000", "18 MiB", "the guest has 17", "-m"}},
	{"init_size into the hole",
	 BZ,
	 {{0x260, 4, 0xffffffff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"init_size 0xffffffff", "0x100ffffff", "0xc0000000 to 0x100000000"}},

	/* what goes along */
	{"command line of the kernel",
	 BZ,
	 {{0}},
	 0,
	 0,
	 BZ_CMDLINE_MAX + 1,
	 0,
	 NULL,
	 {"command line", "2048 bytes", "at most 2047"}},
	{"command line of the layout",
	 BZ,
	 {{0x238, 4, 0xffffffff}},
	 0,
	 0,
	 4096,
	 0,
	 NULL,
	 {"command line", "4096 bytes", "at most 4095"}},
	{"command line of an ELF",
	 ELF64,
	 {{0}},
	 0,
	 0,
	 4096,
	 0,
	 NULL,
	 {"command line", "4096 bytes", "at most 4095"}},
	{"initrd too large",
	 BZ,
	 {{0}},
	 0,
	 0,
	 0,
	 46 * MiB + 1,
	 NULL,
	 {"some/initrd", "48234497 bytes", "48234496 are free", "-m"}},
	{"initrd below initrd_addr_max",
	 BZ,
	 {{0x22c, 4, 0x1ffffff}},
	 0,
	 0,
	 0,
	 14 * MiB + 1,
	 NULL,
	 {"some/initrd", "14680065 bytes", "14680064 are free", "takes it no higher"}},
	{"initrd_addr_max below the kernel",
	 BZ,
	 {{0x22c, 4, 0xffff}},
	 0,
	 0,
	 0,
	 1,
	 NULL,
	 {"some/initrd", "1 bytes", "0 are free", "takes it no higher"}},
	{"initrd with an ELF",
	 ELF64,
	 {{0}},
	 0,
	 2 * MiB,
	 0,
	 2 * MiB,
	 NULL,
	 {"some/initrd", "2097152 bytes", "0x105000 and 0x200000", "-m"}},
	{"initrd with an ELF that ends within a page",
	 ELF64,
	 {{P64(1, p_memsz), 8, 0x4f01}},
	 0,
	 2 * MiB,
	 0,
	 0xfb001,
	 NULL,
	 {"some/initrd", "1028097 bytes, 1028096 are free", "0x105000 and 0x200000", "-m"}},

	/* ELF: header */
	{"ELF magic only",
	 ELF64,
	 {{0}},
	 4,
	 0,
	 0,
	 0,
	 NULL,
	 {"ELF header cut", "4 bytes", "header 64"}},
	{"ELF64 header cut",
	 ELF64,
	 {{0}},
	 63,
	 0,
	 0,
	 0,
	 NULL,
	 {"ELF header cut", "63", "header 64"}},
	{"ELF32 header cut",
	 ELF32,
	 {{0}},
	 51,
	 0,
	 0,
	 0,
	 NULL,
	 {"ELF header cut", "51", "header 52"}},
	{"class", ELF64, {{EI_CLASS, 1, 3}}, 0, 0, 0, 0, NULL, {"EI_CLASS is 3", "64 bits"}},
	{"big-endian",
	 ELF64,
	 {{EI_DATA, 1, 2}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"EI_DATA is 2", "little-endian"}},
	{"arm64", ELF64, {{18, 2, EM_AARCH64}}, 0, 0, 0, 0, NULL, {"e_machine is 183", "arm64"}},
	{"RISC-V", ELF32, {{18, 2, EM_RISCV}}, 0, 0, 0, 0, NULL, {"e_machine is 243", "RISC-V"}},
	{"unknown machine",
	 ELF64,
	 {{18, 2, 4711}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_machine is 4711", "another machine"}},
	{"relocatable object",
	 ELF64,
	 {{16, 2, ET_REL}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_type is 1", "executable"}},
	{"phentsize", ELF64, {{54, 2, 32}}, 0, 0, 0, 0, NULL, {"e_phentsize is 32", "56", "ELF64"}},
	{"phentsize of ELF32",
	 ELF32,
	 {{42, 2, 56}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_phentsize is 56", "32", "ELF32"}},
	{"no program headers", ELF64, {{56, 2, 0}}, 0, 0, 0, 0, NULL, {"e_phnum is 0", "1 to 128"}},
	{"phnum huge",
	 ELF64,
	 {{56, 2, 0xffff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_phnum is 65535", "1 to 128"}},
	{"phoff wraps",
	 ELF64,
	 {{32, 8, UINT64_MAX - 8}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_phoff is 0xfffffffffffffff7", "0x1000"}},
	{"phoff at the end",
	 ELF64,
	 {{32, 8, 0x1000 - 100}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_phoff is 0xf9c", "0xa8 bytes", "0x1000"}},
	{"program headers cut",
	 ELF32,
	 {{0}},
	 ELF_PHDRS + 95,
	 0,
	 0,
	 0,
	 NULL,
	 {"e_phoff is 0x40", "0x60 bytes", "0x9f"}},

	/* ELF: segments. Header 0 is the notes, 1 and 2 are loaded. */
	{"segment cut",
	 ELF64,
	 {{0}},
	 0x6ff,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 1", "p_offset 0x400", "p_filesz 0x300", "0x6ff"}},
	{"p_offset wraps",
	 ELF64,
	 {{P64(1, p_offset), 8, UINT64_MAX - 0xff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 1", "p_offset 0xffffffffffffff00", "0x1000"}},
	{"p_filesz wraps",
	 ELF64,
	 {{P64(2, p_filesz), 8, UINT64_MAX - 0x7ff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 2", "p_filesz 0xfffffffffffff800", "0x1000"}},
	{"p_filesz above p_memsz",
	 ELF64,
	 {{P64(1, p_memsz), 8, 0x2ff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 1", "p_filesz 0x300 is above p_memsz 0x2ff"}},
	{"p_memsz wraps",
	 ELF64,
	 {{P64(1, p_memsz), 8, UINT64_MAX}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 1", "p_paddr 0x100000", "p_memsz 0xffffffffffffffff", "wraps"}},
	{"p_memsz beyond memory",
	 ELF64,
	 {{P64(1, p_memsz), 8, 0x4000000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 1", "p_memsz 0x4000000", "65 MiB", "the guest has 64"}},
	{"segment above memory",
	 ELF32,
	 {{P32(2, p_paddr), 4, 0x4000000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 2", "0x4000000 to 0x4000080", "65 MiB", "the guest has 64"}},
	{"segment at the IOAPIC",
	 ELF32,
	 {{P32(2, p_paddr), 4, LAYOUT_IOAPIC}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 2", "0xfec00000", "0xc0000000 to 0x100000000"}},
	{"segment above 4 GiB",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x100000000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 2", "0x100000080", "3073 MiB", "the guest has 64"}},
	{"segment on the GDT",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x4f0}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 2", "p_paddr 0x4f0", "p_memsz 0x80", "boot GDT"}},
	{"segment on the start info",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x5fff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0x5fff", "hvm_start_info", "0x6000 to 0x7000"}},
	{"segment on boot_params",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x7000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0x7000", "boot_params"}},
	{"segment on the stack",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x8f80}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0x8f80", "boot stack"}},
	{"segment on the page tables",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0xefff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0xefff", "page tables", "0x9000 to 0xf000"}},
	{"segment on the command line",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0x20fff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0x20fff", "command line", "0x20000 to 0x21000"}},
	{"segment on ACPI",
	 ELF64,
	 {{P64(2, p_paddr), 8, 0xe0000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"p_paddr 0xe0000", "ACPI", "0x9fc00 to 0x100000", "link it at 0x100000"}},
	{"nothing to load",
	 ELF64,
	 {{P64(1, p_memsz), 8, 0}, {P64(1, p_filesz), 8, 0x300}, {P64(2, p_type), 4, PT_NULL}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"no PT_LOAD segment"}},

	/* ELF: notes */
	{"no notes",
	 ELF64,
	 {{P64(0, p_type), 4, PT_NULL}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"without a PVH note", "\"Xen\"", "type 18", "CONFIG_PVH"}},
	{"no PVH note",
	 ELF64,
	 {{PVH_NOTE(n_type), 4, 17}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"without a PVH note", "\"Xen\"", "type 18"}},
	{"empty notes",
	 ELF64,
	 {{P64(0, p_filesz), 8, 0}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"without a PVH note"}},
	{"notes cut",
	 ELF64,
	 {{P64(0, p_offset), 8, 0xff0}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 0", "p_offset 0xff0", "0x1000"}},
	{"notes too long",
	 ELF64,
	 {{P64(0, p_filesz), 8, 0x10001}},
	 0x20000,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 0", "p_filesz is 0x10001", "0x10000"}},
	{"odd alignment",
	 ELF64,
	 {{P64(0, p_align), 8, 16}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"program header 0", "p_align is 16", "4 or 8"}},
	{"n_namesz wraps",
	 ELF64,
	 {{NOTE(n_namesz), 4, 0xffffffff}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"note at 0x0", "n_namesz 0xffffffff", "leaves"}},
	{"n_namesz wraps back to the note",
	 ELF64,
	 {{NOTE(n_namesz), 4, 0xfffffff4}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"note at 0x0", "n_namesz 0xfffffff4", "leaves"}},
	{"n_descsz wraps",
	 ELF64,
	 {{NOTE(n_descsz), 4, 0xfffffff0}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"note at 0x0", "n_descsz 0xfffffff0", "leaves"}},
	{"n_descsz leaves by one byte",
	 ELF64,
	 {{P64(0, p_filesz), 8, 107}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"note at 0x54", "n_descsz 0x8", "0x6b bytes"}},
	{"n_descsz",
	 ELF64,
	 {{PVH_NOTE(n_descsz), 4, 7}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"PVH note", "n_descsz is 7", "4 or 8"}},
	{"entry above 4 GiB",
	 ELF64,
	 {{PVH_NOTE(n_type) + 8, 8, 0x100100020}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"PVH note", "0x100100020", "below 4 GiB"}},
	{"entry in a segment above 4 GiB",
	 ELF64,
	 {{PVH_NOTE(n_type) + 8, 8, 0x100100020}, {P64(2, p_paddr), 8, 0x100100000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"PVH note", "0x100100020", "below 4 GiB"}},
	{"entry in no segment",
	 ELF64,
	 {{PVH_NOTE(n_type) + 8, 8, 0x200000}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"PVH note", "0x200000", "in no loaded segment"}},
	{"entry in the bss",
	 ELF64,
	 {{PVH_NOTE(n_type) + 8, 8, 0x100300}},
	 0,
	 0,
	 0,
	 0,
	 NULL,
	 {"PVH note", "0x100300", "in no loaded segment"}},
};

static void make_bad(struct image *im, const struct bad *b)
{
	switch (b->kind) {
	case BZ:
		make_bzimage(im);
		break;
	case ELF64:
		make_elf(im, &elf_forms[0]);
		break;
	case ELF32:
		make_elf(im, &elf_forms[7]);
		break;
	case TEXT:
		memset(im, 0, sizeof(*im));
		im->len = strlen(b->text);
		memcpy(im->data, b->text, b->cut && b->cut < 8 ? b->cut : im->len);
		break;
	}
	apply(im, b->patch, ARRAY_SIZE(b->patch));
	if (b->cut)
		im->len = b->cut;
}

static void test_bad(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bads); i++) {
		const struct bad *b = &bads[i];
		struct boot_entry entry = {BOOT_PVH32, 1, 2}, before = entry;
		struct err e = {0};
		struct image im;
		struct guest g;
		char *cmdline = NULL;
		int ret;

		guest_init(&g, b->low ? b->low : 64 * MiB, 0);
		make_bad(&im, b);
		if (b->cmdline_len) {
			cmdline = calloc(1, b->cmdline_len + 1);
			assert_non_null(cmdline);
			memset(cmdline, 'c', b->cmdline_len);
		}
		ret = load(&g, &im, cmdline, b->initrd_len, &entry, &e);
		free(cmdline);
		guest_fini(&g);
		if (ret != -EINVAL || e.code != ret)
			fail_msg("%s: returned %d, '%s'", b->name, ret, e.text);
		if (memcmp(&entry, &before, sizeof(entry)) != 0)
			fail_msg("%s: entry was written", b->name);
		if (strchr(e.text, '\n') || strlen(e.text) > 400)
			fail_msg("%s: not one line: '%s'", b->name, e.text);
		if (b->low != MiB && !b->initrd_len && !strstr(e.text, PATH))
			fail_msg("%s: does not name the file: '%s'", b->name, e.text);
		for (j = 0; j < ARRAY_SIZE(b->say) && b->say[j]; j++)
			if (!strstr(e.text, b->say[j]))
				fail_msg("%s: no '%s' in '%s'", b->name, b->say[j], e.text);
	}
}

static void test_longest_cmdline(void **state)
{
	char text[BZ_CMDLINE_MAX + 1];
	struct boot_entry entry;
	struct image im;
	struct guest g;

	(void)state;
	memset(text, 'x', BZ_CMDLINE_MAX);
	text[BZ_CMDLINE_MAX] = '\0';
	guest_init(&g, 64 * MiB, 0);
	make_bzimage(&im);
	must_load("longest command line", &g, &im, text, 0, &entry);
	check_bytes(&g, LAYOUT_CMDLINE, text, sizeof(text));
	guest_fini(&g);
}

static void test_open(void **state)
{
	char dir[] = "/tmp/test_kernel.XXXXXX";
	char good[64], empty[64], none[64];
	const struct {
		const char *kernel, *initrd;
		int ret;
		const char *say[3];
	} rows[] = {
		{good, NULL, 0, {NULL}},
		{good, good, 0, {NULL}},
		{none, NULL, -ENOENT, {"kernel", none, "No such file"}},
		{good, none, -ENOENT, {"initrd", none, "No such file"}},
		{dir, NULL, -EINVAL, {"kernel", dir, "is a directory"}},
		{"/dev/zero", NULL, -EINVAL, {"kernel", "is a character device"}},
		{"/dev/null", NULL, -EINVAL, {"kernel", "is empty"}},
		{empty, NULL, -EINVAL, {"kernel", empty, "is empty"}},
		{good, empty, -EINVAL, {"initrd", empty, "is empty"}},
	};
	size_t i, j;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(good, sizeof(good), "%s/good", dir);
	snprintf(empty, sizeof(empty), "%s/empty", dir);
	snprintf(none, sizeof(none), "%s/none", dir);
	fd = open(good, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	close(open(empty, O_CREAT | O_WRONLY, 0600));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kernel_config cfg = {.kernel_path = rows[i].kernel,
					    .initrd_path = rows[i].initrd};
		struct err e = {0};

		if (kernel_open(&cfg, &e) != rows[i].ret)
			fail_msg("row %zu: '%s'", i, e.text);
		assert_int_equal(cfg.kernel_fd >= 0, rows[i].ret == 0);
		assert_int_equal(cfg.initrd_fd >= 0, rows[i].ret == 0 && rows[i].initrd);
		if (!rows[i].ret)
			assert_int_equal(fcntl(cfg.kernel_fd, F_GETFD), FD_CLOEXEC);
		for (j = 0; j < ARRAY_SIZE(rows[i].say) && rows[i].say[j]; j++)
			if (!strstr(e.text, rows[i].say[j]))
				fail_msg("row %zu: no '%s' in '%s'", i, rows[i].say[j], e.text);
		kernel_close(&cfg);
	}
	unlink(good);
	unlink(empty);
	rmdir(dir);
}

/* xorshift64*, so that a failing run can be had again */
static uint64_t next_random(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dULL;
}

static void mutate(struct image *im, uint64_t *seed)
{
	static const uint64_t odd[] = {0,
				       1,
				       4,
				       8,
				       0x7f,
				       0xff,
				       0x1000,
				       0xfff,
				       0x9000,
				       0xe0000,
				       0x100000,
				       0x7fffffff,
				       0x80000000,
				       0xffffffff,
				       0x100000000,
				       INT64_MAX,
				       UINT64_MAX,
				       UINT64_MAX - 11,
				       UINT64_MAX - 0xfff};
	static const uint32_t width[] = {1, 2, 4, 8};
	size_t n = 1 + next_random(seed) % 6;

	while (n--) {
		/* headers, program headers and notes are in the first 0x290 bytes */
		size_t at = next_random(seed) % 0x290;
		uint64_t v = next_random(seed) % 2 ? next_random(seed)
						   : odd[next_random(seed) % ARRAY_SIZE(odd)];

		if (next_random(seed) % 2)
			at &= ~3ULL;
		memcpy(im->data + at, &v, width[next_random(seed) % 4]);
	}
	if (next_random(seed) % 8 == 0)
		im->len = 1 + next_random(seed) % im->len;
}

#define FUZZ_RUNS 20000

/* No text is expected here: only that whatever is in a file ends in an error or a sane entry. */
static void test_random(void **state)
{
	struct kernel_config cfg = {
		.kernel_path = PATH, .initrd_path = "some/initrd", .cmdline = "console=ttyS0"};
	uint64_t seed = 0x7e57;
	unsigned int i, n_good = 0;
	struct guest g;

	(void)state;
	guest_init(&g, 32 * MiB, 2 * MiB);
	cfg.kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	cfg.initrd_fd = make_file("initrd", 6);
	for (i = 0; i < FUZZ_RUNS; i++) {
		struct boot_entry entry;
		struct err e = {0};
		struct image im;

		if (i % 3)
			make_elf(&im, &elf_forms[i % ARRAY_SIZE(elf_forms)]);
		else
			make_bzimage(&im);
		mutate(&im, &seed);
		assert_int_equal(ftruncate(cfg.kernel_fd, (off_t)im.len), 0);
		assert_int_equal(pwrite(cfg.kernel_fd, im.data, im.len, 0), im.len);
		if (kernel_load(&cfg, &g.gm, RSDP, &entry, &e)) {
			assert_true(e.code < 0 && strlen(e.text) > 20);
			continue;
		}
		n_good++;
		if (!gpa_span(&g.gm, entry.rip, 1) || !gpa_span(&g.gm, entry.info, 4096))
			fail_msg("run %u: entry 0x%llx", i, (unsigned long long)entry.rip);
	}
	print_message("# %u of %u loaded\n", n_good, FUZZ_RUNS);
	/* mutations that hit nothing of meaning, and those that do */
	assert_in_range(n_good, FUZZ_RUNS / 20, FUZZ_RUNS * 19 / 20);
	kernel_close(&cfg);
	guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_bzimages), cmocka_unit_test(test_bzimage_length),
		cmocka_unit_test(test_good_elf),      cmocka_unit_test(test_reload),
		cmocka_unit_test(test_bad),	      cmocka_unit_test(test_longest_cmdline),
		cmocka_unit_test(test_open),	      cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests_name("kernel", tests, NULL, NULL);
}
