#include "vmm/hold/mitigation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpuid/feature.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "policy/explain.h"
#include "vmm/hold/host_facts.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vm.h"

#define HEX(x) ((unsigned long long)(x))

/* A hostile guest may change its report as often as it likes; the log must not fill the disk. */
#define LOGGED_CHANGES 16

int mitigation_init(struct mitigation *m, const struct mitigation_options *options,
		    const struct kvm *kvm, uint32_t n_vcpus, struct err *e)
{
	uint32_t i;
	int ret;

	memset(m, 0, sizeof(*m));
	m->options = *options;
	m->vm_fd = -1;
	pthread_mutex_init(&m->filter_lock, NULL);
	m->vcpu = calloc(n_vcpus, sizeof(*m->vcpu));
	if (!m->vcpu)
		return err_no_memory(e);
	m->n_vcpus = n_vcpus;
	for (i = 0; i < n_vcpus; i++) {
		m->vcpu[i].id = i;
		m->vcpu[i].fd = -1;
		pthread_mutex_init(&m->vcpu[i].lock, NULL);
	}
	if (options->facts)
		m->host = *options->facts;
	else
		host_facts_read(&m->host, kvm);
	ret = backend_probe(&m->backend, kvm, options->force_cap, e);
	if (ret < 0)
		return ret;
	for (i = 0; i < m->backend.n_trials; i++)
		log_msg(m->backend.trial[i].suspect ? LOG_WARN : LOG_DEBUG,
			"back end %s: usable=%d can-hold=%#llx: %s", m->backend.trial[i].name,
			m->backend.trial[i].usable, HEX(m->backend.trial[i].can_force),
			m->backend.trial[i].why);
	return 0;
}

void mitigation_fini(struct mitigation *m)
{
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++)
		pthread_mutex_destroy(&m->vcpu[i].lock);
	free(m->vcpu);
	backend_fini(&m->backend);
	m->vcpu = NULL;
	m->n_vcpus = 0;
}

void mitigation_listen(struct mitigation *m, struct mitigation_listener *l)
{
	l->next = m->listeners;
	m->listeners = l;
}

void mitigation_notify(struct mitigation *m, uint32_t id, enum mitigation_change what)
{
	struct mitigation_listener *l;

	for (l = m->listeners; l; l = l->next)
		l->changed(l, id, what);
}

struct backend_facts mitigation_backend_facts(const struct mitigation *m)
{
	return backend_facts(&m->backend);
}

static void decide(const struct mitigation *m, const struct vcpu_report *report,
		   const struct mitigation_promise *promise, uint64_t shadow,
		   struct mitigation_decision *d)
{
	const struct mitigation_input in = {
		.host = m->host,
		.backend = mitigation_backend_facts(m),
		.guest = m->contract,
		.report = *report,
		.policy = m->options.policy,
		.promise = *promise,
		.pool = m->options.pool.facts,
		.nested = m->nested,
		.shadow = shadow,
	};

	mitigation_decide(&in, d);
}

void mitigation_redecide(const struct mitigation *m, struct mitigation_vcpu *v)
{
	decide(m, &v->msrs.report, &v->promise, v->msrs.spec_ctrl, &v->decision);
}

/* ---- the first boot ---- */

static void warn_at_start(const struct mitigation *m)
{
	char text[896];

	if (m->start.verdict == VERDICT_WARN)
		log_warn("mitigation: back end %s: %s", backend_name(m->backend.ops->kind),
			 explain_reasons(&m->start, text, sizeof(text)));
	/* SDM vol.3 VM-entry MSR-load area; KVM 6.12 made it follow the filter */
	if (m->nested && m->backend.ops->denies_spec_ctrl && m->start.mask &&
	    barrier_kernel_before(&m->backend.barrier, 6, 12))
		log_warn("mitigation: this guest may run guests of its own, and before Linux 6.12 "
			 "its MSR-load lists reach SPEC_CTRL past the MSR filter: a hypervisor in "
			 "it can drop the held bits; use a newer host kernel, or hide VMX from it");
}

