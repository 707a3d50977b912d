#include "msr/barrier.h"

#include <stdio.h>
#include <string.h>

#define NUMBER_MAX 10000 /* a part of a version; what is larger is read in part */

bool barrier_kernel_before(const struct barrier_facts *f, uint32_t major, uint32_t minor)
{
	return f->major && (f->major < major || (f->major == major && f->minor < minor));
}

bool barrier_facts_known(const struct barrier_facts *f)
{
	return f->driven || f->ibpb != HOST_IBPB_UNKNOWN || f->major;
}

/*
 * What a kernel does by itself between two vCPUs: where IBPB is off, nothing, in any version. KVM has
 * the capability only where it is on.
 */
static enum barrier_got stock_switch(const struct barrier_facts *f)
{
	if (f->driven || f->ibpb > HOST_IBPB_OFF)
		return BARRIER_EACH;
	return f->ibpb == HOST_IBPB_OFF ? BARRIER_NONE : BARRIER_UNKNOWN;
}

/*
 * Before 6.16 KVM on VMX issues a barrier for each VMCS that it loads, and a vCPU that moves has its
 * own loaded anew. SVM compares with what ran there last, which may be the same vCPU.
 */
static enum barrier_got stock_move(const struct barrier_facts *f, enum cpu_vendor vendor)
{
	const enum barrier_got stock = stock_switch(f);

	if (stock != BARRIER_EACH)
		return stock;
	if (cpu_vendor_has_svm(vendor))
		return BARRIER_NONE;
	if (!f->major || vendor == CPU_VENDOR_OTHER)
		return BARRIER_UNKNOWN;
	return barrier_kernel_before(f, 6, 16) ? BARRIER_EACH : BARRIER_NONE;
}

static enum barrier_got asked(enum barrier_switch s)
{
	return s == SWITCH_NEVER ? BARRIER_NONE : s == SWITCH_USED ? BARRIER_USED : BARRIER_EACH;
}

void barrier_plan(const struct barrier_facts *f, enum cpu_vendor vendor,
		  const struct barrier_policy *policy, struct barrier_plan *plan)
{
	static const uint32_t modes[] = {
		[SWITCH_DEFAULT] = 0, [SWITCH_ALWAYS] = 0, [SWITCH_USED] = 1, [SWITCH_NEVER] = 2};

	memset(plan, 0, sizeof(*plan));
	plan->on_switch = stock_switch(f);
	plan->on_move = stock_move(f, vendor);
	plan->drive = f->driven && (policy->on_switch != SWITCH_DEFAULT || policy->on_move);
	if (plan->drive) {
		plan->args = modes[policy->on_switch] | (policy->on_move ? BARRIER_CAP_MOVE : 0);
		plan->on_switch = asked(policy->on_switch);
		/* the accident goes with the mode; what is asked for follows it */
		if (policy->on_move)
			plan->on_move =
				policy->on_switch == SWITCH_USED ? BARRIER_USED : BARRIER_EACH;
		else if (policy->on_switch > SWITCH_ALWAYS)
			plan->on_move = BARRIER_NONE;
	}
	plan->by_accident = plan->on_move == BARRIER_EACH && !(plan->drive && policy->on_move);
}

const char *host_ibpb_name(enum host_ibpb ibpb)
{
	static const char *const names[] = {
		[HOST_IBPB_UNKNOWN] = "unknown",
		[HOST_IBPB_OFF] = "disabled",
		[HOST_IBPB_CONDITIONAL] = "conditional",
		[HOST_IBPB_ALWAYS] = "always-on",
	};

	return names[ibpb];
}

const char *barrier_got_name(enum barrier_got got)
{
	static const char *const names[] = {
		[BARRIER_UNKNOWN] = "unknown",
		[BARRIER_NONE] = "none",
		[BARRIER_USED] = "once the guest has issued one",
		[BARRIER_EACH] = "each time",
	};

	return names[got];
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* "6.1.192-2": up to three numbers with dots between them. Return: how many there are */
static unsigned int read_version(const char *at, uint32_t v[3])
{
	unsigned int n = 0;

	while (n < 3 && is_digit(*at)) {
		for (v[n] = 0; is_digit(*at) && v[n] < NUMBER_MAX; at++)
			v[n] = v[n] * 10 + (uint32_t)(*at - '0');
		n++;
		if (*at != '.')
			break;
		at++;
	}
	return n;
}

void barrier_kernel(struct barrier_facts *f, const char *release, const char *told)
{
	uint32_t v[3] = {0}, w[3] = {0};

	f->major = f->minor = f->patch = 0;
	if (read_version(release, v) < 2)
		return;
	f->major = v[0];
	f->minor = v[1];
	f->patch = v[2];
	while (!f->patch && *told) {
		if (read_version(told, w) == 3 && w[0] == v[0] && w[1] == v[1])
			f->patch = w[2];
		while (*told && *told != ' ')
			told++;
		while (*told == ' ')
			told++;
	}
}

void barrier_kernel_name(const struct barrier_facts *f, char *text, size_t size)
{
	if (f->patch)
		snprintf(text, size, "%u.%u.%u", f->major, f->minor, f->patch);
	else
		snprintf(text, size, "%u.%u", f->major, f->minor);
}

enum host_ibpb host_ibpb_from_sysfs(const char *line)
{
	static const char key[] = "IBPB: ", bare[] = "Vulnerable: ";
	const char *at = line;
	enum host_ibpb i;

	while (*at && strncmp(at, key, strlen(key)) != 0)
		at++;
	/*
	 * A kernel that says something of Spectre v2 and nothing of IBPB has none to execute. Only the
	 * lines "Vulnerable: eIBRS with unprivileged eBPF" and the like end before that is said.
	 */
	if (!*at)
		return line[0] && strncmp(line, bare, strlen(bare)) != 0 ? HOST_IBPB_OFF
									 : HOST_IBPB_UNKNOWN;
	at += strlen(key);
	for (i = HOST_IBPB_OFF; i <= HOST_IBPB_ALWAYS; i++)
		if (strncmp(at, host_ibpb_name(i), strlen(host_ibpb_name(i))) == 0)
			return i;
	return HOST_IBPB_UNKNOWN;
}
