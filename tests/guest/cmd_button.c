/*
 * button n=N (1): wait for the power button, N times, as its driver of an operating system would.
 */
#include "tests/guest/guest.h"

#define VECTOR_BUTTON 0x52

static uint32_t n_pressed;

static void on_button(struct trap_frame *f)
{
	(void)f;
	n_pressed++;
	apic_eoi();
}

const char *cmd_button(void)
{
	const uint64_t want = opt_u64("n", 1);
	const char *wrong = acpi_init();
	uint32_t seen = 0;

	if (wrong)
		return wrong;
	apic_init();
	pic_mask_all();
	trap_set(VECTOR_BUTTON, on_button);
	ioapic_route(LAYOUT_GSI_BUTTON, VECTOR_BUTTON);
	print("button ready\n");
	while (seen < want) {
		while (READ_ONCE(n_pressed) == seen)
			cpu_wait_irq();
		seen = READ_ONCE(n_pressed);
		print("button pressed=%u\n", seen);
	}
	return NULL;
}
