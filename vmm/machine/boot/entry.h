/*
 * How the first vCPU enters a loaded kernel: the two machine states that boot protocols ask for, as
 * plain values. Makes no KVM call: the caller gets and sets the registers.
 */
#ifndef VMM_MACHINE_BOOT_ENTRY_H
#define VMM_MACHINE_BOOT_ENTRY_H

#include "base/guest_mem.h"

struct err;
struct kvm_regs;
struct kvm_sregs;

enum boot_mode {
	BOOT_LONG64, /* Linux 64-bit boot protocol: long mode, paging on, RSI = boot_params */
	BOOT_PVH32,  /* PVH: 32-bit protected mode, paging off, EBX = hvm_start_info */
};

struct boot_entry {
	enum boot_mode mode;
	gpa_t rip;
	gpa_t info; /* boot_params or hvm_start_info */
};

#define ENTRY_GDT_ENTRIES     6 /* null, unused, code, data, and a TSS of two entries */
#define ENTRY_GDT_SIZE	      (ENTRY_GDT_ENTRIES * 8)
#define ENTRY_PAGE_TABLE_SIZE (6 * GUEST_PAGE)

/**
 * entry_write_tables - write the GDT, and for long mode the page tables, into guest memory
 * GDT at LAYOUT_GDT; page tables at LAYOUT_PAGE_TABLES, the first 4 GiB mapped one to one in pages
 * of 2 MiB. kernel_load() calls this.
 * Return: 0, or -EINVAL when guest memory does not reach there
 */
int entry_write_tables(const struct guest_mem *gm, enum boot_mode mode, struct err *e);

/**
 * entry_set_regs - the registers with which a vCPU enters the kernel
 * @entry: from kernel_load()
 * @regs: overwritten whole
 * @sregs: as KVM_GET_SREGS returned them after vCPU creation; what the entry does not depend on
 *         (APIC base, CR8, LDT, pending interrupts) is kept
 * Segments are flat with CS 0x10 and data 0x18, interrupts are off, and the IDT is empty, so that
 * an early exception ends in a triple fault and not in a wild jump. Source: Linux boot.rst "64-bit
 * Boot Protocol"; Xen docs/misc/pvh.pandoc; SDM vol.3 9.8.5, 27.3.1.
 */
void entry_set_regs(const struct boot_entry *entry, struct kvm_regs *regs, struct kvm_sregs *sregs);

#endif
