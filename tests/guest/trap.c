/* Exceptions and interrupts: the IDT, a TSS a processor, and who gets what. */
#include "tests/guest/guest.h"

#define GATE_INTERRUPT	    0x8e
#define GATE_INTERRUPT_USER 0xee
#define VECTOR_BREAKPOINT   3
#define VECTOR_GP	    13
#define N_EXCEPTIONS	    32

struct idt_gate {
	uint16_t offset_lo, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_hi, reserved;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1, ist[7], reserved2;
	uint16_t reserved3, iomap;
} __attribute__((packed));

struct table_pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

struct ex_entry {
	uint64_t from, to;
};

extern const uint8_t trap_stubs[];
extern uint64_t gdt[];
extern const struct ex_entry ex_table_start[], ex_table_end[];

extern const uint8_t ring3_exit[];
void ring3_call(void (*fn)(void *), void *arg, void *stack_top, uint64_t rflags);
void ring3_return(uint64_t stack) __attribute__((noreturn));

static struct idt_gate idt[256] __attribute__((aligned(16)));
static trap_fn trap_fns[256];
/*
 * The I/O permission map that follows, all zero, opens all ports for ring 3. IOPL 3 should do it
 * alone, but a KVM that runs ring 3 without VMX or SVM may lose those two bits.
 */
static struct {
	struct tss tss[MAX_CPUS];
	uint8_t iomap[0x10000 / 8];
	uint8_t iomap_end; /* looked at too, with port 0xffff */
} tss_area;
/* what a trap from ring 3 runs on; traps in ring 0 stay on the stack they came from */
static uint8_t bsp_trap_stack[8192] __attribute__((aligned(16)));

static void gate_set(unsigned int vector, uint8_t type)
{
	uint64_t stub = (uint64_t)trap_stubs + vector * 16;

	idt[vector] = (struct idt_gate) {
		.offset_lo = (uint16_t)stub,
		.selector = SEL_CODE64,
		.type = type,
		.offset_mid = (uint16_t)(stub >> 16),
		.offset_hi = (uint32_t)(stub >> 32),
	};
}

void trap_init(void)
{
	for (unsigned int i = 0; i < N_EXCEPTIONS; i++)
		gate_set(i, i == VECTOR_BREAKPOINT ? GATE_INTERRUPT_USER : GATE_INTERRUPT);
}

void trap_load(uint32_t index)
{
	const struct table_pointer p = {sizeof(idt) - 1, (uint64_t)idt};
	struct tss *tss = &tss_area.tss[index];
	uint64_t base = (uint64_t)tss, limit = (uint64_t)&tss_area.iomap_end - base;
	uint64_t *desc = gdt + SEL_TSS(index) / 8;
	void *stack = index ? (uint8_t *)page_alloc(1) + PAGE_SIZE
			    : bsp_trap_stack + sizeof(bsp_trap_stack);

	tss->rsp[0] = (uint64_t)stack;
	tss->iomap = (uint16_t)((uint64_t)tss_area.iomap - base);
	desc[0] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	desc[1] = base >> 32;
	__asm__ volatile("lidt %0" : : "m"(p) : "memory");
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS(index)) : "memory");
}

void trap_set(uint8_t vector, trap_fn fn)
{
	trap_fns[vector] = fn;
	if (vector >= N_EXCEPTIONS)
		gate_set(vector, GATE_INTERRUPT);
}

void trap_break_idt(void)
{
	const struct table_pointer p = {0, 0};

	__asm__ volatile("lidt %0" : : "m"(p) : "memory");
}

void ring3_run(void (*fn)(void *), void *arg, void *stack_top, uint64_t rflags)
{
	tsc_khz(); /* may need ring 0 the first time */
	ring3_call(fn, arg, stack_top, rflags | RFLAGS_IOPL | 2);
}

void trap_handle(struct trap_frame *f)
{
	uint64_t cr2;

	if (f->vector == VECTOR_GP && f->rip == (uint64_t)ring3_exit)
		ring3_return(f->r12);
	if (trap_fns[f->vector]) {
		trap_fns[f->vector](f);
		return;
	}
	if (f->vector == VECTOR_SPURIOUS)
		return;
	for (const struct ex_entry *x = ex_table_start; x < ex_table_end; x++) {
		if (x->from == f->rip) {
			f->rip = x->to;
			return;
		}
	}
	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	print("\ntrap vector=%lu error=0x%lx rip=0x%lx cs=0x%lx rflags=0x%lx rsp=0x%lx cr2=0x%lx\n",
	      f->vector, f->error, f->rip, f->cs, f->rflags, f->rsp, cr2);
	guest_done(opt_command(), "trap");
}
