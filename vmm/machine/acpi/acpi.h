/*
 * The ACPI tables of the machine: what tells a guest of its CPUs, interrupts and devices. A
 * hardware-reduced platform: no fixed ACPI hardware but the sleep and reset registers.
 */
#ifndef VMM_MACHINE_ACPI_ACPI_H
#define VMM_MACHINE_ACPI_ACPI_H

#include <stdint.h>

#include "base/guest_mem.h"

struct err;

#define ACPI_MAX_VCPUS 255 /* local APIC IDs of eight bits, 255 being broadcast */

struct acpi_config {
	uint32_t n_vcpus; /* 1 to ACPI_MAX_VCPUS; the local APIC ID is the vCPU's number */
	uint32_t slots;	  /* bit n: virtio-mmio slot n holds a device */
};

/**
 * acpi_build - write RSDP, XSDT, FADT, MADT and DSDT from LAYOUT_ACPI on, and the mask of present
 * virtio slots to LAYOUT_ACPI_SLOTS; also the code at LAYOUT_RESTART that resets the machine
 * @rsdp: receives the guest-physical address of the RSDP; untouched on error
 * Return: 0; -EINVAL on a vCPU count or slot mask out of range, or when guest memory does not reach
 * up to 1 MiB; -ENOSPC when the tables do not fit (they do)
 * Source: ACPI 6.3, sections 5.2.5 RSDP, 5.2.8 XSDT, 5.2.9 FADT, 5.2.12 MADT, 4.1 hardware-reduced
 */
int acpi_build(const struct acpi_config *cfg, const struct guest_mem *gm, gpa_t *rsdp,
	       struct err *e);

#endif
