#include "vmm/kvm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "vmm/kvm/memory_fault.h"
#include "vmm/layout.h"

#define HUGE_PAGE (2 * MiB)
/* KVM_MEM_MAX_NR_PAGES of Linux include/linux/kvm_host.h: what one memory slot takes */
#define SLOT_MAX (((UINT64_C(1) << 31) - 1) * GUEST_PAGE)
/* all memory, in the two slots below and above the hole; whole MiB */
#define SLOTS_MAX (LAYOUT_HOLE_START + SLOT_MAX / MiB * MiB)

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
	const uint64_t align = opt->hugepages ? HUGE_PAGE : GUEST_PAGE;
	uint64_t available, max = phys_bits < 64 ? 1ULL << phys_bits : UINT64_MAX;

	/* what the hole pushes up has to fit below the end of the address space, too */
	max -= LAYOUT_HOLE_END - LAYOUT_HOLE_START;
	if (opt->size_bytes < MEMORY_MIN)
		return err_set(e, -EINVAL, "-m: %llu bytes are too little; give 2M or more",
			       (unsigned long long)opt->size_bytes);
	if (opt->size_bytes > max)
		return err_set(e, -EINVAL,
			       "-m: %llu MiB do not fit in this CPU's %u physical address bits; "
			       "give at most %llu",
			       (unsigned long long)(opt->size_bytes / MiB), phys_bits,
			       (unsigned long long)(max / MiB));
	if (opt->size_bytes > SLOTS_MAX)
		return err_set(e, -EINVAL,
			       "-m: %llu MiB do not fit in a memory slot of KVM; give at most %llu",
			       (unsigned long long)(opt->size_bytes / MiB),
			       (unsigned long long)(SLOTS_MAX / MiB));
	if (opt->size_bytes % align)
		return err_set(e, -EINVAL, "-m: %llu bytes are not a multiple of %s; round it",
			       (unsigned long long)opt->size_bytes,
			       opt->hugepages ? "2 MiB, the page size of --hugepages" : "4 KiB");
	/* asked beforehand: without the pages the kernel would rather kill a process than say no */
	available = opt->prealloc && !opt->hugepages ? host_available() : UINT64_MAX;
	if (available < opt->size_bytes)
		return err_set(e, -ENOMEM,
			       "--prealloc: %llu MiB wanted, %llu MiB available on this host; give "
			       "a smaller -m, or leave out --prealloc",
			       (unsigned long long)(opt->size_bytes / MiB),
			       (unsigned long long)(available / MiB));
	return 0;
}

enum step { STEP_FILE, STEP_SIZE, STEP_MAP };

/* Why there is no memory, and what helps. The first row that fits counts. */
static const struct {
	enum step step;
	int error;	/* 0: any */
	bool hugepages; /* with --hugepages only */
	const char *cure;
} no_memory_rows[] = {
	{STEP_FILE, EMFILE, false, "raise the limit of open files (ulimit -n)"},
	{STEP_FILE, ENFILE, false, "the host has too many open files (sysctl fs.file-max)"},
	{STEP_FILE, EPERM, false,
	 "memfd_create(2) is forbidden here: allow it in the container's seccomp filter"},
	{STEP_FILE, EACCES, false,
	 "memfd_create(2) is forbidden here: set sysctl vm.memfd_noexec=1"},
	{STEP_FILE, ENODEV, true, "this host has no huge pages of 2 MiB: leave out --hugepages"},
	{STEP_FILE, ENOENT, true, "this host has no huge pages of 2 MiB: leave out --hugepages"},
	{STEP_FILE, ENOSYS, true, "this host has no huge pages of 2 MiB: leave out --hugepages"},
	{STEP_FILE, EINVAL, true, "this host has no huge pages of 2 MiB: leave out --hugepages"},
	{STEP_FILE, ENOSYS, false,
	 "memfd_create(2) is forbidden here: allow it in the container's seccomp filter"},
	{STEP_SIZE, EFBIG, false,
	 "guest memory is a file to the kernel: raise the limit of their size (ulimit -f)"},
	{STEP_MAP, EAGAIN, false, "raise the limit of locked memory (ulimit -l)"},
	{STEP_MAP, 0, true, "reserve enough 2 MiB pages (sysctl vm.nr_hugepages)"},
	{STEP_SIZE, 0, true, "reserve enough 2 MiB pages (sysctl vm.nr_hugepages)"},
};

