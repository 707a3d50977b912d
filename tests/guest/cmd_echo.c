/* echo, echoirq: COM1 input comes back, until Ctrl-D; by polling, and by interrupts. */
#include "tests/guest/guest.h"
#include "tests/guest/uart.h"

#define CTRL_D	    4
#define VECTOR_COM1 0x70
#define RING_SIZE   4096 /* a power of 2 */

const char *cmd_echo(void)
{
	print("echo ready\n");
	for (;;) {
		uint8_t lsr = in8(UART_LSR), c;

		if (!(lsr & UART_LSR_DATA))
			continue;
		c = in8(UART_DATA);
		if (lsr & UART_LSR_BREAK) {
			print("<break>");
			continue;
		}
		if (c == CTRL_D)
			break;
		serial_put((char)c);
	}
	print("\n");
	return NULL;
}

/* bytes between the receive and the transmit side; indices count up for ever */
static struct {
	uint8_t ring[RING_SIZE];
	uint32_t head, tail;
	uint32_t n_rx, n_tx;
	bool end;
} echo;

static uint32_t ring_used(void)
{
	return echo.head - echo.tail;
}

/* What does not fit stays in the UART, and beyond it with the sender. */
static void take_input(void)
{
	while (ring_used() < RING_SIZE && in8(UART_LSR) & UART_LSR_DATA) {
		uint8_t c = in8(UART_DATA);

		if (c == CTRL_D)
			echo.end = true;
		else
			echo.ring[echo.head++ % RING_SIZE] = c;
	}
}

static void give_output(void)
{
	for (uint32_t n = 0; n < UART_FIFO_SIZE && ring_used(); n++)
		out8(UART_DATA, echo.ring[echo.tail++ % RING_SIZE]);
}

/* Switching THRE on raises it at once where the transmitter is empty. */
static void set_interrupts(void)
{
	out8(UART_IER, (uint8_t)((ring_used() < RING_SIZE ? UART_IER_RDA : 0) |
				 (ring_used() ? UART_IER_THRE : 0)));
}

static void on_com1(struct trap_frame *f)
{
	uint8_t iir;

	(void)f;
	while (!((iir = in8(UART_IIR)) & UART_IIR_NONE)) {
		switch (iir & UART_IIR_ID) {
		case UART_IIR_RDA:
		case UART_IIR_TIMEOUT:
			echo.n_rx++;
			take_input();
			break;
		case UART_IIR_THRE:
			echo.n_tx++;
			give_output();
			break;
		default:
			in8(UART_LSR);
			in8(UART_MSR);
		}
		set_interrupts();
	}
	apic_eoi();
}

const char *cmd_echoirq(void)
{
	const char *wrong = acpi_init();

	if (wrong)
		return wrong;
	print("echo ready\n");
	while (!(in8(UART_LSR) & UART_LSR_THRE))
		cpu_pause();
	pic_mask_all();
	apic_init();
	trap_set(VECTOR_COM1, on_com1);
	ioapic_route(LAYOUT_GSI_COM1, VECTOR_COM1);
	out8(UART_IER, UART_IER_RDA);
	while (!echo.end || ring_used())
		cpu_wait_irq();
	ioapic_mask(LAYOUT_GSI_COM1);
	serial_init();
	print("\nechoirq rx_interrupts=%u tx_interrupts=%u\n", echo.n_rx, echo.n_tx);
	return NULL;
}
