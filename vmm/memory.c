#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/layout.h"

#include "vmm/memory_fault.h"
#define HUGE_PAGE (2 * MiB)

/* MemAvailable of /proc/meminfo in bytes; UINT64_MAX when it cannot be told */
static uint64_t host_available(void)
{
	uint64_t kib = UINT64_MAX / KiB;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * KiB;
}

int memory_check(const struct memory_options *opt, unsigned int phys_bits, struct err *e)
{
	const uint64_t align = opt->hugepages ? HUGE_PAGE : 4096;
	uint64_t available, max = phys_bits < 64 ? 1ULL << phys_bits : UINT64_MAX;

	/* what the hole pushes up has to fit below the end of the address space, too */
	max -= LAYOUT_HOLE_END - LAYOUT_HOLE_START;
	if (opt->size_bytes < MEMORY_MIN)
		return err_set(e, -EINVAL, "-m: %" PRIu64 " bytes are too little; give 2M or more",
			       opt->size_bytes);
	if (opt->size_bytes > max)
		return err_set(e, -EINVAL,
			       "-m: %" PRIu64
			       " MiB do not fit in this CPU's %u physical address bits; "
			       "give at most %" PRIu64,
			       opt->size_bytes / MiB, phys_bits, max / MiB);
	if (opt->size_bytes % align)
		return err_set(e, -EINVAL,
			       "-m: %" PRIu64 " bytes are not a multiple of %s; round it",
			       opt->size_bytes,
			       opt->hugepages ? "2 MiB, the page size of --hugepages" : "4 KiB");
	/* asked beforehand: without the pages the kernel would rather kill a process than say no */
	available = opt->prealloc && !opt->hugepages ? host_available() : UINT64_MAX;
	if (available < opt->size_bytes)
		return err_set(
			e, -ENOMEM,
			"--prealloc: %" PRIu64 " MiB wanted, %" PRIu64
			" MiB available on this host; give a smaller -m, or leave out --prealloc",
			opt->size_bytes / MiB, available / MiB);
	return 0;
}

static int preallocate(struct memory *m, struct err *e)
{
	if (madvise(m->map, m->size_bytes, MADV_POPULATE_WRITE) < 0)
		return err_set(e, -errno, "--prealloc: cannot populate %" PRIu64 " MiB: %s; %s",
			       m->size_bytes / MiB, strerror(errno),
			       errno == EINVAL ? "this needs a host kernel from 5.14 on"
					       : "give a smaller -m");
	return 0;
}

static int split(struct memory *m)
{
	const uint64_t low = m->size_bytes < LAYOUT_HOLE_START ? m->size_bytes : LAYOUT_HOLE_START;
	const struct guest_mem_region below = {.gpa = 0, .len_bytes = low, .hva = m->map};
	const struct guest_mem_region above = {.gpa = LAYOUT_HOLE_END,
					       .len_bytes = m->size_bytes - low,
					       .hva = m->map + low,
					       .fd_offset = low};
	int ret = guest_mem_add(&m->guest, &below);

	if (!ret && above.len_bytes)
		ret = guest_mem_add(&m->guest, &above);
	return ret;
}

/* Everything from a descriptor of the right size on. */
static int map_memory(struct memory *m, const struct memory_options *opt, const char *cure,
		      struct err *e)
{
	/* huge pages are reserved by mmap itself, so a short pool is an error now and no SIGBUS
	 * later */
	void *map = mmap(NULL, opt->size_bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | (opt->hugepages ? 0 : MAP_NORESERVE), m->fd, 0);
	int ret;

