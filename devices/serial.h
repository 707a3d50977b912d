/*
 * 16550A UART, as on a PC's COM1 (National Semiconductor PC16550D data sheet). The baud rate is
 * ignored; the transmitter is as fast as the back end, and LSR says so truthfully.
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include <stdbool.h>

#include "devices/chardev.h"
#include "devices/device.h"
#include "devices/irq.h"

#define SERIAL_FIFO_SIZE 16

/* Guest-visible state; all of it migrates. */
struct serial_regs {
	uint8_t ier, fcr, lcr, mcr;
	uint8_t lsr_err; /* OE, PE, FE, BI: latched until LSR is read */
	uint8_t scr, dll, dlm;
	uint8_t thre_pending; /* the "transmitter empty" interrupt is waiting */
	uint8_t irq_level;    /* what the INTR pin shows */
	uint8_t rx_len, tx_len;
	uint8_t rx[SERIAL_FIFO_SIZE], tx[SERIAL_FIFO_SIZE];
};

struct serial {
	struct device dev;
	struct serial_regs regs;
	struct irq_line irq;
	struct chardev *out;
	struct chardev_user user;
	bool paused; /* the back end waits in both directions */
};

/**
 * serial_init - a UART after power-on, on top of a back end
 * @irq: edge-triggered ISA line
 * @out: where its bytes go and come from; borrowed, must outlive the device until serial_fini()
 */
void serial_init(struct serial *s, struct irq_line irq, struct chardev *out);
/**
 * serial_pause - leave the registers as they are: nothing is taken from the back end or given to it
 * What the other side sends waits there. When no vCPU runs.
 */
void serial_pause(struct serial *s);
/** serial_resume - go on; what waited moves now. Also after the registers were loaded. */
void serial_resume(struct serial *s);
/** serial_load - take over registers that the state table's check has passed; while paused */
void serial_load(struct serial *s, const struct serial_regs *regs);
/** serial_fini - detach from the back end; accepts a zeroed object */
void serial_fini(struct serial *s);

#endif