void mitigation_read_cpuid(struct mitigation *m, struct cpuid_set *cpuid)
{
	contract_read_cpuid(&m->contract, &m->nested, cpuid);
	/* what a guest may set in EFER goes by the entry in KVM, too */
	m->nx = cpu_feature_has(cpuid, cpu_feature(FEATURE_nx));
	m->long_mode = cpu_feature_has(cpuid, cpu_feature(FEATURE_lm));
	m->sbpb = cpu_feature_shown(cpuid, cpu_feature(FEATURE_sbpb));
}

/* What the pool changes is not what the user's --cpu asked for: it is told. */
static void level_guest(struct mitigation *m, struct cpuid_set *cpuid)
{
	const struct guest_contract before = m->contract;
	struct guest_contract *now = &m->contract;
	char hidden[1024], shown[1024];
	struct cpuid_leaf *l;

	pool_level_guest(&m->options.pool, now);
	l = cpuid_find(cpuid, 7, 0);
	if (l)
		l->edx &= ~(before.leaf7_0_edx & ~now->leaf7_0_edx);
	l = cpuid_find(cpuid, 7, 2);
	if (l)
		l->edx &= ~(before.leaf7_2_edx & ~now->leaf7_2_edx);
	if (now->leaf7_0_edx == before.leaf7_0_edx && now->leaf7_2_edx == before.leaf7_2_edx &&
	    now->arch_cap == before.arch_cap)
		return;
	explain_features(before.leaf7_0_edx & ~now->leaf7_0_edx,
			 before.leaf7_2_edx & ~now->leaf7_2_edx, before.arch_cap & ~now->arch_cap,
			 hidden, sizeof(hidden));
	explain_features(0, 0, now->arch_cap & ~before.arch_cap, shown, sizeof(shown));
	if (m->options.pool.facts.n_hosts > 1)
		log_info("mitigation: levelled for the pool: hidden from the guest: %s; shown for "
			 "another host's sake: %s",
			 hidden, shown);
	else
		log_info("mitigation: shown to the guest, for this part has it though KVM does not "
			 "say so: %s",
			 shown);
}

/* For a guest that boots: it said nothing yet, and nobody promised it anything. */
static int decide_start(struct mitigation *m, struct err *e)
{
	const struct mitigation_promise no_promise = {0};
	const struct vcpu_report nothing = {0};
	char text[896];
	uint32_t i;

	decide(m, &nothing, &no_promise, 0, &m->start);
	if (m->start.verdict != VERDICT_REFUSE)
		return 0;
	for (i = 0; i < m->n_vcpus; i++) /* none will decide for itself */
		m->vcpu[i].decision = m->start;
	return err_set(e, -EPERM, "refused by policy: back end %s: %s",
		       backend_name(m->backend.ops->kind),
		       explain_reasons(&m->start, text, sizeof(text)));
}

void mitigation_try_arch_cap(struct mitigation *m, const struct cpuid_set *cpuid)
{
	m->answers_arch_cap = m->backend.msr_exits &&
			      m->contract.leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities) &&
			      !backend_keeps(&m->backend, cpuid, MSR_IA32_ARCH_CAPABILITIES,
					     m->contract.arch_cap);
	if (m->answers_arch_cap)
		log_debug("KVM does not keep ARCH_CAPABILITIES = %#llx; testudo answers the guest "
			  "itself",
			  HEX(m->contract.arch_cap));
}

int mitigation_make_contract(struct mitigation *m, struct cpuid_set *cpuid, struct err *e)
{
	const struct backend_facts facts = mitigation_backend_facts(m);
	int ret;

	if (m->contract_made)
		return 0;
	mitigation_read_cpuid(m, cpuid);
	if (m->contract.leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities))
		m->contract.arch_cap = (m->host.kvm_arch_cap & ~m->options.arch_cap_clear) |
				       m->options.arch_cap_set;
	level_guest(m, cpuid);
	mitigation_advertise(&m->host, &facts, &m->options.policy, &m->options.pool.facts,
			     &m->contract);
	mitigation_try_arch_cap(m, cpuid);
	m->contract_made = true;
	ret = decide_start(m, e);
	if (ret < 0)
		return ret;
	warn_at_start(m);
	return 0;
}

/* ---- a VM and its vCPUs ---- */

/* Is there anything that 0x48 has to be kept from the guest for, now or after a report? */
static bool needs_spec_ctrl_exits(const struct mitigation *m)
{
	return m->backend.ops->denies_spec_ctrl && (m->start.mask || m->contract.virt_enum);
}

