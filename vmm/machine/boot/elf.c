/*
 * ELF kernels with a PVH note: the segments go to their physical addresses, the note gives the
 * 32-bit entry point. A 32-bit file is turned into the 64-bit structures while it is read, so that
 * there is one set of checks.
 * Source: System V gABI; Xen docs/misc/pvh.pandoc and xen/include/public/elfnote.h.
 */
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/loader.h"
#include "vmm/machine/boot/pvh.h"

/* Linux has 5 program headers and some hundred bytes of notes: generous, but bounded work. */
#define PHNUM_MAX 128
#define NOTES_MAX (64 * KiB)

struct elf_kernel {
	bool is_64;
	uint32_t n_phdrs;
	Elf64_Phdr phdr[PHNUM_MAX];
	gpa_t entry;
	gpa_t end; /* of the highest segment in low RAM */
};

/* Low memory that a segment may not use, because it is filled here before the kernel runs. */
static const struct {
	const char *name;
	gpa_t start, end;
} taken[] = {
	{"the boot GDT", LAYOUT_GDT, LAYOUT_GDT + ENTRY_GDT_SIZE},
	{"hvm_start_info", LAYOUT_PVH_INFO, LAYOUT_PVH_INFO + GUEST_PAGE},
	{"boot_params", LAYOUT_BOOT_PARAMS, LAYOUT_BOOT_PARAMS + GUEST_PAGE},
	{"the boot stack", LAYOUT_BOOT_STACK & ~(GUEST_PAGE - 1), LAYOUT_BOOT_STACK},
	{"the boot page tables", LAYOUT_PAGE_TABLES, LAYOUT_PAGE_TABLES + ENTRY_PAGE_TABLE_SIZE},
	{"the command line", LAYOUT_CMDLINE, LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX},
	{"the firmware area with the ACPI tables", LAYOUT_LOW_END, LAYOUT_HIGH_START},
};

static const struct {
	uint16_t machine;
	const char *name;
} machines[] = {
	{EM_AARCH64, "arm64"},	     {EM_ARM, "arm"},	      {EM_RISCV, "RISC-V"},
	{EM_PPC64, "ppc64"},	     {EM_PPC, "ppc"},	      {EM_S390, "s390"},
	{EM_MIPS, "MIPS"},	     {EM_SPARCV9, "sparc64"}, {EM_IA_64, "ia64"},
	{EM_LOONGARCH, "LoongArch"},
};

static const char *machine_name(uint16_t machine)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(machines); i++)
		if (machines[i].machine == machine)
			return machines[i].name;
	return "another machine";
}

static int read_ehdr(const struct loader *l, struct elf_kernel *k, Elf64_Ehdr *h, struct err *e)
{
	const uint8_t *ident = l->head;
	uint32_t need = sizeof(*h);

	if (l->head_len > EI_CLASS && ident[EI_CLASS] == ELFCLASS32)
		need = sizeof(Elf32_Ehdr);
	if (l->head_len < need)
		return image_err(
			&l->kernel, e,
			"ELF header cut: the file has %u bytes, the header %u; give a whole "
			"file",
			l->head_len, need);
	if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
		return image_err(&l->kernel, e,
				 "EI_CLASS is %u; 1 (32 bits) or 2 (64 bits) is right, the file is "
				 "damaged",
				 ident[EI_CLASS]);
	if (ident[EI_DATA] != ELFDATA2LSB)
		return image_err(
			&l->kernel, e,
			"EI_DATA is %u, not little-endian (1): a kernel for another machine; "
			"give one for x86-64",
			ident[EI_DATA]);
	k->is_64 = ident[EI_CLASS] == ELFCLASS64;
	if (k->is_64) {
		memcpy(h, l->head, sizeof(*h));
	} else {
		Elf32_Ehdr h32;

		memcpy(&h32, l->head, sizeof(h32));
		*h = (Elf64_Ehdr) {
			.e_type = h32.e_type,
			.e_machine = h32.e_machine,
			.e_phoff = h32.e_phoff,
			.e_phentsize = h32.e_phentsize,
			.e_phnum = h32.e_phnum,
		};
	}
	return 0;
}

