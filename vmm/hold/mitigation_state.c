#include "vmm/hold/mitigation_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "msr/spec_ctrl.h"
#include "policy/explain.h"
#include "vmm/hold/mitigation.h"

/* ---- save ---- */

static void save_vcpu(struct mitigation *m, struct mitigation_vcpu *v,
		      struct mitigation_saved_vcpu *to)
{
	pthread_mutex_lock(&v->lock);
	to->report = v->msrs.report;
	to->held = v->held.value;
	to->ibpb_issued = v->ibpb_issued;
	to->shadow = m->filter.spec_ctrl ? v->msrs.spec_ctrl : v->held.guest;
	/* bits that an earlier host held and this one did not need stay promised for the next */
	to->promise = (struct mitigation_promise) {
		.valid = true,
		.mask = v->held.mask | v->promise.mask,
		.value = v->held.value | (v->promise.value & ~v->held.mask),
		.weak = mitigation_left_weak(&v->decision),
	};
	pthread_mutex_unlock(&v->lock);
}

int mitigation_save(struct mitigation *m, bool parked, struct mitigation_saved *s, struct err *e)
{
	uint32_t i;

	memset(s, 0, sizeof(*s));
	s->vcpu = calloc(m->n_vcpus, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_no_memory(e);
	s->backend = m->active ? m->active->kind : BACKEND_NONE;
	s->contract = m->contract;
	s->n_vcpus = m->n_vcpus;
	for (i = 0; i < m->n_vcpus; i++) {
		if (parked) /* reads KVM, and finds out about an INIT that nobody saw */
			mitigation_check_vcpu(m, i);
		save_vcpu(m, &m->vcpu[i], &s->vcpu[i]);
	}
	/* last: KVM may just have told of the first one */
	s->ibpb_seen = __atomic_load_n(&m->ibpb_seen, __ATOMIC_ACQUIRE);
	return 0;
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
	const char *source = m->source_name[0] ? m->source_name : "the source";
	const char *destination = m->destination_name[0] ? m->destination_name : "the destination";
	char text[768];

	return err_set(e, -EPERM,
		       "refused by policy: back end %s: vCPU %u may not run on %s: held on "
		       "%s=%#llx, held on %s=%#llx: %s",
		       backend_name(m->backend.ops->kind), id, destination, source,
		       (unsigned long long)p->value, destination, (unsigned long long)d->value,
		       explain_reasons(d, text, sizeof(text)));
}

static bool same_contract(const struct guest_contract *a, const struct guest_contract *b)
{
	return a->vendor == b->vendor && a->leaf7_0_edx == b->leaf7_0_edx &&
	       a->leaf7_2_edx == b->leaf7_2_edx && a->leaf80000008_ebx == b->leaf80000008_ebx &&
	       a->arch_cap == b->arch_cap && a->virt_enum == b->virt_enum &&
	       a->mitigation_enum == b->mitigation_enum;
}

/* @v->lock is held, or nobody else knows of it yet; no vCPU runs */
static void take_vcpu(struct mitigation *m, struct mitigation_vcpu *v,
		      const struct mitigation_saved_vcpu *from)
{
	m->answered |= from->report.enum_read;
	v->msrs.spec_ctrl = from->shadow;
	v->msrs.report = from->report;
	v->promise = from->promise;
	v->held_there = from->held;
	v->ibpb_issued |= from->ibpb_issued;
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
		return err_set(
			e, -EPERM,
			"the guest was offered the virtual mitigation MSRs, and the destination's "
			"KVM has no MSR filter to answer them; use a host kernel from 5.10 on");
	m->contract = *g;
	mitigation_try_arch_cap(m, cpuid);
	return 0;
}

/* Also of a stream that does not say so of the guest, only of a vCPU */
static bool has_issued(const struct mitigation_saved *s)
{
	bool issued = s->ibpb_seen;
	uint32_t i;

	for (i = 0; i < s->n_vcpus; i++)
		issued |= s->vcpu[i].ibpb_issued;
	return issued;
}

int mitigation_adopt(struct mitigation *m, struct cpuid_set *cpuid,
		     const struct mitigation_saved *s, struct err *e)
{
	struct mitigation_decision start = {0};
	uint32_t i;
	int ret = check_count(m, s, e);

	if (!ret)
		ret = mitigation_saved_check(s, e);
	if (!ret)
		ret = take_contract(m, cpuid, s, e);
	if (ret < 0)
		return ret;
	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];

		take_vcpu(m, v, &s->vcpu[i]);
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
	m->ibpb_seen |= has_issued(s);
	return 0;
}

