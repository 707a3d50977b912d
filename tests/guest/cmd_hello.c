/* hello: what the guest was given. */
#include "tests/guest/guest.h"

const char *cmd_hello(void)
{
	const char *wrong;

	print("hello from the test guest\n");
	print("cmdline=%s\n", boot.cmdline);
	for (uint32_t i = 0; i < boot.n_regions; i++) {
		print("memmap start=0x%lx size=0x%lx type=%u\n", boot.region[i].addr,
		      boot.region[i].size, boot.region[i].type);
	}
	if (boot.initrd_size) {
		print("initrd start=0x%lx size=%lu fnv=0x%lx\n", boot.initrd_addr, boot.initrd_size,
		      fnv64((const void *)boot.initrd_addr, boot.initrd_size));
	}
	if (!opt_u64("acpi", 1))
		return NULL;
	wrong = acpi_init();
	print("acpi");
	for (uint32_t i = 0; i < acpi.n_tables; i++)
		print(" %s", acpi.table[i]);
	if (wrong) {
		print(" wrong\n");
		return wrong;
	}
	print(" ok\n");
	print("power reset_port=0x%x reset_value=0x%x sleep_port=0x%x slp_typ=%u\n",
	      acpi.reset_port, acpi.reset_value, acpi.sleep_port, acpi.sleep_slp_typ);
	print("cpus=%u lapic=0x%lx ioapic=0x%lx\n", acpi.n_cpus, acpi.lapic_addr, acpi.ioapic_addr);
	return NULL;
}
