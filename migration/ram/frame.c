#include "migration/ram/frame.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"

#define HEAD_CRC_AT (RAM_HEAD_BYTES - 4)

void ram_head_put(uint8_t out[RAM_HEAD_BYTES], const struct ram_head *h)
{
	put_le32(out, RAM_MAGIC);
	put_le16(out + 4, (uint16_t)h->kind);
	put_le16(out + 6, (uint16_t)h->n_runs);
	put_le32(out + 8, h->round);
	put_le32(out + 12, h->n_pages);
	put_le32(out + 16, h->table_crc);
	put_le32(out + 20, h->pages_crc);
	put_le32(out + 24, 0);
	put_le32(out + HEAD_CRC_AT, crc32c(0, out, HEAD_CRC_AT));
}

int ram_head_get(struct ram_head *h, const uint8_t in[RAM_HEAD_BYTES], uint32_t round,
		 struct err *e)
{
	const unsigned int kind = get_le16(in + 4);
	bool empty;

	if (get_le32(in) != RAM_MAGIC)
		return err_set(e, -EPROTO,
			       "memory stream: a frame begins with %#x, not %#x; the peer is no "
			       "testudo, or bytes were lost",
			       get_le32(in), RAM_MAGIC);
	if (get_le32(in + HEAD_CRC_AT) != crc32c(0, in, HEAD_CRC_AT))
		return err_set(e, -EILSEQ,
			       "memory stream: a frame's head has a wrong checksum; the network "
			       "damages data, try again");
	*h = (struct ram_head) {
		.kind = kind,
		.n_runs = get_le16(in + 6),
		.round = get_le32(in + 8),
		.n_pages = get_le32(in + 12),
		.table_crc = get_le32(in + 16),
		.pages_crc = get_le32(in + 20),
	};
	if (kind < RAM_PAGES || kind > RAM_LAST_END)
		return err_set(e, -EPROTO,
			       "memory stream: frame kind %u is unknown; use a newer destination",
			       kind);
	if (h->round != round)
		return err_set(e, -EPROTO, "memory stream: a frame of round %u in round %u",
			       h->round, round);
	empty = !h->n_runs && !h->n_pages;
	if (h->n_runs > RAM_FRAME_RUNS || h->n_pages > RAM_FRAME_PAGES ||
	    empty != (kind != RAM_PAGES))
		return err_set(e, -EPROTO,
			       "memory stream: a frame of kind %u with %u runs and %u pages; at "
			       "most %u and %u are legal",
			       kind, h->n_runs, h->n_pages, RAM_FRAME_RUNS, RAM_FRAME_PAGES);
	return 0;
}

uint32_t ram_table_put(uint8_t *out, const struct ram_run *run, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		put_le64(out + (size_t)i * RAM_RUN_BYTES, run[i].first_page);
		put_le64(out + (size_t)i * RAM_RUN_BYTES + 8, run[i].data);
		put_le64(out + (size_t)i * RAM_RUN_BYTES + 16, run[i].zero);
	}
	return crc32c(0, out, (size_t)n * RAM_RUN_BYTES);
}

int ram_table_get(struct ram_run *run, const uint8_t *in, const struct ram_head *h,
		  uint64_t n_ram_pages, struct err *e)
{
	unsigned int i, n_pages = 0;

	if (crc32c(0, in, (size_t)h->n_runs * RAM_RUN_BYTES) != h->table_crc)
		return err_set(e, -EILSEQ,
			       "memory stream: a frame's table has a wrong checksum; the network "
			       "damages data, try again");
	for (i = 0; i < h->n_runs; i++, in += RAM_RUN_BYTES) {
		const struct ram_run r = {get_le64(in), get_le64(in + 8), get_le64(in + 16)};
		const uint64_t all = r.data | r.zero;
		const uint64_t left = r.first_page < n_ram_pages ? n_ram_pages - r.first_page : 0;

		if (!left || (left < RAM_RUN_PAGES && all >> left))
			return err_set(e, -ERANGE,
				       "memory stream: pages from %#llx on, the guest has %#llx",
				       (unsigned long long)r.first_page,
				       (unsigned long long)n_ram_pages);
		if (r.first_page % RAM_RUN_PAGES || r.data & r.zero)
			return err_set(e, -EPROTO,
				       "memory stream: run at page %#llx with data %#llx and zeros "
				       "%#llx: not aligned, or both at once",
				       (unsigned long long)r.first_page, (unsigned long long)r.data,
				       (unsigned long long)r.zero);
		n_pages += (unsigned int)__builtin_popcountll(r.data);
		run[i] = r;
	}
	if (n_pages != h->n_pages)
		return err_set(e, -EPROTO, "memory stream: a table of %u pages, the head says %u",
			       n_pages, h->n_pages);
	return 0;
}