/* Are there held bits that an INIT takes away? */
static bool drops_at_init(const struct mitigation *m, bool deny)
{
	return deny && m->backend.ops->init_clears && m->start.mask;
}

/* May a guest's answer drop a bit, here or where it goes next? It ends at INIT. */
static bool hears_answers(const struct mitigation *m)
{
	const enum backend_kind kind = m->backend.ops->kind;

	return m->contract.mitigation_enum &&
	       (kind == BACKEND_MSR_FILTER || kind == BACKEND_FORCE_VCPU);
}

static int drive_barriers(struct mitigation *m, int vm_fd, struct err *e)
{
	const struct barrier_facts *b = &m->backend.barrier;

	barrier_plan(b, cpu_vendor_from_id(m->host.vendor_id), &m->options.policy.barrier,
		     &m->barrier);
	return m->barrier.drive ? barrier_drive(vm_fd, m->barrier.args, e) : 0;
}

int mitigation_setup_vm(struct mitigation *m, struct vm *vm, struct err *e)
{
	const struct backend_ops *ops = m->backend.ops;
	bool deny;
	int ret = 0;

	if (m->origin == MITIGATION_CAME) { /* a guest that came here resets itself: a boot */
		m->origin = MITIGATION_BOOTED;
		ret = decide_start(m, e);
		if (ret < 0)
			return ret;
	} else if (m->origin == MITIGATION_COMING) {
		m->origin = MITIGATION_CAME;
	}
	deny = needs_spec_ctrl_exits(m);
	m->active = ops->denies_spec_ctrl && !deny ? &backend_none : ops;
	m->vm_fd = vm->fd;
	m->efer_exits = 0;
	m->ends_answers = m->n_vcpus > 1 && hears_answers(m);
	if (m->origin == MITIGATION_BOOTED) {
		m->answered = false;
		__atomic_store_n(&m->ibpb_seen, false, __ATOMIC_RELEASE);
	}
	m->filter = (struct msr_filter) {
		.spec_ctrl = deny,
		.virtual = m->contract.virt_enum || ops->kind == BACKEND_FORCE_SPEC_CTRL_VM,
		.arch_cap = m->answers_arch_cap,
		.efer = m->ends_answers || (m->n_vcpus > 1 && drops_at_init(m, deny)),
		.pred_cmd = m->options.observe_ibpb && m->backend.msr_exits && !m->ibpb_seen,
	};
	if (m->filter.spec_ctrl || m->filter.virtual || m->filter.arch_cap || m->filter.efer ||
	    m->filter.pred_cmd)
		ret = msr_filter_set(&m->filter, vm->fd, e);
	m->fixed_mask = m->fixed_value = 0;
	if (!ret)
		ret = drive_barriers(m, vm->fd, e);
	if (!ret && ops->vm_setup) {
		/* what may change may only be held at 1: a bit that is to be off is fixed, too */
		m->fixed_mask = m->start.mask & ~(m->start.value & m->backend.run_time_bits);
		m->fixed_value = m->start.value & m->fixed_mask;
		ret = ops->vm_setup(&m->backend, vm, m->fixed_mask, m->fixed_value, e);
	}
	return ret;
}

/* After CPUID: newer kernels keep ARCH_CAPABILITIES only for a guest whose CPUID has it. */
static int set_arch_cap(const struct mitigation *m, int vcpu_fd, struct err *e)
{
	uint64_t seen = 0;
	int ret;

	if (!(m->contract.leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities)) ||
	    m->filter.arch_cap)
		return 0;
	ret = backend_set_msr(vcpu_fd, MSR_IA32_ARCH_CAPABILITIES, m->contract.arch_cap);
	if (!ret)
		ret = backend_get_msr(vcpu_fd, MSR_IA32_ARCH_CAPABILITIES, &seen);
	if (!ret && seen == m->contract.arch_cap)
		return 0;
	return err_set(e, -EIO,
		       "KVM does not keep ARCH_CAPABILITIES = %#llx (reads back %#llx); use a host "
		       "kernel from 5.10 on, whose MSR filter lets testudo answer the guest",
		       HEX(m->contract.arch_cap), HEX(seen));
}

