#include "vmm/machine/msr_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/state/section.h"
#include "msr/msr.h"
#include "vmm/hold/backend.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/vcpu.h"

#define MSRS_MAX	     1024 /* KVM lists some 300 */
#define VERSION		     1
#define MSR_IA32_MCG_CAP     0x179 /* bits 7:0: machine check banks, four MSRs each */
#define MSR_IA32_MC0_CTL     0x400
#define MSR_PERF_GLOBAL_CTRL 0x38f

enum kind {
	MUST, /* restores and reads back, or the guest does not run here */
	LOW,  /* the same for bits 31:0; a KVM may drop the others */
	MAY,  /* a refusal is noted in the debug log */
	NOT,  /* never saved, refused in a stream */
};

/* The first row that has the index decides; without one it is MUST. SDM vol.4, APM vol.2, KVM. */
static const struct rule {
	uint32_t first, last;
	enum kind kind;
	const char *why;
} rules[] = {
	{0x10, 0x10, NOT, "TSC: vm_time.c carries time over"},
	{0x48, 0x48, NOT, "SPEC_CTRL: the mitigation engine's"},
	{0x10a, 0x10a, NOT, "ARCH_CAPABILITIES: the guest's contract"},
	{0x50000000, 0x50000002, NOT, "virtual mitigation MSRs: the mitigation engine's"},
	{0x480, 0x4ff, NOT, "VMX capabilities: of the host; nested guests are not carried"},
	{0x800, 0x8ff, NOT, "x2APIC registers: in the local APIC's section"},
	{0x40000000, 0x400001ff, NOT, "Hyper-V's: never offered"},
	{0x4b564df0, 0x4b564dff, NOT, "kvm-pvm's own: between it and its host"},
	{0x175, 0x176, LOW,
	 "SYSENTER_ESP, _EIP: AMD's use 32 bits; kvm_amd keeps 64 only of a guest's write"},
	{0x34, 0x34, MAY, "count of SMIs"},
	{0x3a, 0x3a, MAY, "FEATURE_CONTROL: firmware's"},
	{0x8b, 0x8b, MAY, "microcode revision: for information"},
	{0xce, 0xce, MAY, "PLATFORM_INFO: for information"},
	{0xc1, 0xc8, MAY, "performance counter"},
	{0x186, 0x18d, MAY, "performance event selector"},
	{0x1d9, 0x1de, MAY, "debug control and last branch records"},
	{0x309, 0x30c, MAY, "performance counter"},
	{0x345, 0x345, MAY, "PERF_CAPABILITIES: for information"},
	{0x38d, 0x390, MAY, "performance counters' control"},
	{0x3f1, 0x3f2, MAY, "PEBS"},
	{0x400, 0x47f, MAY, "machine check banks"},
	{0x4c1, 0x4c8, MAY, "performance counter"},
	{0x600, 0x600, MAY, "DS area"},
	{0xc0010000, 0xc0010007, MAY, "performance counter"},
	{0xc0010200, 0xc001020b, MAY, "performance counter"},
};

/* What KVM has and does not list: api.rst 4.3 leaves the list to KVM. */
static const struct {
	uint32_t first, n;
} unlisted[] = {
	{0x200, 16}, {0x250, 1}, {0x258, 2}, {0x268, 8}, {0x2ff, 1}, /* MTRRs */
};

static enum kind kind_of(uint32_t index)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rules); i++)
		if (index >= rules[i].first && index <= rules[i].last)
			return rules[i].kind;
	return MUST;
}

/* Later ones depend on earlier ones: counters run, and the timer is armed, when all else is set. */
static int rank(uint32_t index)
{
	return index == MSR_IA32_TSC_DEADLINE ? 2 : index == MSR_PERF_GLOBAL_CTRL ? 1 : 0;
}

struct msr_table {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSRS_MAX];
};

static void add(struct msr_table *t, uint32_t index)
{
	if (kind_of(index) != NOT && t->head.nmsrs < MSRS_MAX)
		t->entry[t->head.nmsrs++].index = index;
}

