/*
 * The smallest guest: its first two instructions put one byte on COM1, so the time until that byte
 * is the time that the VMM takes to start a guest. Then it switches itself off.
 */
#include "tests/guest/pvh_note.h"
#include "tests/guest/ports.h"

PVH_NOTE(pvh_start)

	.text
	.code32
	.globl pvh_start
pvh_start:
	movw $LAYOUT_PORT_COM1, %dx
	movb $'T', %al
	outb %al, %dx
	movw $LAYOUT_PORT_SLEEP, %dx
	movb $SLEEP_S5, %al
	outb %al, %dx
	/* QEMU has no such port; this ends it when it was given an isa-debug-exit device */
	movw $QEMU_PORT_EXIT, %dx
	xorl %eax, %eax
	outb %al, %dx
1:	cli
	hlt
	jmp 1b
