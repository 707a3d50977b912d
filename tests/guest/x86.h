/* The instructions that C has no words for. */
#ifndef TESTS_GUEST_X86_H
#define TESTS_GUEST_X86_H

#include <stdbool.h>
#include <stdint.h>

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid_regs cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_regs r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(subleaf));
	return r;
}

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

/* A fault at label @from goes on at label @to (trap.c). */
#define EX_TABLE(from, to) ".pushsection .ex_table, \"a\"\n.quad " from ", " to "\n.popsection\n"

/** rdmsr_safe - false when RDMSR faults */
static inline bool rdmsr_safe(uint32_t index, uint64_t *value)
{
	uint32_t lo = 0, hi = 0, ok = 0;

	__asm__ volatile("1: rdmsr\n"
			 "movl $1, %2\n"
			 "2:\n" EX_TABLE("1b", "2b")
			 : "+a"(lo), "+d"(hi), "+r"(ok)
			 : "c"(index));
	*value = (uint64_t)hi << 32 | lo;
	return ok;
}

/** wrmsr_safe - false when WRMSR faults */
static inline bool wrmsr_safe(uint32_t index, uint64_t value)
{
	uint32_t ok = 0;

	__asm__ volatile("1: wrmsr\n"
			 "movl $1, %0\n"
			 "2:\n" EX_TABLE("1b", "2b")
			 : "+r"(ok)
			 : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
	return ok;
}

static inline void cpu_pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline void irq_enable(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void irq_disable(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/** cpu_wait_irq - sleep until the next interrupt; interrupts are off again afterwards */
static inline void cpu_wait_irq(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

#define barrier() __asm__ volatile("" : : : "memory")

/* Exactly one access of the type's size, as device registers need it. */
#define READ_ONCE(x)	 (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

static inline uint32_t mmio_read32(uint64_t addr)
{
	uint32_t v;

	__asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(addr) : "memory");
	return v;
}

static inline void mmio_write32(uint64_t addr, uint32_t v)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(addr) : "memory");
}

#endif