/* All that may be saved, in the order of a restore. Return: heap, or NULL with @e */
static struct msr_table *list_msrs(const struct vcpu *v, const struct kvm *kvm, struct err *e)
{
	AUTO_FREE struct kvm_msr_list *list =
		calloc(1, sizeof(*list) + MSRS_MAX * sizeof(list->indices[0]));
	struct msr_table *t = calloc(1, sizeof(*t));
	uint64_t banks = 0;
	uint32_t i, k;
	int n;

	if (!list || !t) {
		err_no_memory(e);
		goto fail;
	}
	list->nmsrs = MSRS_MAX;
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
		err_set(e, -errno, "KVM_GET_MSR_INDEX_LIST: %s; see the kernel's log",
			strerror(errno));
		goto fail;
	}
	for (i = 0; i < ARRAY_SIZE(unlisted); i++)
		for (k = 0; k < unlisted[i].n; k++)
			add(t, unlisted[i].first + k);
	if (backend_get_msr(v->fd, MSR_IA32_MCG_CAP, &banks) < 0)
		banks = 0;
	for (k = 0; k < 4 * (banks & 0xff); k++)
		add(t, MSR_IA32_MC0_CTL + k);
	for (n = 0; n <= 2; n++)
		for (i = 0; i < list->nmsrs; i++)
			if (rank(list->indices[i]) == n)
				add(t, list->indices[i]);
	return t;
fail:
	free(t);
	return NULL;
}

/*
 * The values of all of @t that KVM has; one call where it has them all, since each call costs the
 * guest's pause some microseconds. KVM stops at one that it does not have.
 * @there: which ones; as many as @t has. Return: 0 or -errno
 */
static int read_all(const struct vcpu *v, struct msr_table *t, bool *there, struct err *e)
{
	AUTO_FREE struct msr_table *part = calloc(1, sizeof(*part));
	uint32_t from = 0, n;
	int got;

	if (!part)
		return err_no_memory(e);
	memset(there, 0, t->head.nmsrs * sizeof(*there));
	while (from < t->head.nmsrs) {
		n = t->head.nmsrs - from;
		part->head.nmsrs = n;
		memcpy(part->entry, t->entry + from, n * sizeof(part->entry[0]));
		got = ioctl(v->fd, KVM_GET_MSRS, part);
		if (got < 0)
			return err_set(e, -errno, "vCPU %u: KVM_GET_MSRS: %s; see the kernel's log",
				       v->id, strerror(errno));
		memcpy(t->entry + from, part->entry, (size_t)got * sizeof(part->entry[0]));
		memset(there + from, true, (size_t)got * sizeof(*there));
		from += (uint32_t)got + 1;
	}
	return 0;
}

int msrs_save(const struct vcpu *v, const struct kvm *kvm, struct wbuf *w, struct err *e)
{
	AUTO_FREE struct msr_table *t = list_msrs(v, kvm, e);
	bool there[MSRS_MAX];
	struct wbuf body = {0};
	uint32_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	ret = read_all(v, t, there, e);
	if (ret < 0)
		return ret;
	for (i = 0; i < t->head.nmsrs; i++) {
		if (!there[i])
			continue;
		wbuf_u32(&body, t->entry[i].index);
		wbuf_u64(&body, t->entry[i].data);
	}
	section_put(w, "vcpu-msrs", (uint16_t)v->id, VERSION, &body);
	wbuf_fini(&body);
	return 0;
}

static int refused(const struct vcpu *v, uint32_t index, uint64_t value, const uint64_t *seen,
		   struct err *e)
{
	if (!seen && !value) /* the feature is not there, and the guest does not use it */
		return 0;
	if (kind_of(index) == MAY) {
		log_debug("vCPU %u: MSR %#x: was %#llx at the source, is %#llx at the destination",
			  v->id, index, (unsigned long long)value,
			  seen ? (unsigned long long)*seen : 0);
		return 0;
	}
	if (!seen)
		return err_set(
			e, -EIO,
			"vCPU %u: MSR %#x was %#llx, and the destination's KVM does not have it; "
			"use a host whose CPU and kernel do",
			v->id, index, (unsigned long long)value);
	return err_set(
		e, -EIO,
		"vCPU %u: MSR %#x was %#llx, and the destination's KVM keeps %#llx; use a host "
		"whose CPU and kernel take that value",
		v->id, index, (unsigned long long)value, (unsigned long long)*seen);
}

