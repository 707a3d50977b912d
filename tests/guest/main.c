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
	{"echo", cmd_echo},	    /* COM1 by polling */
	{"echoirq", cmd_echoirq},   /* COM1 by interrupts */
	{"timer", cmd_timer},	    /* interrupts of the local APIC's timer and the PIT */
	{"kvmclock", cmd_kvmclock}, /* the paravirtual clock moves */
	{"cpuid", cmd_cpuid},	    /* a leaf */
	{"rdmsr", cmd_rdmsr},	    /* an MSR, or the fault */
	{"wrmsr", cmd_wrmsr},	    /* ditto, written and read back */
	{"insn", cmd_insn},	    /* what an ordinary kernel executes in ring 0 */
	{"virtio", cmd_virtio},	    /* which slots have which device */
	{"dirty", cmd_load},	    /* write memory */
	{"heartbeat", cmd_load},    /* be alive */
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
