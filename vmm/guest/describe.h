/* The run as a machine description (migration/description/description.h), and the other way round. */
#ifndef VMM_GUEST_DESCRIBE_H
#define VMM_GUEST_DESCRIBE_H

#include <stddef.h>

struct err;
struct machine_description;
struct guest;

/**
 * describe_devices - what this run's command line and open files make: devices, properties, places
 * The CPU, memory and what was promised are left as they are. Return: 0 or -errno
 */
int describe_devices(const struct guest *g, struct machine_description *d, struct err *e);

/**
 * describe_guest - all of it, of a run whose machine exists; on the loop's thread
 * Return: 0 or -errno
 */
int describe_guest(struct guest *g, struct machine_description *d, struct err *e);

/**
 * describe_apply - become what @d says: memory, CPUs, command line, CPU contract, MAC addresses
 * @g: a run that waits for a guest. Decides about the mitigations there, before any vCPU exists.
 * Return: 0; -EPERM when policy refuses, -EINVAL or -ENODEV when this run is not made for the guest
 */
int describe_apply(struct guest *g, const struct machine_description *d, struct err *e);

/**
 * describe_change - what is held differently than where the guest came from, in one line
 * After describe_apply(). Once the state is loaded, what the guest reported after the description
 * was made is in it.
 * @change: receives it; "" when nothing is
 */
void describe_change(struct guest *g, char *change, size_t len);

#endif