/* Counters go on: a guest that resets itself in a loop may not fill the log either. */
static void forget_life(struct mitigation_vcpu *v)
{
	v->failed = false;
	memset(&v->held, 0, sizeof(v->held));
}

int mitigation_give_value(const struct mitigation *m, struct mitigation_vcpu *v, struct err *e)
{
	uint64_t seen = 0;
	int ret;

	if (m->active != &backend_none || !v->msrs.spec_ctrl)
		return 0;
	ret = backend_set_msr(v->fd, MSR_IA32_SPEC_CTRL, v->msrs.spec_ctrl);
	if (!ret)
		ret = backend_get_msr(v->fd, MSR_IA32_SPEC_CTRL, &seen);
	if (!ret && seen == v->msrs.spec_ctrl)
		return 0;
	return err_set(e, -EIO,
		       "vCPU %u: the guest has SPEC_CTRL = %#llx, this host's KVM keeps %#llx; use "
		       "a host whose CPU has these bits",
		       v->id, HEX(v->msrs.spec_ctrl), HEX(seen));
}

int mitigation_setup_vcpu(struct mitigation *m, uint32_t id, int vcpu_fd, struct err *e)
{
	struct mitigation_vcpu *v = &m->vcpu[id];
	int ret = set_arch_cap(m, vcpu_fd, e);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&v->lock);
	forget_life(v);
	if (!v->came) {
		vcpu_msrs_reset(&v->msrs);
		v->promise = (struct mitigation_promise) {0};
		v->ibpb_issued = false;
	}
	v->came = false;
	v->fd = vcpu_fd;
	mitigation_redecide(m, v);
	v->held.mask = m->fixed_mask;
	v->held.value = m->fixed_value;
	if (m->backend.barrier.driven)
		barrier_stats_open(&v->barriers, vcpu_fd, m->n_vcpus - id - 1);
	ret = mitigation_give_issued(m, v, e);
	if (!ret)
		ret = mitigation_give_value(m, v, e);
	if (!ret)
		ret = m->active->vcpu_apply(&m->backend, vcpu_fd, v->decision.mask,
					    v->decision.value, v->msrs.spec_ctrl, &v->held, e);
	pthread_mutex_unlock(&v->lock);
	if (ret < 0)
		return ret;
	if (id == 0 && v->held.mask && !m->told) {
		m->told = true;
		log_info("mitigation: holding SPEC_CTRL bits: mask=%#llx value=%#llx backend=%s",
			 HEX(v->held.mask), HEX(v->held.value), backend_name(m->backend.ops->kind));
	}
	mitigation_notify(m, id, MITIGATION_STARTED);
	return 0;
}

/* ---- while it runs ---- */

int mitigation_hold(struct mitigation *m, struct mitigation_vcpu *v, struct log_lines *said)
{
	const struct backend_held before = v->held;
	struct err e = {0};
	int ret;

	/* where 0x48 is not denied, KVM has the guest's own value, and it stays what it is */
	if (!m->active->denies_spec_ctrl) {
		m->active->vcpu_read(v->fd, &v->held);
		if (v->held.known)
			v->msrs.spec_ctrl = v->held.guest;
	}
	v->held.mask = m->fixed_mask;
	v->held.value = m->fixed_value;
	ret = m->active->vcpu_apply(&m->backend, v->fd, v->decision.mask, v->decision.value,
				    v->msrs.spec_ctrl, &v->held, &e);
	if (ret < 0 && !v->failed) {
		log_add(said, LOG_ERR, "vCPU %u: %s", v->id, e.text);
		mitigation_check_applied(&v->decision, m->active->kind, v->msrs.spec_ctrl,
					 ret == -EBADE, ~v->held.effective);
	}
	v->failed = ret < 0;
	if (ret < 0) { /* what is in KVM now is the earlier value, or nobody's */
		v->held = before;
		m->active->vcpu_read(v->fd, &v->held);
	}
	return ret;
}

