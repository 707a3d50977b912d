/* See iov.h. */
#include "devices/virtio/iov.h"

#include <string.h>

size_t iov_copy(const struct iovec *iov, unsigned int n, void *buf, size_t len, bool to_iov)
{
	size_t done = 0;
	unsigned int i;

	for (i = 0; i < n && done < len; i++) {
		const size_t part = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		if (to_iov)
			memcpy(iov[i].iov_base, (char *)buf + done, part);
		else
			memcpy((char *)buf + done, iov[i].iov_base, part);
		done += part;
	}
	/* nothing of the copy may be read from guest memory again */
	__asm__ volatile("" : : "r"(buf) : "memory");
	return done;
}

void iov_drop(struct iovec **iov, unsigned int *n, size_t len)
{
	while (*n && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		++*iov;
		--*n;
	}
	if (*n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}
