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

/*
 * The directory of the mitigation report has this descriptor, and files in it are opened with these
 * flags: the list of system calls is made at build time and names both.
 */
#define SANDBOX_REPORT_FD    511
#define SANDBOX_REPORT_FLAGS (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)

/**
 * sandbox_enter - lock this process and every thread that it will make in, for good
 * @socket_path: a socket that is still to be unlinked at the end, or NULL
 * @report_fd: SANDBOX_REPORT_FD when files are still to be made and replaced in that directory, or
 * -1 Landlock is used where the host's kernel has it; its absence is a debug message, since the
 * list of system calls alone opens no file either. Everything else is an error when it fails. A
 * build without the sandbox option says so once, as a debug message. Return: 0 or -errno
 */
int sandbox_enter(const char *socket_path, int report_fd, struct err *e);

#endif
