/*
 * The user's terminal in raw mode, and back again whatever happens: at normal exit, after a fatal
 * signal, around a stop by SIGTSTP. Only SIGKILL leaves it raw. A process in the background neither
 * reads the terminal nor changes its mode: it is another one's then.
 */
#ifndef DEVICES_CHAR_TERMINAL_H
#define DEVICES_CHAR_TERMINAL_H

#include <stdbool.h>

/**
 * terminal_is_ours - does this process stand in the foreground of @fd's terminal?
 * True also of a terminal that is not the one of this session: there is no job control on it.
 */
bool terminal_is_ours(int fd);

/**
 * terminal_raw - put the terminal behind @fd into raw mode and remember how it was
 * Output processing stays on, so that log lines between the guest's still end in CR LF.
 * Only one terminal at a time, while it is ours; a second call re-enters raw mode after
 * terminal_restore(). Return: 0 or -errno
 */
int terminal_raw(int fd);

/** terminal_make_raw - put any terminal into raw mode, for good; errors are of no consequence */
void terminal_make_raw(int fd);

/** terminal_restore - the mode from before terminal_raw(); does nothing without one; async-safe */
void terminal_restore(void);

/** terminal_lost - another process has it by now, and set its mode: there is nothing to restore */
void terminal_lost(void);

#endif
