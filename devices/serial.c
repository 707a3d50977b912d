#include "devices/serial.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

/* register offsets; 0 and 1 are the divisor while LCR.DLAB is set */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RDA	 0x01 /* received data */
#define IER_THRE 0x02 /* transmitter empty */
#define IER_RLS	 0x04 /* line status */
#define IER_MASK 0x0f

#define IIR_NONE  0x01
#define IIR_THRE  0x02
#define IIR_RDA	  0x04
#define IIR_RLS	  0x06
#define IIR_FIFOS 0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     (FCR_ENABLE | 0xc0)

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* on a PC: gates the interrupt */
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR	   0x01
#define LSR_OE	   0x02
#define LSR_BI	   0x10
#define LSR_ERRORS 0x1e /* OE, PE, FE, BI */
#define LSR_THRE   0x20
#define LSR_TEMT   0x40

#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI	0x40
#define MSR_DCD 0x80

static struct serial *serial_of(struct device *dev)
{
	return container_of(dev, struct serial, dev);
}

static uint8_t serial_iir(const struct serial_regs *r)
{
	if (r->ier & IER_RLS && r->lsr_err)
		return IIR_RLS;
	if (r->ier & IER_RDA && r->rx_len)
		return IIR_RDA;
	if (r->ier & IER_THRE && r->thre_pending)
		return IIR_THRE;
	return IIR_NONE;
}

/* Recompute INTR; the line is edge-triggered, so only a rise is passed on. */
static void serial_update_irq(struct serial *s)
{
	struct serial_regs *r = &s->regs;
	uint8_t level = serial_iir(r) != IIR_NONE && r->mcr & MCR_OUT2;

	if (level && !r->irq_level)
		irq_pulse(&s->irq);
	r->irq_level = level;
}

static size_t serial_rx_size(const struct serial_regs *r)
{
	return r->fcr & FCR_ENABLE ? SERIAL_FIFO_SIZE : 1;
}

static void serial_rx_push(struct serial_regs *r, uint8_t byte)
{
	if (r->rx_len < serial_rx_size(r))
		r->rx[r->rx_len++] = byte;
	else
		r->lsr_err |= LSR_OE;
}

/* Hand waiting bytes to the back end. */
static void serial_tx_drain(struct serial *s)
{
	struct serial_regs *r = &s->regs;
	size_t n = r->tx_len && !s->paused ? s->out->ops->write(s->out, r->tx, r->tx_len) : 0;

	if (!n)
		return;
	r->tx_len -= n;
	memmove(r->tx, r->tx + n, r->tx_len);
	if (!r->tx_len)
		r->thre_pending = 1;
}

static void serial_tx(struct serial *s, uint8_t byte)
{
	struct serial_regs *r = &s->regs;

	r->thre_pending = 0;
	serial_update_irq(s);
	if (r->mcr & MCR_LOOP) {
		serial_rx_push(r, byte);
		r->thre_pending = 1;
	} else {
		/* a guest that writes without asking LSR overruns the FIFO, as on hardware */
		if (r->tx_len < SERIAL_FIFO_SIZE)
			r->tx[r->tx_len++] = byte;
		serial_tx_drain(s);
	}
	serial_update_irq(s);
}

static uint8_t serial_rx(struct serial *s)
{
	struct serial_regs *r = &s->regs;
	int was_full = r->rx_len >= serial_rx_size(r);
	uint8_t byte;

	if (!r->rx_len)
		return 0;
	byte = r->rx[0];
	memmove(r->rx, r->rx + 1, --r->rx_len);
	serial_update_irq(s);
	if (was_full)
		s->out->ops->kick(s->out);
	return byte;
}

static uint8_t serial_msr(const struct serial_regs *r)
{
	/* loopback wires RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD; no delta bits are kept */
	if (r->mcr & MCR_LOOP)
		return (r->mcr & MCR_RTS ? MSR_CTS : 0) | (r->mcr & MCR_DTR ? MSR_DSR : 0) |
		       (r->mcr & MCR_OUT1 ? MSR_RI : 0) | (r->mcr & MCR_OUT2 ? MSR_DCD : 0);
	return MSR_DCD | MSR_DSR | MSR_CTS;
}

