/*
 * Preloaded by a test: the clocks of another host.
 *   CLOCKS_WALL=FILE     8 bytes, little-endian: ns that CLOCK_REALTIME is ahead; may change any
 * time CLOCKS_SLOW_MS=N     each question for a TSC's frequency takes N ms: restoring takes as long
 *   CLOCKS_BOOTED_S=N    CLOCK_MONOTONIC is ahead by N s, as of a host that has been up for longer
 *   CLOCKS_STEP_S=N      CLOCK_REALTIME is set on by N s when a migration first asks what was
 * written CLOCKS_INVARIANT=1   KVM_GET_SUPPORTED_CPUID has an invariant TSC; CLOCKS_VARIANT=1: it
 * has not CLOCKS_TSC_KHZ=N     the host's TSC has that frequency, as KVM says CLOCKS_SCALING=0|1
 * KVM_CAP_TSC_CONTROL. Without it KVM_SET_TSC_KHZ does what KVM does: fails below the host's
 * frequency, and above it succeeds, to catch up at exits
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000

static int (*real_ioctl)(int, unsigned long, ...);
static int (*real_gettime)(clockid_t, struct timespec *);
static const volatile int64_t *wall;
static long slow_ms, host_khz, vcpu_khz, step_s, booted_s;
static int scaling, invariant, variant;
static _Atomic int64_t stepped_ns;

static long number(const char *name)
{
	const char *s = getenv(name);

	return s ? strtol(s, NULL, 0) : 0;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("CLOCKS_WALL");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	*(void **)&real_ioctl = dlsym(RTLD_NEXT, "ioctl");
	*(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	slow_ms = number("CLOCKS_SLOW_MS");
	host_khz = vcpu_khz = number("CLOCKS_TSC_KHZ");
	scaling = number("CLOCKS_SCALING") != 0;
	invariant = number("CLOCKS_INVARIANT") != 0;
	variant = number("CLOCKS_VARIANT") != 0;
	step_s = number("CLOCKS_STEP_S");
	booted_s = number("CLOCKS_BOOTED_S");
	if (fd < 0)
		return;
	wall = mmap(NULL, sizeof(*wall), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (wall == MAP_FAILED)
		abort();
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
	int ret = real_gettime(clock, t);
	int64_t ns;

	if (!ret && clock == CLOCK_MONOTONIC)
		t->tv_sec += booted_s;
	if (ret || clock != CLOCK_REALTIME || !wall)
		return ret;
	ns = t->tv_sec * (int64_t)NS + t->tv_nsec + *wall + stepped_ns;
	t->tv_sec = ns / NS;
	t->tv_nsec = ns % NS;
	return 0;
}

static int set_khz(long khz)
{
	const long slack = host_khz / 4000;

	if (!scaling && khz < host_khz - slack) {
		errno = EIO;
		return -1;
	}
	vcpu_khz = khz;
	return 0;
}

static void set_invariant(struct kvm_cpuid2 *c)
{
	uint32_t i;

	for (i = 0; i < c->nent; i++)
		if (c->entries[i].function == 0x80000007)
			c->entries[i].edx = (c->entries[i].edx & ~(1u << 8)) | (uint32_t)invariant
										       << 8;
}

int ioctl(int fd, unsigned long request, ...)
{
	const struct timespec nap = {slow_ms / 1000, slow_ms % 1000 * 1000000};
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == KVM_GET_DIRTY_LOG)
		stepped_ns = step_s * (int64_t)NS;
	if (request == KVM_GET_TSC_KHZ && slow_ms)
		nanosleep(&nap, NULL);
	if (host_khz && request == KVM_GET_TSC_KHZ)
		return (int)vcpu_khz;
	if (host_khz && request == KVM_SET_TSC_KHZ)
		return set_khz((long)arg);
	if (host_khz && request == KVM_CREATE_VM)
		vcpu_khz = host_khz;
	if (host_khz && request == KVM_CHECK_EXTENSION && (long)arg == KVM_CAP_TSC_CONTROL)
		return scaling;
	ret = real_ioctl(fd, request, arg);
	if ((invariant || variant) && !ret && request == KVM_GET_SUPPORTED_CPUID)
		set_invariant(arg);
	return ret;
}
