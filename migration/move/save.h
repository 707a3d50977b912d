/*
 * A guest into a file. The file is a stream that nobody answers, with RAM behind it:
 *
 *   head  HELLO  DESCRIPTION  MEMORY  STATE  CHECKSUMS  FINISH  (hole)  RAM, at 2 MiB
 *
 * The front is written last: a file that was not finished does not begin as one of ours.
 */
#ifndef MIGRATION_MOVE_SAVE_H
#define MIGRATION_MOVE_SAVE_H

struct err;
struct migration_source;

/**
 * migration_save_check - can a guest be saved into this descriptor?
 * @fd: from a client: an empty regular file, open for writing at any place
 * Return: 0; -EINVAL with what is wrong with it
 */
int migration_save_check(int fd, struct err *e);

/**
 * migration_save - the work of a thread of @s: into s->file.fd, which is closed then
 * How it ended is in s->stats and s->end. The guest stands still meanwhile. Afterwards it goes on
 * as it was if that failed, or if params.keep_running is set; else it stays paused, with its disks
 * written back and locked, for the client to end it once the file is safe.
 */
void migration_save(struct migration_source *s);

#endif