static int check_ehdr(const struct loader *l, const struct elf_kernel *k, const Elf64_Ehdr *h,
		      struct err *e)
{
	const uint32_t phentsize = k->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	const uint64_t table = (uint64_t)h->e_phnum * phentsize, size = l->kernel.size_bytes;

	if (h->e_machine != EM_X86_64 && h->e_machine != EM_386)
		return image_err(&l->kernel, e,
				 "e_machine is %u: a kernel for %s; give one for x86-64",
				 h->e_machine, machine_name(h->e_machine));
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return image_err(&l->kernel, e,
				 "e_type is %u, not an executable (2 or 3); give a linked kernel",
				 h->e_type);
	if (h->e_phentsize != phentsize)
		return image_err(&l->kernel, e,
				 "e_phentsize is %u; %u is right for ELF%u, the file is damaged",
				 h->e_phentsize, phentsize, k->is_64 ? 64 : 32);
	if (!h->e_phnum || h->e_phnum > PHNUM_MAX)
		return image_err(&l->kernel, e,
				 "e_phnum is %u; 1 to %u program headers can be loaded", h->e_phnum,
				 PHNUM_MAX);
	if (h->e_phoff > size || table > size - h->e_phoff)
		return image_err(&l->kernel, e,
				 "e_phoff is 0x%llx: the program headers have 0x%llx bytes from "
				 "there on, the file ends at 0x%llx; give a whole file",
				 (unsigned long long)h->e_phoff, (unsigned long long)table,
				 (unsigned long long)size);
	return 0;
}

static int read_phdrs(const struct loader *l, struct elf_kernel *k, const Elf64_Ehdr *h,
		      struct err *e)
{
	Elf32_Phdr p32[PHNUM_MAX];
	uint32_t i;
	int ret;

	k->n_phdrs = h->e_phnum;
	if (k->is_64)
		return image_read(&l->kernel, h->e_phoff, k->phdr, k->n_phdrs * sizeof(k->phdr[0]),
				  e);
	ret = image_read(&l->kernel, h->e_phoff, p32, k->n_phdrs * sizeof(p32[0]), e);
	if (ret)
		return ret;
	for (i = 0; i < k->n_phdrs; i++)
		k->phdr[i] = (Elf64_Phdr) {
			.p_type = p32[i].p_type,
			.p_offset = p32[i].p_offset,
			.p_paddr = p32[i].p_paddr,
			.p_filesz = p32[i].p_filesz,
			.p_memsz = p32[i].p_memsz,
			.p_align = p32[i].p_align,
		};
	return 0;
}

static int check_file_part(const struct loader *l, uint32_t i, const Elf64_Phdr *p, struct err *e)
{
	const uint64_t size = l->kernel.size_bytes;

	if (p->p_offset > size || p->p_filesz > size - p->p_offset)
		return image_err(&l->kernel, e,
				 "program header %u: p_offset 0x%llx with p_filesz 0x%llx lies "
				 "beyond the file's end at 0x%llx; give a whole file",
				 i, (unsigned long long)p->p_offset,
				 (unsigned long long)p->p_filesz, (unsigned long long)size);
	return 0;
}

static int check_segment(const struct loader *l, uint32_t i, const Elf64_Phdr *p, struct err *e)
{
	const gpa_t start = p->p_paddr;
	char what[96];
	gpa_t end;
	size_t t;
	int ret;

	ret = check_file_part(l, i, p, e);
	if (ret)
		return ret;
	if (p->p_filesz > p->p_memsz)
		return image_err(&l->kernel, e,
				 "program header %u: p_filesz 0x%llx is above p_memsz 0x%llx; the "
				 "file is damaged",
				 i, (unsigned long long)p->p_filesz,
				 (unsigned long long)p->p_memsz);
	if (__builtin_add_overflow(start, p->p_memsz, &end))
		return image_err(&l->kernel, e,
				 "program header %u: p_paddr 0x%llx with p_memsz 0x%llx wraps "
				 "around; the file is damaged",
				 i, (unsigned long long)start, (unsigned long long)p->p_memsz);
	for (t = 0; t < ARRAY_SIZE(taken); t++)
		if (start < taken[t].end && end > taken[t].start)
			return image_err(
				&l->kernel, e,
				"program header %u: p_paddr 0x%llx with p_memsz 0x%llx overlaps %s "
				"at 0x%llx to 0x%llx; link it at 0x%x or above",
				i, (unsigned long long)start, (unsigned long long)p->p_memsz,
				taken[t].name, (unsigned long long)taken[t].start,
				(unsigned long long)taken[t].end, LAYOUT_HIGH_START);
	if (!gpa_span(l->gm, start, p->p_memsz)) {
		snprintf(what, sizeof(what), "program header %u with p_memsz 0x%llx", i,
			 (unsigned long long)p->p_memsz);
		return loader_err_memory(l, what, start, end, e);
	}
	return 0;
}