/* Return: 0 when @fd is ready for @events */
static int wait_ready(const struct ram_io *io, int fd, short events, bool patient, struct err *e)
{
	struct pollfd p[] = {
		{.fd = fd, .events = events},
		{.fd = io->cancel_fd, .events = POLLIN},
		{.fd = io->stop_fd, .events = POLLIN},
	};
	int ret;

	do
		ret = poll(p, ARRAY_SIZE(p), patient ? -1 : (int)io->stall_ms);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return err_set(e, -errno, "memory stream: poll: %s", strerror(errno));
	if (p[1].revents)
		return err_set(e, -ECANCELED, "the migration was cancelled");
	if (p[2].revents)
		return -ECANCELED; /* who failed has written the text */
	if (!ret)
		return err_set(e, -ETIMEDOUT,
			       "memory stream: the %s has not moved a byte for %u s; look at the "
			       "network and at the load of its host",
			       io->peer, io->stall_ms / 1000);
	return 0;
}

static int io_all(const struct ram_io *io, int fd, struct iovec *iov, unsigned int n, bool send,
		  bool patient, struct err *e)
{
	int ret;

	while (n) {
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
		ssize_t done = send ? sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
				    : recvmsg(fd, &msg, MSG_DONTWAIT);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN) {
			ret = wait_ready(io, fd, send ? POLLOUT : POLLIN, patient, e);
			if (ret < 0)
				return ret;
			continue;
		}
		if (done < 0 && errno != EPIPE && errno != ECONNRESET)
			return err_set(e, -errno, "memory stream: the connection to the %s: %s",
				       io->peer, strerror(errno));
		if (done <= 0)
			return err_set(e, -ECONNRESET,
				       "memory stream: the %s closed the connection; its log says "
				       "why",
				       io->peer);
		patient = false;
		for (; n && (size_t)done >= iov->iov_len; iov++, n--)
			done -= (ssize_t)iov->iov_len;
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

int ram_io_send(const struct ram_io *io, int fd, struct iovec *iov, unsigned int n, struct err *e)
{
	return io_all(io, fd, iov, n, true, false, e);
}

int ram_io_recv(const struct ram_io *io, int fd, struct iovec *iov, unsigned int n, bool patient,
		struct err *e)
{
	return io_all(io, fd, iov, n, false, patient, e);
}

typedef uint64_t lanes __attribute__((vector_size(16), may_alias));

bool ram_page_is_zero(const void *page)
{
	const lanes *p = page, *end = p + GUEST_PAGE / sizeof(*p);

	for (; p < end; p += 8) {
		/* the processor does not look ahead beyond a page, and the next one is read next */
		__builtin_prefetch(p + GUEST_PAGE / sizeof(*p));
		__builtin_prefetch(p + GUEST_PAGE / sizeof(*p) + 4);
		const lanes any = (p[0] | p[1] | p[2] | p[3]) | (p[4] | p[5] | p[6] | p[7]);

		if (any[0] | any[1])
			return false;
	}
	return true;
}

int ram_io_init(struct ram_io *io, unsigned int n, int cancel_fd, unsigned int stall_ms,
		const char *peer, struct err *e)
{
	*io = (struct ram_io) {
		.cancel_fd = cancel_fd,
		.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.stall_ms = stall_ms,
		.peer = peer,
	};
	if (io->stop_fd < 0)
		return err_set(e, -errno, "migration: eventfd: %s", strerror(errno));
	if (!n || n > RAM_CHANNELS_MAX)
		return err_set(e, -EINVAL, "migration: %u data channels; give 1 to %u", n,
			       RAM_CHANNELS_MAX);
	return 0;
}
