/* Looks at a vCPU: INIT and what it takes away, found and put right; how often 0x48 leaves KVM. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "vmm/hold/mitigation.h"

/* 1% and more of a CPU at some 10 us an exit */
#define RATE_LIMIT_PER_SEC 1000

/*
 * KVM's value is not the one that was set, where all writes of the guest come here. All of it gone
 * is an INIT, which nobody tells.
 */
static bool is_gone(const struct mitigation *m, const struct mitigation_vcpu *v,
		    const struct backend_held *now)
{
	return m->filter.spec_ctrl && now->known && now->effective != v->held.effective &&
	       (v->held.mask || !now->effective);
}

static void hold_again(struct mitigation *m, struct mitigation_vcpu *v, struct log_lines *said)
{
	if (mitigation_hold(m, v, said) == 0 && v->held.mask && v->lost++ == 0)
		log_add(said, LOG_DEBUG,
			"mitigation: vCPU %u: held bits were gone (INIT); held again", v->id);
}

int mitigation_give_issued(const struct mitigation *m, struct mitigation_vcpu *v, struct err *e)
{
	int ret = 0;

	if (m->backend.barrier.driven && v->ibpb_issued)
		ret = barrier_set_issued(v->fd);
	return ret < 0 ? err_set(e, -EIO,
				 "vCPU %u: KVM does not take that the guest has issued branch "
				 "predictor barriers: %s; see the kernel's log",
				 v->id, strerror(-ret))
		       : 0;
}

void mitigation_read_issued(struct mitigation *m, struct mitigation_vcpu *v)
{
	bool issued = false;

	if (m->backend.barrier.driven && v->fd >= 0 && barrier_get_issued(v->fd, &issued) == 0)
		v->ibpb_issued |= issued;
}

void mitigation_saw_barrier(struct mitigation *m, uint32_t id, const char *what)
{
	if (__atomic_exchange_n(&m->ibpb_seen, true, __ATOMIC_ACQ_REL))
		return;
	if (!__atomic_exchange_n(&m->ibpb_told, true, __ATOMIC_ACQ_REL))
		log_info("mitigation: the guest uses %s: vcpu=%u", what, id);
	mitigation_notify(m, id, MITIGATION_IBPB_SEEN);
}

/* @starts: it is on its way up */
static void check_vcpu(struct mitigation *m, struct mitigation_vcpu *v, bool starts)
{
	enum mitigation_change what = MITIGATION_GUEST;
	struct backend_held now;
	struct log_lines said;
	bool gone, answered, tell, issued;

	log_lines_init(&said);
	pthread_mutex_lock(&v->lock);
	now = v->held;
	if (v->fd >= 0)
		m->active->vcpu_read(v->fd, &now);
	mitigation_read_issued(m, v);
	issued = v->ibpb_issued;
	gone = is_gone(m, v, &now);
	answered = v->msrs.report.enum_read;
	tell = gone;
	if (gone && !now.effective)
		vcpu_msrs_init(&v->msrs);
	else if (starts)
		vcpu_msrs_starts(&v->msrs);
	if (gone) {
		hold_again(m, v, &said);
		what = MITIGATION_LOST;
	} else if (!m->filter.spec_ctrl || !v->held.mask) {
		tell = now.guest != v->held.guest || now.effective != v->held.effective;
		v->held = now;
	}
	if (answered && !v->msrs.report.enum_read)
		tell |= mitigation_apply(m, v, "it starts anew, and its answer counts no more",
					 &what, &said);
	pthread_mutex_unlock(&v->lock);
	log_lines_say(&said);
	if (tell)
		mitigation_notify(m, v->id, what);
	if (issued)
		mitigation_saw_barrier(m, v->id, "branch predictor barriers");
}

void mitigation_check_vcpu(struct mitigation *m, uint32_t id)
{
	check_vcpu(m, &m->vcpu[id], false);
}

void mitigation_vcpu_starts(struct mitigation *m, uint32_t id)
{
	check_vcpu(m, &m->vcpu[id], true);
}

void mitigation_check_rates(struct mitigation *m)
{
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++) {
		struct mitigation_vcpu *v = &m->vcpu[i];
		const uint64_t exits = __atomic_load_n(&v->exits_spec_ctrl, __ATOMIC_RELAXED);
		const uint64_t rate = exits - v->rate_base;

		v->rate_base = exits;
		if (rate > __atomic_load_n(&v->rate_per_sec, __ATOMIC_RELAXED))
			__atomic_store_n(&v->rate_per_sec, rate, __ATOMIC_RELAXED);
		if (rate < RATE_LIMIT_PER_SEC || v->rate_warned)
			continue;
		v->rate_warned = true;
		log_warn("mitigation: vCPU %u accesses SPEC_CTRL %llu times a second, and each "
			 "access leaves KVM (about 10 us: %llu%% of a CPU); show the guest eIBRS "
			 "or BHI_CTRL so that it writes once, set bhi and rrsba to off in the "
			 "policy, or use a host kernel with KVM_CAP_FORCE_SPEC_CTRL",
			 i, (unsigned long long)rate, (unsigned long long)rate / 1000);
	}
}
