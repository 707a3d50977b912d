/*
 * Guest RAM: one memfd, mapped once, split around the hole below 4 GiB. Or a saved guest's RAM,
 * mapped privately from its file.
 */
#ifndef VMM_KVM_MEMORY_H
#define VMM_KVM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/guest_mem.h"

struct err;

struct memory {
	int fd; /* memfd, sealed against resizing; -1: none, or RAM is a private map of a file */
	bool hugepages; /* of 2 MiB: fd does not take pwrite(2) */
	uint8_t *map;
	uint64_t size_bytes;
	struct guest_mem guest;
};

struct memory_options {
	uint64_t size_bytes;
	bool hugepages; /* from the host's pool of 2 MiB pages */
	bool prealloc;	/* all of it backed before the guest starts */
};

#define MEMORY_MIN (2 * 1024 * 1024ULL)

/**
 * memory_check - can this size be given to a guest at all?
 * @phys_bits: the guest's physical address width, bounds the highest address
 * Return: 0; -EINVAL with size, limit and cure in @e; -ENOMEM when --prealloc asks for more than
 * the host has free now. Allocates nothing.
 */
int memory_check(const struct memory_options *opt, unsigned int phys_bits, struct err *e);

/**
 * memory_init - allocate and map
 * All of it reads as zero. Without prealloc pages are taken when first touched.
 * Return: 0; -ENOMEM with what to change in @e. @m may be given to memory_fini() in any case.
 */
int memory_init(struct memory *m, const struct memory_options *opt, struct err *e);
/**
 * memory_adopt - map memory that exists already: of another process, or of a machine before
 * @fd: a memfd of opt->size_bytes, sealed against shrinking; taken over, also on failure
 * Return: 0; -EINVAL when size or seals are wrong; -ENOMEM. @m may be given to memory_fini() in any
 * case.
 */
int memory_adopt(struct memory *m, int fd, const struct memory_options *opt, struct err *e);

/**
 * memory_map_file - RAM that is the file's content at first, read when it is touched
 * @fd: of the saved guest, still the caller's; @path: for messages, which it may outlive; @offset:
 * of RAM in it, a multiple of the page size What the guest writes stays in this process; the file
 * is not changed, and must not be changed or cut short by others as long as the guest lives. Its
 * memory cannot be handed over as a descriptor (m->fd is -1), and a later migration of it reads
 * holes like other pages. Return: 0; -EINVAL when the file is too short; -ENOMEM, -errno. @m may be
 * given to memory_fini() in any case.
 */
int memory_map_file(struct memory *m, int fd, const char *path, uint64_t offset,
		    uint64_t size_bytes, struct err *e);

/** memory_move - @to has the memory from here on, mapped where it was; @from has none */
void memory_move(struct memory *to, struct memory *from);
void memory_fini(struct memory *m);

#endif
