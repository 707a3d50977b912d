#include "vmm/mitigation_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/section.h"
#include "msr/spec_ctrl.h"
#include "policy/explain.h"
#include "vmm/mitigation.h"

#define VERSION	  1
#define VCPUS_MAX 4096 /* KVM's own limit; bounds an allocation */

void mitigation_saved_fini(struct mitigation_saved *s)
{
	free(s->vcpu);
	s->vcpu = NULL;
	s->n_vcpus = 0;
}

/* ---- save ---- */

static void save_vcpu(struct mitigation *m, struct mitigation_vcpu *v,
		      struct mitigation_saved_vcpu *to)
{
	pthread_mutex_lock(&v->lock);
	to->report = v->msrs.report;
	to->held = v->held.value;
	to->shadow = m->filter.spec_ctrl ? v->msrs.spec_ctrl : v->held.guest;
	/* bits that an earlier host held and this one did not need stay promised for the next */
	to->promise = (struct mitigation_promise) {
		.valid = true,
		.mask = v->held.mask | v->promise.mask,
		.value = v->held.value | (v->promise.value & ~v->held.mask),
	};
	pthread_mutex_unlock(&v->lock);
}

int mitigation_save(struct mitigation *m, bool parked, struct mitigation_saved *s, struct err *e)
{
	uint32_t i;

	memset(s, 0, sizeof(*s));
	s->vcpu = calloc(m->n_vcpus, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_set(e, -ENOMEM, "out of memory");
	s->backend = m->active ? m->active->kind : BACKEND_NONE;
	s->contract = m->contract;
	s->ibpb_seen = __atomic_load_n(&m->ibpb_seen, __ATOMIC_ACQUIRE);
	s->n_vcpus = m->n_vcpus;
	for (i = 0; i < m->n_vcpus; i++) {
		if (parked) /* reads KVM, and finds out about an INIT that nobody saw */
			mitigation_check_vcpu(m, i);
		save_vcpu(m, &m->vcpu[i], &s->vcpu[i]);
	}
	return 0;
}

/* ---- the section ---- */

void mitigation_saved_encode(const struct mitigation_saved *s, struct wbuf *w)
{
	const struct guest_contract *g = &s->contract;
	struct wbuf body = {0};
	uint32_t i;

	wbuf_u8(&body, (uint8_t)s->backend);
	wbuf_u8(&body, s->ibpb_seen);
	wbuf_u8(&body, (uint8_t)g->vendor);
	wbuf_u32(&body, g->leaf7_0_edx);
	wbuf_u32(&body, g->leaf7_2_edx);
	wbuf_u32(&body, g->leaf80000008_ebx);
	wbuf_u64(&body, g->arch_cap);
	wbuf_u64(&body, g->virt_enum);
	wbuf_u64(&body, g->mitigation_enum);
	wbuf_u32(&body, s->n_vcpus);
	for (i = 0; i < s->n_vcpus; i++) {
		const struct mitigation_saved_vcpu *v = &s->vcpu[i];

		wbuf_u8(&body, v->report.aware);
		wbuf_u8(&body, v->report.enum_read);
		wbuf_u8(&body, v->report.written);
		wbuf_u64(&body, v->report.ctrl);
		wbuf_u8(&body, v->promise.valid);
		wbuf_u64(&body, v->promise.mask);
		wbuf_u64(&body, v->promise.value);
		wbuf_u64(&body, v->held);
		wbuf_u64(&body, v->shadow);
	}
	section_put(w, "mitigation", 0, VERSION, &body);
	wbuf_fini(&body);
}

/*
 * The report may have any bit that exists: a VMM with the RFC's rule lets a guest report what was
 * not offered. Other bits than these were never legal anywhere.
 */
static int check_vcpu(uint32_t id, const struct mitigation_saved_vcpu *v, struct err *e)
{
	if (v->report.ctrl & ~MITIGATION_ALL)
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: report %#" PRIx64 " has bits beside "
			       "%#llx; the stream is damaged",
			       id, v->report.ctrl, MITIGATION_ALL);
	if ((v->promise.mask & ~SPEC_CTRL_ALL) || (v->promise.value & ~v->promise.mask))
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: held bits mask=%#" PRIx64
			       " value=%#" PRIx64 " are impossible; the stream is damaged",
			       id, v->promise.mask, v->promise.value);
	if (v->shadow & ~SPEC_CTRL_ALL)
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: SPEC_CTRL %#" PRIx64
			       " has reserved bits; the stream is damaged",
			       id, v->shadow);
	return 0;
}