static uint8_t serial_lsr(struct serial *s)
{
	struct serial_regs *r = &s->regs;
	uint8_t lsr = r->lsr_err;

	if (r->rx_len)
		lsr |= LSR_DR;
	if (!r->tx_len)
		lsr |= LSR_THRE | LSR_TEMT;
	r->lsr_err = 0;
	serial_update_irq(s);
	return lsr;
}

static void serial_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	struct serial *s = serial_of(dev);
	struct serial_regs *r = &s->regs;
	int dlab = r->lcr & LCR_DLAB;

	/* the chip has an 8-bit bus: a wider access reaches the first register, the rest floats */
	(void)len;
	switch (offset) {
	case REG_DATA:
		data[0] = dlab ? r->dll : serial_rx(s);
		break;
	case REG_IER:
		data[0] = dlab ? r->dlm : r->ier;
		break;
	case REG_IIR_FCR:
		data[0] = serial_iir(r);
		if (data[0] == IIR_THRE) {
			r->thre_pending = 0;
			serial_update_irq(s);
		}
		if (r->fcr & FCR_ENABLE)
			data[0] |= IIR_FIFOS;
		break;
	case REG_LCR:
		data[0] = r->lcr;
		break;
	case REG_MCR:
		data[0] = r->mcr;
		break;
	case REG_LSR:
		data[0] = serial_lsr(s);
		break;
	case REG_MSR:
		data[0] = serial_msr(r);
		break;
	case REG_SCR:
		data[0] = r->scr;
		break;
	}
}

static void serial_write_ier(struct serial *s, uint8_t value)
{
	struct serial_regs *r = &s->regs;

	/* enabling the interrupt on an empty transmitter raises it at once */
	if (value & IER_THRE && !(r->ier & IER_THRE) && !r->tx_len)
		r->thre_pending = 1;
	r->ier = value & IER_MASK;
	serial_update_irq(s);
}

static void serial_write_fcr(struct serial *s, uint8_t value)
{
	struct serial_regs *r = &s->regs;

	if ((value ^ r->fcr) & FCR_ENABLE)
		value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	if (value & FCR_CLEAR_RX)
		r->rx_len = 0;
	if (value & FCR_CLEAR_TX && r->tx_len) {
		r->tx_len = 0;
		r->thre_pending = 1;
	}
	r->fcr = value & FCR_KEPT;
	serial_update_irq(s);
	s->out->ops->kick(s->out);
}

static void serial_write(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len)
{
	struct serial *s = serial_of(dev);
	struct serial_regs *r = &s->regs;
	int dlab = r->lcr & LCR_DLAB;

	(void)len;
	switch (offset) {
	case REG_DATA:
		if (dlab)
			r->dll = data[0];
		else
			serial_tx(s, data[0]);
		break;
	case REG_IER:
		if (dlab)
			r->dlm = data[0];
		else
			serial_write_ier(s, data[0]);
		break;
	case REG_IIR_FCR:
		serial_write_fcr(s, data[0]);
		break;
	case REG_LCR:
		r->lcr = data[0];
		break;
	case REG_MCR:
		r->mcr = data[0] & MCR_MASK;
		serial_update_irq(s);
		s->out->ops->kick(s->out); /* leaving loopback opens the receiver again */
		break;
	case REG_SCR:
		r->scr = data[0];
		break;
	}
}

static size_t serial_room(struct chardev_user *u)
{
	struct serial *s = container_of(u, struct serial, user);
	size_t room;

	pthread_mutex_lock(&s->dev.lock);
	/* in loopback the receiver is cut off from the outside */
	room = serial_rx_size(&s->regs);
	if (s->paused || s->regs.mcr & MCR_LOOP || s->regs.rx_len > room)
		room = 0;
	else
		room -= s->regs.rx_len;
	pthread_mutex_unlock(&s->dev.lock);
	return room;
}

static void serial_receive(struct chardev_user *u, const uint8_t *data, size_t len)
{
	struct serial *s = container_of(u, struct serial, user);
	size_t i;

	pthread_mutex_lock(&s->dev.lock);
	for (i = 0; i < len; i++)
		serial_rx_push(&s->regs, data[i]);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->dev.lock);
}

static void serial_writable(struct chardev_user *u)
{
	struct serial *s = container_of(u, struct serial, user);

	pthread_mutex_lock(&s->dev.lock);
	serial_tx_drain(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->dev.lock);
}

