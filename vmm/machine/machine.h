/*
 * The computer that a guest sees: memory, interrupt controllers, CPUs and the explicit, ordered
 * table of devices. A machine lives from one reset of the guest to the next; what belongs to the
 * host (open files, the terminal, the event loop) is lent to it and outlives it.
 */
#ifndef VMM_MACHINE_MACHINE_H
#define VMM_MACHINE_MACHINE_H

#include "base/loop.h"
#include "devices/bus.h"
#include "devices/power.h"
#include "devices/pvpanic.h"
#include "devices/serial.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/mmio.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "devices/vm_event.h"
#include "migration/ram/dirty_log.h"
#include "vmm/kvm/closer.h"
#include "vmm/kvm/dirty_log_kvm.h"
#include "vmm/kvm/dirty_ring.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/vm.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/kernel.h"
#include "vmm/machine/machine_config.h"
#include "vmm/machine/vcpu.h"

/* What a machine borrows; all of it outlives the machine. */
struct machine_host {
	const struct machine_config *config;
	const struct kvm *kvm;
	const struct kernel_config *kernel;
	const struct cpuid_set *cpuid; /* the guest's, without topology */
	const struct cpu_msrs *cpu_msrs;
	struct mitigation *mitigation;
	const struct isolation *isolation;
	struct blk_file *disks; /* config->n_disks of them */
	struct tap *taps;	/* config->n_nets of them */
	struct chardev *serial;
	struct loop *loop;
	struct vm_event_sink *sink;
	struct closer *closer; /* of VMs whose machine is gone; NULL: each is closed in place */
};

struct machine_slot {
	struct virtio_mmio mmio;
	union {
		struct virtio_blk blk;
		struct virtio_net net;
		struct virtio_rng rng;
	};
	void (*fini)(
		struct machine_slot *slot); /* of the device behind the transport; may be NULL */
};

struct machine {
	const struct machine_host *host;
	struct memory memory;
	struct vm vm;
	struct dirty_log dirty_log;   /* made by the first migration */
	struct dirty_ring dirty_ring; /* of config->dirty_ring entries */
	struct bus ports, mmio;
	struct irq_line irq[LAYOUT_VIRTIO_GSI + LAYOUT_VIRTIO_SLOTS]; /* by GSI */
	struct serial serial;
	struct power power;
	struct pvpanic pvpanic;
	unsigned int n_slots;
	struct machine_slot *slot; /* LAYOUT_VIRTIO_SLOTS */
	struct vcpu_env env;
	struct vcpu *vcpus; /* config->n_vcpus */
	uint32_t tsc_khz;   /* of their TSCs; 0: KVM does not tell */
	struct boot_entry entry;
	bool paused;
};

/**
 * machine_init - build the machine; its vCPUs stand still
 * @memory: the guest's, mapped already; taken over, also on failure. NULL: new and empty
 * Return: 0 or -errno with the cause in @e; @m may be given to machine_fini() in any case
 */
int machine_init(struct machine *m, const struct machine_host *host, struct memory *memory,
		 struct err *e);

/**
 * machine_load - put firmware tables, kernel, initrd and command line into memory
 * Return: 0, or -errno with what is wrong with the user's files in @e
 */
int machine_load(struct machine *m, struct err *e);

/**
 * machine_start - set the boot CPU to the kernel's entry and let all vCPUs run
 * Return: 0 or -errno; on failure those that started are stopped again
 */
int machine_start(struct machine *m, struct err *e);

/**
 * machine_pause - let the whole machine stand still, complete in itself
 * On the loop's thread. Every vCPU is parked with its pending access finished, disks have answered
 * what was in flight, the serial port's back end waits. Nothing touches guest memory until
 * machine_resume(); the guest's clocks go on, as over any long interruption. Harmless on a machine
 * that is paused. An event that the guest raised in its last moment may wait in the event sink.
 */
void machine_pause(struct machine *m);
/** machine_resume - go on. On the loop's thread; harmless on a machine that is not paused. */
void machine_resume(struct machine *m);

/**
 * machine_start_restored - after machine_restore(): vCPUs go on where they were
 * @paused: they get their threads and stay parked until machine_resume()
 * Return: 0 or -errno; on failure those that started are stopped again
 */
int machine_start_restored(struct machine *m, bool paused, struct err *e);

/** machine_stop - stop all vCPUs and wait for them; harmless on a machine that does not run */
void machine_stop(struct machine *m);

/** machine_announce - tell the networks where the guest is now; on the loop's thread */
void machine_announce(struct machine *m);

/** machine_init_dirty_log - get it ready, on the dirty rings if there are any. 0 or -errno */
int machine_init_dirty_log(struct machine *m, struct err *e);

/** machine_request_checks - see vcpu_request_check() */
void machine_request_checks(struct machine *m);

/** machine_fini - machine_stop(), then take everything apart */
void machine_fini(struct machine *m);

#endif
