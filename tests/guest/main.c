/* From the hand-over to the command that the command line names. */
#include "tests/guest/guest.h"

void guest_main(uint64_t start_info);

static const struct {
	const char *name;
	const char *(*run)(void);
} commands[] = {
	/* what the guest was given; COM1 by polling and by interrupts */
	{"hello", cmd_hello},
	{"echo", cmd_echo},
	{"echoirq", cmd_echoirq},
	/* the machine */
	{"mem", cmd_mem},
	{"smp", cmd_smp},
	{"timer", cmd_timer},
	{"button", cmd_button},
	{"kvmclock", cmd_kvmclock},
	{"clocks", cmd_clocks},
	/* the processor */
	{"cpuid", cmd_cpuid},
	{"rdmsr", cmd_rdmsr},
	{"wrmsr", cmd_wrmsr},
	{"msrs", cmd_msrs},
	{"insn", cmd_insn},
	/* devices */
	{"virtio", cmd_virtio},
	{"blk", cmd_blk},
	{"net", cmd_net},
	{"reboot", cmd_reboot},
	{"rng", cmd_rng},
	{"hostile", cmd_hostile},
	/* loads that go on */
	{"dirty", cmd_load},
	{"heartbeat", cmd_load},
	{"xstate", cmd_xstate},
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
	guest_done("command", "unknown; the command line names it by its first word without =");
}