static void serial_brk(struct chardev_user *u)
{
	struct serial *s = container_of(u, struct serial, user);

	pthread_mutex_lock(&s->dev.lock);
	if (!s->paused) {		     /* a guest that stands still has no use for it */
		serial_rx_push(&s->regs, 0); /* a break is a zero character with BI set */
		s->regs.lsr_err |= LSR_BI;
		serial_update_irq(s);
	}
	pthread_mutex_unlock(&s->dev.lock);
}

static int serial_check(const void *regs, struct err *e)
{
	const struct serial_regs *r = regs;

	if (r->rx_len > SERIAL_FIFO_SIZE || r->tx_len > SERIAL_FIFO_SIZE)
		return err_set(e, -EINVAL, "serial: rx_len=%u tx_len=%u; a FIFO holds %d bytes",
			       r->rx_len, r->tx_len, SERIAL_FIFO_SIZE);
	if ((r->ier & ~IER_MASK) || (r->fcr & ~FCR_KEPT) || (r->mcr & ~MCR_MASK) ||
	    (r->lsr_err & ~LSR_ERRORS) || r->thre_pending > 1 || r->irq_level > 1)
		return err_set(e, -EINVAL,
			       "serial: ier=%#x fcr=%#x mcr=%#x lsr_err=%#x thre_pending=%u "
			       "irq_level=%u; no guest can bring these about",
			       r->ier, r->fcr, r->mcr, r->lsr_err, r->thre_pending, r->irq_level);
	return 0;
}

static const struct state_field serial_fields[] = {
	STATE(struct serial_regs, ier),
	STATE(struct serial_regs, fcr),
	STATE(struct serial_regs, lcr),
	STATE(struct serial_regs, mcr),
	STATE(struct serial_regs, lsr_err),
	STATE(struct serial_regs, scr),
	STATE(struct serial_regs, dll),
	STATE(struct serial_regs, dlm),
	STATE(struct serial_regs, thre_pending),
	STATE(struct serial_regs, irq_level),
	STATE(struct serial_regs, rx_len),
	STATE(struct serial_regs, tx_len),
	STATE_ARRAY(struct serial_regs, rx),
	STATE_ARRAY(struct serial_regs, tx),
	STATE_END,
};

static const struct device_ops serial_ops = {
	.name = "serial",
	.read = serial_read,
	.write = serial_write,
	.state =
		{
			.offset = offsetof(struct serial, regs),
			.size = sizeof(struct serial_regs),
			.version = 1,
			.fields = serial_fields,
			.check = serial_check,
		},
};

void serial_init(struct serial *s, struct irq_line irq, struct chardev *out)
{
	memset(s, 0, sizeof(*s));
	device_init(&s->dev, &serial_ops);
	s->irq = irq;
	s->out = out;
	s->regs.dll = 12; /* 9600 baud, as firmware leaves it */
	s->user = (struct chardev_user) {
		.room = serial_room,
		.receive = serial_receive,
		.writable = serial_writable,
		.brk = serial_brk,
	};
	out->user = &s->user;
	out->ops->kick(out);
}

void serial_pause(struct serial *s)
{
	pthread_mutex_lock(&s->dev.lock);
	s->paused = true;
	pthread_mutex_unlock(&s->dev.lock);
}

void serial_resume(struct serial *s)
{
	pthread_mutex_lock(&s->dev.lock);
	s->paused = false;
	serial_tx_drain(s);
	serial_update_irq(s);
	s->out->ops->kick(s->out);
	pthread_mutex_unlock(&s->dev.lock);
}

void serial_load(struct serial *s, const struct serial_regs *regs)
{
	pthread_mutex_lock(&s->dev.lock);
	s->regs = *regs;
	/* an edge may have been on its way on the other host: one too many is harmless */
	if (s->regs.irq_level)
		irq_pulse(&s->irq);
	pthread_mutex_unlock(&s->dev.lock);
}

void serial_fini(struct serial *s)
{
	if (!s->out)
		return;
	if (s->out->user == &s->user) /* a machine built after this one may have it by now */
		s->out->user = NULL;
	s->out = NULL;
	device_fini(&s->dev);
}
