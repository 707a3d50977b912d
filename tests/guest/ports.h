/* Ports that the guest uses and what it writes there; for C and assembly. */
#ifndef TESTS_GUEST_PORTS_H
#define TESTS_GUEST_PORTS_H

#include "vmm/layout.h"

/* SLEEP_CONTROL_REG: SLP_TYP 5 (S5 in our DSDT) in bits 2-4, SLP_EN is bit 5 (ACPI 6.5, 4.8.3.7) */
#define SLEEP_S5 ((5 << 2) | (1 << 5))

#define RESET_VALUE	  1
#define KBD_RESET_COMMAND 0xfe
#define PVPANIC_PANICKED  1

/* QEMU's isa-debug-exit with iobase=0x501; exit status is (value << 1) | 1 */
#define QEMU_PORT_EXIT 0x501

#endif
