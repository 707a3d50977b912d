/*
 * dirty and heartbeat: a load for migration tests and benchmarks, from ring 3 at native speed.
 * Every processor sweeps its share of the working set again and again, checks that each page still
 * holds what the sweep before wrote, and beats.
 *   wss=MIB  working set (dirty: 16, heartbeat: 0)	rate=N  pages a second in all (0: no limit)
 *   skip=MIB  of RAM that the working set leaves out below itself (0)
 *   cpus=N  processors (1)				order=seq|rand
 *   writers=N  how many of them have a share of the working set (all)
 *   reports=BITS  first reports them by the virtual mitigation MSRs, on the first processor
 *   loops=N  end after that (0: never)	gate=N  end when a host tool writes N to GATE_GPA (0: never)
 *   report=SECONDS  a line now and then; a byte on COM1 then ends the run
 */
#include "tests/guest/guest.h"
#include "tests/guest/heartbeat.h"
#include "tests/guest/uart.h"

#define MAX_SPANS      BOOT_MAX_REGIONS
#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(uint64_t))

struct span {
	uint64_t addr, pages;
};

static struct {
	struct span span[MAX_SPANS];
	uint32_t n_spans, n_cpus, n_writers;
	uint64_t pages;		 /* of the working set */
	uint64_t ticks_per_page; /* 0: no limit */
	uint64_t loops, ticks_report;
	uint32_t gate;
	bool random;
	uint32_t finished;
	bool stop;
} load;

/* a processor's share: pages first..first + n - 1, visited in steps that are coprime to n */
struct share {
	uint32_t cpu;
	uint64_t first, n, step;
	uint64_t done; /* pages of the sweep under way that are written */
	uint64_t at;
	uint64_t next_due, last_report;
};

static struct heartbeat *const heart = (struct heartbeat *)HEARTBEAT_GPA;
static const uint32_t *const gate = (const uint32_t *)GATE_GPA;
static struct share shares[MAX_CPUS];

