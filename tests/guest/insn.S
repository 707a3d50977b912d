/*
 * SYSCALL and SYSRET: ring 0 goes down by IRETQ, ring 3 comes up by SYSCALL, is sent back by SYSRET,
 * and comes up again to end the trip.
 */
#include "tests/guest/desc.h"

	.text
	.code64
/* bool insn_syscall_round_trip(void *user_stack) */
	.globl insn_syscall_round_trip
insn_syscall_round_trip:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, saved_rsp
	pushq $SEL_USER_DATA
	pushq %rdi
	pushq $(RFLAGS_IOPL | 2)
	pushq $SEL_USER_CODE
	pushq $user_side
	iretq

user_side:
	xorl %eax, %eax
	syscall
	movl $1, %eax			/* SYSRET came here */
	syscall
	ud2

	.globl insn_syscall_entry
insn_syscall_entry:
	testl %eax, %eax
	jnz 1f
	sysretq
1:	movq saved_rsp, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	movl $1, %eax
	ret

	.bss
saved_rsp:
	.skip 8
	.section .note.GNU-stack, "", @progbits
