/*
 * xstate: every processor switches on all components of extended state that CPUID leaf 0DH lists
 * for XCR0, holds patterns in them in ring 3 and looks all the time whether they are still there.
 * Signs of life as those of heartbeat; a lost component is an error there, and a line. cpus=N
 * processors (1)			looks=N  end after so many each (0: never)
 */
#include "tests/guest/guest.h"
#include "tests/guest/heartbeat.h"
#include "tests/guest/xstate.h"

#define CR4_OSXSAVE	  (1ull << 18)
#define CPUID_1_ECX_XSAVE (1u << 26)
#define LOOKS		  64 /* at one pattern */

struct holder {
	struct xstate_area want, seen;
};

static struct heartbeat *const heart = (struct heartbeat *)HEARTBEAT_GPA;
static struct holder *holders;
static struct xstate xstate;
static uint64_t looks, report;
static uint32_t finished;

static void switch_on(void)
{
	uint64_t cr4;

	__asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("movq %0, %%cr4" : : "r"(cr4 | CR4_OSXSAVE));
	__asm__ volatile("xsetbv"
			 :
			 : "c"(0), "a"((uint32_t)xstate.xcr0), "d"((uint32_t)(xstate.xcr0 >> 32)));
}

static void look(struct heartbeat_cpu *h, const struct holder *own, uint32_t cpu)
{
	const uint64_t now = rdtsc(), gap = now - h->last_tsc;
	const int lost = xstate_differs(&xstate, &own->want, &own->seen);

	if (gap > h->max_gap_tsc) {
		h->max_gap_tsc = gap;
		h->max_gap_count = h->count + 1;
	}
	h->last_tsc = now;
	WRITE_ONCE(h->count, h->count + 1);
	if (lost >= 0 && !h->errors++)
		print("xstate cpu=%u lost component %d\n", cpu, lost);
	if (report && !cpu && h->count % report == 0)
		print("xstate looks=%lu errors=%lu\n", h->count, h->errors);
}

static void hold(void *arg)
{
	const uint32_t cpu = (uint32_t)(uint64_t)arg;
	struct heartbeat_cpu *h = &heart->cpu[cpu];
	struct holder *own = &holders[cpu];

	h->last_tsc = rdtsc();
	for (h->generation = 1; !looks || h->count < looks; h->generation++) {
		xstate_fill(&xstate, &own->want, (uint64_t)cpu << 32 | h->generation);
		xstate_load(&xstate, &own->want);
		for (uint32_t i = 0; i < LOOKS; i++) {
			xstate_store(&xstate, &own->seen);
			look(h, own, cpu);
		}
	}
	__atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
}

static void hold_cpu(uint32_t cpu)
{
	switch_on();
	ring3_run(hold, (void *)(uint64_t)cpu, (uint8_t *)page_alloc(1) + PAGE_SIZE, RFLAGS_IF);
}

const char *cmd_xstate(void)
{
	const uint32_t n = (uint32_t)opt_u64("cpus", 1);
	const char *wrong = n > 1 ? acpi_init() : NULL;
	struct cpuid_regs r;
	uint64_t errors = 0;

	if (wrong)
		return wrong;
	if (!n || n > HEARTBEAT_MAX_CPUS)
		return "cpus= is not in 1..256";
	if (!(cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE))
		return "the processor has no XSAVE";
	looks = opt_u64("looks", 0);
	report = opt_u64("report", 0);
	r = cpuid(0xd, 0);
	wrong = xstate_init(&xstate, (uint64_t)r.edx << 32 | r.eax);
	if (wrong)
		return wrong;
	holders = page_alloc(n * sizeof(*holders) / PAGE_SIZE);
	memset(heart, 0, sizeof(*heart));
	heart->version = HEARTBEAT_VERSION;
	heart->n_cpus = n;
	heart->tsc_khz = tsc_khz();
	wrong = report_mitigations();
	if (wrong)
		return wrong;
	barrier();
	heart->magic = HEARTBEAT_MAGIC;
	print("xstate components=0x%lx cpus=%u\n", xstate.xcr0, n);
	pic_mask_all();
	if (n > 1 && smp_start(n, hold_cpu) != n)
		return "not all processors came";
	hold_cpu(0);
	while (READ_ONCE(finished) < n)
		cpu_pause();
	for (uint32_t i = 0; i < n; i++)
		errors += heart->cpu[i].errors;
	return errors ? "a component lost what was in it" : NULL;
}
