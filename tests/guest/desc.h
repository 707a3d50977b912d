/*
 * Selectors and the numbers that C and assembly must agree on. The order of the GDT is what
 * SYSCALL and SYSRET expect (SDM vol.2, "SYSCALL", "SYSRET").
 */
#ifndef TESTS_GUEST_DESC_H
#define TESTS_GUEST_DESC_H

#define SEL_CODE32    0x08
#define SEL_CODE64    0x10
#define SEL_DATA      0x18
#define SEL_USER_BASE 0x20 /* SYSRET takes the two that follow */
#define SEL_USER_DATA 0x2b
#define SEL_USER_CODE 0x33
#define SEL_TSS(cpu)  (0x40 + 16 * (cpu))

#define MAX_CPUS	256
#define BOOT_STACK_SIZE 16384
#define AP_STACK_SIZE	4096

/* Real-mode start of the other processors: below 1 MiB, page aligned, free in every memory map */
#define TRAMPOLINE 0x10000

#define RFLAGS_IF   0x200
#define RFLAGS_IOPL 0x3000

#endif
