/* Small work on the iovecs of a chain, whose bytes may lie anywhere in any pieces. */
#ifndef DEVICES_VIRTIO_IOV_H
#define DEVICES_VIRTIO_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

/**
 * iov_copy - copy up to @len bytes between @buf and the start of @n iovecs
 * @to_iov: the direction. What was copied out is not read from guest memory again.
 * Return: bytes copied
 */
size_t iov_copy(const struct iovec *iov, unsigned int n, void *buf, size_t len, bool to_iov);

/** iov_drop - take the first @len bytes off the @n iovecs at @iov; moves both on, in place */
void iov_drop(struct iovec **iov, unsigned int *n, size_t len);

#endif
