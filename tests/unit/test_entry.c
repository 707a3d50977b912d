/* The machine state in which a kernel is entered: registers, descriptors, page tables. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/entry.h"

#define LOW_LEN 0x100000

static const struct {
	const char *name;
	struct boot_entry entry;
	uint64_t rsi, rbx;
	uint64_t cr0, cr3, cr4, efer;
	uint64_t code; /* descriptor */
	uint8_t cs_l, cs_db;
} modes[] = {
	{"long mode",
	 {BOOT_LONG64, 0x1000200, 0x7000},
	 0x7000,
	 0,
	 0x80000031,
	 LAYOUT_PAGE_TABLES,
	 0x20,
	 0x500,
	 0x00af9b000000ffff,
	 1,
	 0},
	{"PVH",
	 {BOOT_PVH32, 0x1000850, 0x6000},
	 0,
	 0x6000,
	 0x11,
	 0,
	 0,
	 0,
	 0x00cf9b000000ffff,
	 0,
	 1},
};

/* as after KVM_GET_SREGS on a new vCPU, and some that must survive */
static struct kvm_sregs reset_sregs(void)
{
	struct kvm_sregs s;

	memset(&s, 0x5a, sizeof(s));
	s.apic_base = 0xfee00900;
	s.cr8 = 3;
	s.cr0 = 0x60000010;
	return s;
}

static void check_data(const struct kvm_segment *s)
{
	assert_int_equal(s->selector, 0x18);
	assert_int_equal(s->base, 0);
	assert_int_equal(s->limit, 0xffffffff);
	assert_int_equal(s->type, 3);
	assert_true(s->present && s->s && s->db && s->g && !s->l && !s->dpl && !s->unusable);
}

static void test_regs(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		const struct kvm_sregs before = reset_sregs();
		struct kvm_sregs s = before;
		struct kvm_regs r;

		print_message("# %s\n", modes[i].name);
		memset(&r, 0xff, sizeof(r));
		entry_set_regs(&modes[i].entry, &r, &s);
		assert_int_equal(r.rip, modes[i].entry.rip);
		assert_int_equal(r.rsi, modes[i].rsi);
		assert_int_equal(r.rbx, modes[i].rbx);
		assert_int_equal(r.rflags, 2);
		assert_int_equal(r.rsp, LAYOUT_BOOT_STACK);
		assert_int_equal(r.rax | r.rcx | r.rdx | r.rdi | r.rbp | r.r8 | r.r15, 0);
		assert_int_equal(s.cr0, modes[i].cr0);
		assert_int_equal(s.cr2, 0);
		assert_int_equal(s.cr3, modes[i].cr3);
		assert_int_equal(s.cr4, modes[i].cr4);
		assert_int_equal(s.efer, modes[i].efer);
		assert_int_equal(s.cs.selector, 0x10);
		assert_int_equal(s.cs.base, 0);
		assert_int_equal(s.cs.limit, 0xffffffff);
		assert_int_equal(s.cs.type, 0xb);
		assert_int_equal(s.cs.l, modes[i].cs_l);
		assert_int_equal(s.cs.db, modes[i].cs_db);
		assert_true(s.cs.present && s.cs.s && s.cs.g && !s.cs.dpl && !s.cs.unusable);
		check_data(&s.ds);
		check_data(&s.es);
		check_data(&s.fs);
		check_data(&s.gs);
		check_data(&s.ss);
		assert_int_equal(s.tr.type, 0xb);
		assert_int_equal(s.tr.limit, 0x67);
		assert_true(s.tr.present && !s.tr.s && !s.tr.unusable);
		assert_int_equal(s.gdt.base, LAYOUT_GDT);
		assert_int_equal(s.gdt.limit, ENTRY_GDT_SIZE - 1);
		assert_int_equal(s.idt.limit, 0);
		/* kept */
		assert_int_equal(s.apic_base, before.apic_base);
		assert_int_equal(s.cr8, before.cr8);
		assert_memory_equal(&s.ldt, &before.ldt, sizeof(s.ldt));
		assert_memory_equal(s.interrupt_bitmap, before.interrupt_bitmap,
				    sizeof(s.interrupt_bitmap));
	}
}

