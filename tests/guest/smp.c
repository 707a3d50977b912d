/* Starting the other processors: INIT, SIPI to the trampoline, and what each finds out there. */
#include "tests/guest/guest.h"

#define ICR_INIT	  0x4500 /* INIT, level assert */
#define ICR_STARTUP	  0x4600
#define INIT_WAIT_US	  1000
#define STARTUP_WAIT_US	  1000
#define ONLINE_TIMEOUT_US 20000000

extern const uint8_t trampoline[], trampoline_end[];

uint32_t ap_next; /* stacks handed out so far; entry.S counts */
uint8_t *ap_stacks;

static uint32_t ap_online, ap_bad_ids;
static smp_fn ap_fn;

static bool madt_has(uint32_t id)
{
	for (uint32_t i = 0; i < acpi.n_cpus; i++) {
		if (acpi.cpu_apic_id[i] == id)
			return true;
	}
	return false;
}

static uint32_t cpuid_apic_id(void)
{
	if (cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx)
		return cpuid(0xb, 0).edx;
	return cpuid(1, 0).ebx >> 24;
}

static void check_ids(void)
{
	uint32_t id = apic_id();

	if (cpuid_apic_id() != id || !madt_has(id))
		__atomic_fetch_add(&ap_bad_ids, 1, __ATOMIC_SEQ_CST);
}

void ap_main(uint32_t index)
{
	trap_load(index + 1);
	apic_init();
	check_ids();
	__atomic_fetch_add(&ap_online, 1, __ATOMIC_SEQ_CST);
	if (ap_fn)
		ap_fn(index + 1);
}

static void send_all(uint32_t n, uint32_t command)
{
	uint32_t self = apic_id();

	for (uint32_t i = 0; i < n; i++) {
		if (acpi.cpu_apic_id[i] != self)
			apic_send(acpi.cpu_apic_id[i], command);
	}
}

uint32_t smp_start(uint32_t n, smp_fn fn)
{
	struct limit limit;

	if (n > acpi.n_cpus)
		n = acpi.n_cpus;
	ap_fn = fn;
	ap_stacks = page_alloc((n + SMP_RESTARTS) * AP_STACK_SIZE / PAGE_SIZE);
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	apic_init();
	check_ids();
	send_all(n, ICR_INIT);
	delay_us(INIT_WAIT_US);
	send_all(n, ICR_STARTUP | TRAMPOLINE / PAGE_SIZE);
	delay_us(STARTUP_WAIT_US);
	limit = limit_us(ONLINE_TIMEOUT_US);
	while (READ_ONCE(ap_online) + 1 < n && !limit_over(&limit))
		cpu_pause();
	return READ_ONCE(ap_online) + 1;
}

bool smp_restart(uint32_t id)
{
	uint32_t before = READ_ONCE(ap_online);
	struct limit limit;

	if (id == apic_id() || READ_ONCE(ap_next) > acpi.n_cpus + SMP_RESTARTS - 2)
		return false;
	apic_send(id, ICR_INIT);
	delay_us(INIT_WAIT_US);
	apic_send(id, ICR_STARTUP | TRAMPOLINE / PAGE_SIZE);
	limit = limit_us(ONLINE_TIMEOUT_US);
	while (READ_ONCE(ap_online) == before) {
		if (limit_over(&limit))
			return false;
		cpu_pause();
	}
	return true;
}

uint32_t smp_bad_ids(void)
{
	return ap_bad_ids;
}

const char *cmd_smp(void)
{
	const char *wrong = acpi_init();
	uint32_t want, online;

	if (wrong)
		return wrong;
	want = (uint32_t)opt_u64("cpus", acpi.n_cpus);
	online = smp_start(want, NULL);
	print("smp madt=%u online=%u bad_ids=%u x2apic=%u\n", acpi.n_cpus, online, smp_bad_ids(),
	      apic_is_x2apic());
	if (online != want)
		return "not all processors came";
	if (smp_bad_ids())
		return "a processor's APIC IDs disagree";
	return NULL;
}
