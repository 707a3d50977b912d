/* timer: interrupts of the local APIC's timer and of the PIT, taken in ring 0 and in ring 3. */
#include "tests/guest/guest.h"

#define VECTOR_LAPIC  0x50
#define VECTOR_PIT    0x51
#define VECTOR_PIC    0x60 /* a multiple of 8 */
#define LAPIC_COUNT   1000
#define PIT_US	      2000
#define WAIT_LIMIT_US 2000000

static uint32_t n_lapic, n_pit, n_pic;

static void on_lapic(struct trap_frame *f)
{
	(void)f;
	n_lapic++;
	apic_eoi();
}

static void on_pit(struct trap_frame *f)
{
	(void)f;
	n_pit++;
	apic_eoi();
}

static void on_pic(struct trap_frame *f)
{
	(void)f;
	n_pic++;
	pic_eoi();
}

static void start_lapic(void)
{
	apic_timer_start(VECTOR_LAPIC, LAPIC_COUNT);
}

static void start_pit(void)
{
	pit_one_shot(PIT_US);
}

struct wait {
	const uint32_t *count;
	uint32_t want;
	struct limit limit;
};

static void spin(void *arg)
{
	struct wait *w = arg;

	while (READ_ONCE(*w->count) < w->want && !limit_over(&w->limit))
		cpu_pause();
}

/*
 * A one-shot timer that is over when a machine is saved fires once more where it is loaded (KVM
 * cannot tell whether its interrupt was taken): extra=1 lets that pass. One that is missing never
 * does.
 */
static bool enough(uint32_t count, uint32_t want)
{
	return count == want || (opt_u64("extra", 0) && count > want);
}

/* one more interrupt in *@count, by spinning with interrupts on */
static bool wait_one(void (*start)(void), const uint32_t *count, void *user_stack)
{
	struct wait w = {count, *count + 1, limit_us(WAIT_LIMIT_US)};

	start();
	if (user_stack) {
		ring3_run(spin, &w, user_stack, RFLAGS_IF);
	} else {
		irq_enable();
		spin(&w);
		irq_disable();
	}
	return enough(*count, w.want);
}

static bool wait_hlt(void (*start)(void), const uint32_t *count)
{
	const uint32_t before = *count;

	start();
	cpu_wait_irq();
	return enough(*count, before + 1);
}

static bool lapic_spin(void *user_stack)
{
	return wait_one(start_lapic, &n_lapic, user_stack);
}

static bool lapic_hlt(void *user_stack)
{
	(void)user_stack;
	return wait_hlt(start_lapic, &n_lapic);
}

static bool pit_spin(void *user_stack)
{
	return wait_one(start_pit, &n_pit, user_stack);
}

static bool pic_spin(void *user_stack)
{
	return wait_one(start_pit, &n_pic, user_stack);
}

static void pit_by_ioapic(void)
{
	ioapic_route((uint32_t)opt_u64("pit_gsi", acpi.gsi_of_irq0), VECTOR_PIT);
}

static void pit_by_pic(void)
{
	ioapic_mask((uint32_t)opt_u64("pit_gsi", acpi.gsi_of_irq0));
	pic_route_timer(VECTOR_PIC);
}

static const struct {
	const char *name;
	void (*setup)(void);
	bool (*one)(void *user_stack);
	bool ring3;
} timer_cases[] = {
	{"lapic", NULL, lapic_spin, false},	  {"lapic_hlt", NULL, lapic_hlt, false},
	{"lapic_ring3", NULL, lapic_spin, true},  {"pit_ioapic", pit_by_ioapic, pit_spin, false},
	{"pit_pic", pit_by_pic, pic_spin, false},
};

const char *cmd_timer(void)
{
	const uint64_t want = opt_u64("n", 10);
	uint8_t *user_stack = (uint8_t *)page_alloc(1) + PAGE_SIZE;
	const char *wrong = acpi_init();

	if (wrong)
		return wrong;
	apic_init();
	pic_mask_all();
	trap_set(VECTOR_LAPIC, on_lapic);
	trap_set(VECTOR_PIT, on_pit);
	trap_set(VECTOR_PIC, on_pic);
	for (size_t i = 0; i < ARRAY_SIZE(timer_cases); i++) {
		uint64_t n = 0;

		if (timer_cases[i].setup)
			timer_cases[i].setup();
		while (n < want && timer_cases[i].one(timer_cases[i].ring3 ? user_stack : NULL))
			n++;
		print("timer %s=%lu\n", timer_cases[i].name, n);
		if (n < want)
			wrong = "interrupts are missing";
	}
	return wrong;
}
