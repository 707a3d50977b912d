/*
 * What the files of the test guest share. There is one address space, identity mapped, and one
 * command a run: file-scope state is fine here.
 */
#ifndef TESTS_GUEST_GUEST_H
#define TESTS_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/guest/desc.h"
#include "tests/guest/ports.h"
#include "tests/guest/x86.h"

#define PAGE_SIZE     4096ul
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define KIB	      1024ul
#define MIB	      (1024 * KIB)
#define GIB	      (1024 * MIB)

/* Commands use RAM from here on; below are the guest's image and heap. */
#define ARENA_START (32 * MIB)

/* string.c */
void *memset(void *to, int byte, size_t len);
void *memcpy(void *to, const void *from, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *s);
bool str_equal(const char *a, const char *b);
uint8_t sum8(const void *data, size_t len);
/** fnv64 - FNV-1a of @len bytes */
uint64_t fnv64(const void *data, size_t len);
/** prng_next - xorshift64*: good enough to be unpredictable for a device */
uint64_t prng_next(uint64_t *state);

/* serial.c: COM1 by polling; works in ring 3 too */
void serial_init(void);
void serial_put(char c);
/** print - %s %c %d %u %x, with l, and a zero-padded width */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* boot.c: what the VMM handed over, copied before anything of it is overwritten */
#define BOOT_MAX_REGIONS 32
#define BOOT_RAM	 1

struct boot_region {
	uint64_t addr, size;
	uint32_t type; /* as in E820 */
};

struct boot_info {
	char cmdline[4096];
	uint64_t rsdp;
	uint64_t initrd_addr, initrd_size;
	uint32_t n_regions;
	struct boot_region region[BOOT_MAX_REGIONS];
};

extern struct boot_info boot;

/** boot_init - Return: NULL, or what is wrong with the hvm_start_info at @start_info */
const char *boot_init(uint64_t start_info);
/** opt_command - the first word of the command line that is not key=value */
const char *opt_command(void);
/** opt_str - the value of key=value, @otherwise if it is not there; values hold no blanks */
const char *opt_str(const char *key, const char *otherwise);
/** opt_u64 - same for a number, decimal or 0x */
uint64_t opt_u64(const char *key, uint64_t otherwise);

/* acpi.c */
struct acpi_info {
	uint32_t n_cpus;
	uint32_t cpu_apic_id[MAX_CPUS];
	uint64_t lapic_addr;
	uint64_t ioapic_addr;
	uint32_t gsi_of_irq0; /* of the PIT */
	uint8_t reset_value, sleep_slp_typ;
	uint16_t reset_port, sleep_port; /* 0: FADT has none */
	uint32_t n_tables;
	char table[16][5];
};

extern struct acpi_info acpi;

/** acpi_init - read and check RSDP, XSDT, FADT, DSDT and MADT. Return: NULL or what is wrong */
const char *acpi_init(void);

/* trap.c */
struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

typedef void (*trap_fn)(struct trap_frame *f);

#define VECTOR_SPURIOUS 0xff

void trap_init(void);
/** trap_load - IDT and TSS of this processor; @index is 0 for the first one */
void trap_load(uint32_t index);
/** trap_set - @fn gets all traps of @vector from now on; NULL: back to the default */
void trap_set(uint8_t vector, trap_fn fn);
/** trap_break_idt - from now on every exception is a triple fault */
void trap_break_idt(void);
void trap_handle(struct trap_frame *f);
/**
 * ring3_run - run @fn(@arg) in ring 3, with all ports and all memory
 * @stack_top: 16-byte aligned
 * @rflags: RFLAGS_IF to take interrupts meanwhile, or 0
 * No privileged instructions there: no end=triple, no end=hlt, no MSR.
 */
void ring3_run(void (*fn)(void *), void *arg, void *stack_top, uint64_t rflags);