/* Walks the tables as a CPU does. Return: the physical address, or -1 when not present. */
static uint64_t walk(const uint8_t *mem, uint64_t va)
{
	const uint64_t frame = 0xffffffffff000;
	uint64_t e = LAYOUT_PAGE_TABLES;
	int shift;

	for (shift = 39; shift >= 21; shift -= 9) {
		uint64_t at = (e & frame) + 8 * (va >> shift & 511);

		assert_in_range(at, LAYOUT_PAGE_TABLES,
				LAYOUT_PAGE_TABLES + ENTRY_PAGE_TABLE_SIZE - 8);
		e = get_le64(mem + at);
		if (!(e & 1))
			return UINT64_MAX;
		assert_int_equal(e & 2, 2);
		assert_int_equal(e & 0x80, shift == 21 ? 0x80 : 0);
	}
	return (e & frame & -(2 * MiB)) + va % (2 * MiB);
}

static void check_untouched(const uint8_t *mem, uint64_t from, uint64_t to)
{
	for (; from < to; from++)
		if (mem[from] != 0x77)
			fail_msg("byte at 0x%llx was written", (unsigned long long)from);
}

static void test_tables(void **state)
{
	static const uint64_t mapped[] = {0,	      0x1000,	  0x1fffff,   0x200000,
					  0x3fffffff, 0x40000000, 0xbfffffff, 0xc0000000,
					  0xfee00000, 0xffffffff};
	static const uint64_t unmapped[] = {0x100000000,    0x140000000,	0x8000000000,
					    0x7fffffffffff, 0xffff800000000000, 0xffffffff81000000};
	uint8_t *mem = malloc(LOW_LEN);
	struct guest_mem gm = {1, {{0, LOW_LEN, mem, 0}}, NULL, NULL};
	size_t i, j;

	(void)state;
	assert_non_null(mem);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		const uint8_t *gdt = mem + LAYOUT_GDT;
		uint64_t tables_end = LAYOUT_PAGE_TABLES;

		print_message("# %s\n", modes[i].name);
		memset(mem, 0x77, LOW_LEN);
		assert_int_equal(entry_write_tables(&gm, modes[i].entry.mode, NULL), 0);
		assert_int_equal(get_le64(gdt), 0);
		assert_int_equal(get_le64(gdt + 8), 0);
		assert_int_equal(get_le64(gdt + 0x10), modes[i].code);
		assert_int_equal(get_le64(gdt + 0x18), 0x00cf93000000ffff);
		assert_int_equal(get_le64(gdt + 0x20), 0x00008b0000000067);
		assert_int_equal(get_le64(gdt + 0x28), 0);
		if (modes[i].entry.mode == BOOT_LONG64) {
			tables_end += ENTRY_PAGE_TABLE_SIZE;
			/* entries that nobody wrote are those of fresh, zero memory */
			memset(mem, 0, LOW_LEN);
			assert_int_equal(entry_write_tables(&gm, BOOT_LONG64, NULL), 0);
			for (j = 0; j < ARRAY_SIZE(mapped); j++)
				assert_int_equal(walk(mem, mapped[j]), mapped[j]);
			for (j = 0; j < ARRAY_SIZE(unmapped); j++)
				assert_int_equal(walk(mem, unmapped[j]), UINT64_MAX);
			memset(mem, 0x77, LOW_LEN);
			assert_int_equal(entry_write_tables(&gm, BOOT_LONG64, NULL), 0);
		}
		check_untouched(mem, 0, LAYOUT_GDT);
		check_untouched(mem, LAYOUT_GDT + ENTRY_GDT_SIZE, LAYOUT_PAGE_TABLES);
		check_untouched(mem, tables_end, LOW_LEN);
	}
	free(mem);
}

static void test_small_memory(void **state)
{
	static const uint64_t sizes[] = {1, LAYOUT_GDT + ENTRY_GDT_SIZE - 1,
					 LAYOUT_PAGE_TABLES + ENTRY_PAGE_TABLE_SIZE - 1};
	uint8_t *mem = calloc(1, LOW_LEN);
	size_t i;

	(void)state;
	assert_non_null(mem);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct guest_mem gm = {1, {{0, sizes[i], mem, 0}}, NULL, NULL};
		struct err e = {0};

		assert_int_equal(entry_write_tables(&gm, BOOT_LONG64, &e), -EINVAL);
		assert_non_null(strstr(e.text, "0x9000"));
	}
	free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_regs),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_small_memory),
	};

	return cmocka_run_group_tests_name("entry", tests, NULL, NULL);
}
