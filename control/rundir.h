/*
 * A guest's place in the file system while it runs: DIR/NAME with its control socket and a lock,
 * DIR being $XDG_RUNTIME_DIR/testudo, or /run/testudo. Who holds the lock lives; a directory whose
 * lock is free is what a killed process left, and the next guest to start removes it. Making and
 * cleaning are done under one more lock, DIR/.lock, so that nobody is half made when looked at.
 */
#ifndef CONTROL_RUNDIR_H
#define CONTROL_RUNDIR_H

#include <stddef.h>

struct err;

#define RUNDIR_NAME_MAX 64
#define RUNDIR_SOCKET	"qmp.sock"

struct rundir {
	char name[RUNDIR_NAME_MAX + 1];
	char *path;	     /* DIR/NAME */
	int base_fd, dir_fd; /* DIR and DIR/NAME */
	int lock_fd;	     /* held for life */
};

struct rundir_list {
	char (*name)[RUNDIR_NAME_MAX + 1];
	size_t n;
};

/**
 * rundir_check_name - may a guest be called @name? 1 to 64 of A-Z a-z 0-9 . _ -, the first no dot
 * @what: where it was given, for the message: "--name"
 * Return: 0; -EINVAL with what is wrong in @e
 */
int rundir_check_name(const char *what, const char *name, struct err *e);

/** rundir_init - an empty one: rundir_close() is safe from here on */
void rundir_init(struct rundir *d);

/**
 * rundir_open - make the directory of the guest @name, and clean up after killed ones
 * @base_fd, @dir_fd: the descriptor numbers to use for the two directories, which must be free: the
 * sandbox's list of system calls names them
 * Return: 0; -EEXIST a guest of that name runs; -EPERM the directory is another's or open to
 * others; -errno. @d may be given to rundir_close() in any case.
 */
int rundir_open(struct rundir *d, const char *name, int base_fd, int dir_fd, struct err *e);

/** rundir_listen - the control socket. Return: the listening descriptor, the caller's, or -errno */
int rundir_listen(const struct rundir *d, struct err *e);

/** rundir_remove - remove the directory and nothing else; for a signal's handler, too */
void rundir_remove(const struct rundir *d);

/**
 * rundir_rename - the guest is called @name from here on; needs renameat2(2) on the directory above
 * Return: 0; -EEXIST while a guest has that name; -errno. @d is as before then.
 */
int rundir_rename(struct rundir *d, const char *name, struct err *e);

/** rundir_close - remove the directory; needs unlinkat(2) on the two descriptors and nothing more
 */
void rundir_close(struct rundir *d);

/**
 * rundir_connect - connect to the control socket of the guest @name
 * @timeout_ms: for this and each later read or write of the descriptor
 * Return: the descriptor; -ENOENT no such guest, with those that there are in @e; -ECONNREFUSED it
 * was killed; -EHOSTDOWN its process is stopped; -EAGAIN it has not answered; -EACCES; -errno
 */
int rundir_connect(const char *name, unsigned int timeout_ms, struct err *e);

/** rundir_where - DIR as it is, or would be, in this environment; never NULL, cut if too long */
struct rundir_where {
	char s[128];
};
struct rundir_where rundir_where(void);

/**
 * rundir_list - the names in the run directory, sorted; some may be of killed guests
 * Return: 0, also when there is no run directory yet, or -errno; free with rundir_list_free()
 */
int rundir_list(struct rundir_list *list, struct err *e);
void rundir_list_free(struct rundir_list *list);

/** rundir_clean - remove what killed guests left. Return: 0 or -errno */
int rundir_clean(struct err *e);

#endif