static int check_saved(const struct mitigation_saved *s, struct err *e)
{
	const struct guest_contract *g = &s->contract;
	uint32_t i;
	int ret = 0;

	if (g->vendor > CPU_VENDOR_ZHAOXIN || s->backend > BACKEND_FORCE_VCPU)
		return err_set(e, -EINVAL,
			       "mitigation state: vendor %d, back end %d: unknown; use a newer "
			       "testudo here",
			       g->vendor, s->backend);
	if ((g->virt_enum & ~VIRT_ENUM_MITIGATION) || (g->mitigation_enum & ~MITIGATION_ALL) ||
	    (!g->virt_enum && g->mitigation_enum))
		return err_set(e, -EINVAL,
			       "mitigation state: virtual MSRs %#" PRIx64 " and %#" PRIx64
			       " offer what is unknown here; use a newer testudo here",
			       g->virt_enum, g->mitigation_enum);
	for (i = 0; !ret && i < s->n_vcpus; i++)
		ret = check_vcpu(i, &s->vcpu[i], e);
	return ret;
}

int mitigation_saved_decode(struct rbuf *r, struct mitigation_saved *s, struct err *e)
{
	struct guest_contract *g = &s->contract;
	struct section sec;
	struct rbuf *b = &sec.body;
	uint32_t i, n;
	int ret;

	memset(s, 0, sizeof(*s));
	ret = section_expect(r, "mitigation", 0, VERSION, &sec, e);
	if (ret < 0)
		return ret;
	s->backend = (enum backend_kind)rbuf_u8(b);
	s->ibpb_seen = rbuf_u8(b);
	g->vendor = (enum cpu_vendor)rbuf_u8(b);
	g->leaf7_0_edx = rbuf_u32(b);
	g->leaf7_2_edx = rbuf_u32(b);
	g->leaf80000008_ebx = rbuf_u32(b);
	g->arch_cap = rbuf_u64(b);
	g->virt_enum = rbuf_u64(b);
	g->mitigation_enum = rbuf_u64(b);
	n = rbuf_u32(b);
	if (n > VCPUS_MAX)
		return err_set(e, -EINVAL,
			       "mitigation state: %u vCPUs, at most %d are possible; the stream is "
			       "damaged",
			       n, VCPUS_MAX);
	s->vcpu = calloc(n ? n : 1, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_set(e, -ENOMEM, "out of memory");
	s->n_vcpus = n;
	for (i = 0; i < n; i++) {
		struct mitigation_saved_vcpu *v = &s->vcpu[i];

		v->report.aware = rbuf_u8(b);
		v->report.enum_read = rbuf_u8(b);
		v->report.written = rbuf_u8(b);
		v->report.ctrl = rbuf_u64(b);
		v->promise.valid = rbuf_u8(b);
		v->promise.mask = rbuf_u64(b);
		v->promise.value = rbuf_u64(b);
		v->held = rbuf_u64(b);
		v->shadow = rbuf_u64(b);
	}
	ret = section_end(&sec, e);
	return ret ? ret : check_saved(s, e);
}

/* ---- taking in ---- */

static const char *bit_names(uint64_t bits, char *text, size_t len)
{
	unsigned int i;
	size_t at = 0;

	snprintf(text, len, "SPEC_CTRL");
	for (i = 0; i < 64; i++) {
		const char *name = spec_ctrl_bit_name(bits & UINT64_C(1) << i);

		if (name && at < len)
			at += (size_t)snprintf(text + at, len - at, "%s%s", at ? ", " : "", name);
	}
	return text;
}

static int refuse(const struct mitigation *m, uint32_t id, const struct mitigation_promise *p,
		  const struct mitigation_decision *d, struct err *e)
{
	char text[768];

	return err_set(e, -EPERM,
		       "refused by policy: back end %s: vCPU %u may not run here: held "
		       "there=%#" PRIx64 ", held here=%#" PRIx64 ": %s",
		       backend_name(m->backend.ops->kind), id, p->value, d->value,
		       explain_reasons(d, text, sizeof(text)));
}

static bool same_contract(const struct guest_contract *a, const struct guest_contract *b)
{
	return a->vendor == b->vendor && a->leaf7_0_edx == b->leaf7_0_edx &&
	       a->leaf7_2_edx == b->leaf7_2_edx && a->leaf80000008_ebx == b->leaf80000008_ebx &&
	       a->arch_cap == b->arch_cap && a->virt_enum == b->virt_enum &&
	       a->mitigation_enum == b->mitigation_enum;
}

/* @v->lock is held, or nobody else knows of it yet */
static void take_vcpu(struct mitigation_vcpu *v, const struct mitigation_saved_vcpu *from)
{
	v->msrs.spec_ctrl = from->shadow;
	v->msrs.report = from->report;
	v->promise = from->promise;
	v->promise.valid = true; /* it comes from another host, whatever that one held */
}

static int check_count(const struct mitigation *m, const struct mitigation_saved *s, struct err *e)
{
	if (s->n_vcpus == m->n_vcpus)
		return 0;
	return err_set(e, -EINVAL, "mitigation state: of %u vCPUs, this guest has %u; give -c %u",
		       s->n_vcpus, m->n_vcpus, s->n_vcpus);
}

static int take_contract(struct mitigation *m, struct cpuid_set *cpuid,
			 const struct mitigation_saved *s, struct err *e)
{
	const struct guest_contract *g = &s->contract;

	if (m->contract_made && !same_contract(&m->contract, g))
		return err_set(e, -EINVAL,
			       "mitigation state: the guest's contract changed on its way; the "
			       "stream is damaged");
	mitigation_read_cpuid(m, cpuid);
	if (m->contract.leaf7_0_edx != g->leaf7_0_edx ||
	    m->contract.leaf7_2_edx != g->leaf7_2_edx ||
	    m->contract.leaf80000008_ebx != g->leaf80000008_ebx)
		return err_set(e, -EINVAL,
			       "mitigation state: CPUID 7.0 EDX %#x, 7.2 EDX %#x of the contract "
			       "are %#x and %#x in the guest's CPUID; the stream is damaged",
			       g->leaf7_0_edx, g->leaf7_2_edx, m->contract.leaf7_0_edx,
			       m->contract.leaf7_2_edx);
	if (g->virt_enum && !m->backend.msr_exits)
		return err_set(e, -EPERM,
			       "the guest was offered the virtual mitigation MSRs, and this host's "
			       "KVM has no MSR filter to answer them; use a host kernel from 5.10 "
			       "on");
	m->contract = *g;
	return 0;
}

int mitigation_adopt(struct mitigation *m, struct cpuid_set *cpuid,
		     const struct mitigation_saved *s, struct err *e)
{
	struct mitigation_decision start = {0};
	uint32_t i;
	int ret = check_count(m, s, e);

	if (!ret)
		ret = check_saved(s, e);
	if (!ret)
		ret = take_contract(m, cpuid, s, e);
	if (ret < 0)
		return ret;
	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];

		take_vcpu(v, &s->vcpu[i]);
		v->came = true;
		mitigation_redecide(m, v);
		if (v->decision.verdict == VERDICT_REFUSE)
			return refuse(m, i, &v->promise, &v->decision, e);
		/* what the VM as a whole must be able to hold */
		if (i == 0)
			start = v->decision;
		start.mask |= v->decision.mask;
		start.value |= v->decision.value;
	}
	m->start = start;
	m->contract_made = true;
	m->origin = MITIGATION_COMING;
	m->ibpb_seen |= s->ibpb_seen;
	return 0;
}

