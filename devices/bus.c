#include "devices/bus.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/err.h"
#include "devices/device.h"

void device_init(struct device *dev, const struct device_ops *ops)
{
	dev->ops = ops;
	pthread_mutex_init(&dev->lock, NULL);
}

void device_fini(struct device *dev)
{
	if (dev->ops)
		pthread_mutex_destroy(&dev->lock);
	dev->ops = NULL;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t len, uint64_t offset, struct device *dev,
	    struct err *e)
{
	unsigned int i = bus->n_ranges;

	if (!len || base + len - 1 < base)
		return err_set(e, -EINVAL, "%s range of %s at %#llx is empty or wraps", bus->name,
			       dev->ops->name, (unsigned long long)base);
	if (bus->n_ranges == BUS_MAX_RANGES)
		return err_set(e, -ENOSPC, "no room on the %s bus for %s; at most %d ranges fit",
			       bus->name, dev->ops->name, BUS_MAX_RANGES);
	while (i > 0 && bus->range[i - 1].base > base)
		i--;
	if ((i > 0 && base - bus->range[i - 1].base < bus->range[i - 1].len) ||
	    (i < bus->n_ranges && bus->range[i].base - base < len))
		return err_set(e, -EINVAL, "%s range of %s at %#llx overlaps another device",
			       bus->name, dev->ops->name, (unsigned long long)base);
	memmove(&bus->range[i + 1], &bus->range[i], (bus->n_ranges - i) * sizeof(bus->range[0]));
	bus->range[i] = (struct bus_range) {.base = base, .len = len, .offset = offset, .dev = dev};
	bus->n_ranges++;
	return 0;
}

static const struct bus_range *bus_find(const struct bus *bus, uint64_t addr, unsigned int len)
{
	unsigned int i;

	for (i = 0; i < bus->n_ranges && bus->range[i].base <= addr; i++) {
		const struct bus_range *r = &bus->range[i];

		if (addr - r->base < r->len && len <= r->len - (addr - r->base))
			return r;
	}
	return NULL;
}

void bus_read(const struct bus *bus, uint64_t addr, uint8_t *data, unsigned int len)
{
	const struct bus_range *r = bus_find(bus, addr, len);

	memset(data, 0xff, len);
	if (!r)
		return;
	pthread_mutex_lock(&r->dev->lock);
	r->dev->ops->read(r->dev, addr - r->base + r->offset, data, len);
	pthread_mutex_unlock(&r->dev->lock);
}

void bus_write(const struct bus *bus, uint64_t addr, const uint8_t *data, unsigned int len)
{
	const struct bus_range *r = bus_find(bus, addr, len);

	if (!r)
		return;
	pthread_mutex_lock(&r->dev->lock);
	r->dev->ops->write(r->dev, addr - r->base + r->offset, data, len);
	pthread_mutex_unlock(&r->dev->lock);
}
