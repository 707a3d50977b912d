/* What the guest's denied MSR accesses do: 0x48, the virtual MSRs, EFER after INIT, PRED_CMD. */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/log.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/mitigation.h"

/* Writes other than a CPU's way up: few in a guest, any number in a hypervisor that is one. */
#define EFER_EXITS 1024

#define CR0_PG (1u << 31)

/* Only the vCPU's own thread writes a counter; others look at it. */
static void count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static void count_exit(struct mitigation_vcpu *v, uint32_t index)
{
	if (index == MSR_IA32_SPEC_CTRL)
		count(&v->exits_spec_ctrl);
	else if (index == MSR_EFER)
		count(&v->exits_efer);
	else if (index == MSR_IA32_PRED_CMD)
		count(&v->exits_pred_cmd);
	else
		count(&v->exits_virtual);
}

/*
 * One denial for the whole VM, on or off; @m->filter_lock is held. A failure leaves it as it is, and
 * is logged once: the guest may bring us here with each write.
 */
static int set_denial(struct mitigation *m, bool *what, bool on, struct log_lines *said)
{
	struct err e = {0};

	if (*what == on)
		return 0;
	*what = on;
	if (msr_filter_set(&m->filter, m->vm_fd, &e) == 0)
		return 0;
	*what = !on;
	if (!m->denial_told)
		log_add(said, LOG_WARN, "mitigation: %s", e.text);
	m->denial_told = true;
	return e.code;
}

/* A failure costs time and no safety. */
static void stop_denying_pred_cmd(struct mitigation *m)
{
	struct log_lines said;

	log_lines_init(&said);
	pthread_mutex_lock(&m->filter_lock);
	set_denial(m, &m->filter.pred_cmd, false, &said);
	pthread_mutex_unlock(&m->filter_lock);
	log_lines_say(&said);
}

/*
 * ---- EFER: the one write that every CPU on its way up from INIT must do ----
 * So the bits are back before it runs any 64-bit code, and what it answered counts no more. Denied
 * for the whole life, since the guest may INIT its CPUs again. Where that gets dear, the tick's
 * look at each vCPU is left for lost bits. It sees no INIT that takes no bit away: so once any vCPU
 * has answered the denial stays.
 */

static void stop_denying_efer(struct mitigation *m)
{
	struct log_lines said;

	log_lines_init(&said);
	pthread_mutex_lock(&m->filter_lock);
	if (!m->answered)
		set_denial(m, &m->filter.efer, false, &said);
	pthread_mutex_unlock(&m->filter_lock);
	log_lines_say(&said);
}

/* @v->lock is held. An answer that INIT would not end does not count. */
static void hear_answer(struct mitigation *m, struct mitigation_vcpu *v, struct log_lines *said)
{
	if (!m->ends_answers || !v->msrs.report.enum_read)
		return;
	pthread_mutex_lock(&m->filter_lock);
	m->answered = true;
	if (set_denial(m, &m->filter.efer, true, said) < 0)
		v->msrs.report.enum_read = false;
	pthread_mutex_unlock(&m->filter_lock);
}

void mitigation_exit_rdmsr(struct mitigation *m, uint32_t id, struct kvm_run *run)
{
	struct mitigation_vcpu *v = &m->vcpu[id];
	const uint32_t index = run->msr.index;
	enum mitigation_change what;
	enum msr_result result;
	struct log_lines said;
	bool tell = false;
	uint64_t value = 0;

	log_lines_init(&said);
	count_exit(v, index);
	if (index == MSR_IA32_ARCH_CAPABILITIES) {
		run->msr.data = m->contract.arch_cap;
		run->msr.error = !(m->contract.leaf7_0_edx & CPUID_BIT(7_0_EDX, arch_capabilities));
		return;
	}
	pthread_mutex_lock(&v->lock);
	result = vcpu_msrs_read(&v->msrs, &m->contract, index, &value);
	if (result == MSR_CHANGED) { /* the first read of the enumeration: the guest is aware */
		hear_answer(m, v, &said);
		tell = mitigation_apply(m, v, "it read the enumeration of mitigations", &what,
					&said);
	}
	pthread_mutex_unlock(&v->lock);
	log_lines_say(&said);
	run->msr.data = value;
	run->msr.error = result != MSR_OK && result != MSR_CHANGED;
	if (tell)
		mitigation_notify(m, id, what);
}

/*
 * What KVM does for a write of the guest, before it is done with the host's right, which checks
 * less: SDM vol.3 2.2.1, "Extended Feature Enable Register".
 */