static int update_vcpu(struct mitigation *m, struct mitigation_vcpu *v,
		       const struct mitigation_saved_vcpu *from, struct err *e)
{
	char names[160];
	uint64_t missing;
	int ret;

	take_vcpu(v, from);
	mitigation_redecide(m, v);
	if (v->decision.verdict == VERDICT_REFUSE)
		return refuse(m, v->id, &v->promise, &v->decision, e);
	/* not mitigation_hold(), which takes the guest's value from KVM: here it comes from @from
	 */
	v->held.mask = m->fixed_mask;
	v->held.value = m->fixed_value;
	ret = m->active->vcpu_apply(&m->backend, v->fd, v->decision.mask, v->decision.value,
				    v->msrs.spec_ctrl, &v->held, NULL);
	if (!ret)
		ret = mitigation_give_value(m, v, e);
	if (ret < 0)
		return err_set(e, -EIO,
			       "vCPU %u: KVM does not hold SPEC_CTRL mask=%#" PRIx64
			       " value=%#" PRIx64 " over the guest's %#" PRIx64
			       "; see the log of this host's testudo",
			       v->id, v->decision.mask, v->decision.value, v->msrs.spec_ctrl);
	missing = v->decision.value & ~v->held.value;
	if (m->active == &backend_none || !missing)
		return 0;
	return err_set(e, -EAGAIN,
		       "vCPU %u reported on its way and needs %s, which this VM was not built to "
		       "hold (held %#" PRIx64 ", needed %#" PRIx64 "); migrate again",
		       v->id, bit_names(missing, names, sizeof(names)), v->held.value,
		       v->decision.value);
}

