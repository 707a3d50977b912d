/*
 * msrs do=STEP,STEP,...: any processor's accesses to MSRs, in order, each with its outcome.
 * STEP is CPU.r.INDEX, CPU.w.INDEX.VALUE (hexadecimal), CPU.init (INIT and start it again),
 * CPU.spin.COUNT.INDEX, CPU.spinw.COUNT.INDEX.VALUE (so many), or CPU.wait.N: go on when a tool on
 * the host has written N to the gate in memory, at the earliest. CPU counts from 0, the one that
 * runs this.
 */
#include "tests/guest/guest.h"
#include "tests/guest/heartbeat.h"

#define WAIT_US 5000000

#define MSR_MITIGATION_ENUM 0x50000001
#define MSR_MITIGATION_CTRL 0x50000002

struct order {
	uint32_t seq, done; /* done follows seq */
	char op;	    /* 'r' or 'w' */
	bool ok;
	uint32_t index;
	uint64_t value, count;
};

static struct order orders[MAX_CPUS]; /* by APIC ID */

static void carry_out(struct order *o)
{
	do
		o->ok = o->op == 'w' ? wrmsr_safe(o->index, o->value)
				     : rdmsr_safe(o->index, &o->value);
	while (o->count && --o->count);
}

static void serve(uint32_t index)
{
	struct order *o = &orders[apic_id()];
	uint32_t last = READ_ONCE(o->done);

	(void)index;
	for (;;) {
		while (READ_ONCE(o->seq) == last)
			cpu_pause();
		carry_out(o);
		last = o->seq;
		barrier();
		WRITE_ONCE(o->done, last);
	}
}

static bool give(uint32_t cpu, struct order *o)
{
	struct limit limit = limit_us(WAIT_US);

	if (acpi.cpu_apic_id[cpu] == apic_id()) {
		carry_out(o);
		return true;
	}
	barrier();
	WRITE_ONCE(o->seq, o->seq + 1);
	while (READ_ONCE(o->done) != o->seq) {
		if (limit_over(&limit))
			return false;
		cpu_pause();
	}
	return true;
}

static uint64_t hex(const char **s)
{
	uint64_t value = 0;

	for (;; (*s)++) {
		const char c = **s;

		if (c >= '0' && c <= '9')
			value = value * 16 + (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (uint64_t)(c - 'a' + 10);
		else
			return value;
	}
}

static bool dot(const char **s)
{
	if (**s != '.')
		return false;
	(*s)++;
	return true;
}

static const char *one_access(uint32_t cpu, char op, bool spin, const char **s)
{
	struct order *o = &orders[acpi.cpu_apic_id[cpu]];

	o->op = op;
	o->count = 0;
	if (spin) {
		o->count = hex(s);
		if (!dot(s))
			return "a spin wants COUNT.INDEX";
	}
	o->index = (uint32_t)hex(s);
	o->value = 0;
	if (op == 'w') {
		if (!dot(s))
			return "a write wants INDEX.VALUE";
		o->value = hex(s);
	}
	if (!give(cpu, o))
		return "a processor does not answer";
	print("msrs cpu=%u %c idx=0x%x ", cpu, op, o->index);
	if (o->ok)
		print("value=0x%lx\n", o->value);
	else
		print("gp\n");
	return NULL;
}

static void wait_at_gate(uint32_t n)
{
	const volatile uint32_t *gate = (const volatile uint32_t *)GATE_GPA;

	print("msrs wait %u\n", n);
	while (*gate < n)
		cpu_pause();
}

static bool word(const char **s, const char *w)
{
	const char *at = *s;

	while (*w && *at == *w) {
		at++;
		w++;
	}
	if (*w)
		return false;
	*s = at;
	return true;
}

static const char *one_step(const char **s, uint32_t n_cpus)
{
	uint32_t cpu = (uint32_t)hex(s);

	if (cpu >= n_cpus || !dot(s))
		return "a step begins with the number of a processor that is there, and a dot";
	if (word(s, "init")) {
		if (!smp_restart(acpi.cpu_apic_id[cpu]))
			return "a processor does not come back from INIT";
		print("msrs cpu=%u init\n", cpu);
		return NULL;
	}
	if (word(s, "wait.")) {
		wait_at_gate((uint32_t)hex(s));
		return NULL;
	}
	if (word(s, "spin."))
		return one_access(cpu, 'r', true, s);
	if (word(s, "spinw."))
		return one_access(cpu, 'w', true, s);
	if (word(s, "r."))
		return one_access(cpu, 'r', false, s);
	if (word(s, "w."))
		return one_access(cpu, 'w', false, s);
	return "a step is r, w, spin, wait or init";
}

const char *report_mitigations(void)
{
	const uint64_t bits = opt_u64("reports", 0);
	uint64_t offered = 0;

	if (bits &&
	    (!rdmsr_safe(MSR_MITIGATION_ENUM, &offered) || !wrmsr_safe(MSR_MITIGATION_CTRL, bits)))
		return "the virtual mitigation MSRs are not there";
	return NULL;
}

const char *cmd_msrs(void)
{
	const char *s = opt_str("do", ""), *wrong = acpi_init();
	uint32_t n_cpus;

	if (wrong)
		return wrong;
	n_cpus = (uint32_t)opt_u64("cpus", acpi.n_cpus);
	if (smp_start(n_cpus, serve) != n_cpus)
		return "not all processors came";
	while (!wrong && *s) {
		wrong = one_step(&s, n_cpus);
		if (!wrong && *s && *s++ != ',')
			return "steps are separated by commas";
	}
	return wrong;
}