	if (map == MAP_FAILED)
		return err_set(e, -ENOMEM, "-m: cannot map %" PRIu64 " MiB: %s; %s",
			       opt->size_bytes / MiB, strerror(errno), cure);
	m->map = map;
	m->size_bytes = opt->size_bytes;
	m->hugepages = opt->hugepages;
	/* advice only: a guest's secrets stay out of core files, and big pages where the host may
	 */
	madvise(map, m->size_bytes, MADV_DONTDUMP);
	if (!opt->hugepages)
		madvise(map, m->size_bytes, MADV_HUGEPAGE);
	if (opt->prealloc) {
		ret = preallocate(m, e);
		if (ret < 0)
			return ret;
	}
	ret = split(m);
	return ret ? err_set(e, ret, "-m: cannot lay out %" PRIu64 " MiB", m->size_bytes / MiB) : 0;
}

int memory_init(struct memory *m, const struct memory_options *opt, struct err *e)
{
	const unsigned int huge = opt->hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
	const char *cure = opt->hugepages ? "reserve enough 2 MiB pages (sysctl vm.nr_hugepages)"
					  : "give a smaller -m, or raise the limit (ulimit -v)";

	memset(m, 0, sizeof(*m));
	m->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)opt->size_bytes) < 0 ||
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_set(e, -errno, "-m: no memory file of %" PRIu64 " MiB: %s; %s",
			       opt->size_bytes / MiB, strerror(errno), cure);
	return map_memory(m, opt, cure, e);
}

int memory_adopt(struct memory *m, int fd, const struct memory_options *opt, struct err *e)
{
	const int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	memset(m, 0, sizeof(*m));
	m->fd = fd;
	/* without the seal, whoever has it too could shrink it and kill this process by SIGBUS */
	if (fstat(fd, &st) < 0 || seals < 0 || !(seals & F_SEAL_SHRINK))
		return err_set(e, -EINVAL,
			       "memory: the descriptor that was handed over is no memory file "
			       "sealed against shrinking; both sides must be testudo");
	if ((uint64_t)st.st_size != opt->size_bytes)
		return err_set(e, -EINVAL,
			       "memory: %" PRIu64 " bytes were handed over, the guest has %" PRIu64
			       "; give the same -m on both sides",
			       (uint64_t)st.st_size, opt->size_bytes);
	return map_memory(m, opt, "raise the limit (ulimit -v)", e);
}

int memory_map_file(struct memory *m, int fd, const char *path, uint64_t offset,
		    uint64_t size_bytes, struct err *e)
{
	const off_t end = lseek(fd, 0, SEEK_END);
	void *map;
	int ret;

	memset(m, 0, sizeof(*m));
	m->fd = -1;
	if (end < 0)
		return err_set(e, -errno, "saved guest: %s; give a regular file", strerror(errno));
	/* a page behind the end of the file would be a SIGBUS later */
	if (!size_bytes || offset > (uint64_t)end || size_bytes > (uint64_t)end - offset)
	memory_fault_watch(map, m->size_bytes, NULL, -1, 0);
		return err_set(e, -EINVAL,
			       "saved guest: the file has %lld bytes, its memory of %" PRIu64
			       " bytes begins at %" PRIu64 "; it was cut short, use another copy",
			       (long long)end, size_bytes, offset);
	map = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
		   (off_t)offset);
	if (map == MAP_FAILED)
		return err_set(e, -errno, "saved guest: cannot map %" PRIu64 " MiB: %s",
			       size_bytes / MiB, strerror(errno));
	m->map = map;
	m->size_bytes = size_bytes;
	madvise(map, size_bytes, MADV_DONTDUMP);
	ret = split(m);
	return ret ? err_set(e, ret, "-m: cannot lay out %" PRIu64 " MiB", size_bytes / MiB) : 0;
}

void memory_move(struct memory *to, struct memory *from)
{
	*to = *from;
	/* of the VM before */
	to->guest.dirty = NULL;
	to->guest.writers = NULL;
	*from = (struct memory) {.fd = -1};
}

void memory_fini(struct memory *m)
{
	if (m->map)
		munmap(m->map, m->size_bytes);
	if (m->fd >= 0)
		close(m->fd);
	memset(m, 0, sizeof(*m));
	m->fd = -1;
}
	memory_fault_watch(map, size_bytes, path, fd, offset + size_bytes);
	memory_fault_unwatch(m->map);