static bool efer_is_legal(const struct mitigation *m, int fd, uint64_t old, uint64_t value)
{
	struct kvm_sregs sregs;

	if ((value & EFER_NXE && !m->nx) || (value & EFER_LME && !m->long_mode))
		return false;
	if (!((old ^ value) & EFER_LME))
		return true;
	return ioctl(fd, KVM_GET_SREGS, &sregs) == 0 && !(sregs.cr0 & CR0_PG);
}

static void write_efer(struct mitigation *m, struct mitigation_vcpu *v, struct kvm_run *run)
{
	const uint64_t value = run->msr.data;
	uint64_t old = 0;

	run->msr.error = 1;
	if (backend_get_msr(v->fd, MSR_EFER, &old) < 0 || !efer_is_legal(m, v->fd, old, value))
		return;
	if (backend_set_msr(v->fd, MSR_EFER, value) < 0) /* reserved bits: KVM knows which */
		return;
	run->msr.error = 0;
	if (!(old & EFER_LME) && value & EFER_LME) /* INIT cleared it, and forced bits with it */
		mitigation_vcpu_starts(m, v->id);
	else if (__atomic_add_fetch(&m->efer_exits, 1, __ATOMIC_RELAXED) > EFER_EXITS)
		stop_denying_efer(m);
}

/* ---- PRED_CMD: does this guest ever use IBPB, or SBPB? ---- */

/* KVM does not count what we write in the guest's stead. */
static void issued_here(struct mitigation *m, struct mitigation_vcpu *v)
{
	struct err e = {0};

	pthread_mutex_lock(&v->lock);
	v->ibpb_issued = true;
	mitigation_give_issued(m, v, &e);
	pthread_mutex_unlock(&v->lock);
	if (e.code)
		log_warn("mitigation: %s", e.text);
}

static void write_pred_cmd(struct mitigation *m, struct mitigation_vcpu *v, struct kvm_run *run)
{
	const uint64_t legal = pred_cmd_legal(&m->contract, m->sbpb);

	run->msr.error = 1;
	if (!legal || run->msr.data & ~legal ||
	    backend_set_msr(v->fd, MSR_IA32_PRED_CMD, run->msr.data) < 0)
		return; /* #GP, as without us */
	run->msr.error = 0;
	if (!run->msr.data)
		return;
	issued_here(m, v);	  /* either bit is a barrier of its own */
	stop_denying_pred_cmd(m); /* also where the first one was seen by KVM, or elsewhere */
	mitigation_saw_barrier(m, v->id, run->msr.data & PRED_CMD_IBPB ? "IBPB" : "SBPB");
}

static void write_ours(struct mitigation *m, struct mitigation_vcpu *v, struct kvm_run *run)
{
	enum mitigation_change what = MITIGATION_GUEST;
	enum msr_result result;
	struct log_lines said;
	uint64_t before;
	bool tell = false;

	log_lines_init(&said);
	pthread_mutex_lock(&v->lock);
	before = v->msrs.spec_ctrl;
	result = vcpu_msrs_write(&v->msrs, &m->contract, run->msr.index, run->msr.data);
	if (result == MSR_CHANGED && run->msr.index != MSR_IA32_SPEC_CTRL) {
		tell = mitigation_apply(m, v, "its report", &what, &said);
	} else if (result == MSR_CHANGED) { /* also when the value is the same: see virt_msr.h */
		tell = v->msrs.spec_ctrl != before;
		switch (mitigation_hold(m, v, &said)) {
		case 0:
			break;
		case -EIO: /* a bit that the guest is shown and the processor has not */
			v->msrs.spec_ctrl = before;
			result = MSR_GP;
			/* fall through */
		default:
			what = MITIGATION_FAILED;
			tell = true;
		}
	}
	pthread_mutex_unlock(&v->lock);
	log_lines_say(&said);
	run->msr.error = result != MSR_OK && result != MSR_CHANGED;
	if (tell)
		mitigation_notify(m, v->id, what);
}

void mitigation_exit_wrmsr(struct mitigation *m, uint32_t id, struct kvm_run *run)
{
	struct mitigation_vcpu *v = &m->vcpu[id];

	count_exit(v, run->msr.index);
	switch (run->msr.index) {
	case MSR_EFER:
		write_efer(m, v, run);
		break;
	case MSR_IA32_PRED_CMD:
		write_pred_cmd(m, v, run);
		break;
	default: /* 0x48, the virtual MSRs, and #GP for anything else */
		write_ours(m, v, run);
	}
}
