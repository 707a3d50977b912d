/*
 * Clocks: the TSC and its frequency, kvmclock (Documentation/virt/kvm/x86/msr.rst), the 8254 PIT.
 */
#include "tests/guest/guest.h"
#include "tests/guest/heartbeat.h"

#define CPUID_KVM	    0x40000000
#define CPUID_KVM_FEATURES  0x40000001
#define CPUID_HV_TIMING	    0x40000010
#define KVM_FEATURE_CLOCK2  (1u << 3)
#define MSR_KVM_SYSTEM_TIME 0x4b564d01

#define PIT_CHANNEL0	  0x40
#define PIT_COMMAND	  0x43
#define PIT_CH0_ONE_SHOT  0x30 /* both bytes, mode 0 */
#define PIT_HZ		  1193182ull
#define PIT_READ_STATUS_0 0xe2
#define PIT_STATUS_OUT	  0x80
#define PIT_CALIBRATE_US  10000

struct pvclock {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time_ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};

static struct pvclock pvclock __attribute__((aligned(64)));
static const char *khz_source = "none";

static bool has_kvmclock(void)
{
	struct cpuid_regs r = cpuid(CPUID_KVM, 0);

	/* "KVMKVMKVM" */
	return r.ebx == 0x4b4d564b && r.ecx == 0x564b4d56 &&
	       cpuid(CPUID_KVM_FEATURES, 0).eax & KVM_FEATURE_CLOCK2;
}

static void kvmclock_enable(void)
{
	wrmsr(MSR_KVM_SYSTEM_TIME, (uint64_t)&pvclock | 1);
}

static uint64_t kvmclock_scale(const struct pvclock *c, uint64_t cycles)
{
	uint64_t lo, hi;

	cycles = c->shift < 0 ? cycles >> -c->shift : cycles << c->shift;
	__asm__("mulq %3" : "=a"(lo), "=d"(hi) : "a"(cycles), "rm"((uint64_t)c->mul) : "cc");
	return hi << 32 | lo >> 32;
}

static uint64_t kvmclock_ns(void)
{
	struct pvclock c;
	uint64_t tsc;

	do {
		c = *(const volatile struct pvclock *)&pvclock;
		barrier();
		tsc = rdtsc();
	} while ((c.version & 1) || c.version != READ_ONCE(pvclock.version));
	return c.system_time_ns + kvmclock_scale(&c, tsc - c.tsc_timestamp);
}

static uint64_t khz_from_kvmclock(void)
{
	uint64_t khz;

	if (!has_kvmclock())
		return 0;
	kvmclock_enable();
	if (!pvclock.mul)
		return 0;
	khz = (1000000ull << 32) / pvclock.mul;
	return pvclock.shift < 0 ? khz << -pvclock.shift : khz >> pvclock.shift;
}

static uint64_t khz_from_hv_leaf(void)
{
	uint32_t max = cpuid(CPUID_KVM, 0).eax;

	if (max < CPUID_HV_TIMING || max > CPUID_HV_TIMING + 0xff)
		return 0;
	return cpuid(CPUID_HV_TIMING, 0).eax;
}

static uint64_t khz_from_leaf_15(void)
{
	struct cpuid_regs r;

	if (cpuid(0, 0).eax < 0x15)
		return 0;
	r = cpuid(0x15, 0);
	return r.eax ? (uint64_t)r.ecx * r.ebx / r.eax / 1000 : 0;
}

void pit_one_shot(uint32_t us)
{
	uint32_t count = (uint32_t)(us * PIT_HZ / 1000000);

	out8(PIT_COMMAND, PIT_CH0_ONE_SHOT);
	out8(PIT_CHANNEL0, (uint8_t)count);
	out8(PIT_CHANNEL0, (uint8_t)(count >> 8));
}

/* Channel 0, since channel 2 hangs on port 0x61, which not every machine has. */
static uint64_t khz_from_pit(void)
{
	uint64_t start;

	pit_one_shot(PIT_CALIBRATE_US);
	start = rdtsc();
	do
		out8(PIT_COMMAND, PIT_READ_STATUS_0);
	while (!(in8(PIT_CHANNEL0) & PIT_STATUS_OUT));
	return (rdtsc() - start) / (PIT_CALIBRATE_US / 1000);
}