static int update_vcpu(struct mitigation *m, struct mitigation_vcpu *v,
		       const struct mitigation_saved_vcpu *from, struct err *e)
{
	char names[160];
	uint64_t missing;
	int ret;

	take_vcpu(m, v, from);
	mitigation_redecide(m, v);
	if (v->decision.verdict == VERDICT_REFUSE)
		return refuse(m, v->id, &v->promise, &v->decision, e);
	/*
	 * not mitigation_hold(), which takes the guest's value from KVM: here it comes from @from
	 */
	v->held.mask = m->fixed_mask;
	v->held.value = m->fixed_value;
	ret = mitigation_give_issued(m, v, e);
	if (ret < 0)
		return ret;
	ret = m->active->vcpu_apply(&m->backend, v->fd, v->decision.mask, v->decision.value,
				    v->msrs.spec_ctrl, &v->held, NULL);
	if (!ret)
		ret = mitigation_give_value(m, v, e);
	if (ret < 0)
		return err_set(e, -EIO,
			       "vCPU %u: KVM does not hold SPEC_CTRL mask=%#llx value=%#llx over "
			       "the guest's %#llx; see the log of the destination's testudo",
			       v->id, (unsigned long long)v->decision.mask,
			       (unsigned long long)v->decision.value,
			       (unsigned long long)v->msrs.spec_ctrl);
	missing = v->decision.value & ~v->held.value;
	if (m->active == &backend_none || !missing)
		return 0;
	return err_set(e, -EAGAIN,
		       "vCPU %u reported on its way and needs %s, which this VM was not built to "
		       "hold (held %#llx, needed %#llx); migrate again",
		       v->id, bit_names(missing, names, sizeof(names)),
		       (unsigned long long)v->held.value, (unsigned long long)v->decision.value);
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
	if (!ret && has_issued(s))
		__atomic_store_n(&m->ibpb_seen, true, __ATOMIC_RELEASE);
	return ret;
}

/* ---- in words ---- */

static const char *report_in_words(const struct vcpu_report *r, uint64_t offered, uint64_t bit)
{
	const uint64_t used = bit == SPEC_CTRL_BHI_DIS_S     ? MITIGATION_BHB_CLEAR_SEQ_S
			      : bit == SPEC_CTRL_RRSBA_DIS_S ? MITIGATION_RETPOLINE_S
							     : 0;

	if (!used)
		return "policy";
	if (r->ctrl & used)
		return bit == SPEC_CTRL_BHI_DIS_S ? "guest reported the short sequence"
						  : "guest reported retpolines";
	if (r->enum_read && (offered & used))
		return "guest reported no need of it";
	return "guest reported nothing";
}

void mitigation_describe_change(struct mitigation *m, const char *there, const char *here,
				char *text, size_t len)
{
	uint64_t told = 0;
	size_t at = 0;
	uint32_t i;

	if (len)
		text[0] = '\0';
	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];
		uint64_t now, was, changed;
		struct vcpu_report report;
		unsigned int n;

		pthread_mutex_lock(&v->lock);
		report = v->msrs.report;
		was = v->held_there;
		now = v->fd < 0 ? v->decision.value : v->held.value;
		pthread_mutex_unlock(&v->lock);
		changed = (now ^ was) & ~told;
		told |= changed;
		for (n = 0; n < 64; n++) {
			const uint64_t bit = changed & UINT64_C(1) << n;
			const char *name = spec_ctrl_bit_name(bit);

			if (!name || at >= len)
				continue;
			at += (size_t)snprintf(
				text + at, len - at, "%s%s was %sheld on %s, is %sheld on %s: %s",
				at ? "; " : "", name, was & bit ? "" : "not ", there,
				now & bit ? "" : "not ", here,
				report_in_words(&report, m->contract.mitigation_enum, bit));
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
		start.mask |= v->decision.mask | v->held.mask;
		start.value |= v->decision.value | v->held.value;
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
