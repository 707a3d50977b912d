/*
 * The ports by which a guest ends itself: the ACPI reset register, the sleep control and status
 * registers of HW-reduced ACPI (ACPI 6.4, 4.8.3.6 and 4.8.3.7), and of a PC's keyboard controller
 * the one command that old kernels and `reboot=k` still use, "pulse the reset line". And the power
 * button, by which the host asks a guest to end itself: an interrupt of its own, for which the DSDT
 * has a Generic Event Device (ACPI 6.4, 5.6.9). One event a line: no register, nothing to save.
 */
#ifndef DEVICES_POWER_H
#define DEVICES_POWER_H

#include "devices/device.h"
#include "devices/irq.h"
#include "devices/vm_event.h"

/* offsets within the ACPI device's three ports */
#define POWER_RESET	   0
#define POWER_SLEEP	   1
#define POWER_SLEEP_STATUS 2

#define POWER_RESET_VALUE 1 /* FADT RESET_VALUE */
#define POWER_S5_SLP_TYP  5 /* \_S5 in the DSDT */

struct power {
	struct device acpi; /* ports reset, sleep control, sleep status */
	struct device kbd;  /* port 64H */
	struct irq_line button;
	struct vm_event_sink *sink;
};

/** power_init - both devices; @sink gets VM_EVENT_POWEROFF and VM_EVENT_RESET, @button is pulsed */
void power_init(struct power *p, struct vm_event_sink *sink, struct irq_line button);
/** power_press_button - from any thread; what the guest makes of it is its own affair */
void power_press_button(const struct power *p);
/** power_fini - accepts a zeroed object */
void power_fini(struct power *p);

#endif