static void log_change(struct mitigation_vcpu *v, const struct backend_held *before,
		       const char *why, struct log_lines *said)
{
	char text[896];

	if (v->changes > LOGGED_CHANGES)
		return;
	log_add(said, LOG_INFO,
		"mitigation: vCPU %u: held bits changed: mask=%#llx value=%#llx was_mask=%#llx "
		"was_value=%#llx: %s: %s",
		v->id, HEX(v->held.mask), HEX(v->held.value), HEX(before->mask), HEX(before->value),
		why, explain_reasons(&v->decision, text, sizeof(text)));
	if (v->changes == LOGGED_CHANGES)
		log_add(said, LOG_WARN,
			"mitigation: vCPU %u changes its report again and again; further changes "
			"are not logged",
			v->id);
}

/*
 * Where the capability froze the bits, a report can ask for others than are held. Bits that are
 * missing are mitigation_rebuild.c's; that more is held than asked for is told, once for each kind.
 */
static void log_frozen(const struct mitigation_vcpu *v, const struct mitigation_decision *before,
		       struct log_lines *said)
{
	if (v->decision.mask == v->held.mask && v->decision.value == v->held.value)
		return;
	if (before->mask == v->decision.mask && before->value == v->decision.value)
		return;
	if (v->changes <= LOGGED_CHANGES)
		log_add(said, LOG_INFO,
			"mitigation: vCPU %u: its report asks for mask=%#llx value=%#llx, but "
			"mask=%#llx value=%#llx are fixed in this VM",
			v->id, HEX(v->decision.mask), HEX(v->decision.value), HEX(v->held.mask),
			HEX(v->held.value));
}

static void log_verdict(const struct mitigation_vcpu *v, enum verdict before,
			struct log_lines *said)
{
	char text[896];

	if (v->decision.verdict <= before || v->decision.verdict < VERDICT_WARN ||
	    v->changes > LOGGED_CHANGES)
		return;
	log_add(said, LOG_WARN, "mitigation: vCPU %u: %s: %s", v->id,
		verdict_name(v->decision.verdict),
		explain_reasons(&v->decision, text, sizeof(text)));
}

bool mitigation_apply(struct mitigation *m, struct mitigation_vcpu *v, const char *why,
		      enum mitigation_change *what, struct log_lines *said)
{
	const struct backend_held before = v->held;
	const struct mitigation_decision decided = v->decision;

	mitigation_redecide(m, v);
	if (v->decision.mask != decided.mask || v->decision.value != decided.value)
		v->changes++;
	log_verdict(v, decided.verdict, said);
	*what = MITIGATION_REPORTED;
	if (m->active == &backend_none)
		return true;
	if (mitigation_hold(m, v, said) < 0) {
		*what = MITIGATION_FAILED;
		return true;
	}
	if (v->held.mask != before.mask || v->held.value != before.value)
		log_change(v, &before, why, said);
	log_frozen(v, &decided, said);
	return true;
}

/* Is KVM to be asked, while the guest runs, for its first barrier? */
static bool asks_for_barrier(const struct mitigation *m)
{
	return m->backend.barrier.driven && m->options.policy.barrier.on_switch == SWITCH_USED;
}

bool mitigation_looks_for_barrier(const struct mitigation *m)
{
	return (m->options.observe_ibpb && m->backend.msr_exits) || asks_for_barrier(m);
}

bool mitigation_wants_checks(const struct mitigation *m)
{
	return needs_spec_ctrl_exits(m) ||
	       (asks_for_barrier(m) && !__atomic_load_n(&m->ibpb_seen, __ATOMIC_ACQUIRE));
}

bool mitigation_may_want_checks(const struct mitigation *m)
{
	return needs_spec_ctrl_exits(m) || asks_for_barrier(m);
}

bool mitigation_refused(struct mitigation *m, uint32_t id, char *why, size_t size)
{
	struct mitigation_vcpu *v = &m->vcpu[id];
	bool refused;

	pthread_mutex_lock(&v->lock);
	refused = v->decision.verdict == VERDICT_REFUSE;
	if (refused && why)
		explain_reasons(&v->decision, why, size);
	pthread_mutex_unlock(&v->lock);
	return refused;
}

void mitigation_started(struct mitigation *m)
{
	backend_close_scratch(&m->backend);
}

void mitigation_forget_vm(struct mitigation *m)
{
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++) {
		pthread_mutex_lock(&m->vcpu[i].lock);
		m->vcpu[i].fd = -1;
		barrier_stats_close(&m->vcpu[i].barriers);
		pthread_mutex_unlock(&m->vcpu[i].lock);
	}
	m->vm_fd = -1;
}
