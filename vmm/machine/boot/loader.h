/* What the loaders of the kinds of kernel share; private to vmm/boot. */
#ifndef VMM_MACHINE_BOOT_LOADER_H
#define VMM_MACHINE_BOOT_LOADER_H

#include "vmm/machine/boot/image.h"
#include "vmm/machine/boot/kernel.h"
#include "vmm/machine/boot/memory_map.h"

/* as much of a file's start as any loader looks at to tell its kind */
#define LOADER_HEAD_MAX 1024

struct loader {
	const struct kernel_config *cfg;
	const struct guest_mem *gm;
	gpa_t rsdp;
	struct image kernel;
	struct memory_map map;
	uint32_t head_len;
	uint8_t head[LOADER_HEAD_MAX]; /* the first @head_len bytes of the kernel file */
};

/* where the initrd was put; length 0: none */
struct initrd {
	gpa_t gpa;
	uint64_t len_bytes;
};

/** elf_load, bzimage_load - as kernel_load(), for a file known to be of that kind */
int elf_load(const struct loader *l, struct boot_entry *entry, struct err *e);
int bzimage_load(const struct loader *l, struct boot_entry *entry, struct err *e);

/**
 * cmdline_load - write the command line to LAYOUT_CMDLINE
 * @limit: the longest that the kernel takes, in bytes without the final NUL
 * Return: 0, or -EINVAL when it is longer than @limit or than there is room for
 */
int cmdline_load(const struct loader *l, uint64_t limit, struct err *e);

/**
 * initrd_check - refuse what is surely no initrd of Linux
 * For other kernels, started by PVH, any file may be a module that they want.
 * Return: 0, -EINVAL, or the errors of image_init()
 */
int initrd_check(const struct loader *l, struct err *e);

/**
 * initrd_load - put the initrd, if there is one, as high as it goes, at a page boundary
 * @kernel_end: nothing below this address may be used
 * @limit: nor at or above this one
 * Return: 0, -EINVAL when it does not fit, or the errors of image_read()
 */
int initrd_load(const struct loader *l, gpa_t kernel_end, gpa_t limit, struct initrd *out,
		struct err *e);

/**
 * pvh_write_info - write hvm_start_info and what it points to at LAYOUT_PVH_INFO
 * Return: 0, or -EINVAL when guest memory does not reach there
 */
int pvh_write_info(const struct loader *l, const struct initrd *initrd, struct err *e);

/**
 * loader_err_memory - say that [@start, @end) of the kernel is not in RAM, and how much would do
 * @what: which part of the kernel, with field names and values
 * Return: -EINVAL
 */
int loader_err_memory(const struct loader *l, const char *what, gpa_t start, gpa_t end,
		      struct err *e);

#endif
