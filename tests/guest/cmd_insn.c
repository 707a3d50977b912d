/*
 * insn: instructions that every ordinary kernel needs in ring 0, one by one. A KVM that emulates
 * ring 0 does not know them all: there the guest dies after a line that names the instruction but
 * does not say "ok", and so shows that no ordinary kernel can run on this host.
 * only=NAME tries a single one.
 */
#include "tests/guest/guest.h"

#define MSR_STAR	  0xc0000081
#define MSR_LSTAR	  0xc0000082
#define MSR_FMASK	  0xc0000084
#define MSR_KERNEL_GSBASE 0xc0000102
#define MSR_GSBASE	  0xc0000101
#define MSR_PAT		  0x277

#define CR4_OSXSAVE	    (1u << 18)
#define CPUID_1_ECX_CX16    (1u << 13)
#define CPUID_1_ECX_XSAVE   (1u << 26)
#define CPUID_1_EDX_CLFLUSH (1u << 19)
#define XFEATURES	    3 /* x87 and SSE: every processor with XSAVE has them */
#define VECTOR_SOFTWARE	    0x40

extern uint8_t insn_syscall_entry[];
bool insn_syscall_round_trip(void *user_stack);

static uint32_t traps;

static void count_trap(struct trap_frame *f)
{
	(void)f;
	traps++;
}

static bool try_lock(void)
{
	uint64_t v = 1, old = 2;

	__asm__ volatile("lock xaddq %0, %1" : "+r"(old), "+m"(v));
	return v == 3 && old == 1;
}

static bool try_pushf_popf(void)
{
	uint64_t flags;

	__asm__ volatile("pushfq; popq %0; pushq %0; popfq" : "=&r"(flags) : : "memory", "cc");
	return flags & 2;
}

static bool try_sti_cli(void)
{
	__asm__ volatile("sti; nop; cli");
	return true;
}

static bool try_invlpg(void)
{
	__asm__ volatile("invlpg (%0)" : : "r"(ARENA_START) : "memory");
	return true;
}

static bool try_mov_cr3(void)
{
	uint64_t v;

	__asm__ volatile("movq %%cr3, %0; movq %0, %%cr3" : "=r"(v) : : "memory");
	return v;
}

static bool try_mov_dr7(void)
{
	uint64_t v;

	__asm__ volatile("movq %%dr7, %0; movq %0, %%dr7" : "=r"(v));
	return true;
}

static bool try_str(void)
{
	uint16_t sel;

	__asm__ volatile("str %0" : "=r"(sel));
	return sel == SEL_TSS(0);
}

static bool try_ltr(void)
{
	extern uint64_t gdt[];

	gdt[SEL_TSS(0) / 8] &= ~(2ull << 40); /* busy, since trap_load() */
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS(0)) : "memory");
	return true;
}

static bool try_msr(void)
{
	uint64_t pat = rdmsr(MSR_PAT);

	wrmsr(MSR_PAT, pat);
	return rdmsr(MSR_PAT) == pat;
}

static bool try_swapgs(void)
{
	uint64_t gs = rdmsr(MSR_GSBASE);
	bool ok;

	wrmsr(MSR_KERNEL_GSBASE, 0x1234000);
	__asm__ volatile("swapgs");
	ok = rdmsr(MSR_GSBASE) == 0x1234000;
	__asm__ volatile("swapgs");
	return ok && rdmsr(MSR_GSBASE) == gs;
}

static bool try_verw(void)
{
	uint16_t sel = SEL_DATA;
	bool zf;

	__asm__ volatile("verw %1" : "=@ccz"(zf) : "m"(sel));
	return zf;
}

static bool try_mfence(void)
{
	__asm__ volatile("mfence; lfence; sfence" : : : "memory");
	return true;
}

static bool try_clflush(void)
{
	__asm__ volatile("clflush (%0)" : : "r"(ARENA_START) : "memory");
	return true;
}

static bool try_wbinvd(void)
{
	__asm__ volatile("wbinvd" : : : "memory");
	return true;
}

static bool try_fxsave(void)
{
	static uint8_t area[512] __attribute__((aligned(16)));

	__asm__ volatile("fninit; fxsave %0" : "=m"(area));
	return true;
}

static bool try_fxrstor(void)
{
	static uint8_t area[512] __attribute__((aligned(16)));

	__asm__ volatile("fxsave %0; fxrstor %0" : "+m"(area));
	return true;
}

static bool try_iretq(void)
{
	uint64_t rsp;

	__asm__ volatile("movq %%rsp, %0\n"
			 "pushq %1; pushq %0; pushfq; pushq %2; leaq 1f(%%rip), %%rax\n"
			 "pushq %%rax; iretq\n"
			 "1:"
			 : "=&r"(rsp)
			 : "i"(SEL_DATA), "i"(SEL_CODE64)
			 : "rax", "memory", "cc");
	return true;
}

