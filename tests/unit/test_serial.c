/* The UART against a back end made of two arrays, seen through the bus as a guest sees it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "devices/bus.h"
#include "devices/serial.h"

#define DATA 0
#define IER  1
#define IIR  2
#define FCR  2
#define LCR  3
#define MCR  4
#define LSR  5
#define MSR  6
#define SCR  7

#define OUT2 0x08
#define LOOP 0x10

struct fixture {
	struct chardev out;
	struct bus bus;
	struct serial s;
	struct irq_line irq;
	uint8_t sent[64];
	size_t n_sent, accept; /* bytes the outside takes */
	unsigned int kicks;
};

static size_t fake_write(struct chardev *c, const uint8_t *data, size_t len)
{
	struct fixture *f = container_of(c, struct fixture, out);
	size_t n = len < f->accept ? len : f->accept;

	memcpy(f->sent + f->n_sent, data, n);
	f->n_sent += n;
	f->accept -= n;
	return n;
}

static void fake_kick(struct chardev *c)
{
	container_of(c, struct fixture, out)->kicks++;
}

static const struct chardev_ops fake_ops = {.write = fake_write, .kick = fake_kick};

static void start(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->out.ops = &fake_ops;
	f->accept = sizeof(f->sent);
	f->bus.name = "port";
	f->irq.fd = eventfd(0, EFD_NONBLOCK);
	serial_init(&f->s, f->irq, &f->out);
	assert_int_equal(bus_add(&f->bus, 0x3f8, 8, 0, &f->s.dev, NULL), 0);
}

static void end(struct fixture *f)
{
	serial_fini(&f->s);
	close(f->irq.fd);
}

static uint8_t in(struct fixture *f, unsigned int reg)
{
	uint8_t v;

	bus_read(&f->bus, 0x3f8 + reg, &v, 1);
	return v;
}

static void out(struct fixture *f, unsigned int reg, uint8_t v)
{
	bus_write(&f->bus, 0x3f8 + reg, &v, 1);
}

