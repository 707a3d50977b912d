/*
 * What one filtered access to an MSR costs: times a loop of reads of 0x48 and one of writes, and
 * writes both as 8 hexadecimal digits each (TSC ticks of the whole loop) to COM1. One shape of
 * code for every VMM, since ring 0 may be emulated; msr_exit.c runs it bare.
 */
#include "tests/guest/pvh_note.h"
#include "tests/guest/ports.h"

#define MSR_SPEC_CTRL 0x48
#define ROUNDS	      20000
#define STACK	      0x8000 /* conventional memory that nothing else is in any more */

PVH_NOTE(pvh_start)

	.text
	.code32
	.globl pvh_start
pvh_start:
	movl $STACK, %esp
	rdtsc
	movl %eax, %esi
	movl $ROUNDS, %edi
	movl $MSR_SPEC_CTRL, %ecx
1:	rdmsr
	decl %edi
	jnz 1b
	rdtsc
	subl %esi, %eax
	call print_hex

	rdtsc
	movl %eax, %esi
	movl $ROUNDS, %edi
	movl $MSR_SPEC_CTRL, %ecx
	xorl %edx, %edx
2:	movl %edi, %eax		/* IBRS on, off, on: what a legacy IBRS guest does */
	andl $1, %eax
	wrmsr
	decl %edi
	jnz 2b
	rdtsc
	subl %esi, %eax
	call print_hex

	movw $LAYOUT_PORT_SLEEP, %dx
	movb $SLEEP_S5, %al
	outb %al, %dx
3:	cli
	hlt
	jmp 3b

/* %eax as 8 digits and a newline */
	.macro digit
	roll $4, %ebx
	movl %ebx, %eax
	andl $15, %eax
	addl $'0', %eax
	cmpl $'9', %eax
	jbe 1f
	addl $('a' - '9' - 1), %eax
1:	outb %al, %dx
	.endm

print_hex:
	movl %eax, %ebx
	movw $LAYOUT_PORT_COM1, %dx
	.rept 8
	digit
	.endr
	movb $'\n', %al
	outb %al, %dx
	ret
