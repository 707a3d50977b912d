/*
 * Extended state held in a processor's registers and looked at again and again: for each component
 * that XCR0 enables a pattern, loaded by XRSTOR; what XSAVE finds later has to be the same. The
 * test guest and a program in Linux guests (tests/t2/xstate.c) share it. Neither code between the
 * two instructions may use these registers: it is compiled for the general ones alone.
 */
#ifndef TESTS_GUEST_XSTATE_H
#define TESTS_GUEST_XSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XSTATE_AREA_MAX 16384
#define XSTATE_HEADER	512 /* XSTATE_BV, XCOMP_BV */
#define XSTATE_FCW	0x37f
#define XSTATE_MXCSR	0x1f80
#define XSTATE_PKRU	9
#define XSTATE_BNDCSR	4
/* Tile data need a permission that nobody asks for: no guest may be shown them. */
#define XSTATE_AMX (3ull << 17)

struct xstate {
	uint64_t xcr0;
	uint32_t n_parts;
	struct xstate_part {
		uint32_t component, offset, bytes;
	} part[80];
};

struct xstate_area {
	uint8_t byte[XSTATE_AREA_MAX];
} __attribute__((aligned(64)));

static inline void xstate_cpuid(uint32_t subleaf, uint32_t *eax, uint32_t *ebx)
{
	uint32_t ecx = subleaf, edx;

	*eax = 0xd;
	__asm__ volatile("cpuid" : "+a"(*eax), "=b"(*ebx), "+c"(ecx), "=d"(edx));
}

static inline void xstate_add(struct xstate *x, uint32_t component, uint32_t offset, uint32_t bytes)
{
	x->part[x->n_parts++] = (struct xstate_part) {component, offset, bytes};
}

/**
 * xstate_init - find out where the components of @xcr0 are
 * Return: NULL, or what is wrong with what CPUID says
 */
static inline const char *xstate_init(struct xstate *x, uint64_t xcr0)
{
	uint32_t size, offset;

	*x = (struct xstate) {.xcr0 = xcr0};
	if (x->xcr0 & XSTATE_AMX)
		return "AMX is shown";
	for (uint32_t i = 0; i < 8; i++)
		xstate_add(x, 0, 32 + 16 * i, 10); /* ST0 to ST7 */
	xstate_add(x, 1, 160, 256);		   /* XMM0 to XMM15 */
	for (uint32_t i = 2; i < 63; i++) {
		if (!(x->xcr0 & 1ull << i))
			continue;
		xstate_cpuid(i, &size, &offset);
		if (!size || offset < XSTATE_HEADER + 64 || size > XSTATE_AREA_MAX ||
		    offset > XSTATE_AREA_MAX - size)
			return "CPUID has no place for a component that XCR0 has";
		if (i == XSTATE_PKRU)
			size = 4; /* the rest is reserved */
		if (i != XSTATE_BNDCSR)
			xstate_add(x, i, offset, size);
	}
	return NULL;
}

static inline uint64_t xstate_random(uint64_t n)
{
	n = (n + 1) * 0x9e3779b97f4a7c15;
	n = (n ^ n >> 29) * 0xc2b2ae3d27d4eb4f;
	return n ^ n >> 32;
}

/** xstate_fill - @area as XRSTOR takes it, with patterns made of @seed */
static inline void xstate_fill(const struct xstate *x, struct xstate_area *area, uint64_t seed)
{
	volatile uint8_t *to = area->byte;

	for (uint32_t i = 0; i < XSTATE_AREA_MAX; i++)
		to[i] = 0;
	*(volatile uint16_t *)(void *)to = XSTATE_FCW;
	*(volatile uint32_t *)(void *)(to + 24) = XSTATE_MXCSR;
	*(volatile uint64_t *)(void *)(to + XSTATE_HEADER) = x->xcr0;
	for (uint32_t p = 0; p < x->n_parts; p++) {
		const struct xstate_part *at = &x->part[p];

		for (uint32_t i = 0; i < at->bytes; i++)
			to[at->offset + i] = (uint8_t)(xstate_random(seed + at->offset + i) >> 7);
		if (at->component == XSTATE_PKRU)
			to[at->offset] &= 0xfc; /* key 0 is that of all memory */
	}
}

static inline void xstate_load(const struct xstate *x, const struct xstate_area *area)
{
	__asm__ volatile("xrstor64 %0"
			 :
			 : "m"(*area), "a"((uint32_t)x->xcr0), "d"((uint32_t)(x->xcr0 >> 32)));
}

static inline void xstate_store(const struct xstate *x, struct xstate_area *area)
{
	__asm__ volatile("xsave64 %0"
			 : "+m"(*area)
			 : "a"((uint32_t)x->xcr0), "d"((uint32_t)(x->xcr0 >> 32)));
}

/** xstate_differs - Return: the component that is not in @seen as it is in @want, or -1 */
static inline int xstate_differs(const struct xstate *x, const struct xstate_area *want,
				 const struct xstate_area *seen)
{
	for (uint32_t p = 0; p < x->n_parts; p++) {
		const struct xstate_part *at = &x->part[p];

		for (uint32_t i = 0; i < at->bytes; i++)
			if (((const volatile uint8_t *)want->byte)[at->offset + i] !=
			    ((const volatile uint8_t *)seen->byte)[at->offset + i])
				return (int)at->component;
	}
	return -1;
}

#endif
