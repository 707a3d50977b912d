/* From the hand-over to the command that the first word of the command line names. */
#include "tests/guest/guest.h"

void guest_main(uint64_t start_info);

static const struct {
	const char *name;
	const char *(*run)(void);
} commands[] = {
	{"hello", cmd_hello},	    /* greeting, command line, memory map, ACPI */
	{"mem", cmd_mem},	    /* both ends of every RAM region */
	{"smp", cmd_smp},	    /* start every processor */
	{"virtio", cmd_virtio},	    /* which slots have which device */
	{"timer", cmd_timer},	    /* interrupts of the local APIC's timer and the PIT */
	{"insn", cmd_insn},	    /* what an ordinary kernel executes in ring 0 */
	{"kvmclock", cmd_kvmclock}, /* the paravirtual clock moves */
};

void guest_main(uint64_t start_info)
{
	const char *wrong, *name;

	serial_init();
	trap_init();
	trap_load(0);
	wrong = boot_init(start_info);
	name = opt_command();
	if (wrong)
		guest_done("boot", wrong);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (str_equal(name, commands[i].name))
			guest_done(name, commands[i].run());
	}
	print("command=%s\n", name);
	guest_done("command", "unknown; the first word of the command line names it");
}
