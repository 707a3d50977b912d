/*
 * The migrate family of QMP commands and the event MIGRATION: QEMU's names and arguments, ours where
 * it has none.
 */
#ifndef VMM_GUEST_MIGRATE_QMP_H
#define VMM_GUEST_MIGRATE_QMP_H

#include "control/qmp_command.h"
#include "migration/move/status.h"
#include "vmm/guest/guest.h"

struct incoming;
struct outgoing;

struct migrate_qmp {
	struct guest *guest;
	struct outgoing *out;
	struct incoming *in;
	struct guest_listener listener;
	struct qmp_table table;
	struct migrate_params params; /* of the next migration */
	unsigned int n_channels;
};

/** migrate_qmp_init - add the commands to @g's server; @q is storage of the caller's */
void migrate_qmp_init(struct migrate_qmp *q, struct guest *g, struct outgoing *out,
		      struct incoming *in);

#endif
