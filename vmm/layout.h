/*
 * Where things are in the guest's address spaces. Included by C, by the ACPI source (through the C
 * preprocessor; ASL knows no suffixes) and by the test guest: only comments and plain constants
 * here.
 */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

/* Low memory while booting; all of it is the guest's to reuse once it has read it. */
#define LAYOUT_GDT	   0x500
#define LAYOUT_BOOT_PARAMS 0x7000 /* Linux struct boot_params, one page */
#define LAYOUT_PVH_INFO	   0x6000 /* hvm_start_info, modlist, memory map, one page */
#define LAYOUT_BOOT_STACK  0x8ff0
#define LAYOUT_PAGE_TABLES 0x9000 /* PML4, PDPT and four page directories: 6 pages */
#define LAYOUT_CMDLINE	   0x20000
#define LAYOUT_CMDLINE_MAX 0x1000  /* with the final NUL */
#define LAYOUT_LOW_END	   0x9fc00 /* end of conventional memory */

/* ACPI tables: RSDP at the start, reserved in the memory map up to 1 MiB. */
#define LAYOUT_ACPI	0xe0000
#define LAYOUT_ACPI_END 0xfff00
/* 32-bit little-endian mask of present virtio slots, read by _STA in the DSDT. */
#define LAYOUT_ACPI_SLOTS 0xfff00
/* f000:fff0, where real-mode software jumps to restart the machine; 16 bytes */
#define LAYOUT_RESTART 0xffff0

#define LAYOUT_HIGH_START 0x100000 /* 1 MiB: kernels are loaded from here on */

/* RAM ends here below 4 GiB; the rest starts again at 4 GiB. */
#define LAYOUT_HOLE_START 0xc0000000
#define LAYOUT_HOLE_END	  0x100000000

/* virtio-mmio slot n: registers at base + n * size, interrupt at GSI first + n. */
#define LAYOUT_VIRTIO_BASE  0xd0000000
#define LAYOUT_VIRTIO_SIZE  0x1000
#define LAYOUT_VIRTIO_GSI   5
#define LAYOUT_VIRTIO_SLOTS 19

#define LAYOUT_IOAPIC 0xfec00000
#define LAYOUT_LAPIC  0xfee00000
/*
 * three pages for KVM's TSS and one for its identity map, outside RAM (Intel without EPT real mode)
 */
#define LAYOUT_KVM_IDENTITY_MAP 0xfffbc000
#define LAYOUT_KVM_TSS		0xfffbd000

/* Ports */
#define LAYOUT_PORT_KBD	     0x64  /* only the reset command 0xfe */
#define LAYOUT_PORT_COM1     0x3f8 /* 8 ports */
#define LAYOUT_PORT_PVPANIC  0x505
#define LAYOUT_PORT_RESET    0x600 /* FADT RESET_REG, value 1 */
#define LAYOUT_PORT_SLEEP    0x601 /* FADT SLEEP_CONTROL_REG */
#define LAYOUT_PORT_SLEEP_ST 0x602 /* FADT SLEEP_STATUS_REG */

#define LAYOUT_GSI_BUTTON 3 /* power button */
#define LAYOUT_GSI_COM1	  4

#endif