static int check_segments(const struct loader *l, struct elf_kernel *k, struct err *e)
{
	uint32_t i, n_loaded = 0;
	int ret;

	k->end = LAYOUT_HIGH_START;
	for (i = 0; i < k->n_phdrs; i++) {
		const Elf64_Phdr *p = &k->phdr[i];

		if (p->p_type != PT_LOAD || !p->p_memsz)
			continue;
		ret = check_segment(l, i, p, e);
		if (ret)
			return ret;
		n_loaded++;
		if (p->p_paddr < l->map.low_end && p->p_paddr + p->p_memsz > k->end)
			k->end = p->p_paddr + p->p_memsz;
	}
	if (!n_loaded)
		return image_err(
			&l->kernel, e,
			"has no PT_LOAD segment among %u program headers; give a linked kernel",
			k->n_phdrs);
	return 0;
}

/* Where the parts of one note are, as offsets in its segment. */
struct note {
	uint64_t name, namesz;
	uint64_t desc, descsz;
	uint64_t next;
	uint32_t type;
};

/*
 * Sizes in a note are 32 bits wide and sums are formed in 64, so none wraps. Return: false when the
 * note leaves its segment. The padding of the last one may be missing.
 */
static bool note_parse(const uint8_t *seg, uint64_t len, uint64_t at, uint64_t align,
		       struct note *n)
{
	n->namesz = get_le32(seg + at);
	n->descsz = get_le32(seg + at + 4);
	n->type = get_le32(seg + at + 8);
	n->name = at + sizeof(Elf64_Nhdr);
	n->desc = align_up(n->name + n->namesz, align);
	n->next = align_up(n->desc + n->descsz, align);
	return n->desc <= len && n->descsz <= len - n->desc;
}

static int take_entry(const struct loader *l, struct elf_kernel *k, const uint8_t *desc,
		      uint64_t descsz, struct err *e)
{
	uint32_t i;

	if (descsz != 4 && descsz != 8)
		return image_err(&l->kernel, e,
				 "PVH note: n_descsz is %llu; an entry address has 4 or 8 bytes",
				 (unsigned long long)descsz);
	k->entry = descsz == 4 ? get_le32(desc) : get_le64(desc);
	for (i = 0; i < k->n_phdrs; i++) {
		const Elf64_Phdr *p = &k->phdr[i];

		if (p->p_type == PT_LOAD && k->entry >= p->p_paddr &&
		    k->entry - p->p_paddr < p->p_filesz && k->entry <= UINT32_MAX)
			return 0;
	}
	return image_err(&l->kernel, e,
			 "PVH note: entry address 0x%llx is in no loaded segment below 4 GiB; it "
			 "must be a physical address in one",
			 (unsigned long long)k->entry);
}

/*
 * Return: 1 when the PVH note is in this segment and is good, 0 when it is not there, or an error.
 */
