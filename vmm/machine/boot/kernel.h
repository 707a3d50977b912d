/*
 * Loading an operating system kernel: what a boot loader does. Kernel and initrd are open files, so
 * that a guest reboot can load them again after the process gave up its right to open anything.
 * Makes no KVM call; vmm/machine/boot/entry.h turns the result into registers.
 */
#ifndef VMM_MACHINE_BOOT_KERNEL_H
#define VMM_MACHINE_BOOT_KERNEL_H

#include "base/guest_mem.h"
#include "vmm/machine/boot/entry.h"

struct err;

struct kernel_config {
	const char *kernel_path;
	const char *initrd_path; /* NULL: no initrd */
	const char *cmdline;	 /* NULL: empty */
	int kernel_fd;		 /* -1: not open */
	int initrd_fd;		 /* -1: not open, or no initrd */
};

/**
 * kernel_open - open the kernel and the initrd of @cfg read-only
 * @cfg: paths are set; receives the descriptors, both -1 on error. The paths are kept for messages
 *       and stay the caller's.
 * What is no regular file but can be read, such as a pipe, is copied into memory first
 * (base/file.h). What is in them is looked at by kernel_load().
 * Return: 0; as file_open_whole(); -EINVAL for an empty file
 */
int kernel_open(struct kernel_config *cfg, struct err *e);

/** kernel_close - close what kernel_open() opened; accepts descriptors that are -1 */
void kernel_close(struct kernel_config *cfg);

/**
 * kernel_load - put kernel, initrd, command line and boot information into guest memory
 * @cfg: from kernel_open(); the files are read by pread(2), their offset is neither used nor moved
 * @gm: the guest's memory: the first region starts at 0, ends at or below LAYOUT_HOLE_START and is
 *      larger than 1 MiB. It must read as zeros, as fresh memory does: what a kernel expects
 *      cleared (its bss) is left untouched, so that it costs no host memory.
 * @rsdp: guest-physical address of the ACPI RSDP, from acpi_build()
 * @entry: receives how to start the first vCPU; untouched on error
 *
 * The kind of kernel is told by content: a Linux bzImage of boot protocol 2.12 or later with the
 * 64-bit entry (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"), or an ELF file for x86,
 * 32 or 64 bits, with the Xen note of type 18 (PVH: Xen docs/misc/pvh.pandoc).
 * The kernel goes to the address it prefers, the initrd as high as the kernel allows below the end
 * of low RAM, the rest to its places in vmm/layout.h.
 *
 * Return: 0; -EINVAL when a file is damaged, of a kind that cannot be started here, or too large
 * for the guest's memory, or the command line is too long; -errno of pread(2). On error guest
 * memory may have been written to.
 */
int kernel_load(const struct kernel_config *cfg, const struct guest_mem *gm, gpa_t rsdp,
		struct boot_entry *entry, struct err *e);

#endif
