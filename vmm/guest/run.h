/*
 * One `testudo run`: everything that a guest has of the host, its machine, and the event loop.
 * What is declared here is for the parts that act on the whole of it; all on the loop's thread.
 */
#ifndef VMM_GUEST_RUN_H
#define VMM_GUEST_RUN_H

#include <signal.h>
#include <stdbool.h>

#include "base/file_write.h"
#include "base/loop.h"
#include "devices/char/char.h"
#include "policy/facts.h"
#include "policy/policy.h"
#include "vmm/guest/config.h"
#include "vmm/guest/control.h"
#include "vmm/guest/guest_name.h"
#include "vmm/guest/migrate_dest.h"
#include "vmm/guest/migrate_qmp.h"
#include "vmm/guest/migrate_source.h"
#include "vmm/guest/mitigation_rebuild.h"
#include "vmm/guest/mitigation_watch.h"
#include "vmm/guest/ready.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/kvm/closer.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/machine.h"

struct run {
	struct run_config config;
	struct loop loop;
	struct loop_call calls; /* for the threads of migrations */
	struct kvm kvm;
	struct closer closer;	/* of the VM before */
	struct cpuid_set cpuid; /* the guest's */
	struct cpu_msrs cpu_msrs;
	struct policy policy;
	struct host_file facts; /* of --host-facts */
	struct isolation isolation;
	struct mitigation mitigation;
	char host_name[65]; /* as this host calls itself, printable; the sandbox does not let us ask
			     */
	struct mitigation_listener refusal;
	struct mitigation_watch watch;
	struct mitigation_rebuild rebuild;
	struct control control;
	struct guest_name name;
	struct ready ready;
	struct kernel_config kernel;
	struct blk_file disk[MACHINE_MAX_DISKS];
	char serial_number[MACHINE_MAX_DISKS][VIRTIO_BLK_ID_BYTES + 1]; /* that a guest brought */
	unsigned int n_disks;						/* opened so far */
	struct tap tap[MACHINE_MAX_NETS];
	unsigned int n_taps; /* opened so far */
	struct char_backend serial;
	struct file_replace dtb; /* of --dump-dtb, until it is written */

	struct machine_host host; /* what @machine borrows */
	struct machine machine;	  /* there from machine_init() on, if @built */
	bool built;
	bool incoming; /* the first life comes from another process */
	struct migrate_source source;
	struct migrate_dest dest;
	struct migrate_qmp migrate;

	/* the first event of a machine's life decides, or the user; it reaches the loop by wake_fd
	 */
	struct vm_event_sink sink;
	int event; /* enum vm_event, atomic */
	int wake_fd;
	struct loop_watch wake;

	int memory_fd; /* timer; is a saved guest's file still whole? -1: there is none */
	struct loop_watch memory;

	sigset_t old_mask;
	int signal_fd;
	struct loop_watch signals;
	int fatal_signal; /* 0: none */
};

/** run_event_waits - has something happened that will end this life of the machine? */
bool run_event_waits(const struct run *r);

/**
 * run_build_machine - for a guest that arrives: config and CPU contract are in place
 * @memory: its memory, taken over, also on failure; NULL: new memory
 * Return: 0 or -errno; what was built is taken apart when the loop ends
 */
int run_build_machine(struct run *r, struct memory *memory, struct err *e);

/**
 * run_start_arrived - the restored machine is the guest's from here on
 * @running: it was, where it came from; --paused keeps it still all the same
 * Return: 0 or -errno
 */
int run_start_arrived(struct run *r, bool running, struct err *e);

#endif
