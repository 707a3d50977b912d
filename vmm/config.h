/* What `testudo run` was asked for: the command line as values. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "devices/tap.h"
#include "devices/virtio/blk_file.h"
#include "vmm/memory.h"

struct err;

#define CONFIG_MAX_VCPUS 255
#define CONFIG_MAX_DISKS 18 /* virtio slots less one for the entropy source */
#define CONFIG_MAX_NETS	 8

struct run_config {
	const char *kernel, *initrd; /* paths; initrd may be NULL */
	char *params;		     /* kernel command line, owned */
	uint32_t n_vcpus; /* as many as there can be when @incoming is set and -c was not given */
	struct memory_options memory;
	unsigned int n_disks;
	struct blk_options disk[CONFIG_MAX_DISKS];
	unsigned int n_nets;
	struct tap_options net[CONFIG_MAX_NETS];
	bool rng;
	const char *serial;
	const char *name; /* NULL: guest-PID */
	bool daemonize;
	int ready_fd; /* 0: none */
	bool no_reboot;
	uint32_t dirty_ring;  /* entries of each vCPU's; 0: KVM's dirty log */
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
#define CONFIG_FORCE_CAP "kvm-cap-force-spec-ctrl"

/** config_parse_force_cap - its value. Return: 0, or -EINVAL with option and value in @e */
int config_parse_force_cap(const char *text, uint32_t *number, struct err *e);

/** config_print_help - the options of `testudo run`, on standard output */
void config_print_help(void);

#endif
