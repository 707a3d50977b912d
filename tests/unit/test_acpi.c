/* The ACPI tables as a guest finds them: offsets are those of the specification. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/machine/acpi/acpi.h"

#define LOW_LEN 0x200000

struct tables {
	uint8_t *mem;
	struct guest_mem gm;
	gpa_t rsdp;
	const uint8_t *xsdt, *fadt, *madt, *dsdt;
};

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* A table by address: in the ACPI area, whole, with signature and checksum. */
static const uint8_t *table_at(const struct tables *t, uint64_t gpa, const char *signature,
			       uint8_t revision)
{
	const uint8_t *p = t->mem + gpa;
	uint32_t len;

	assert_in_range(gpa, LAYOUT_ACPI, LAYOUT_ACPI_END - 36);
	len = get_le32(p + 4);
	assert_in_range(len, 36, LAYOUT_ACPI_END - gpa);
	assert_memory_equal(p, signature, 4);
	assert_int_equal(p[8], revision);
	assert_int_equal(sum(p, len), 0);
	assert_memory_equal(p + 10, "TSTUDO", 6);
	assert_memory_equal(p + 16, "TESTUDO\0", 8);
	return p;
}

static void build(struct tables *t, uint32_t n_vcpus, uint32_t slots)
{
	const struct acpi_config cfg = {n_vcpus, slots};
	const uint8_t *r;

	t->mem = calloc(1, LOW_LEN);
	assert_non_null(t->mem);
	t->gm = (struct guest_mem) {1, {{0, LOW_LEN, t->mem, 0}}, NULL, NULL};
	assert_int_equal(acpi_build(&cfg, &t->gm, &t->rsdp, NULL), 0);
	r = t->mem + t->rsdp;
	assert_int_equal(t->rsdp, LAYOUT_ACPI);
	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal(r[15], 2);
	assert_int_equal(get_le32(r + 16), 0); /* no RSDT */
	assert_int_equal(get_le32(r + 20), 36);
	t->xsdt = table_at(t, get_le64(r + 24), "XSDT", 1);
	assert_int_equal(get_le32(t->xsdt + 4), 36 + 2 * 8);
	t->fadt = table_at(t, get_le64(t->xsdt + 36), "FACP", 6);
	t->madt = table_at(t, get_le64(t->xsdt + 44), "APIC", 5);
	t->dsdt = table_at(t, get_le64(t->fadt + 140), "DSDT", 2);
}

static void check_port(const uint8_t *gas, uint64_t port)
{
	assert_int_equal(gas[0], 1);
	assert_int_equal(gas[1], 8);
	assert_int_equal(gas[2], 0);
	assert_int_equal(gas[3], 1);
	assert_int_equal(get_le64(gas + 4), port);
}

static void test_fadt(void **state)
{
	static const uint8_t zero[256];
	struct tables t;

	(void)state;
	build(&t, 1, 0);
	assert_int_equal(get_le32(t.fadt + 4), 276);
	assert_int_equal(get_le32(t.fadt + 112), 1u << 20 | 1u << 10 | 1u << 0);
	assert_int_equal(get_le16(t.fadt + 109), 1u << 5 | 1u << 3 | 1u << 2);
	check_port(t.fadt + 116, 0x600);
	assert_int_equal(t.fadt[128], 1);
	assert_int_equal(t.fadt[131], 3);
	check_port(t.fadt + 244, 0x601);
	check_port(t.fadt + 256, 0x602);
	/* hardware-reduced: no FACS, no SCI, no PM blocks */
	assert_memory_equal(t.fadt + 36, zero, 109 - 36);
	assert_memory_equal(t.fadt + 132, zero, 8);
	assert_memory_equal(t.fadt + 148, zero, 244 - 148);
	free(t.mem);
}

