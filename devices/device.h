/*
 * What every emulated device is to the rest of the program: an ops table, a lock, and a place in
 * its own struct for the state that migrates.
 */
#ifndef DEVICES_DEVICE_H
#define DEVICES_DEVICE_H

#include <pthread.h>
#include <stdint.h>

#include "migration/state/state.h"

struct device;

struct device_ops {
	const char *name;
	/**
	 * read - the guest reads @len (1, 2, 4 or 8) bytes at @offset within the device's range
	 * @data holds all ones on entry: a device that knows no register there just returns.
	 */
	void (*read)(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len);
	/** write - the guest writes; unknown registers, odd sizes and alignments are ignored */
	void (*write)(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len);
	struct state_desc state; /* left zero by a device that remembers nothing */
};

/*
 * Embedded in each device's struct. The bus takes @lock around read and write; a device takes it
 * itself in callbacks of the event loop. Nothing else of a device is called with it held.
 */
struct device {
	const struct device_ops *ops;
	pthread_mutex_t lock;
};

void device_init(struct device *dev, const struct device_ops *ops);
void device_fini(struct device *dev);

#endif
