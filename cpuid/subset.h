/* Can a host show a guest what another host has shown it? PURE. */
#ifndef CPUID_SUBSET_H
#define CPUID_SUBSET_H

#include <stdbool.h>
#include <stddef.h>

#include "cpuid/cpuid.h"

struct err;

/**
 * cpuid_list_missing - what of @guest is not in @host, by the rules below
 * @text: receives it, "amx_tile, 46 bits of physical address (39 here)"; "" for nothing
 * Return: is anything?
 */
bool cpuid_list_missing(struct cpuid_set *guest, struct cpuid_set *host, char *text, size_t size);

/**
 * cpuid_check_subset - is everything that the guest was shown to be had here?
 * @guest: what it was shown at its first boot; @host: what could be shown here
 * Compared are the features of the table that are good to have (enum merge_rule), unnamed bits in
 * the registers that it knows, the width of addresses and the states of XSAVE. Features that are
 * here and not there do no harm: the guest goes on not seeing them.
 * Return: 0, or -EINVAL naming all that is missing, and the cure, in @e
 */
int cpuid_check_subset(struct cpuid_set *guest, struct cpuid_set *host, struct err *e);

#endif