static int search_notes(const struct loader *l, struct elf_kernel *k, uint32_t i, struct err *e)
{
	const Elf64_Phdr *p = &k->phdr[i];
	const uint64_t align = p->p_align == 8 ? 8 : 4;
	AUTO_FREE uint8_t *seg = NULL;
	struct note n = {0};
	uint64_t at;
	int ret;

	ret = check_file_part(l, i, p, e);
	if (ret)
		return ret;
	if (p->p_align > 4 && p->p_align != 8)
		return image_err(&l->kernel, e,
				 "program header %u: p_align is %llu; notes are aligned to 4 or 8",
				 i, (unsigned long long)p->p_align);
	if (p->p_filesz > NOTES_MAX)
		return image_err(&l->kernel, e,
				 "program header %u: p_filesz is 0x%llx; at most 0x%llx bytes of "
				 "notes are read",
				 i, (unsigned long long)p->p_filesz, (unsigned long long)NOTES_MAX);
	seg = malloc(p->p_filesz + 1); /* + 1: an empty segment is legal */
	if (!seg)
		return image_err(&l->kernel, e, "no memory to read 0x%llx bytes of notes",
				 (unsigned long long)p->p_filesz);
	ret = image_read(&l->kernel, p->p_offset, seg, p->p_filesz, e);
	if (ret)
		return ret;
	for (at = 0; at + sizeof(Elf64_Nhdr) <= p->p_filesz; at = n.next) {
		if (!note_parse(seg, p->p_filesz, at, align, &n))
			return image_err(&l->kernel, e,
					 "program header %u: note at 0x%llx with n_namesz 0x%llx "
					 "and n_descsz 0x%llx leaves its segment of 0x%llx bytes; "
					 "the file is damaged",
					 i, (unsigned long long)at, (unsigned long long)n.namesz,
					 (unsigned long long)n.descsz,
					 (unsigned long long)p->p_filesz);
		if (n.type != PVH_NOTE_TYPE || n.namesz != sizeof(PVH_NOTE_OWNER) ||
		    memcmp(seg + n.name, PVH_NOTE_OWNER, sizeof(PVH_NOTE_OWNER)) != 0)
			continue;
		ret = take_entry(l, k, seg + n.desc, n.descsz, e);
		return ret ? ret : 1;
	}
	return 0;
}

static int find_entry(const struct loader *l, struct elf_kernel *k, struct err *e)
{
	uint32_t i;
	int ret;

	for (i = 0; i < k->n_phdrs; i++) {
		if (k->phdr[i].p_type != PT_NOTE)
			continue;
		ret = search_notes(l, k, i, e);
		if (ret)
			return ret < 0 ? ret : 0;
	}
	return image_err(&l->kernel, e,
			 "is an ELF file without a PVH note (owner \"%s\", type %u, "
			 "XEN_ELFNOTE_PHYS32_ENTRY); give a bzImage, or build with CONFIG_PVH=y",
			 PVH_NOTE_OWNER, PVH_NOTE_TYPE);
}

static int load_segments(const struct loader *l, const struct elf_kernel *k, struct err *e)
{
	uint32_t i;
	int ret;

	for (i = 0; i < k->n_phdrs; i++) {
		const Elf64_Phdr *p = &k->phdr[i];

		if (p->p_type != PT_LOAD || !p->p_filesz)
			continue;
		/* from p_filesz to p_memsz memory is zero already, see kernel_load() */
		ret = image_read(&l->kernel, p->p_offset, gpa_span(l->gm, p->p_paddr, p->p_filesz),
				 p->p_filesz, e);
		if (ret)
			return ret;
	}
	return 0;
}

int elf_load(const struct loader *l, struct boot_entry *entry, struct err *e)
{
	struct initrd initrd;
	struct elf_kernel k = {0};
	Elf64_Ehdr h = {0};
	int ret;

	ret = read_ehdr(l, &k, &h, e);
	if (!ret)
		ret = check_ehdr(l, &k, &h, e);
	if (!ret)
		ret = read_phdrs(l, &k, &h, e);
	if (!ret)
		ret = find_entry(l, &k, e);
	if (!ret)
		ret = check_segments(l, &k, e);
	if (!ret)
		ret = cmdline_load(l, LAYOUT_CMDLINE_MAX - 1, e);
	if (!ret)
		ret = initrd_load(l, k.end, l->map.low_end, &initrd, e);
	if (!ret)
		ret = pvh_write_info(l, &initrd, e);
	if (!ret)
		ret = load_segments(l, &k, e);
	if (!ret)
		*entry = (struct boot_entry) {BOOT_PVH32, k.entry, LAYOUT_PVH_INFO};
	return ret;
}
