/*
 * Builds the static tables and lays them out one after the other. Structures are packed and
 * little-endian as in the specification, which is this host's order as well.
 */
#include "vmm/machine/acpi/acpi.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/machine/acpi/dsdt.h"

#define PACKED __attribute__((packed))

#define OEM_ID	     "TSTUDO"
#define OEM_TABLE_ID "TESTUDO" /* 8 bytes with its NUL */
#define CREATOR_ID   "TSTD"

#define TABLE_ALIGN 16

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes: ACPI 1.0's part */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t checksum_all;
	uint8_t reserved[3];
} PACKED;

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} PACKED;

/* generic address structure */
struct acpi_gas {
	uint8_t space; /* 1: I/O port */
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size; /* 1: byte */
	uint64_t address;
} PACKED;

struct acpi_xsdt {
	struct acpi_header h;
	uint64_t table[2];
} PACKED;

struct acpi_fadt {
	struct acpi_header h;
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved1, preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
	uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
	struct acpi_gas x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_gas sleep_control_reg, sleep_status_reg;
	uint64_t hypervisor_id;
} PACKED;

#define FADT_REVISION	   6
#define FADT_MINOR	   3
#define FADT_WBINVD	   (1u << 0)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HW_REDUCED	   (1u << 20)
#define BOOT_NO_VGA	   (1u << 2)
#define BOOT_NO_MSI	   (1u << 3)
#define BOOT_NO_CMOS_RTC   (1u << 5)
#define GAS_IO_PORT(port)  ((struct acpi_gas) {1, 8, 0, 1, port})
#define RESET_VALUE	   1

struct acpi_madt_lapic {
	uint8_t type, length;
	uint8_t uid, apic_id;
	uint32_t flags;
} PACKED;

struct acpi_madt_ioapic {
	uint8_t type, length;
	uint8_t id, reserved;
	uint32_t address, gsi_base;
} PACKED;

struct acpi_madt_lapic_nmi {
	uint8_t type, length;
	uint8_t uid;
	uint16_t flags;
	uint8_t lint;
} PACKED;

struct acpi_madt {
	struct acpi_header h;
	uint32_t lapic_address;
	uint32_t flags;
	struct acpi_madt_ioapic ioapic;
	struct acpi_madt_lapic_nmi nmi;
	struct acpi_madt_lapic lapic[ACPI_MAX_VCPUS]; /* cut to the number of vCPUs */
} PACKED;

#define MADT_REVISION	  5
#define MADT_PCAT_COMPAT  (1u << 0)
#define MADT_LAPIC	  0
#define MADT_IOAPIC	  1
#define MADT_LAPIC_NMI	  4
#define MADT_ALL_UIDS	  0xff
#define MADT_NMI_LINT	  1
#define MADT_LAPIC_ENABLE (1u << 0)

_Static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI 6.3 table 5-27");
_Static_assert(sizeof(struct acpi_header) == 36, "ACPI 6.3 table 5-28");
_Static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.3 table 5-33");
_Static_assert(sizeof(struct acpi_madt) == 44 + 12 + 6 + 8 * ACPI_MAX_VCPUS, "ACPI 6.3 5.2.12");
_Static_assert(LAYOUT_VIRTIO_SLOTS == 19, "dsdt.asl has a device for each slot");

/*
 * Linux built with EFI takes a hardware-reduced platform for one with EFI and does not use
 * RESET_REG: it asks EFI, which is not there, and then jumps to the BIOS's restart vector in real
 * mode. So there is a BIOS of this size: it writes RESET_REG, and waits.
 */
/* clang-format off */
static const uint8_t restart_code[] = {
	0xba, LAYOUT_PORT_RESET & 0xff, LAYOUT_PORT_RESET >> 8, /* mov $port, %dx */
	0xb0, RESET_VALUE,	/* mov $value, %al */
	0xee,			/* out %al, (%dx) */
	0xf4,			/* 1: hlt */
	0xeb, 0xfd,		/* jmp 1b */
};
/* clang-format on */

_Static_assert(sizeof(restart_code) <= LAYOUT_HIGH_START - LAYOUT_RESTART, "up to 1 MiB");

/* where the next table goes */
struct area {
	const struct guest_mem *gm;
	gpa_t next;
};

/* The byte that makes the sum of @len bytes zero. */
static uint8_t checksum(const void *table, size_t len)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* Return: where @table was put, or 0 when the area is full or not RAM. */
static gpa_t area_put(struct area *a, const void *table, size_t len)
{
	const gpa_t at = a->next;
	void *dst = gpa_span(a->gm, at, len);

	if (!dst || len > LAYOUT_ACPI_END - at)
		return 0;
	memcpy(dst, table, len);
	a->next = align_up(at + len, TABLE_ALIGN);
	return at;
}

static void header_fill(struct acpi_header *h, const char *signature, uint8_t revision, size_t len)
{
	memcpy(h->signature, signature, sizeof(h->signature));
	memcpy(h->oem_id, OEM_ID, sizeof(h->oem_id));
	memcpy(h->oem_table_id, OEM_TABLE_ID, sizeof(h->oem_table_id));
	memcpy(h->creator_id, CREATOR_ID, sizeof(h->creator_id));
	h->revision = revision;
	h->length = (uint32_t)len;
	h->oem_revision = 1;
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, len);
}

