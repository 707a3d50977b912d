#include "devices/pvpanic.h"

#include <string.h>

#include "base/bytes.h"
#include "base/log.h"

#define PVPANIC_PANICKED     0x01
#define PVPANIC_CRASH_LOADED 0x02 /* the guest goes on into its own crash kernel */

static void pvpanic_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	(void)dev;
	(void)offset;
	(void)len;
	data[0] = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(struct device *dev, uint64_t offset, const uint8_t *data,
			  unsigned int len)
{
	struct pvpanic *p = container_of(dev, struct pvpanic, dev);

	(void)offset;
	(void)len;
	if (data[0] & PVPANIC_PANICKED)
		p->sink->raise(p->sink, VM_EVENT_PANIC);
	else if (data[0] & PVPANIC_CRASH_LOADED)
		log_warn("guest panicked and goes on into its crash kernel");
}

static const struct device_ops pvpanic_ops = {
	.name = "pvpanic",
	.read = pvpanic_read,
	.write = pvpanic_write,
};

void pvpanic_init(struct pvpanic *p, struct vm_event_sink *sink)
{
	memset(p, 0, sizeof(*p));
	p->sink = sink;
	device_init(&p->dev, &pvpanic_ops);
}

void pvpanic_fini(struct pvpanic *p)
{
	device_fini(&p->dev);
}
