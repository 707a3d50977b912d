#include "vmm/hold/isolation.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/err.h"
#include "base/log.h"

/* of linux/prctl.h from 5.14 on */
#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE	     62
#define PR_SCHED_CORE_GET    0
#define PR_SCHED_CORE_CREATE 1
#endif
#define SCOPE_THREAD	   0
#define SCOPE_THREAD_GROUP 1

#define STATUS_FIELD "Speculation_Indirect_Branch:"

static void note(struct isolation_item *item, bool held, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void note(struct isolation_item *item, bool held, const char *fmt, ...)
{
	va_list ap;

	item->held = held;
	va_start(ap, fmt);
	vsnprintf(item->note, sizeof(item->note), fmt, ap);
	va_end(ap);
}

/* The kernel's own words about this process. Return: does it say that branches are isolated? */
static bool read_status(char *text, size_t len)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];

	snprintf(text, len, "not told");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, STATUS_FIELD, strlen(STATUS_FIELD)) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(text, len, "%.*s", (int)len - 1, line + strlen(STATUS_FIELD) + 1);
	}
	if (f)
		fclose(f);
	return strstr(text, "disabled") || strcmp(text, "not affected") == 0;
}

static void isolate_branches(struct isolation_item *item)
{
	char status[64];
	int err = 0, got;

	if (prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE, 0, 0) <
	    0)
		err = errno;
	got = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0);
	/* by what it is and not by what the first call said: "not affected" is fine, too */
	if (got >= 0 &&
	    (got == PR_SPEC_NOT_AFFECTED || got & (PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE)) &&
	    read_status(status, sizeof(status)))
		note(item, true, "prctl reads back %#x, /proc/self/status says '%s'",
		     (unsigned int)got, status);
	else
		note(item, false,
		     "PR_SET_SPECULATION_CTRL: %s; the host needs spectre_v2_user=prctl, seccomp "
		     "or auto",
		     err ? strerror(err) : "accepted, but does not read back");
}

/* Without SMT there is no sibling to keep out. */
static bool smt_is_off(void)
{
	FILE *f = fopen("/sys/devices/system/cpu/smt/active", "re");
	int c = f ? fgetc(f) : EOF;

	if (f)
		fclose(f);
	return c == '0';
}

static void tag_core(struct isolation_item *item)
{
	unsigned long cookie = 0;
	int err = 0;

	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, SCOPE_THREAD_GROUP, 0) < 0 ||
	    prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, SCOPE_THREAD, &cookie) < 0)
		err = errno;
	if (cookie)
		note(item, true, "the kernel gave this guest a cookie of its own");
	else if (smt_is_off())
		note(item, true, "not needed: SMT is off on this host");
	else
		note(item, false, "PR_SCHED_CORE: %s; the host's kernel needs CONFIG_SCHED_CORE",
		     err ? strerror(err) : "no cookie reads back");
}

/* The calling thread runs on @cpu alone from now on, or a negative errno. */
static int pin_self(unsigned int cpu)
{
	cpu_set_t want, got;

	CPU_ZERO(&want);
	CPU_ZERO(&got);
	if (cpu >= CPU_SETSIZE)
		return -EINVAL;
	CPU_SET(cpu, &want);
	if (sched_setaffinity(0, sizeof(want), &want) < 0 ||
	    sched_getaffinity(0, sizeof(got), &got) < 0)
		return -errno;
	return CPU_EQUAL(&want, &got) ? 0 : -EBADE;
}

static void try_pins(const struct isolation *iso, struct isolation_item *item, uint32_t n_vcpus)
{
	const struct isolation_options *o = &iso->options;
	cpu_set_t before;
	uint32_t i;
	int ret = 0;

	if (n_vcpus > o->n_pins) {
		note(item, false, "%u vCPUs, CPUs for %u; name one for each", n_vcpus, o->n_pins);
		return;
	}
	if (sched_getaffinity(0, sizeof(before), &before) < 0) {
		note(item, false, "sched_getaffinity: %s", strerror(errno));
		return;
	}
	for (i = 0; !ret && i < n_vcpus; i++)
		ret = pin_self(o->pin[i]);
	if (ret)
		note(item, false, "CPU %u for vCPU %u: %s; is it online, and in this cpuset?",
		     o->pin[i - 1], i - 1, strerror(-ret));
	else
		note(item, true, "each vCPU has a CPU of its own, read back in its thread");
	if (sched_setaffinity(0, sizeof(before), &before) < 0)
		note(item, false, "the CPUs of the process cannot be set back: %s",
		     strerror(errno));
}

/* What cannot be had: a warning, or the end. */
static int judge(const struct isolation *iso, const struct isolation_item *item, const char *name,
		 struct err *e)
{
	if (!item->wanted || item->held)
		return 0;
	if (iso->options.cannot == CANNOT_REFUSE)
		return err_set(e, -EPERM, "refused by policy: %s: %s", name, item->note);
	log_warn("isolation: %s: %s", name, item->note);
	return 0;
}

int isolation_enter(struct isolation *iso, const struct isolation_options *options,
		    uint32_t n_vcpus, struct err *e)
{
	int ret;

	memset(iso, 0, sizeof(*iso));
	iso->options = *options;
	iso->indirect_branch.wanted = options->indirect_branch;
	iso->core_scheduling.wanted = options->core_scheduling;
	iso->pin_vcpus.wanted = options->n_pins > 0;
	if (options->indirect_branch)
		isolate_branches(&iso->indirect_branch);
	if (options->core_scheduling)
		tag_core(&iso->core_scheduling);
	if (options->n_pins)
		try_pins(iso, &iso->pin_vcpus, n_vcpus);
	ret = judge(iso, &iso->indirect_branch, "indirect-branch: isolate", e);
	if (!ret)
		ret = judge(iso, &iso->core_scheduling, "core-scheduling", e);
	if (!ret)
		ret = judge(iso, &iso->pin_vcpus, "vCPU pinning", e);
	return ret;
}

int isolation_pin_vcpu(const struct isolation *iso, uint32_t id, struct err *e)
{
	int ret;

	if (!iso->pin_vcpus.held)
		return 0;
	ret = pin_self(iso->options.pin[id]);
	if (ret < 0)
		return err_set(e, ret, "vCPU %u: cannot be pinned to CPU %u: %s", id,
			       iso->options.pin[id], strerror(-ret));
	return 0;
}