static bool try_ud2(void)
{
	uint32_t ok = 0;

	__asm__ volatile("1: ud2\n"
			 "movl $1, %0\n"
			 "2:\n" EX_TABLE("1b", "2b")
			 : "+r"(ok));
	return !ok;
}

static bool try_int3(void)
{
	uint32_t before = traps;

	trap_set(3, count_trap);
	__asm__ volatile("int3");
	trap_set(3, NULL);
	return traps == before + 1;
}

static bool try_int(void)
{
	uint32_t before = traps;

	trap_set(VECTOR_SOFTWARE, count_trap);
	__asm__ volatile("int %0" : : "i"(VECTOR_SOFTWARE));
	return traps == before + 1;
}

static bool try_cmpxchg16b(void)
{
	static uint64_t pair[2] __attribute__((aligned(16))) = {1, 2};
	uint64_t lo = 1, hi = 2;
	bool zf;

	__asm__ volatile("lock cmpxchg16b %1"
			 : "=@ccz"(zf), "+m"(pair), "+a"(lo), "+d"(hi)
			 : "b"(3ul), "c"(4ul));
	return zf && pair[0] == 3 && pair[1] == 4;
}

static void xsave_on(void)
{
	uint64_t cr4;

	__asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("movq %0, %%cr4" : : "r"(cr4 | CR4_OSXSAVE));
}

static bool try_xsetbv(void)
{
	xsave_on();
	__asm__ volatile("xsetbv" : : "c"(0), "a"(XFEATURES), "d"(0));
	return true;
}

static bool try_xgetbv(void)
{
	uint32_t lo, hi;

	xsave_on();
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo & 1;
}

static uint8_t xsave_area[PAGE_SIZE] __attribute__((aligned(64)));

static bool try_xsave(void)
{
	xsave_on();
	__asm__ volatile("xsave %0" : "+m"(xsave_area) : "a"(XFEATURES), "d"(0));
	return true;
}

static bool try_xrstor(void)
{
	xsave_on();
	__asm__ volatile("xrstor %0" : : "m"(xsave_area), "a"(XFEATURES), "d"(0));
	return true;
}

static bool try_syscall(void)
{
	wrmsr(MSR_STAR, (uint64_t)(SEL_USER_BASE | 3) << 48 | (uint64_t)SEL_CODE64 << 32);
	wrmsr(MSR_LSTAR, (uint64_t)insn_syscall_entry);
	wrmsr(MSR_FMASK, RFLAGS_IF);
	return insn_syscall_round_trip((uint8_t *)page_alloc(1) + PAGE_SIZE);
}

/* the bit in CPUID leaf 1 that says whether the processor has it; 0: every one has */
static const struct {
	const char *name;
	bool (*try)(void);
	uint32_t ecx, edx;
} insns[] = {
	{"lock-xadd", try_lock, 0, 0},
	{"pushf-popf", try_pushf_popf, 0, 0},
	{"sti-cli", try_sti_cli, 0, 0},
	{"invlpg", try_invlpg, 0, 0},
	{"mov-cr3", try_mov_cr3, 0, 0},
	{"mov-dr7", try_mov_dr7, 0, 0},
	{"str", try_str, 0, 0},
	{"ltr", try_ltr, 0, 0},
	{"rdmsr-wrmsr", try_msr, 0, 0},
	{"swapgs", try_swapgs, 0, 0},
	{"verw", try_verw, 0, 0},
	{"wbinvd", try_wbinvd, 0, 0},
	{"mfence", try_mfence, 0, 0},
	{"clflush", try_clflush, 0, CPUID_1_EDX_CLFLUSH},
	{"fxsave", try_fxsave, 0, 0},
	{"fxrstor", try_fxrstor, 0, 0},
	{"iretq", try_iretq, 0, 0},
	{"ud2", try_ud2, 0, 0},
	{"xsetbv", try_xsetbv, CPUID_1_ECX_XSAVE, 0},
	{"xgetbv", try_xgetbv, CPUID_1_ECX_XSAVE, 0},
	{"xsave", try_xsave, CPUID_1_ECX_XSAVE, 0},
	{"xrstor", try_xrstor, CPUID_1_ECX_XSAVE, 0},
	{"cmpxchg16b", try_cmpxchg16b, CPUID_1_ECX_CX16, 0},
	{"int3", try_int3, 0, 0},
	{"int", try_int, 0, 0},
	{"syscall-sysret", try_syscall, 0, 0},
};

const char *cmd_insn(void)
{
	const struct cpuid_regs have = cpuid(1, 0);
	const char *only = opt_str("only", "");
	const char *wrong = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(insns); i++) {
		if (*only && !str_equal(only, insns[i].name))
			continue;
		print("insn %s", insns[i].name);
		if ((have.ecx & insns[i].ecx) != insns[i].ecx ||
		    (have.edx & insns[i].edx) != insns[i].edx) {
			print(" absent\n");
		} else if (insns[i].try()) {
			print(" ok\n");
		} else {
			print(" wrong\n");
			wrong = "an instruction has a wrong result";
		}
	}
	return wrong;
}
