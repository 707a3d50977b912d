/*
 * Guest memory that the host cannot give any more: the saved guest's file was cut short or its disk
 * failed, a page cannot be read back from swap, the memory itself is broken. Whoever touches it
 * gets SIGBUS, or EFAULT from KVM. For the guest that is the end, at once, as by a power failure:
 * with anything in the place of what was there it would write nonsense on its disks. For the user
 * it is an error of the host that is told.
 */
#ifndef VMM_KVM_MEMORY_FAULT_H
#define VMM_KVM_MEMORY_FAULT_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/**
 * memory_fault_open - from now on SIGBUS on guest memory is told, and ends the process with @code
 * @end: what else is to be done then; only what signal-safety(7) allows
 * SIGBUS on anything else stays what it was: a crash of ours. Once a process.
 * Return: 0 or -errno
 */
int memory_fault_open(void (*end)(void *), void *arg, int code, struct err *e);

/**
 * memory_fault_watch - @len bytes at @map are guest memory
 * @path: of the file that they are mapped from; NULL: memory of the host's
 * @fd: of that file, lent for this call; @file_end: how long it has to be
 */
void memory_fault_watch(const void *map, uint64_t len, const char *path, int fd, uint64_t file_end);

/** memory_fault_unwatch - what was watched at @map ends; harmless when nothing was */
void memory_fault_unwatch(const void *map);

/**
 * memory_fault_explains - KVM failed: is it for the want of guest memory?
 * @efault: it said so itself; else only what can be found out counts
 * Return: true, and it was told, once
 */
bool memory_fault_explains(bool efault);

#endif