static uint64_t edges(struct fixture *f)
{
	uint64_t n = 0;

	return read(f->irq.fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void test_probe(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	/* what Linux's 8250 driver looks at before it believes in a 16550A */
	assert_int_equal(in(&f, LSR), 0x60);
	out(&f, IER, 0xff);
	assert_int_equal(in(&f, IER), 0x0f);
	out(&f, IER, 0);
	out(&f, MCR, LOOP | 0x0a);
	assert_int_equal(in(&f, MSR) & 0xf0, 0x90);
	out(&f, MCR, 0);
	assert_int_equal(in(&f, IIR), 0x01);
	out(&f, FCR, 0x01);
	assert_int_equal(in(&f, IIR), 0xc1);
	out(&f, SCR, 0x5a);
	assert_int_equal(in(&f, SCR), 0x5a);
	out(&f, LCR, 0x80);
	out(&f, DATA, 0x34);
	out(&f, IER, 0x12);
	assert_int_equal(in(&f, DATA), 0x34);
	assert_int_equal(in(&f, IER), 0x12);
	out(&f, LCR, 0x03);
	assert_int_equal(in(&f, IER), 0);
	assert_int_equal(f.n_sent, 0);
	end(&f);
}

static void test_transmit(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	out(&f, DATA, 'a');
	assert_int_equal(f.n_sent, 1);
	assert_int_equal(f.sent[0], 'a');
	assert_int_equal(edges(&f), 0); /* not enabled */

	out(&f, MCR, OUT2);
	out(&f, IER, 0x02);
	assert_int_equal(edges(&f), 1);
	assert_int_equal(in(&f, IIR), 0x02);
	assert_int_equal(in(&f, IIR), 0x01); /* reading it took it back */
	out(&f, DATA, 'b');
	assert_int_equal(edges(&f), 1);
	end(&f);
}

static void test_transmit_without_out2(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	out(&f, IER, 0x02);
	assert_int_equal(in(&f, IIR), 0x02);
	assert_int_equal(edges(&f), 0);
	end(&f);
}

static void test_transmit_stalled(void **state)
{
	struct fixture f;
	unsigned int i;

	(void)state;
	start(&f);
	f.accept = 0;
	out(&f, MCR, OUT2);
	out(&f, IER, 0x02);
	edges(&f);
	in(&f, IIR);
	out(&f, FCR, 0x01);
	for (i = 0; i < 20; i++) /* four more than fit */
		out(&f, DATA, (uint8_t)i);
	assert_int_equal(in(&f, LSR) & 0x60, 0);
	assert_int_equal(edges(&f), 0);
	f.accept = 10;
	f.s.user.writable(&f.s.user);
	assert_int_equal(f.n_sent, 10);
	assert_int_equal(in(&f, LSR) & 0x60, 0);
	f.accept = 10;
	f.s.user.writable(&f.s.user);
	assert_int_equal(f.n_sent, 16);
	assert_int_equal(in(&f, LSR) & 0x60, 0x60);
	assert_int_equal(edges(&f), 1);
	for (i = 0; i < 16; i++)
		assert_int_equal(f.sent[i], i);
	end(&f);
}

static void test_receive(void **state)
{
	static const uint8_t text[] = "0123456789abcdef";
	struct fixture f;
	unsigned int i, kicks;

	(void)state;
	start(&f);
	assert_int_equal(f.s.user.room(&f.s.user), 1);
	out(&f, FCR, 0x01);
	out(&f, MCR, OUT2);
	out(&f, IER, 0x01);
	assert_int_equal(f.s.user.room(&f.s.user), 16);
	f.s.user.receive(&f.s.user, text, 16);
	assert_int_equal(f.s.user.room(&f.s.user), 0);
	assert_int_equal(edges(&f), 1);
	kicks = f.kicks;
	for (i = 0; i < 16; i++) {
		assert_int_equal(in(&f, IIR), 0xc4);
		assert_int_equal(in(&f, LSR) & 1, 1);
		assert_int_equal(in(&f, DATA), text[i]);
	}
	assert_int_equal(f.kicks, kicks + 1); /* once, when room came */
	assert_int_equal(in(&f, LSR) & 1, 0);
	assert_int_equal(in(&f, IIR), 0xc1);
	assert_int_equal(edges(&f), 0);
	end(&f);
}

static void test_overrun_and_break(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	out(&f, MCR, OUT2);
	out(&f, IER, 0x04);
	f.s.user.receive(&f.s.user, (const uint8_t *)"xy", 2);
	assert_int_equal(edges(&f), 1);
	assert_int_equal(in(&f, IIR), 0x06);
	assert_int_equal(in(&f, LSR) & 0x1f, 0x03);
	assert_int_equal(in(&f, LSR) & 0x1f, 0x01); /* the error is gone once read */
	assert_int_equal(in(&f, DATA), 'x');
	f.s.user.brk(&f.s.user);
	assert_int_equal(edges(&f), 1);
	assert_int_equal(in(&f, LSR) & 0x1f, 0x11);
	assert_int_equal(in(&f, DATA), 0);
	end(&f);
}

static void test_loopback(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	out(&f, MCR, LOOP);
	out(&f, DATA, 'q');
	assert_int_equal(f.n_sent, 0);
	assert_int_equal(f.s.user.room(&f.s.user), 0);
	assert_int_equal(in(&f, DATA), 'q');
	end(&f);
}

/* every register at every width and offset: answered, and the device still works */
static void test_odd_accesses(void **state)
{
	static const unsigned int widths[] = {1, 2, 4, 8};
	struct fixture f;
	uint8_t buf[8];
	size_t w;
	uint64_t addr;

	(void)state;
	start(&f);
	f.accept = 0;
	for (addr = 0x3f0; addr < 0x408; addr++) {
		for (w = 0; w < ARRAY_SIZE(widths); w++) {
			memset(buf, 0xa5, sizeof(buf));
			bus_write(&f.bus, addr, buf, widths[w]);
			bus_read(&f.bus, addr, buf, widths[w]);
			if (addr < 0x3f8 || addr + widths[w] > 0x400)
				assert_int_equal(buf[0], 0xff);
		}
	}
	assert_true(f.s.regs.rx_len <= SERIAL_FIFO_SIZE);
	assert_true(f.s.regs.tx_len <= SERIAL_FIFO_SIZE);
	end(&f);
}

static void test_state_table(void **state)
{
	struct serial_regs bad = {.rx_len = SERIAL_FIFO_SIZE + 1};
	struct fixture f;
	struct err e = {0};

	(void)state;
	start(&f);
	if (state_check_desc(&f.s.dev.ops->state, &e) != 0)
		fail_msg("%s", e.text);
	assert_int_equal(f.s.dev.ops->state.check(&f.s.regs, NULL), 0);
	assert_int_equal(f.s.dev.ops->state.check(&bad, NULL), -22);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_transmit),
		cmocka_unit_test(test_transmit_without_out2),
		cmocka_unit_test(test_transmit_stalled),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_overrun_and_break),
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_odd_accesses),
		cmocka_unit_test(test_state_table),
	};

	return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
