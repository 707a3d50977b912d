/* What `testudo run` was asked for: the command line as values. */
#ifndef VMM_GUEST_CONFIG_H
#define VMM_GUEST_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "vmm/machine/machine_config.h"

struct err;

struct run_config {
	const char *kernel, *initrd; /* paths; initrd may be NULL */
	char *params;		     /* kernel command line, owned */
	/* vCPUs: as many as there can be when @incoming is set and -c was not given */
	struct machine_config machine;
	const char *serial;
	const char *name; /* NULL: guest-PID */
	bool daemonize;
	int ready_fd; /* 0: none */
	bool no_reboot;
	const char *incoming; /* URI that a guest will come from; NULL: boot one */
	bool paused;	      /* it waits for cont */
	bool verify_snapshot; /* check all of a saved guest's memory first */
	bool clock_realtime;  /* the time that a saved guest spent in a file counts for it */
	const char *dump_dtb; /* file for the machine's description; NULL: none */
	bool cpus_given, memory_given, params_given, rng_given;
	bool sandbox;
	const char *cpu;	       /* NULL: what KVM supports */
	const char *policy;	       /* NULL: the default */
	const char *host_facts;	       /* NULL: ask the host */
	const char *mitigation_report; /* NULL: none */
	uint32_t force_cap;	       /* number of KVM_CAP_FORCE_SPEC_CTRL; 0: find */
	enum log_level log_level;
	bool cpu_help, help;
};

/**
 * config_parse - read the words after `testudo run`
 * @argc, @argv: as main() has them, argv[0] being "run"; strings are borrowed, those of -d and -n
 * are cut up Nothing is opened. On success the configuration is complete: defaults are in, the
 * console is on the kernel's command line. Return: 0; -EINVAL with the option and the value in @e.
 * @c may be given to config_fini() always.
 */
int config_parse(struct run_config *c, int argc, char **argv, struct err *e);
void config_fini(struct run_config *c);

/* `testudo run`, `testudo host` and `testudo policy explain` have this option */
#define CONFIG_FORCE_CAP     "kvm-cap-force-spec-ctrl"
#define CONFIG_FORCE_CAP_MAX 65535

/** config_print_help - the options of `testudo run`, on standard output. Return: did it get there? */
bool config_print_help(void);

#endif
