/* The compiled DSDT, made from dsdt.asl while building. */
#ifndef VMM_MACHINE_ACPI_DSDT_H
#define VMM_MACHINE_ACPI_DSDT_H

#include <stddef.h>
#include <stdint.h>

/** dsdt_table - the whole table with its header and checksum, @len_bytes long */
const uint8_t *dsdt_table(size_t *len_bytes);

#endif