static const struct {
	const char *name;
	uint64_t (*khz)(void);
} khz_sources[] = {
	{"leaf-0x40000010", khz_from_hv_leaf},
	{"kvmclock", khz_from_kvmclock},
	{"leaf-0x15", khz_from_leaf_15},
	{"pit", khz_from_pit},
};

uint64_t tsc_khz(void)
{
	static uint64_t khz;

	if (khz)
		return khz;
	khz = opt_u64("tsc_khz", 0);
	khz_source = "option";
	for (size_t i = 0; i < ARRAY_SIZE(khz_sources) && !khz; i++) {
		khz = khz_sources[i].khz();
		khz_source = khz_sources[i].name;
	}
	return khz;
}

const char *tsc_source(void)
{
	return khz_source;
}

void delay_us(uint64_t us)
{
	uint64_t end = rdtsc() + us * tsc_khz() / 1000;

	while (rdtsc() < end)
		cpu_pause();
}

struct limit limit_us(uint64_t us)
{
	return (struct limit) {.last = rdtsc(), .left = us / 1000 * tsc_khz()};
}

bool limit_over(struct limit *l)
{
	uint64_t now = rdtsc(), passed = now - l->last;

	if (passed > tsc_khz())
		passed = tsc_khz();
	l->last = now;
	l->left -= passed < l->left ? passed : l->left;
	return !l->left;
}

/*
 * Both clocks at one time: of some readings the one that took least, since a host that lets this
 * processor wait between the two makes them differ.
 */
static uint64_t both_clocks(uint64_t *tsc)
{
	uint64_t ns = 0, least = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		uint64_t before = rdtsc(), now = kvmclock_ns(), after = rdtsc();

		if (after - before >= least)
			continue;
		least = after - before;
		ns = now;
		*tsc = before;
	}
	return ns;
}

const char *cmd_kvmclock(void)
{
	uint64_t t0, t1, tsc0 = 0, tsc1 = 0, us;

	if (!has_kvmclock())
		return "CPUID has no kvmclock";
	kvmclock_enable();
	t0 = both_clocks(&tsc0);
	delay_us(opt_u64("us", 20000));
	t1 = both_clocks(&tsc1);
	us = (tsc1 - tsc0) * 1000 / tsc_khz();
	print("kvmclock start_ns=%lu passed_ns=%lu tsc_passed_us=%lu tsc_khz=%lu source=%s\n", t0,
	      t1 - t0, us, tsc_khz(), tsc_source());
	return t1 > t0 ? NULL : "time stands still";
}

/* A clock that is looked at again and again. */
struct watched {
	uint64_t first, last, step; /* the largest step */
	uint64_t back;		    /* how often it went back */
};

static void watch(struct watched *w, uint64_t now)
{
	if (now < w->last)
		w->back++;
	else if (now - w->last > w->step)
		w->step = now - w->last;
	w->last = now;
}

/* What a clock does over a pause, wherever the guest is then: the gate is opened by a host tool. */
const char *cmd_clocks(void)
{
	const uint32_t *gate = (const uint32_t *)GATE_GPA;
	struct watched tsc = {0}, ns = {0};

	if (!has_kvmclock())
		return "CPUID has no kvmclock";
	kvmclock_enable();
	tsc.first = tsc.last = rdtsc();
	ns.first = ns.last = kvmclock_ns();
	print("clocks start khz=%lu\n", tsc_khz());
	while (!READ_ONCE(*gate)) {
		watch(&tsc, rdtsc());
		watch(&ns, kvmclock_ns());
	}
	print("clocks tsc_ms=%lu tsc_step_ms=%lu tsc_back=%lu ns_ms=%lu ns_step_ms=%lu "
	      "ns_back=%lu\n",
	      (tsc.last - tsc.first) / tsc_khz(), tsc.step / tsc_khz(), tsc.back,
	      (ns.last - ns.first) / 1000000, ns.step / 1000000, ns.back);
	return NULL;
}
