/*
 * A paused machine as one row of sections, and back. Memory and the machine's description travel
 * beside it. The order is fixed; docs: migration/state/section.h.
 *
 *   machine  mitigation  time  vcpu-*(each)  pic pic ioapic pit  serial
 *   virtio-mmio, virtio-*(each slot)
 */
#ifndef VMM_MACHINE_MACHINE_STATE_H
#define VMM_MACHINE_MACHINE_STATE_H

#include <stdbool.h>

#include <stdint.h>

struct clock_reading;
struct clock_window;
struct err;
struct machine;
struct rbuf;
struct wbuf;

/**
 * machine_save - append the state of a machine that machine_pause() brought to stand still
 * @base: the clocks when this began: vm_save_time()
 * On the loop's thread. The machine can be resumed afterwards, or saved again.
 * Return: 0; -errno with what cannot be saved in @e
 */
int machine_save(struct machine *m, const struct clock_reading *base, struct wbuf *w,
		 struct err *e);

/**
 * machine_restore - load what machine_save() wrote into a machine after machine_init()
 * Before machine_init() came mitigation_adopt(). No vCPU has run; the memory holds the guest's
 * already, since what some registers refer to is looked at. Nothing of @r is trusted. The machine
 * is paused afterwards, whatever happened: machine_start_restored() or machine_fini() follows.
 * @when: it was saved, on the clock of this host; @off_ns: see clock_passed()
 * On the loop's thread. Return: 0; -EPERM when the mitigation policy refuses; -errno, one line in
 * @e
 */
int machine_restore(struct machine *m, const struct clock_window *when, int64_t *off_ns,
		    struct rbuf *r, struct err *e);

/**
 * machine_rebuild - a new VM under a running guest: same memory, same state
 * For what is fixed when a VM is made: the bits that the RFC's capability freezes (see
 * mitigation_wants_rebuild()). On the loop's thread. Runs on or stays paused, as before.
 * Return: 0; -errno: before the old VM was taken apart the guest goes on as it was and @gone is
 * false; after that it is lost
 */
int machine_rebuild(struct machine *m, bool *gone, struct err *e);

#endif