/* memory.c */
/** page_alloc - @n zeroed pages below ARENA_START; never fails (ends the guest instead) */
void *page_alloc(size_t n);
/** page_map - make [@addr, @addr + @len) accessible, up to 512 GiB */
void page_map(uint64_t addr, uint64_t len);

/* apic.c */
/** apic_init - this processor's local APIC on, in x2APIC mode when CPUID has it */
void apic_init(void);
bool apic_is_x2apic(void);
uint32_t apic_id(void);
void apic_eoi(void);
/** apic_send - write the interrupt command register */
void apic_send(uint32_t dest, uint32_t command);
/** apic_timer_start - one shot; @count in timer ticks divided by 16 */
void apic_timer_start(uint8_t vector, uint32_t count);
/** ioapic_route - edge-triggered GSI to this processor */
void ioapic_route(uint32_t gsi, uint8_t vector);
void ioapic_mask(uint32_t gsi);
/** pic_mask_all - nothing from the 8259s */
void pic_mask_all(void);
/** pic_eoi - end of an interrupt of the first 8259 */
void pic_eoi(void);
/** pic_route_timer - IRQ 0 through the 8259 as an ExtINT, as @vector */
void pic_route_timer(uint8_t vector);

/* smp.c */
typedef void (*smp_fn)(uint32_t index);
/**
 * smp_start - start the first @n processors (with this one) of the MADT
 * @fn: what a started one does after it reported itself; it may return, to a HLT
 * Return: how many answered in time, this one included
 */
uint32_t smp_start(uint32_t n, smp_fn fn);
/** smp_restart - INIT and start a processor again, up to SMP_RESTARTS times in all */
#define SMP_RESTARTS 8
bool smp_restart(uint32_t id);
/** smp_bad_ids - processors whose APIC says another ID than CPUID leaf 0xb or than the MADT */
uint32_t smp_bad_ids(void);
void ap_main(uint32_t index);

/* time.c */
/** tsc_khz - from the command line, CPUID, kvmclock or the PIT, in this order */
uint64_t tsc_khz(void);
const char *tsc_source(void);
void delay_us(uint64_t us);

/*
 * How long to wait for somebody else. Only time that this processor had counts: of what passes
 * between two looks a millisecond, for it may have waited for its turn, or have been in a file.
 */
struct limit {
	uint64_t last, left;
};
struct limit limit_us(uint64_t us);
bool limit_over(struct limit *l);
/** pit_one_shot - channel 0 raises IRQ 0 in @us, at most 50000 */
void pit_one_shot(uint32_t us);

/* power.c */
/** guest_end - by the way that end= asks for */
void guest_end(void) __attribute__((noreturn));
/** guest_end_as - ditto, but by @way */
void guest_end_as(const char *way) __attribute__((noreturn));
/**
 * guest_done - the last line of command @name, then guest_end(); @reason is NULL when all is well
 */
void guest_done(const char *name, const char *reason) __attribute__((noreturn));

/* cmd_msr.c */
/** report_mitigations - reports=BITS, by the virtual MSRs. Return: NULL, or what is wrong */
const char *report_mitigations(void);

/* A command returns NULL or the reason why it failed. */
const char *cmd_hello(void);
const char *cmd_mem(void);
const char *cmd_smp(void);
const char *cmd_echo(void);
const char *cmd_echoirq(void);
const char *cmd_cpuid(void);
const char *cmd_rdmsr(void);
const char *cmd_wrmsr(void);
const char *cmd_msrs(void);
const char *cmd_insn(void);
const char *cmd_timer(void);
const char *cmd_button(void);
const char *cmd_kvmclock(void);
const char *cmd_clocks(void);
const char *cmd_virtio(void);
const char *cmd_blk(void);
const char *cmd_net(void);
const char *cmd_reboot(void);
const char *cmd_rng(void);
const char *cmd_hostile(void);
const char *cmd_load(void);
const char *cmd_xstate(void);

#endif
