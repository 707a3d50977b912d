/* For test_acpi_iasl.py: writes the tables that acpi_build() makes to files named as they are. */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/machine/acpi/acpi.h"

#define MEM_LEN 0x100000

static void dump(const char *dir, const char *name, const uint8_t *table, uint32_t len)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
	f = fopen(path, "wb");
	if (!f || fwrite(table, 1, len, f) != len || fclose(f)) {
		perror(path);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static uint8_t mem[MEM_LEN];
	const struct guest_mem gm = {1, {{0, MEM_LEN, mem, 0}}, NULL, NULL};
	struct acpi_config cfg = {0};
	const uint8_t *xsdt, *fadt, *madt, *dsdt;
	struct err e = {0};
	gpa_t rsdp;

	if (argc != 4) {
		fprintf(stderr, "usage: acpi_dump DIR VCPUS SLOTS\n");
		return 2;
	}
	cfg.n_vcpus = (uint32_t)strtoul(argv[2], NULL, 0);
	cfg.slots = (uint32_t)strtoul(argv[3], NULL, 0);
	if (acpi_build(&cfg, &gm, &rsdp, &e)) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	xsdt = mem + get_le64(mem + rsdp + 24);
	fadt = mem + get_le64(xsdt + 36);
	madt = mem + get_le64(xsdt + 44);
	dsdt = mem + get_le64(fadt + 140);
	dump(argv[1], "rsdp", mem + rsdp, 36);
	dump(argv[1], "xsdt", xsdt, get_le32(xsdt + 4));
	dump(argv[1], "facp", fadt, get_le32(fadt + 4));
	dump(argv[1], "apic", madt, get_le32(madt + 4));
	dump(argv[1], "dsdt", dsdt, get_le32(dsdt + 4));
	return 0;
}
