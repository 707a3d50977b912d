/* pvpanic: the port by which a guest kernel says that it panicked (QEMU docs/specs/pvpanic). */
#ifndef DEVICES_PVPANIC_H
#define DEVICES_PVPANIC_H

#include "devices/device.h"
#include "devices/vm_event.h"

struct pvpanic {
	struct device dev;
	struct vm_event_sink *sink;
};

/** pvpanic_init - one port; @sink gets VM_EVENT_PANIC */
void pvpanic_init(struct pvpanic *p, struct vm_event_sink *sink);
/** pvpanic_fini - accepts a zeroed object */
void pvpanic_fini(struct pvpanic *p);

#endif
