/* ACPI tables (ACPI 6.5, chapter 5.2): every checksum is checked, a wrong table is an error. */
#include "tests/guest/guest.h"

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct table {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

struct gas {
	uint8_t space, width, offset, access;
	uint64_t address;
} __attribute__((packed));

#define GAS_SPACE_IO 1

#define RSDP_V1_LENGTH	    20
#define FADT_DSDT	    40
#define FADT_RESET_REG	    116
#define FADT_RESET_VALUE    128
#define FADT_X_DSDT	    140
#define FADT_SLEEP_CONTROL  244
#define FADT_MIN_LENGTH	    268
#define MADT_LAPIC_ADDRESS  36
#define MADT_ENTRIES	    44
#define MADT_LAPIC	    0
#define MADT_IOAPIC	    1
#define MADT_IRQ_OVERRIDE   2
#define MADT_LAPIC_OVERRIDE 5
#define MADT_X2APIC	    9
#define MADT_ENABLED	    1

struct acpi_info acpi;

static uint32_t get32(const void *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return v;
}

static uint64_t get64(const void *at)
{
	uint64_t v;

	memcpy(&v, at, sizeof(v));
	return v;
}

static void table_note(const struct table *t)
{
	if (acpi.n_tables == ARRAY_SIZE(acpi.table))
		return;
	memcpy(acpi.table[acpi.n_tables], t->signature, 4);
	acpi.n_tables++;
}

static bool table_ok(const struct table *t)
{
	return t->length >= sizeof(*t) && t->length < MIB && sum8(t, t->length) == 0;
}

/* The name object \_S5_ is Name (_S5_, Package () { SLP_TYPa, ... }): the byte that counts. */
static void dsdt_find_s5(const struct table *t)
{
	const uint8_t *p = (const uint8_t *)t;

	for (uint32_t i = sizeof(*t); i + 10 < t->length; i++) {
		/* "_S5_", PackageOp, PkgLength (one byte), count, BytePrefix, value */
		if (memcmp(p + i, "_S5_", 4) == 0 && p[i + 4] == 0x12) {
			acpi.sleep_slp_typ = p[i + 7] == 0x0a ? p[i + 8] : p[i + 7];
			return;
		}
	}
}

static uint16_t gas_port(const uint8_t *at)
{
	struct gas gas;

	memcpy(&gas, at, sizeof(gas));
	return gas.space == GAS_SPACE_IO && gas.address <= 0xffff ? (uint16_t)gas.address : 0;
}

static const char *fadt_read(const struct table *t)
{
	const uint8_t *p = (const uint8_t *)t;
	const struct table *dsdt = (const struct table *)(uint64_t)get32(p + FADT_DSDT);

	if (t->length >= FADT_X_DSDT + 8 && get64(p + FADT_X_DSDT))
		dsdt = (const struct table *)get64(p + FADT_X_DSDT);
	if (!dsdt || memcmp(dsdt->signature, "DSDT", 4) != 0 || !table_ok(dsdt))
		return "no DSDT, or its checksum is wrong";
	table_note(dsdt);
	dsdt_find_s5(dsdt);
	if (t->length >= FADT_RESET_VALUE + 1) {
		acpi.reset_port = gas_port(p + FADT_RESET_REG);
		acpi.reset_value = p[FADT_RESET_VALUE];
	}
	if (t->length >= FADT_MIN_LENGTH)
		acpi.sleep_port = gas_port(p + FADT_SLEEP_CONTROL);
	return NULL;
}

static const char *cpu_add(uint32_t apic_id, uint32_t flags)
{
	if (!(flags & MADT_ENABLED))
		return NULL;
	if (acpi.n_cpus == MAX_CPUS)
		return "the MADT has more than 256 processors";
	acpi.cpu_apic_id[acpi.n_cpus++] = apic_id;
	return NULL;
}

static const char *madt_read(const struct table *t)
{
	const uint8_t *p = (const uint8_t *)t, *end = p + t->length;
	const char *wrong = NULL;

	acpi.lapic_addr = get32(p + MADT_LAPIC_ADDRESS);
	for (p += MADT_ENTRIES; p + 2 <= end && !wrong; p += p[1]) {
		if (p[1] < 2 || p + p[1] > end)
			return "a MADT entry has a wrong length";
		switch (p[0]) {
		case MADT_LAPIC:
			wrong = cpu_add(p[3], get32(p + 4));
			break;
		case MADT_X2APIC:
			wrong = cpu_add(get32(p + 4), get32(p + 8));
			break;
		case MADT_IOAPIC:
			if (get32(p + 8) == 0) /* the one with GSI 0 */
				acpi.ioapic_addr = get32(p + 4);
			break;
		case MADT_IRQ_OVERRIDE:
			if (p[3] == 0)
				acpi.gsi_of_irq0 = get32(p + 4);
			break;
		case MADT_LAPIC_OVERRIDE:
			acpi.lapic_addr = get64(p + 4);
			break;
		}
	}
	return wrong;
}

const char *acpi_init(void)
{
	const struct rsdp *rsdp = (const struct rsdp *)boot.rsdp;
	const struct table *xsdt;
	const char *wrong = NULL;

	if (!rsdp)
		return "hvm_start_info has no RSDP";
	if (memcmp(rsdp->signature, "RSD PTR ", 8) != 0 || sum8(rsdp, RSDP_V1_LENGTH) != 0)
		return "the RSDP has a wrong signature or checksum";
	if (rsdp->revision < 2 || sum8(rsdp, rsdp->length) != 0)
		return "the RSDP is of revision 0 or has a wrong extended checksum";
	xsdt = (const struct table *)rsdp->xsdt;
	if (memcmp(xsdt->signature, "XSDT", 4) != 0 || !table_ok(xsdt))
		return "the XSDT has a wrong signature or checksum";
	table_note(xsdt);
	for (uint32_t at = sizeof(*xsdt); at + 8 <= xsdt->length && !wrong; at += 8) {
		const struct table *t = (const struct table *)get64((const uint8_t *)xsdt + at);

		if (!table_ok(t))
			return "a table of the XSDT has a wrong checksum or length";
		table_note(t);
		if (memcmp(t->signature, "FACP", 4) == 0)
			wrong = fadt_read(t);
		else if (memcmp(t->signature, "APIC", 4) == 0)
			wrong = madt_read(t);
	}
	if (!wrong && !acpi.n_cpus)
		wrong = "no MADT, or it has no processor";
	return wrong;
}
