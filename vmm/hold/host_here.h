/* This host as a fact file would tell it: the facts, the back end, and what people want to know. */
#ifndef VMM_HOLD_HOST_HERE_H
#define VMM_HOLD_HOST_HERE_H

#include <stdint.h>

#include "policy/facts.h"

struct err;

/**
 * host_here_read - CPUID, KVM, back end, microcode, kernel, sysfs
 * @force_cap: as for backend_probe()
 * Return: 0; what kvm_open() returns when KVM cannot be asked. What sysfs lacks is left out.
 */
int host_here_read(struct host_file *f, uint32_t force_cap, struct err *e);

#endif
