/* The QMP commands that every guest has, except those that move it. */
#ifndef VMM_GUEST_CONTROL_COMMANDS_H
#define VMM_GUEST_CONTROL_COMMANDS_H

struct control;

/** control_commands_add - clients of @c may give them; after control_open() */
void control_commands_add(struct control *c);

#endif
