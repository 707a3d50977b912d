/*
 * Locking the process in, once everything that the guest needs from the host is open and before the
 * guest runs its first instruction. What a guest could reach by a mistake in a device is then:
 * its own memory, the files that are open, KVM. In order, each step needing the rights that the
 * next one gives up: no new privileges, capabilities dropped, no file system (Landlock), a short
 * list of system calls (seccomp).
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

struct err;

/**
 * sandbox_enter - lock this process and every thread that it will make in, for good
 * @socket_path: a socket that is still to be unlinked at the end, or NULL
 * Landlock is used where the host's kernel has it; its absence is a debug message, since the list
 * of system calls alone opens no file either. Everything else is an error when it fails. A build
 * without the sandbox option says so once, as a debug message. Return: 0 or -errno
 */
int sandbox_enter(const char *socket_path, struct err *e);

#endif
