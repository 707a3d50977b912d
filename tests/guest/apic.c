/* Local APIC (SDM vol.3 ch.11), I/O APIC (82093AA) and the 8259 pair, as far as tests need them. */
#include "tests/guest/guest.h"

#define MSR_APIC_BASE	   0x1b
#define APIC_BASE_ENABLE   (1u << 11)
#define APIC_BASE_X2APIC   (1u << 10)
#define MSR_X2APIC	   0x800
#define CPUID_1_ECX_X2APIC (1u << 21)

#define APIC_ID		 0x20
#define APIC_EOI	 0xb0
#define APIC_SPURIOUS	 0xf0
#define APIC_ICR	 0x300
#define APIC_ICR_HIGH	 0x310
#define APIC_LVT_TIMER	 0x320
#define APIC_LVT_LINT0	 0x350
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_DIV	 0x3e0
#define APIC_SW_ENABLE	 0x100
#define APIC_DIV_16	 3
#define APIC_LVT_EXTINT	 0x700

#define IOAPIC_SELECT	   0x00
#define IOAPIC_WINDOW	   0x10
#define IOAPIC_REDIRECT(n) (0x10 + 2 * (n))
#define IOAPIC_MASKED	   0x10000

#define PIC1	      0x20
#define PIC2	      0xa0
#define PIC_ICW1      0x11
#define PIC_ICW4_8086 1
#define PIC_IRQ0_ONLY 0xfe
#define PIC_EOI	      0x20

bool apic_is_x2apic(void)
{
	return rdmsr(MSR_APIC_BASE) & APIC_BASE_X2APIC;
}

static uint32_t apic_read(uint32_t reg)
{
	if (apic_is_x2apic())
		return (uint32_t)rdmsr(MSR_X2APIC + reg / 16);
	return mmio_read32(LAYOUT_LAPIC + reg);
}

static void apic_write(uint32_t reg, uint32_t value)
{
	if (apic_is_x2apic())
		wrmsr(MSR_X2APIC + reg / 16, value);
	else
		mmio_write32(LAYOUT_LAPIC + reg, value);
}

void apic_init(void)
{
	uint64_t base = rdmsr(MSR_APIC_BASE) | APIC_BASE_ENABLE;

	wrmsr(MSR_APIC_BASE, base);
	if ((cpuid(1, 0).ecx & CPUID_1_ECX_X2APIC) && opt_u64("x2apic", 1))
		wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2APIC);
	apic_write(APIC_SPURIOUS, APIC_SW_ENABLE | VECTOR_SPURIOUS);
}

uint32_t apic_id(void)
{
	uint32_t id = apic_read(APIC_ID);

	return apic_is_x2apic() ? id : id >> 24;
}

void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

void apic_send(uint32_t dest, uint32_t command)
{
	if (apic_is_x2apic()) {
		wrmsr(MSR_X2APIC + APIC_ICR / 16, (uint64_t)dest << 32 | command);
		return;
	}
	apic_write(APIC_ICR_HIGH, dest << 24);
	apic_write(APIC_ICR, command);
}

void apic_timer_start(uint8_t vector, uint32_t count)
{
	apic_write(APIC_TIMER_DIV, APIC_DIV_16);
	apic_write(APIC_LVT_TIMER, vector);
	apic_write(APIC_TIMER_COUNT, count);
}

static void ioapic_write(uint32_t reg, uint32_t value)
{
	mmio_write32(acpi.ioapic_addr + IOAPIC_SELECT, reg);
	mmio_write32(acpi.ioapic_addr + IOAPIC_WINDOW, value);
}

void ioapic_route(uint32_t gsi, uint8_t vector)
{
	ioapic_write(IOAPIC_REDIRECT(gsi) + 1, apic_id() << 24);
	ioapic_write(IOAPIC_REDIRECT(gsi), vector);
}

void ioapic_mask(uint32_t gsi)
{
	ioapic_write(IOAPIC_REDIRECT(gsi), IOAPIC_MASKED);
}

void pic_mask_all(void)
{
	out8(PIC1 + 1, 0xff);
	out8(PIC2 + 1, 0xff);
}

void pic_route_timer(uint8_t vector)
{
	out8(PIC1, PIC_ICW1);
	out8(PIC1 + 1, vector & 0xf8);
	out8(PIC1 + 1, 1 << 2); /* the second one hangs on IRQ 2 */
	out8(PIC1 + 1, PIC_ICW4_8086);
	out8(PIC1 + 1, PIC_IRQ0_ONLY);
	apic_write(APIC_LVT_LINT0, APIC_LVT_EXTINT);
}

void pic_eoi(void)
{
	out8(PIC1, PIC_EOI);
}
