/* The QMP commands that every guest has, except those that move it. Shared with control.c alone. */
#ifndef VMM_GUEST_CONTROL_COMMANDS_H
#define VMM_GUEST_CONTROL_COMMANDS_H

#include <jansson.h>
#include <stddef.h>

#include "control/qmp_command.h"

extern const struct qmp_command control_commands[]; /* their context is a struct control */
extern const size_t control_n_commands;

/** control_version - the version object of the greeting and of query-version */
json_t *control_version(void);

#endif
