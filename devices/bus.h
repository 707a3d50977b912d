/*
 * A bus maps ranges of port or memory addresses to devices. The machine has two: ports and MMIO.
 * Flat and filled once before the first vCPU runs, so look-ups take no lock.
 */
#ifndef DEVICES_BUS_H
#define DEVICES_BUS_H

#include <stdint.h>

struct device;
struct err;

#define BUS_MAX_RANGES 48

struct bus_range {
	uint64_t base;
	uint64_t len;
	uint64_t offset; /* what the device sees as the offset of @base */
	struct device *dev;
};

struct bus {
	const char *name; /* "port" or "mmio", for messages */
	unsigned int n_ranges;
	struct bus_range range[BUS_MAX_RANGES]; /* ascending by base */
};

/**
 * bus_add - give [@base, @base+@len) to @dev, which sees offsets from @offset on
 * Return: 0; -EINVAL when the range is empty, wraps or overlaps another, -ENOSPC when the bus is
 * full
 */
int bus_add(struct bus *bus, uint64_t base, uint64_t len, uint64_t offset, struct device *dev,
	    struct err *e);

/**
 * bus_read - a guest read of @len bytes into @data
 * An address without a device, and an access that leaves a device's range, read as all ones.
 */
void bus_read(const struct bus *bus, uint64_t addr, uint8_t *data, unsigned int len);

/** bus_write - a guest write of @len bytes; without a device, or across a range's end, ignored */
void bus_write(const struct bus *bus, uint64_t addr, const uint8_t *data, unsigned int len);

#endif
