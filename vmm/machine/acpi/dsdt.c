/* Holds the DSDT that iasl compiled. */
#include "vmm/machine/acpi/dsdt.h"

/* iasl writes "unsigned char dsdt_aml_code[] = {...};", and not that nobody else may change it */
/* clang-format off */
static const
#include "vmm/machine/acpi/dsdt.hex"
	/* clang-format on */

	const uint8_t *
	dsdt_table(size_t *len_bytes)
{
	*len_bytes = sizeof(dsdt_aml_code);
	return dsdt_aml_code;
}
