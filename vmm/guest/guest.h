/*
 * One guest and all that it has of the host: options, KVM, files, interfaces, its machine, the event
 * loop that serves them. Who acts on it as a whole (moving, saving, building it anew) claims it
 * first. What happens to it is told to listeners. All on the loop's thread, unless said otherwise.
 */
#ifndef VMM_GUEST_GUEST_H
#define VMM_GUEST_GUEST_H

#include <stdbool.h>

#include "base/file_write.h"
#include "base/loop.h"
#include "devices/char/char.h"
#include "migration/move/guest.h"
#include "policy/facts.h"
#include "policy/policy.h"
#include "vmm/guest/config.h"
#include "vmm/guest/control.h"
#include "vmm/guest/guest_name.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/kvm/closer.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/machine.h"

/* Storage of the listener's; each call may be NULL. */
struct guest_listener {
	/** arrived - a guest from another process, or from a file, is this one's from here on */
	void (*arrived)(struct guest_listener *l);
	/**
	 * migration - how far one is that the guest leaves or comes by
	 * @outcome: where the guest is, at the end of one that it may have left by; else NULL
	 */
	void (*migration)(struct guest_listener *l, enum migrate_status status,
			  const enum migrate_outcome *outcome);
	struct guest_listener *next;
};

struct guest {
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
	/* as this host calls itself, printable; the sandbox does not let us ask */
	char host_name[65];
	struct control control;
	struct guest_name name;
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
	bool claimed;
	struct guest_listener *listeners;

	/*
	 * the first event of a machine's life decides, or the user; it reaches the loop by wake_fd
	 */
	struct vm_event_sink sink;
	int event; /* enum vm_event, atomic */
	int wake_fd;
	struct loop_watch wake;
	int signal_fd; /* whoever waits for something outside hears it, too. -1: none */
};

/** guest_init - nothing is open: guest_close() is safe from here on */
void guest_init(struct guest *g);
/** guest_open_loop - the event loop, and the sink of events that stop it. Return: 0 or -errno */
int guest_open_loop(struct guest *g, struct err *e);

/*
 * What a guest needs of the host, in this order (guest_open.c). Each returns 0, or -errno with whose
 * it is to mend in @e.
 */

/** guest_open_input - the user's files and interfaces: kernel, disks, networks */
int guest_open_input(struct guest *g, struct err *e);
/** guest_open_policy - what is wanted, and what the user says about this host */
int guest_open_policy(struct guest *g, struct err *e);
/** guest_open_kvm - /dev/kvm, and whether it has room for the guest */
int guest_open_kvm(struct guest *g, struct err *e);
/**
 * guest_open_cpu - the processor that the guest is to be shown, isolation, the mitigation engine
 * Before any thread. Where isolation is refused the engine is there all the same, for a report.
 */
int guest_open_cpu(struct guest *g, struct err *e);
/** guest_open_contract - the pool, and what a guest that boots is shown; it may be refused */
int guest_open_contract(struct guest *g, struct err *e);
/** guest_close_input - closes them */
void guest_close_input(struct guest *g);

/** guest_raise - @event happened; the first one decides. Any thread */
void guest_raise(struct guest *g, enum vm_event event);
/** guest_event_waits - has something happened that will end this life of the machine? Any thread */
bool guest_event_waits(const struct guest *g);
/** guest_take_event - what happened; the next life begins without */
enum vm_event guest_take_event(struct guest *g);

/**
 * guest_claim - from here on the machine as a whole is the caller's: nobody else moves, saves or
 * builds it anew
 * Return: 0; -EBUSY
 */
int guest_claim(struct guest *g);
void guest_release(struct guest *g);

/** guest_listen - @l hears of what happens to it, for its life */
void guest_listen(struct guest *g, struct guest_listener *l);
/** guest_tell_migration - all listeners */
void guest_tell_migration(struct guest *g, enum migrate_status status,
			  const enum migrate_outcome *outcome);

/**
 * guest_build_machine - its machine, as config, CPU and contract say
 * @memory: of a guest that arrives, taken over, also on failure; NULL: new memory
 * Return: 0 or -errno; what was built is taken apart by guest_end_machine()
 */
int guest_build_machine(struct guest *g, struct memory *memory, struct err *e);
void guest_end_machine(struct guest *g);

/**
 * guest_start_arrived - the restored machine is the guest from here on; listeners are told
 * @running: it was, where it came from; --paused keeps it still all the same
 * @from_file: its name need not be waited for
 * Return: 0 or -errno
 */
int guest_start_arrived(struct guest *g, bool running, bool from_file, struct err *e);

/** guest_ram - its memory, as a migration wants to know it */
void guest_ram(const struct guest *g, struct migration_ram *ram);

/**
 * guest_lock_disks - as blk_file_lock(), of all of them; guest_take_over_disks() for a guest that
 * arrives; guest_hand_over_disks() writes them back and unlocks them; guest_flush_disks() only
 * writes them back
 * Return: 0 or -errno of the first that fails
 */
int guest_lock_disks(struct guest *g, struct err *e);
int guest_take_over_disks(struct guest *g, struct err *e);
int guest_hand_over_disks(struct guest *g, struct err *e);
int guest_flush_disks(struct guest *g, struct err *e);

#endif
