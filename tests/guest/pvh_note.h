/* The ELF note that makes an ELF file bootable by the PVH protocol (Xen docs/misc/pvh.pandoc). */
#ifndef TESTS_GUEST_PVH_NOTE_H
#define TESTS_GUEST_PVH_NOTE_H

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* clang-format off */
#define PVH_NOTE(entry)					  \
	.pushsection .note.Xen, "a", @note;		  \
	.balign 4;					  \
	.long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY;		  \
	.asciz "Xen";					  \
	.quad entry;					  \
	.popsection
/* clang-format on */

#endif
