/*
 * Descriptors 0, 1 and 2 when the caller closed some of them (">&-"): the next file that is opened
 * would get such a number, and a disk would be written to as if it were the terminal.
 */
#ifndef BASE_STD_FDS_H
#define BASE_STD_FDS_H

#include <stdbool.h>

/**
 * std_fds_hold - put something in the place of those that are closed; first of all in main()
 * Reading from it and writing to it fail, as they would without.
 */
void std_fds_hold(void);

/** std_fd_was_closed - was @fd, of 0 to 2, closed when std_fds_hold() looked? */
bool std_fd_was_closed(int fd);

/**
 * std_out_flush - write out what was printed to standard output
 * Return: 0; -errno of the first call here that failed; -EIO: it failed before, in printf(3)
 */
int std_out_flush(void);

#endif