int mitigation_update(struct mitigation *m, const struct mitigation_saved *s, struct err *e)
{
	uint32_t i;
	int ret = check_count(m, s, e);

	if (!ret && (!m->contract_made || !same_contract(&m->contract, &s->contract)))
		ret = err_set(e, -EINVAL,
			      "mitigation state: the guest's contract changed on its way; the "
			      "stream is damaged");
	for (i = 0; !ret && i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];

		pthread_mutex_lock(&v->lock);
		ret = update_vcpu(m, v, &s->vcpu[i], e);
		pthread_mutex_unlock(&v->lock);
		if (!ret)
			mitigation_notify(m, i, MITIGATION_REPORTED);
	}
	if (!ret && s->ibpb_seen)
		__atomic_store_n(&m->ibpb_seen, true, __ATOMIC_RELEASE);
	return ret;
}

/* ---- in words ---- */

static const char *report_in_words(const struct vcpu_report *r, uint64_t bit)
{
	const uint64_t used = bit == SPEC_CTRL_BHI_DIS_S     ? MITIGATION_BHB_CLEAR_SEQ_S
			      : bit == SPEC_CTRL_RRSBA_DIS_S ? MITIGATION_RETPOLINE_S
							     : 0;

	if (!used)
		return "policy";
	if (r->ctrl & used)
		return bit == SPEC_CTRL_BHI_DIS_S ? "guest reported the short sequence"
						  : "guest reported retpolines";
	if (r->enum_read || r->written)
		return "guest reported no need of it";
	return "guest reported nothing";
}

void mitigation_describe_change(struct mitigation *m, const struct mitigation_saved *from,
				const char *there, const char *here, char *text, size_t len)
{
	uint64_t told = 0;
	size_t at = 0;
	uint32_t i;

	if (len)
		text[0] = '\0';
	for (i = 0; i < m->n_vcpus && i < from->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];
		uint64_t now, was = from->vcpu[i].held, changed;
		unsigned int n;

		pthread_mutex_lock(&v->lock);
		now = v->fd < 0 ? v->decision.value : v->held.value;
		pthread_mutex_unlock(&v->lock);
		changed = (now ^ was) & ~told;
		told |= changed;
		for (n = 0; n < 64; n++) {
			const uint64_t bit = changed & UINT64_C(1) << n;
			const char *name = spec_ctrl_bit_name(bit);

			if (!name || at >= len)
				continue;
			at += (size_t)snprintf(text + at, len - at,
					       "%s%s was %sforced on %s, is %sforced on %s: %s",
					       at ? "; " : "", name, was & bit ? "" : "not ", there,
					       now & bit ? "" : "not ", here,
					       report_in_words(&from->vcpu[i].report, bit));
		}
	}
}

void mitigation_stay(struct mitigation *m)
{
	struct mitigation_decision start = {0};
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];

		mitigation_check_vcpu(m, i);
		pthread_mutex_lock(&v->lock);
		if (!m->filter.spec_ctrl) /* KVM has it; mitigation_check_vcpu() has just asked */
			v->msrs.spec_ctrl = v->held.guest;
		v->came = true;
		if (i == 0)
			start = v->decision;
		start.mask |= v->decision.mask;
		start.value |= v->decision.value;
		pthread_mutex_unlock(&v->lock);
	}
	m->start = start;
	m->origin = MITIGATION_COMING;
}

bool mitigation_wants_rebuild(struct mitigation *m)
{
	bool wants = false;
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];

		pthread_mutex_lock(&v->lock);
		wants |= m->active && m->active->vm_setup &&
			 (v->decision.value & m->backend.can_force & ~v->held.value);
		pthread_mutex_unlock(&v->lock);
	}
	return wants;
}