static uint64_t *page_of(uint64_t index)
{
	const struct span *s = load.span;

	while (index >= s->pages) {
		index -= s->pages;
		s++;
	}
	return (uint64_t *)(s->addr + index * PAGE_SIZE);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static uint64_t share_step(uint64_t n)
{
	uint64_t step = n * 5 / 8 | 1; /* far away, so that neighbours in time are not in space */

	if (!load.random)
		return 1;
	while (gcd(step, n) != 1)
		step += 2;
	return step % n ? step % n : 1;
}

static void beat(struct heartbeat_cpu *h, uint64_t now)
{
	uint64_t gap = now - h->last_tsc;

	if (gap > h->max_gap_tsc) {
		h->max_gap_tsc = gap;
		h->max_gap_count = h->count + 1;
	}
	h->last_tsc = now;
	WRITE_ONCE(h->count, h->count + 1);
}

static bool page_holds(const uint64_t *page, uint64_t pattern)
{
	return READ_ONCE(page[0]) == pattern && READ_ONCE(page[WORDS_PER_PAGE - 1]) == ~pattern;
}

static void page_error(struct heartbeat_cpu *h, uint64_t index, uint64_t generation)
{
	const uint64_t *page = page_of(index);
	uint64_t want = heartbeat_pattern(index, generation);

	if (h->errors++)
		return;
	print("load bad page=0x%lx generation=%lu want=0x%lx first=0x%lx last=0x%lx\n",
	      (uint64_t)page, generation, want, page[0], ~page[WORDS_PER_PAGE - 1]);
}

static void share_advance(struct share *s)
{
	s->at += s->step;
	if (s->at >= s->n)
		s->at -= s->n;
}

static void write_page(struct share *s, struct heartbeat_cpu *h)
{
	uint64_t index = s->first + s->at;
	uint64_t *page = page_of(index);
	uint64_t pattern = heartbeat_pattern(index, h->generation);

	if (h->generation > 1 && !page_holds(page, heartbeat_pattern(index, h->generation - 1)))
		page_error(h, index, h->generation - 1);
	WRITE_ONCE(page[0], pattern);
	WRITE_ONCE(page[WORDS_PER_PAGE - 1], ~pattern);
	h->pages++;
	share_advance(s);
	if (++s->done == s->n) {
		s->done = 0;
		h->generation++;
	}
}

/* Once more over the whole share, in the order of writing: nothing may be lost at the end either */
static void check_share(struct share *s, struct heartbeat_cpu *h)
{
	uint64_t at = s->at;

	for (uint64_t i = 0; i < s->n; i++) {
		/*
		 * from the next page to write on: first the rest of the sweep, then what it wrote
		 */
		uint64_t generation = i < s->n - s->done ? h->generation - 1 : h->generation;

		if (generation && !page_holds(page_of(s->first + s->at),
					      heartbeat_pattern(s->first + s->at, generation)))
			page_error(h, s->first + s->at, generation);
		share_advance(s);
	}
	s->at = at;
}

static void report(const struct share *s, const char *name)
{
	const struct heartbeat_cpu *h = &heart->cpu[s->cpu];

	print("%s cpu=%u beats=%lu pages=%lu sweeps=%lu errors=%lu max_gap_us=%lu\n", name, s->cpu,
	      h->count, h->pages, h->generation - 1, h->errors,
	      h->max_gap_tsc * 1000 / heart->tsc_khz);
}

/* The line goes out a byte an exit: not a gap that anybody else caused. */
static void report_now_and_then(struct share *s, struct heartbeat_cpu *h, uint64_t now)
{
	if (s->cpu != 0 || !load.ticks_report || now - s->last_report < load.ticks_report)
		return;
	report(s, "load");
	if (in8(UART_LSR) & UART_LSR_DATA)
		WRITE_ONCE(load.stop, true);
	s->last_report = h->last_tsc = rdtsc();
}

static void load_loop(void *arg)
{
	struct share *s = arg;
	struct heartbeat_cpu *h = &heart->cpu[s->cpu];
	uint64_t now = rdtsc();

	s->next_due = s->last_report = h->last_tsc = now;
	while (!READ_ONCE(load.stop)) {
		now = rdtsc();
		beat(h, now);
		if (load.gate && READ_ONCE(*gate) == load.gate)
			break;
		report_now_and_then(s, h, now);
		if (!s->n || now < s->next_due)
			continue;
		write_page(s, h);
		s->next_due += load.ticks_per_page;
		if (load.loops && h->generation > load.loops)
			break;
	}
	check_share(s, h);
	__atomic_fetch_add(&load.finished, 1, __ATOMIC_SEQ_CST);
}

/*
 * Interrupts are on, as in any program, though none is to come: a host in Bochs gets none of its
 * own while a guest has them off and does not exit (docs/lab.md).
 */
static void load_cpu(uint32_t cpu)
{
	ring3_run(load_loop, &shares[cpu], (uint8_t *)page_alloc(1) + PAGE_SIZE, RFLAGS_IF);
}

/* Take the working set from RAM above the heap and @skip pages of it, whatever regions it is in. */
static const char *take_pages(uint64_t skip, uint64_t pages)
{
	load.pages = pages;
	for (uint32_t i = 0; i < boot.n_regions && pages; i++) {
		const struct boot_region *r = &boot.region[i];
		uint64_t start = (r->addr + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
		uint64_t end = (r->addr + r->size) & ~(PAGE_SIZE - 1), n;

		if (start < ARENA_START)
			start = ARENA_START;
		if (r->type != BOOT_RAM || start >= end)
			continue;
		n = (end - start) / PAGE_SIZE;
		if (n <= skip) {
			skip -= n;
			continue;
		}
		start += skip * PAGE_SIZE;
		n -= skip;
		skip = 0;
		if (n > pages)
			n = pages;
		page_map(start, n * PAGE_SIZE);
		load.span[load.n_spans++] = (struct span) {start, n};
		pages -= n;
	}
	return pages ? "the working set is larger than memory above 32 MiB" : NULL;
}

const char *cmd_load(void)
{
	bool dirty = str_equal(opt_command(), "dirty");
	uint64_t khz = tsc_khz(), rate = opt_u64("rate", 0), errors = 0;
	const char *wrong;

	load.n_cpus = (uint32_t)opt_u64("cpus", 1);
	load.n_writers = (uint32_t)opt_u64("writers", load.n_cpus);
	load.random = str_equal(opt_str("order", "seq"), "rand");
	load.loops = opt_u64("loops", 0);
	load.gate = (uint32_t)opt_u64("gate", 0);
	load.ticks_report = opt_u64("report", 0) * khz * 1000;
	load.ticks_per_page = rate ? khz * 1000 * load.n_writers / rate : 0;
	wrong = take_pages(opt_u64("skip", 0) * MIB / PAGE_SIZE,
			   opt_u64("wss", dirty ? 16 : 0) * MIB / PAGE_SIZE);
	if (!wrong && (!load.n_cpus || load.n_cpus > HEARTBEAT_MAX_CPUS))
		wrong = "cpus= is not in 1..256";
	if (!wrong && (!load.n_writers || load.n_writers > load.n_cpus))
		wrong = "writers= is not in 1..cpus";
	if (!wrong && load.n_cpus > 1)
		wrong = acpi_init();
	if (wrong)
		return wrong;

	wrong = report_mitigations();
	if (wrong)
		return wrong;

	memset(heart, 0, sizeof(*heart));
	heart->version = HEARTBEAT_VERSION;
	heart->n_cpus = load.n_cpus;
	heart->tsc_khz = khz;
	for (uint32_t i = 0; i < load.n_cpus; i++) {
		bool writes = i < load.n_writers;
		uint64_t first = writes ? load.pages * i / load.n_writers : 0;
		uint64_t n = writes ? load.pages * (i + 1) / load.n_writers - first : 0;

		shares[i] = (struct share) {.cpu = i, .first = first, .n = n};
		shares[i].step = n ? share_step(n) : 1;
		heart->cpu[i].generation = 1;
	}
	barrier();
	heart->magic = HEARTBEAT_MAGIC;
	print("load cpus=%u pages=%lu tsc_khz=%lu source=%s\n", load.n_cpus, load.pages, khz,
	      tsc_source());
	pic_mask_all();
	if (load.n_cpus > 1 && smp_start(load.n_cpus, load_cpu) != load.n_cpus)
		return "not all processors came";
	load_cpu(0);
	while (READ_ONCE(load.finished) < load.n_cpus)
		cpu_pause();
	for (uint32_t i = 0; i < load.n_cpus; i++) {
		report(&shares[i], opt_command());
		errors += heart->cpu[i].errors;
	}
	return errors ? "memory lost what was written to it" : NULL;
}
