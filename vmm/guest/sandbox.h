/*
 * Locking the process in, once everything that the guest needs from the host is open and before the
 * guest runs its first instruction. What a guest could reach by a mistake in a device is then:
 * its own memory, the files that are open, KVM. In order, each step needing the rights that the
 * next one gives up: no new privileges, capabilities dropped, no file system (Landlock), a short
 * list of system calls (seccomp).
 */
#ifndef VMM_GUEST_SANDBOX_H
#define VMM_GUEST_SANDBOX_H

#include <stdbool.h>

struct err;

/*
 * The folders of files that are replaced while the guest runs have these descriptors, the
 * mitigation report's and that of --dump-dtb; new files in them are opened with FILE_REPLACE_FLAGS
 * (base/file_write.h). The list of system calls is made at build time and names all three.
 */
#define SANDBOX_REPORT_FD 511
#define SANDBOX_DTB_FD	  508

/* The guest's run directory (control/rundir.h) and the one above it; what is in them is removed. */
#define SANDBOX_RUNBASE_FD 510
#define SANDBOX_RUNDIR_FD  509

/* What is still to be done in the file system. */
struct sandbox_needs {
	/*
	 * sockets that are to be unlinked at the end, or NULL: the console's, the incoming guest's
	 */
	const char *socket_path[2];
	/*
	 * SANDBOX_REPORT_FD, SANDBOX_DTB_FD when files are to be made and replaced in there, or -1
	 */
	int report_fd, dtb_fd;
	/* SANDBOX_RUNBASE_FD and SANDBOX_RUNDIR_FD when a run directory is to be removed, or -1 */
	int runbase_fd, rundir_fd;
	bool rename; /* the run directory may get another name */
};

/**
 * sandbox_enter - lock this process and every thread that it will make in, for good
 * Landlock is used where the host's kernel has it; its absence is a debug message, since the
 * list of system calls alone opens no file either. Everything else is an error when it fails. A
 * build without the sandbox option says so once, as a debug message. Return: 0 or -errno
 */
int sandbox_enter(const struct sandbox_needs *needs, struct err *e);

#endif
