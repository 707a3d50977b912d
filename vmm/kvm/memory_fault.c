#include "vmm/kvm/memory_fault.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/text.h"
#include "devices/char/terminal.h"

#define RANGES_MAX 4 /* a machine that is built and one that is taken apart, and room */
#define LINE_SIZE  1024

enum cause { CAUSE_CUT, CAUSE_LOST, CAUSE_BROKEN, N_CAUSES };

/* Its lines are made beforehand: a handler cannot format. */
struct range {
	uintptr_t start; /* 0: free; set last */
	uint64_t len;
	int fd; /* -1: no file */
	uint64_t file_end;
	char line[N_CAUSES][LINE_SIZE + 1];
};

/* File-scope on purpose, as a handler has no argument. */
static struct {
	struct range range[RANGES_MAX];
	void (*end)(void *);
	void *arg;
	int code;
	int told, ending;
	struct sigaction before;
} fault;

static const struct range *range_of(uintptr_t at)
{
	size_t i;

	for (i = 0; i < RANGES_MAX; i++) {
		const struct range *r = &fault.range[i];
		const uintptr_t start = __atomic_load_n(&r->start, __ATOMIC_ACQUIRE);

		if (start && at - start < r->len)
			return r;
	}
	return NULL;
}

static bool is_cut(const struct range *r)
{
	struct stat st;

	return r->fd >= 0 && fstat(r->fd, &st) == 0 && (uint64_t)st.st_size < r->file_end;
}

static void tell(const struct range *r, enum cause cause)
{
	if (__atomic_exchange_n(&fault.told, 1, __ATOMIC_ACQ_REL))
		return;
	if (write(STDERR_FILENO, r->line[cause], strlen(r->line[cause])) < 0)
		return; /* nobody is left to tell */
}

static void bus_error(int sig, siginfo_t *info, void *context)
{
	const struct range *r = range_of((uintptr_t)info->si_addr);
	const int error = errno;

	(void)context;
	if (info->si_code <= 0) /* kill(2): an address it has not */
		r = NULL;
	if (r && info->si_code == BUS_MCEERR_AO) {
		errno = error; /* nobody has touched it yet */
		return;
	}
	if (!r) {
		terminal_restore();
		sigaction(sig, &fault.before, NULL);
		if (info->si_code <= 0)
			raise(sig);
		return; /* what faulted does it again */
	}
	while (__atomic_exchange_n(&fault.ending, 1, __ATOMIC_ACQ_REL))
		poll(NULL, 0, -1); /* another thread is at it */
	tell(r, info->si_code == BUS_MCEERR_AR ? CAUSE_BROKEN : is_cut(r) ? CAUSE_CUT : CAUSE_LOST);
	fault.end(fault.arg);
	_exit(fault.code);
}

int memory_fault_open(void (*end)(void *), void *arg, int code, struct err *e)
{
	const struct sigaction act = {.sa_sigaction = bus_error, .sa_flags = SA_SIGINFO};

	fault.end = end;
	fault.arg = arg;
	fault.code = code;
	if (sigaction(SIGBUS, &act, &fault.before) < 0)
		return err_set(e, -errno, "sigaction: %s", strerror(errno));
	return 0;
}

static void make_lines(struct range *r, const char *path)
{
	static const char head[] = "testudo: error: guest memory: ";
	size_t i;

	if (path) {
		snprintf(r->line[CAUSE_CUT], LINE_SIZE,
			 "%s%s was cut short while the guest ran from it; leave a saved guest's "
			 "file as it is until its guest has ended",
			 head, path);
		snprintf(r->line[CAUSE_LOST], LINE_SIZE,
			 "%s%s cannot be read any more; see the kernel's log", head, path);
	} else {
		snprintf(r->line[CAUSE_LOST], LINE_SIZE,
			 "%sthe host cannot give a page of it (from swap, or a huge page); see "
			 "the kernel's log",
			 head);
	}
	snprintf(r->line[CAUSE_BROKEN], LINE_SIZE,
		 "%sa page of it is broken, as the hardware says; see the kernel's log", head);
	for (i = 0; i < N_CAUSES; i++) {
		text_printable(r->line[i]);
		strcat(r->line[i], "\n");
	}
}

void memory_fault_watch(const void *map, uint64_t len, const char *path, int fd, uint64_t file_end)
{
	struct range *r = NULL;
	size_t i;

	for (i = 0; i < RANGES_MAX && !r; i++)
		if (!fault.range[i].start)
			r = &fault.range[i];
	if (!r)
		return;
	r->len = len;
	r->fd = path ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	r->file_end = file_end;
	make_lines(r, path);
	__atomic_store_n(&r->start, (uintptr_t)map, __ATOMIC_RELEASE);
}

void memory_fault_unwatch(const void *map)
{
	size_t i;

	for (i = 0; map && i < RANGES_MAX; i++) {
		struct range *r = &fault.range[i];

		if (r->start != (uintptr_t)map)
			continue;
		__atomic_store_n(&r->start, 0, __ATOMIC_RELEASE);
		if (r->fd >= 0)
			close(r->fd);
		r->fd = -1;
	}
}

bool memory_fault_explains(bool efault)
{
	const struct range *any = NULL;
	size_t i;

	for (i = 0; i < RANGES_MAX; i++) {
		const struct range *r = &fault.range[i];

		if (!__atomic_load_n(&r->start, __ATOMIC_ACQUIRE))
			continue;
		any = r;
		if (is_cut(r)) {
			tell(r, CAUSE_CUT);
			return true;
		}
	}
	if (efault && any)
		tell(any, CAUSE_LOST);
	return efault && any;
}