static const char *no_memory_cure(enum step step, int error, bool hugepages)
{
	struct rlimit as;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(no_memory_rows); i++)
		if (no_memory_rows[i].step == step &&
		    (!no_memory_rows[i].error || no_memory_rows[i].error == error) &&
		    (hugepages || !no_memory_rows[i].hugepages))
			return no_memory_rows[i].cure;
	if (step == STEP_MAP && getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur != RLIM_INFINITY)
		return "give a smaller -m, or raise the limit of address space (ulimit -v)";
	return "give a smaller -m";
}

static int no_memory(enum step step, int error, uint64_t size_bytes, bool hugepages, struct err *e)
{
	static const char *const what[] = {[STEP_FILE] = "cannot make",
					   [STEP_SIZE] = "cannot have",
					   [STEP_MAP] = "cannot map"};

	return err_set(e, -error, "-m: %s %llu MiB of guest memory: %s; %s", what[step],
		       (unsigned long long)(size_bytes / MiB), strerror(error),
		       no_memory_cure(step, error, hugepages));
}

static int preallocate(struct memory *m, struct err *e)
{
	if (madvise(m->map, m->size_bytes, MADV_POPULATE_WRITE) < 0)
		return err_set(e, -errno, "--prealloc: cannot populate %llu MiB: %s; %s",
			       (unsigned long long)(m->size_bytes / MiB), strerror(errno),
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
static int map_memory(struct memory *m, const struct memory_options *opt, struct err *e)
{
	/* huge pages are reserved by mmap itself, so a short pool is an error now and no SIGBUS
	 * later */
	void *map = mmap(NULL, opt->size_bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | (opt->hugepages ? 0 : MAP_NORESERVE), m->fd, 0);
	int ret;

	if (map == MAP_FAILED)
		return no_memory(STEP_MAP, errno, opt->size_bytes, opt->hugepages, e);
	m->map = map;
	m->size_bytes = opt->size_bytes;
	m->hugepages = opt->hugepages;
	memory_fault_watch(map, m->size_bytes, NULL, -1, 0);
	/*
	 * advice only: a guest's secrets stay out of core files, and big pages where the host may
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
	return ret ? err_set(e, ret, "-m: cannot lay out %llu MiB",
			     (unsigned long long)(m->size_bytes / MiB))
		   : 0;
}

int memory_init(struct memory *m, const struct memory_options *opt, struct err *e)
{
	const unsigned int huge = opt->hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0;

	memset(m, 0, sizeof(*m));
	m->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);
	if (m->fd < 0)
		return no_memory(STEP_FILE, errno, opt->size_bytes, opt->hugepages, e);
	if (ftruncate(m->fd, (off_t)opt->size_bytes) < 0 ||
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return no_memory(STEP_SIZE, errno, opt->size_bytes, opt->hugepages, e);
	return map_memory(m, opt, e);
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
			       "memory: %llu bytes were handed over, the guest has %llu; give the "
			       "same -m on both sides",
			       (unsigned long long)st.st_size, (unsigned long long)opt->size_bytes);
	return map_memory(m, opt, e);
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
		return err_set(e, -EINVAL,
			       "saved guest: the file has %lld bytes, its memory of %llu bytes "
			       "begins at %llu; it was cut short, use another copy",
			       (long long)end, (unsigned long long)size_bytes,
			       (unsigned long long)offset);
	map = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
		   (off_t)offset);
	if (map == MAP_FAILED)
		return no_memory(STEP_MAP, errno, size_bytes, false, e);
	m->map = map;
	m->size_bytes = size_bytes;
	memory_fault_watch(map, size_bytes, path, fd, offset + size_bytes);
	madvise(map, size_bytes, MADV_DONTDUMP);
	ret = split(m);
	return ret ? err_set(e, ret, "-m: cannot lay out %llu MiB",
			     (unsigned long long)(size_bytes / MiB))
		   : 0;
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
	memory_fault_unwatch(m->map);
	if (m->map)
		munmap(m->map, m->size_bytes);
	if (m->fd >= 0)
		close(m->fd);
	memset(m, 0, sizeof(*m));
	m->fd = -1;
}
