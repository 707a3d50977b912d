/*
 * An edge-triggered interrupt line. Behind it is an eventfd that the VMM bound to a GSI with
 * KVM_IRQFD; a test reads the eventfd and counts edges.
 */
#ifndef DEVICES_IRQ_H
#define DEVICES_IRQ_H

#include <stdint.h>
#include <unistd.h>

struct irq_line {
	int fd; /* eventfd; -1: not connected, edges are lost */
};

/** irq_pulse - one rising and falling edge */
static inline void irq_pulse(const struct irq_line *irq)
{
	const uint64_t one = 1;

	/* an eventfd refuses only when its counter is full: edges are pending then anyway */
	if (irq->fd >= 0 && write(irq->fd, &one, sizeof(one)) < 0)
		return;
}

#endif