static void test_madt(void **state)
{
	static const uint32_t counts[] = {1, 2, 4, 64, 254, 255};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		const uint8_t *p, *end;
		uint32_t n_lapic = 0, n_ioapic = 0, n_nmi = 0;
		struct tables t;

		print_message("# %u vCPUs\n", counts[i]);
		build(&t, counts[i], 0x7ffff);
		assert_int_equal(get_le32(t.madt + 4), 44 + 12 + 6 + 8 * counts[i]);
		assert_int_equal(get_le32(t.madt + 36), 0xfee00000);
		assert_int_equal(get_le32(t.madt + 40), 1);
		end = t.madt + get_le32(t.madt + 4);
		for (p = t.madt + 44; p < end; p += p[1]) {
			switch (p[0]) {
			case 0:
				assert_int_equal(p[1], 8);
				assert_int_equal(p[2], n_lapic);
				assert_int_equal(p[3], n_lapic);
				assert_int_equal(get_le32(p + 4), 1);
				n_lapic++;
				break;
			case 1:
				assert_int_equal(p[1], 12);
				assert_int_equal(p[2], 0);
				assert_int_equal(get_le32(p + 4), 0xfec00000);
				assert_int_equal(get_le32(p + 8), 0);
				n_ioapic++;
				break;
			case 4:
				assert_int_equal(p[1], 6);
				assert_int_equal(p[2], 0xff);
				assert_int_equal(get_le16(p + 3), 0);
				assert_int_equal(p[5], 1);
				n_nmi++;
				break;
			default:
				fail_msg("MADT entry of type %u", p[0]);
			}
			assert_true(p[1] >= 6);
		}
		assert_ptr_equal(p, end);
		assert_int_equal(n_lapic, counts[i]);
		assert_int_equal(n_ioapic, 1);
		assert_int_equal(n_nmi, 1);
		free(t.mem);
	}
}

/* nothing but the tables, the slot mask and the restart code is written, and they do not meet */
static void test_area(void **state)
{
	/* mov $0x600, %dx; mov $1, %al; out %al, (%dx); hlt; jmp to the hlt */
	static const uint8_t restart[] = {0xba, 0x00, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd};
	static const uint32_t masks[] = {0, 1, 0x40000, 0x7ffff, 0x2a5a5};
	size_t i;
	uint64_t at;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(masks); i++) {
		struct tables t;

		build(&t, ACPI_MAX_VCPUS, masks[i]);
		assert_int_equal(get_le32(t.mem + LAYOUT_ACPI_SLOTS), masks[i]);
		put_le32(t.mem + LAYOUT_ACPI_SLOTS, 0);
		assert_memory_equal(t.mem + 0xffff0, restart, sizeof(restart));
		memset(t.mem + 0xffff0, 0, sizeof(restart));
		for (at = 0; at < LOW_LEN; at++)
			if (t.mem[at] && (at < LAYOUT_ACPI || at >= LAYOUT_ACPI_END))
				fail_msg("byte at 0x%llx was written", (unsigned long long)at);
		free(t.mem);
	}
}

static const struct {
	const char *name;
	struct acpi_config cfg;
	uint64_t mem;
	const char *say[2];
} bads[] = {
	{"no vCPU", {0, 0}, LOW_LEN, {"0 vCPUs", "1 to 255"}},
	{"256 vCPUs", {256, 0}, LOW_LEN, {"256 vCPUs", "1 to 255"}},
	{"slot 19", {1, 1u << 19}, LOW_LEN, {"0x80000", "0 to 18"}},
	{"no memory there", {1, 0}, LAYOUT_ACPI, {"0xe0000", "-m"}},
	{"memory ends in the area", {1, 0}, 0xfffff, {"0xe0000", "-m"}},
};

static void test_bad(void **state)
{
	uint8_t *mem = calloc(1, LOW_LEN);
	size_t i, j;

	(void)state;
	assert_non_null(mem);
	for (i = 0; i < ARRAY_SIZE(bads); i++) {
		struct guest_mem gm = {1, {{0, bads[i].mem, mem, 0}}, NULL, NULL};
		struct err e = {0};
		gpa_t rsdp = 77;

		print_message("# %s\n", bads[i].name);
		assert_int_equal(acpi_build(&bads[i].cfg, &gm, &rsdp, &e), -EINVAL);
		assert_int_equal(rsdp, 77);
		for (j = 0; j < ARRAY_SIZE(bads[i].say); j++)
			if (!strstr(e.text, bads[i].say[j]))
				fail_msg("no '%s' in '%s'", bads[i].say[j], e.text);
	}
	free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_area),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
