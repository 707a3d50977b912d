/*
 * How the processors get to C: the PVH entry of the first one, the real-mode trampoline of the
 * others, the stubs of all exception and interrupt vectors, and the way down to ring 3.
 */
#include "tests/guest/desc.h"
#include "tests/guest/pvh_note.h"

#define MSR_EFER	0xc0000080
#define EFER_SCE_LME	0x101
#define CR4_PAE		0x20
#define CR4_OSFXSR	0x200
#define CR0_PG_NE_MP_PE 0x80000023
#define CR0_EM_TS	0xc

PVH_NOTE(pvh_start)

/* From 32-bit protected mode without paging to 64-bit mode at \target; %edi and %ebx survive. */
.macro enter_long_mode target
	movl %cr4, %eax
	orl $(CR4_PAE | CR4_OSFXSR), %eax
	movl %eax, %cr4
	movl $page_pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_SCE_LME, %eax
	wrmsr
	movl %cr0, %eax
	andl $~CR0_EM_TS, %eax
	orl $CR0_PG_NE_MP_PE, %eax
	movl %eax, %cr0
	ljmp $SEL_CODE64, $\target
.endm

.macro load_data_segments
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
.endm

	.section .text.entry, "ax"
	.code32
	.globl pvh_start
pvh_start:
	cld
	movl %ebx, %edi			/* hvm_start_info: first argument of guest_main() */
	lgdt gdt_pointer
	enter_long_mode start64

	.code64
start64:
	load_data_segments
	movq $(boot_stack + BOOT_STACK_SIZE), %rsp
	xorl %ebp, %ebp
	call guest_main
1:	cli
	hlt
	jmp 1b

/* Copied to TRAMPOLINE; runs there in real mode with CS:IP = TRAMPOLINE >> 4 : 0. */
	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl 2f - trampoline
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $ap_start32
	.balign 4
2:	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

	.code32
ap_start32:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	enter_long_mode ap_start64

	.code64
ap_start64:
	load_data_segments
	/* the n-th to come here takes stack n; the first processor has its own */
	movl $1, %edi
	lock xaddl %edi, ap_next
	movl %edi, %eax
	incl %eax
	imulq $AP_STACK_SIZE, %rax, %rax
	addq ap_stacks, %rax
	movq %rax, %rsp
	xorl %ebp, %ebp
	call ap_main			/* with the number of this stack */
1:	cli
	hlt
	jmp 1b

/*
 * void ring3_call(void (*fn)(void *), void *arg, void *stack_top, uint64_t rflags)
 * The way back is the #GP that HLT raises in ring 3: SYSCALL and INT do not work on every host.
 * %r12 holds the ring 0 stack all the while.
 */
	.globl ring3_call, ring3_exit, ring3_return
ring3_call:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, %r12
	movq %rdi, %rbx
	movq %rsi, %rdi
	pushq $SEL_USER_DATA
	pushq %rdx
	pushq %rcx
	pushq $SEL_USER_CODE
	pushq $1f
	xorl %ebp, %ebp
	iretq
1:	call *%rbx
ring3_exit:
	hlt
/* void ring3_return(uint64_t stack): what ring3_call() returns to, with its %r12 */
ring3_return:
	movq %rdi, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

/* One stub a vector, 16 bytes each: the frame is the same with and without an error code. */
	.balign 16
	.globl trap_stubs
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
	.else
	pushq $0
	.endif
	pushq $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	call trap_handle
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

	.data
	.balign 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad 0x00af9b000000ffff	/* SEL_CODE64 */
	.quad 0x00cf93000000ffff	/* SEL_DATA */
	.quad 0x00cffb000000ffff	/* SEL_USER_BASE: 32-bit user code */
	.quad 0x00cff3000000ffff	/* SEL_USER_DATA */
	.quad 0x00affb000000ffff	/* SEL_USER_CODE */
	.quad 0
	.skip 16 * MAX_CPUS		/* a TSS each, filled in by tss_load() */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

/*
 * Identity map of the first 4 GiB in pages of 2 MiB, for ring 3 too. Made by the assembler: ring 0
 * may be slow where this runs. page_map() adds what lies above.
 */
#define PAGE_TABLE 7
#define PAGE_2M	   0xe7			/* present, writable, user, accessed, dirty, 2 MiB */
	.balign 4096
	.globl page_pml4, page_pdpt
page_pml4:
	.quad page_pdpt + PAGE_TABLE
	.skip 4096 - 8
page_pdpt:
	.quad page_dirs + PAGE_TABLE
	.quad page_dirs + 4096 + PAGE_TABLE
	.quad page_dirs + 8192 + PAGE_TABLE
	.quad page_dirs + 12288 + PAGE_TABLE
	.skip 4096 - 32
page_dirs:
	.set address, 0
	.rept 2048
	.quad address + PAGE_2M
	.set address, address + 0x200000
	.endr

	.bss
	.balign 16
boot_stack:
	.skip BOOT_STACK_SIZE
	.section .note.GNU-stack, "", @progbits