/* Write all of @t; what KVM refuses is found by reading back. Return: 0 or -errno */
static int write_all(const struct vcpu *v, const struct msr_table *t, struct err *e)
{
	AUTO_FREE struct msr_table *part = calloc(1, sizeof(*part));
	uint32_t from = 0;
	int done;

	if (!part)
		return err_no_memory(e);
	while (from < t->head.nmsrs) {
		part->head.nmsrs = t->head.nmsrs - from;
		memcpy(part->entry, t->entry + from, part->head.nmsrs * sizeof(part->entry[0]));
		done = ioctl(v->fd, KVM_SET_MSRS, part);
		if (done < 0)
			return err_set(e, -errno, "vCPU %u: KVM_SET_MSRS: %s; see the kernel's log",
				       v->id, strerror(errno));
		from += (uint32_t)done + 1; /* it stops at one that it refuses */
	}
	return 0;
}

static bool holds(uint32_t index, uint64_t value, uint64_t seen)
{
	return seen == value || (kind_of(index) == LOW && seen == (uint32_t)value);
}

/* What already has its value is left alone: some writes do more than set. */
static int write_changed(const struct vcpu *v, const struct msr_table *want,
			 const struct msr_table *now, const bool *there, struct err *e)
{
	AUTO_FREE struct msr_table *change = calloc(1, sizeof(*change));
	uint32_t i;

	if (!change)
		return err_no_memory(e);
	for (i = 0; i < want->head.nmsrs; i++)
		if (!there[i] || now->entry[i].data != want->entry[i].data)
			change->entry[change->head.nmsrs++] = want->entry[i];
	return change->head.nmsrs ? write_all(v, change, e) : 0;
}

static int restore_all(const struct vcpu *v, const struct msr_table *want, struct err *e)
{
	AUTO_FREE struct msr_table *now = malloc(sizeof(*now));
	bool there[MSRS_MAX];
	uint32_t i;
	int ret;

	if (!now)
		return err_no_memory(e);
	*now = *want;
	ret = read_all(v, now, there, e);
	if (!ret)
		ret = write_changed(v, want, now, there, e);
	if (!ret)
		ret = read_all(v, now, there, e);
	for (i = 0; !ret && i < want->head.nmsrs; i++) {
		const uint32_t index = want->entry[i].index;
		const uint64_t value = want->entry[i].data, seen = now->entry[i].data;

		/* a deadline that is over is gone at once, and has fired */
		if (there[i] && (index == MSR_IA32_TSC_DEADLINE || holds(index, value, seen)))
			continue;
		ret = refused(v, index, value, there[i] ? &seen : NULL, e);
	}
	return ret;
}

int msrs_restore(const struct vcpu *v, struct rbuf *r, struct err *e)
{
	AUTO_FREE struct msr_table *t = calloc(1, sizeof(*t));
	struct section s;
	uint32_t n;
	int ret = t ? section_expect(r, "vcpu-msrs", (uint16_t)v->id, VERSION, &s, e)
		    : err_no_memory(e);

	for (n = 0; !ret && rbuf_left(&s.body); n++) {
		const uint32_t index = rbuf_u32(&s.body);
		const uint64_t value = rbuf_u64(&s.body);

		if (s.body.failed)
			break;
		if (n >= MSRS_MAX || kind_of(index) == NOT)
			return err_set(e, -EINVAL,
				       "state: section 'vcpu-msrs' %u: MSR %#x, number %u: %s; the "
				       "stream is damaged",
				       v->id, index, n,
				       n >= MSRS_MAX ? "there are too many"
						     : "it is not restored by itself");
		t->entry[n] = (struct kvm_msr_entry) {.index = index, .data = value};
		t->head.nmsrs = n + 1;
	}
	if (!ret)
		ret = section_end(&s, e);
	return ret ? ret : restore_all(v, t, e);
}
