/* The migrate family of QMP commands: QEMU's names and arguments, ours where it has none. */
#ifndef VMM_GUEST_MIGRATE_QMP_H
#define VMM_GUEST_MIGRATE_QMP_H

#include "control/qmp_command.h"
#include "migration/move/status.h"

struct control;
struct run;

struct migrate_qmp {
	struct run *run;
	struct qmp_table table;
	struct migrate_params params; /* of the next migration */
	unsigned int n_channels;
};

/** migrate_qmp_init - add the commands to the run's server; @q is storage of the caller's */
void migrate_qmp_init(struct migrate_qmp *q, struct run *run);

/** migrate_tell - event MIGRATION for all clients; on the loop's thread */
void migrate_tell(struct control *control, enum migrate_status status);

/** migrate_query - the object that query-migrate answers; NULL: out of memory */
json_t *migrate_query(const struct migrate_stats *s);

#endif
