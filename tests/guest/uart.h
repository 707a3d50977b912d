/* 16550A registers (PC16550D data sheet), as offsets from COM1's first port. */
#ifndef TESTS_GUEST_UART_H
#define TESTS_GUEST_UART_H

#include "vmm/layout.h"

#define UART_DATA LAYOUT_PORT_COM1
#define UART_IER  (LAYOUT_PORT_COM1 + 1)
#define UART_IIR  (LAYOUT_PORT_COM1 + 2) /* read */
#define UART_FCR  (LAYOUT_PORT_COM1 + 2) /* write */
#define UART_LCR  (LAYOUT_PORT_COM1 + 3)
#define UART_MCR  (LAYOUT_PORT_COM1 + 4)
#define UART_LSR  (LAYOUT_PORT_COM1 + 5)
#define UART_MSR  (LAYOUT_PORT_COM1 + 6)
#define UART_SCR  (LAYOUT_PORT_COM1 + 7)

#define UART_IER_RDA	 0x01
#define UART_IER_THRE	 0x02
#define UART_IIR_NONE	 0x01
#define UART_IIR_ID	 0x0f
#define UART_IIR_THRE	 0x02
#define UART_IIR_RDA	 0x04
#define UART_IIR_TIMEOUT 0x0c
#define UART_FCR_ENABLE	 0x01
#define UART_FCR_CLEAR	 0x06
#define UART_LCR_8N1	 0x03
#define UART_MCR_DTR_RTS 0x03
#define UART_MCR_OUT2	 0x08
#define UART_LSR_DATA	 0x01
#define UART_LSR_BREAK	 0x10
#define UART_LSR_THRE	 0x20
#define UART_FIFO_SIZE	 16

#endif
