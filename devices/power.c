#include "devices/power.h"

#include <string.h>

#include "base/bytes.h"

#define SLP_EN	      0x20
#define SLP_TYP(v)    ((v) >> 2 & 7)
#define KBD_CMD_RESET 0xfe

static void power_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	(void)dev;
	(void)len;
	/* WAK_STS never sets: the machine does not sleep and wake */
	if (offset == POWER_SLEEP_STATUS || offset == POWER_SLEEP)
		data[0] = 0;
}

static void power_write(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len)
{
	struct power *p = container_of(dev, struct power, acpi);

	(void)len;
	if (offset == POWER_RESET && data[0] == POWER_RESET_VALUE)
		p->sink->raise(p->sink, VM_EVENT_RESET);
	if (offset == POWER_SLEEP && data[0] & SLP_EN && SLP_TYP(data[0]) == POWER_S5_SLP_TYP)
		p->sink->raise(p->sink, VM_EVENT_POWEROFF);
}

static void kbd_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	(void)dev;
	(void)offset;
	(void)len;
	data[0] = 0; /* input buffer empty: ready for a command */
}

static void kbd_write(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len)
{
	struct power *p = container_of(dev, struct power, kbd);

	(void)offset;
	(void)len;
	if (data[0] == KBD_CMD_RESET)
		p->sink->raise(p->sink, VM_EVENT_RESET);
}

static const struct device_ops power_ops = {
	.name = "acpi-power",
	.read = power_read,
	.write = power_write,
};

static const struct device_ops kbd_ops = {
	.name = "kbd-reset",
	.read = kbd_read,
	.write = kbd_write,
};

void power_init(struct power *p, struct vm_event_sink *sink, struct irq_line button)
{
	memset(p, 0, sizeof(*p));
	p->button = button;
	p->sink = sink;
	device_init(&p->acpi, &power_ops);
	device_init(&p->kbd, &kbd_ops);
}

void power_press_button(const struct power *p)
{
	irq_pulse(&p->button);
}

void power_fini(struct power *p)
{
	device_fini(&p->acpi);
	device_fini(&p->kbd);
}
