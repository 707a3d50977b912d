/* A guest out of a file that testudo save wrote (migrate_save.h), running before its RAM is read.
 */
#ifndef VMM_GUEST_MIGRATE_RESTORE_H
#define VMM_GUEST_MIGRATE_RESTORE_H

struct err;
struct migrate_dest;

/**
 * migrate_restore_open - before the sandbox: a file to restore from
 * Return: a descriptor; -errno with the cause in @e
 */
int migrate_restore_open(const char *path, struct err *e);

/**
 * migrate_restore - the work of the thread of @d: read d->fd, build the guest, let it go on
 * Nothing in the file is trusted. RAM is mapped and read when it is touched; with
 * config.verify_snapshot all of it is compared with its checksums first.
 * Return: 0; -EPERM when policy refuses; -errno with one line in @e
 */
int migrate_restore(struct migrate_dest *d, struct err *e);

#endif
