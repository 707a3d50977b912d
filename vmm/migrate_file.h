/*
 * A guest into a file and back. The file is a stream that nobody answers, with RAM behind it:
 *
 *   head  HELLO  DESCRIPTION  MEMORY  STATE  CHECKSUMS  FINISH  (hole)  RAM, at 2 MiB
 *
 * The front is written last: a file that was not finished does not begin as one of ours.
 */
#ifndef VMM_MIGRATE_FILE_H
#define VMM_MIGRATE_FILE_H

struct err;
struct migrate_dest;
struct migrate_source;

/**
 * migrate_file_check - can a guest be saved into this descriptor?
 * @fd: from a client: an empty regular file, open for writing at any place
 * Return: 0; -EINVAL with what is wrong with it
 */
int migrate_file_check(int fd, struct err *e);

/**
 * migrate_file_save - the work of a thread of @s: into s->file.fd, which is closed then
 * How it ended is in s->stats and s->end. The guest stands still meanwhile. Afterwards it goes on
 * as it was if that failed, or if params.keep_running is set; else it stays paused, with its disks
 * written back and locked, for the client to end it once the file is safe.
 */
void migrate_file_save(struct migrate_source *s);

/**
 * migrate_file_open - before the sandbox: a file to restore from
 * Return: a descriptor; -errno with the cause in @e
 */
int migrate_file_open(const char *path, struct err *e);

/**
 * migrate_file_restore - the work of the thread of @d: read d->fd, build the guest, let it go on
 * Nothing in the file is trusted. RAM is mapped and read when it is touched; with
 * config.verify_snapshot all of it is compared with its checksums first.
 * Return: 0; -EPERM when policy refuses; -errno with one line in @e
 */
int migrate_file_restore(struct migrate_dest *d, struct err *e);

#endif
