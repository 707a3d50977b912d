/* Output on COM1 by polling, and the small printf on top of it. */
#include <stdarg.h>

#include "tests/guest/guest.h"
#include "tests/guest/uart.h"

/* bytes that the transmit FIFO takes without another look at the line status */
static unsigned int serial_room;

void serial_init(void)
{
	out8(UART_IER, 0);
	out8(UART_LCR, UART_LCR_8N1);
	out8(UART_FCR, UART_FCR_ENABLE | UART_FCR_CLEAR);
	out8(UART_MCR, UART_MCR_DTR_RTS | UART_MCR_OUT2);
}

void serial_put(char c)
{
	if (serial_room == 0) {
		while (!(in8(UART_LSR) & UART_LSR_THRE))
			cpu_pause();
		serial_room = UART_FIFO_SIZE;
	}
	serial_room--;
	out8(UART_DATA, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned int base, unsigned int width)
{
	char text[24];
	unsigned int n = 0;

	do {
		text[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n < width && n < sizeof(text))
		text[n++] = '0';
	while (n)
		serial_put(text[--n]);
}

static void put_signed(int64_t v)
{
	if (v < 0)
		serial_put('-');
	put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, 0);
}

static void put_str(const char *s)
{
	while (*s != '\0')
		serial_put(*s++);
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt != '\0'; fmt++) {
		unsigned int width = 0;
		bool is_long = false;

		if (*fmt != '%') {
			serial_put(*fmt);
			continue;
		}
		for (fmt++; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned int)(*fmt - '0');
		for (; *fmt == 'l'; fmt++)
			is_long = true;
		switch (*fmt) {
		case 's':
			put_str(va_arg(ap, const char *));
			break;
		case 'c':
			serial_put((char)va_arg(ap, int));
			break;
		case 'd':
			put_signed(is_long ? va_arg(ap, int64_t) : va_arg(ap, int));
			break;
		case 'u':
			put_number(is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned int), 10,
				   width);
			break;
		case 'x':
			put_number(is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned int), 16,
				   width);
			break;
		default:
			serial_put(*fmt);
		}
	}
	va_end(ap);
}
