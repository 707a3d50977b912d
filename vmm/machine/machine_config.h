/* What a machine is made of: the options of `testudo run` that a guest can see, as values. */
#ifndef VMM_MACHINE_MACHINE_CONFIG_H
#define VMM_MACHINE_MACHINE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/tap.h"
#include "devices/virtio/blk_file.h"
#include "vmm/kvm/memory.h"

#define MACHINE_MAX_VCPUS 255
#define MACHINE_MAX_DISKS 18 /* virtio slots less one for the entropy source */
#define MACHINE_MAX_NETS  8

struct machine_config {
	uint32_t n_vcpus;
	struct memory_options memory;
	unsigned int n_disks;
	struct blk_options disk[MACHINE_MAX_DISKS];
	unsigned int n_nets;
	struct tap_options net[MACHINE_MAX_NETS];
	bool rng;
	uint32_t dirty_ring; /* entries of each vCPU's; 0: KVM's dirty log */
};

#endif
