/* Why another process stands still: what the kernel says of it in /proc. */
#ifndef CONTROL_PROCESS_H
#define CONTROL_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct err;

#define PROCESS_WHY_MAX 160

/**
 * process_stopped - is it stopped, by a signal, the terminal or a debugger?
 * @why: when it is, receives how, and what lets it go on: "is stopped ...; ..."
 * Return: false also for a process that is not there, or that /proc does not show
 */
bool process_stopped(pid_t pid, char *why, size_t size);

/**
 * process_check - the same of the process of a guest of that name
 * Return: 0; -EHOSTDOWN it is stopped, with what lets it go on in @e
 */
int process_check(const char *guest, pid_t pid, struct err *e);

#endif
