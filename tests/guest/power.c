/* All the ways in which a guest can end, chosen by end= (default: power-off). */
#include "tests/guest/guest.h"

#define END_LIMIT_US 3000000

static void end_poweroff(void)
{
	if (str_equal(opt_str("exit", "testudo"), "qemu"))
		out8(QEMU_PORT_EXIT, 0);
	out8(LAYOUT_PORT_SLEEP, SLEEP_S5);
}

static void end_reset(void)
{
	out8(LAYOUT_PORT_RESET, RESET_VALUE);
}

static void end_kbd(void)
{
	out8(LAYOUT_PORT_KBD, KBD_RESET_COMMAND);
}

static void end_panic(void)
{
	out8(LAYOUT_PORT_PVPANIC, PVPANIC_PANICKED);
}

static void end_triple(void)
{
	trap_break_idt();
	__asm__ volatile("ud2");
}

static void end_hlt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void end_loop(void)
{
	for (;;)
		cpu_pause();
}

static const struct {
	const char *name;
	void (*fn)(void);
} end_ways[] = {
	{"poweroff", end_poweroff}, {"reset", end_reset}, {"kbd", end_kbd},   {"panic", end_panic},
	{"triple", end_triple},	    {"hlt", end_hlt},	  {"loop", end_loop},
};

void guest_end_as(const char *way)
{
	for (size_t i = 0; i < ARRAY_SIZE(end_ways); i++) {
		if (str_equal(way, end_ways[i].name))
			end_ways[i].fn();
	}
	/*
	 * the VMM may take a moment; after it: an unknown way, or one that this VMM does not have
	 */
	delay_us(END_LIMIT_US);
	print("still running after end=%s\n", way);
	for (;;)
		cpu_pause();
}

void guest_end(void)
{
	guest_end_as(opt_str("end", "poweroff"));
}

void guest_done(const char *name, const char *reason)
{
	if (reason)
		print("fail %s %s\n", name, reason);
	else
		print("done %s\n", name);
	guest_end();
}
