/*
 * Registers, GDT and page tables for the two ways to enter a kernel. Nothing here outlives the
 * first instructions of the kernel, which sets up its own.
 */
#include "vmm/machine/boot/entry.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "vmm/layout.h"

#define SEL_CODE 0x10 /* what Linux calls __BOOT_CS and __BOOT_DS */
#define SEL_DATA 0x18
#define SEL_TSS	 0x20

/* SDM vol.3 2.5, 2.2.1 */
#define CR0_PE	 (1ULL << 0)
#define CR0_ET	 (1ULL << 4)
#define CR0_NE	 (1ULL << 5)
#define CR0_PG	 (1ULL << 31)
#define CR4_PAE	 (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)

#define RFLAGS_FIXED 2 /* bit 1 always reads as one */

/* SDM vol.3 4.5 */
#define PTE_PRESENT (1ULL << 0)
#define PTE_WRITE   (1ULL << 1)
#define PTE_LARGE   (1ULL << 7)

#define LARGE_PAGE_SIZE (2 * MiB)
#define MAPPED_GIB	4

static struct kvm_segment segment_code(bool long_mode)
{
	return (struct kvm_segment) {
		.selector = SEL_CODE,
		.limit = 0xffffffff,
		.type = 0xb, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.db = !long_mode,
		.l = long_mode,
		.g = 1,
	};
}

static struct kvm_segment segment_data(void)
{
	return (struct kvm_segment) {
		.selector = SEL_DATA,
		.limit = 0xffffffff,
		.type = 0x3, /* read, write, accessed */
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

/* VMX accepts no other than a present, busy TSS in TR; nothing ever reads the memory behind it. */
static struct kvm_segment segment_tss(void)
{
	return (struct kvm_segment) {
		.selector = SEL_TSS,
		.limit = 0x67,
		.type = 0xb, /* busy 32- or 64-bit TSS */
		.present = 1,
	};
}

/* The descriptor that loads as @s, SDM vol.3 3.4.5; its base is 0. */
static uint64_t segment_descriptor(const struct kvm_segment *s)
{
	uint64_t limit = s->g ? s->limit >> 12 : s->limit;

	return (limit & 0xffff) | (uint64_t)s->type << 40 | (uint64_t)s->s << 44 |
	       (uint64_t)s->dpl << 45 | (uint64_t)s->present << 47 | (limit >> 16 & 0xf) << 48 |
	       (uint64_t)s->l << 53 | (uint64_t)s->db << 54 | (uint64_t)s->g << 55;
}

static void write_page_tables(uint8_t *tables)
{
	const gpa_t pdpt = LAYOUT_PAGE_TABLES + GUEST_PAGE, pd = pdpt + GUEST_PAGE;
	unsigned int i;

	put_le64(tables, pdpt | PTE_PRESENT | PTE_WRITE);
	for (i = 0; i < MAPPED_GIB; i++)
		put_le64(tables + GUEST_PAGE + 8 * i,
			 (pd + i * GUEST_PAGE) | PTE_PRESENT | PTE_WRITE);
	/* the page directories follow each other, so their entries are one array */
	for (i = 0; i < MAPPED_GIB * 512; i++)
		put_le64(tables + 2 * GUEST_PAGE + 8 * i,
			 i * LARGE_PAGE_SIZE | PTE_PRESENT | PTE_WRITE | PTE_LARGE);
}

int entry_write_tables(const struct guest_mem *gm, enum boot_mode mode, struct err *e)
{
	const struct kvm_segment code = segment_code(mode == BOOT_LONG64);
	const struct kvm_segment data = segment_data(), tss = segment_tss();
	uint8_t *gdt = gpa_span(gm, LAYOUT_GDT, ENTRY_GDT_SIZE);
	uint8_t *tables = gpa_span(gm, LAYOUT_PAGE_TABLES, ENTRY_PAGE_TABLE_SIZE);

	if (!gdt || !tables)
		return err_set(
			e, -EINVAL,
			"guest memory does not reach the boot page tables at 0x%x; give more "
			"with -m",
			LAYOUT_PAGE_TABLES);
	memset(gdt, 0, ENTRY_GDT_SIZE);
	put_le64(gdt + SEL_CODE, segment_descriptor(&code));
	put_le64(gdt + SEL_DATA, segment_descriptor(&data));
	put_le64(gdt + SEL_TSS, segment_descriptor(&tss));
	if (mode == BOOT_LONG64)
		write_page_tables(tables);
	return 0;
}

void entry_set_regs(const struct boot_entry *entry, struct kvm_regs *regs, struct kvm_sregs *sregs)
{
	const bool long_mode = entry->mode == BOOT_LONG64;

	*regs = (struct kvm_regs) {
		.rip = entry->rip,
		.rsp = LAYOUT_BOOT_STACK,
		.rflags = RFLAGS_FIXED,
	};
	if (long_mode)
		regs->rsi = entry->info;
	else
		regs->rbx = entry->info;

	sregs->cs = segment_code(long_mode);
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = segment_data();
	sregs->tr = segment_tss();
	sregs->gdt.base = LAYOUT_GDT;
	sregs->gdt.limit = ENTRY_GDT_SIZE - 1;
	sregs->idt.base = 0;
	sregs->idt.limit = 0;
	sregs->cr2 = 0;
	if (long_mode) {
		/* not the CD and NW of reset: caches are on when a boot loader is done */
		sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
		sregs->cr3 = LAYOUT_PAGE_TABLES;
		sregs->cr4 = CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	} else {
		/* PVH: PE set, every other bit that can be cleared is clear */
		sregs->cr0 = CR0_PE | CR0_ET;
		sregs->cr3 = 0;
		sregs->cr4 = 0;
		sregs->efer = 0;
	}
}
