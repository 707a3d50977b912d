/*
 * Any bytes as what comes on the data channels of a migration: refused with one line, or taken,
 * and then nothing was written beside the guest's memory. The first byte says how (below), the
 * next two how many of the others are the first channel's, if there are two.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "migration/ram/recv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD 3

#define THROUGH_MAP   1 /* as with memory that is no file */
#define FIX_CHECKSUMS 2 /* which mutation alone would not find */
#define TWO_CHANNELS  4

/* 48 MiB, which the recorded guests have, and a last run that is not full */
#define N_PAGES	  (48 * MiB / GUEST_PAGE + 3)
#define RAM_BYTES (N_PAGES * GUEST_PAGE)

struct ram {
	int fd;
	uint8_t *map; /* what follows it may not be touched */
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void ram_make(struct ram *ram)
{
	ram->fd = memfd_create("ram", MFD_CLOEXEC);
	ram->map = mmap(NULL, RAM_BYTES + GUEST_PAGE, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(ram->fd >= 0 && ram->map != MAP_FAILED && ftruncate(ram->fd, RAM_BYTES) == 0 &&
	     mmap(ram->map, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ram->fd,
		  0) == ram->map);
}

static void ram_empty(const struct ram *ram)
{
	struct stat st;

	must(fstat(ram->fd, &st) == 0 && st.st_size == RAM_BYTES);
	must(ftruncate(ram->fd, 0) == 0 && ftruncate(ram->fd, RAM_BYTES) == 0);
}

static void fix_checksums(uint8_t *p, size_t size)
{
	while (size >= RAM_HEAD_BYTES) {
		const size_t table = get_le16(p + 6) * (size_t)RAM_RUN_BYTES;
		const size_t pages = (size_t)get_le32(p + 12) * GUEST_PAGE;

		if (table + pages > size - RAM_HEAD_BYTES)
			return; /* it is cut short, and nobody looks at them */
		put_le32(p + 16, crc32c(0, p + RAM_HEAD_BYTES, table));
		put_le32(p + 20, crc32c_pages(p + RAM_HEAD_BYTES + table, pages / GUEST_PAGE));
		put_le32(p + RAM_HEAD_BYTES - 4, crc32c(0, p, RAM_HEAD_BYTES - 4));
		p += RAM_HEAD_BYTES + table + pages;
		size -= RAM_HEAD_BYTES + table + pages;
	}
}

/* A channel on which these bytes came, and then its end. Return: what is read from */
static int channel_of(const uint8_t *data, size_t size, bool fix)
{
	uint8_t *copy = malloc(size ? size : 1);
	int pair[2];

	memcpy(copy, data, size);
	if (fix)
		fix_checksums(copy, size);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	/* more than the socket has room for is cut off */
	must(!size || send(pair[1], copy, size, MSG_DONTWAIT) > 0);
	close(pair[1]);
	free(copy);
	return pair[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ram ram;
	struct ram_recv_config config = {.n_pages = N_PAGES, .cancel_fd = -1, .stall_ms = 5000};
	struct err e = {0};
	struct ram_recv r;
	uint8_t how;
	size_t part;
	int fds[2];
	int ret;

	if (size < HEAD)
		return 0;
	if (!ram.map)
		ram_make(&ram);
	how = data[0];
	size -= HEAD;
	part = get_le16(data + 1);
	if (part > size || !(how & TWO_CHANNELS))
		part = size;
	data += HEAD;
	fds[config.n++] = channel_of(data, part, how & FIX_CHECKSUMS);
	if (how & TWO_CHANNELS)
		fds[config.n++] = channel_of(data + part, size - part, how & FIX_CHECKSUMS);
	config.map = ram.map;
	config.fd = how & THROUGH_MAP ? -1 : ram.fd;
	config.fds = fds;
	must(ram_recv_start(&r, &config, &e) == 0);
	ret = ram_recv_join(&r, &e);
	must(ret == 0 ? ram_recv_complete(&r) : e.text[0] && !strchr(e.text, '\n'));
	ram_recv_fini(&r);
	ram_empty(&ram);
	while (config.n)
		close(fds[--config.n]);
	return 0;
}