static gpa_t put_fadt(struct area *a, gpa_t dsdt)
{
	struct acpi_fadt t = {
		/* no 8042 (bit 1) and no other legacy device that ACPI does not name (bit 0) */
		.iapc_boot_arch = BOOT_NO_VGA | BOOT_NO_MSI | BOOT_NO_CMOS_RTC,
		.flags = FADT_WBINVD | FADT_RESET_REG_SUP | FADT_HW_REDUCED,
		.reset_reg = GAS_IO_PORT(LAYOUT_PORT_RESET),
		.reset_value = RESET_VALUE,
		.minor_version = FADT_MINOR,
		.x_dsdt = dsdt,
		.sleep_control_reg = GAS_IO_PORT(LAYOUT_PORT_SLEEP),
		.sleep_status_reg = GAS_IO_PORT(LAYOUT_PORT_SLEEP_ST),
	};

	header_fill(&t.h, "FACP", FADT_REVISION, sizeof(t));
	return area_put(a, &t, sizeof(t));
}

/* No source overrides: in KVM, GSI 0 to 23 are the IOAPIC's pins of the same number. */
static gpa_t put_madt(struct area *a, uint32_t n_vcpus)
{
	const size_t len = offsetof(struct acpi_madt, lapic[n_vcpus]);
	struct acpi_madt t = {
		.lapic_address = LAYOUT_LAPIC,
		.flags = MADT_PCAT_COMPAT,
		.ioapic = {MADT_IOAPIC, sizeof(t.ioapic), 0, 0, LAYOUT_IOAPIC, 0},
		.nmi = {MADT_LAPIC_NMI, sizeof(t.nmi), MADT_ALL_UIDS, 0, MADT_NMI_LINT},
	};
	uint32_t i;

	for (i = 0; i < n_vcpus; i++)
		t.lapic[i] = (struct acpi_madt_lapic) {MADT_LAPIC, sizeof(t.lapic[i]), (uint8_t)i,
						       (uint8_t)i, MADT_LAPIC_ENABLE};
	header_fill(&t.h, "APIC", MADT_REVISION, len);
	return area_put(a, &t, len);
}

static gpa_t put_xsdt(struct area *a, gpa_t fadt, gpa_t madt)
{
	struct acpi_xsdt t = {.table = {fadt, madt}};

	header_fill(&t.h, "XSDT", 1, sizeof(t));
	return area_put(a, &t, sizeof(t));
}

static void fill_rsdp(struct acpi_rsdp *t, gpa_t xsdt)
{
	*t = (struct acpi_rsdp) {.revision = 2, .length = sizeof(*t), .xsdt = xsdt};
	memcpy(t->signature, "RSD PTR ", sizeof(t->signature));
	memcpy(t->oem_id, OEM_ID, sizeof(t->oem_id));
	t->checksum = checksum(t, offsetof(struct acpi_rsdp, length));
	t->checksum_all = checksum(t, sizeof(*t));
}

int acpi_build(const struct acpi_config *cfg, const struct guest_mem *gm, gpa_t *rsdp,
	       struct err *e)
{
	struct area a = {gm, align_up(LAYOUT_ACPI + sizeof(struct acpi_rsdp), TABLE_ALIGN)};
	uint8_t *dst = gpa_span(gm, LAYOUT_ACPI, LAYOUT_HIGH_START - LAYOUT_ACPI);
	gpa_t dsdt, fadt, madt, xsdt;
	struct acpi_rsdp root;
	const uint8_t *aml;
	size_t len;

	if (!cfg->n_vcpus || cfg->n_vcpus > ACPI_MAX_VCPUS)
		return err_set(e, -EINVAL, "%u vCPUs cannot be described by ACPI; give 1 to %u",
			       cfg->n_vcpus, ACPI_MAX_VCPUS);
	if (cfg->slots >> LAYOUT_VIRTIO_SLOTS)
		return err_set(e, -EINVAL,
			       "virtio slot mask is 0x%x; there are slots 0 to %u, use those",
			       cfg->slots, LAYOUT_VIRTIO_SLOTS - 1);
	if (!dst)
		return err_set(
			e, -EINVAL,
			"guest memory does not reach the ACPI tables at 0x%x; give more with "
			"-m",
			LAYOUT_ACPI);
	aml = dsdt_table(&len);
	dsdt = area_put(&a, aml, len);
	fadt = put_fadt(&a, dsdt);
	madt = put_madt(&a, cfg->n_vcpus);
	xsdt = put_xsdt(&a, fadt, madt);
	if (!dsdt || !fadt || !madt || !xsdt)
		return err_set(e, -ENOSPC,
			       "ACPI tables are too large for 0x%x to 0x%x; use fewer "
			       "vCPUs",
			       LAYOUT_ACPI, LAYOUT_ACPI_END);
	fill_rsdp(&root, xsdt);
	memcpy(dst, &root, sizeof(root));
	put_le32(dst + LAYOUT_ACPI_SLOTS - LAYOUT_ACPI, cfg->slots);
	memcpy(dst + LAYOUT_RESTART - LAYOUT_ACPI, restart_code, sizeof(restart_code));
	*rsdp = LAYOUT_ACPI;
	return 0;
}
