/*
 * The user's terminal in raw mode, and back again whatever happens: at normal exit, after a fatal
 * signal, around a stop by SIGTSTP. Only SIGKILL leaves it raw.
 */
#ifndef DEVICES_CHAR_TERMINAL_H
#define DEVICES_CHAR_TERMINAL_H

/**
 * terminal_raw - put the terminal behind @fd into raw mode and remember how it was
 * Output processing stays on, so that log lines between the guest's still end in CR LF.
 * Only one terminal at a time; a second call re-enters raw mode after terminal_restore().
 * Return: 0 or -errno
 */
int terminal_raw(int fd);

/** terminal_make_raw - put any terminal into raw mode, for good; errors are of no consequence */
void terminal_make_raw(int fd);

/** terminal_restore - the mode from before terminal_raw(); does nothing without one; async-safe */
void terminal_restore(void);

/** terminal_resume - raw again after a stop (SIGCONT); does nothing if it never was raw */
void terminal_resume(void);

#endif
