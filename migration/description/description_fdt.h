/*
 * Names in the flattened device tree of a machine, one place for the writer and the reader. Ours
 * begin with "testudo,"; the others are those of the Devicetree Specification, chapters 2 and 3.
 */
#ifndef MIGRATION_DESCRIPTION_DESCRIPTION_FDT_H
#define MIGRATION_DESCRIPTION_DESCRIPTION_FDT_H

#include <stddef.h>
#include <stdint.h>

#include "migration/description/description.h"

#define FDT_COMPATIBLE	"testudo,machine-v1"
#define FDT_PROGRAM	"testudo,program"
#define FDT_GUEST_NAME	"testudo,guest-name"
#define FDT_REQUIRED	"testudo,required" /* names of what a reader must know; none so far */
#define FDT_CPUID	"testudo,cpuid"
#define FDT_VENDOR	"testudo,vendor"
#define FDT_MITIGATION	"mitigation" /* node */
#define FDT_HOST_NAME	"testudo,host-name"
#define FDT_BACKEND	"testudo,backend"
#define FDT_POLICY	"testudo,policy"
#define FDT_HOST_FACTS	"testudo,host-facts"
#define FDT_NESTED	"testudo,nested-shown"
#define FDT_AWARE	"testudo,report-aware"
#define FDT_ENUM_READ	"testudo,report-enum-read"
#define FDT_WRITTEN	"testudo,report-written"
#define FDT_CTRL	"testudo,report-ctrl"
#define FDT_PROMISE	"testudo,promise" /* mask and value; absent: none was made */
#define FDT_WEAK	"testudo,promise-weak"
#define FDT_HELD	"testudo,held"
#define FDT_SHADOW	"testudo,spec-ctrl"
#define FDT_TYPE	"testudo,type"
#define FDT_SLOT	"testudo,slot"
#define FDT_BACK_END	"back-end" /* node below a device */
#define FDT_CPUID_CELLS 7	   /* leaf, sub-leaf, indexed, eax, ebx, ecx, edx */

/* One number of the guest's CPU contract. */
struct fdt_number {
	const char *name;
	size_t offset, size; /* in struct guest_contract: 4 or 8 bytes, as many cells */
};

/** fdt_contract - the table; @n receives the number of rows */
const struct fdt_number *fdt_contract(unsigned int *n);
/** fdt_vendor_name - "intel"; NULL for a number that is no vendor */
const char *fdt_vendor_name(unsigned int vendor);

#endif
