/*
 * Intel's three virtual mitigation MSRs and the guest's view of IA32_SPEC_CTRL as one vCPU's state
 * machine: what a read gives, what a write changes, when it is #GP. PURE. The caller turns KVM's
 * exits into calls and acts on the report that results.
 */
#ifndef MSR_VIRT_MSR_H
#define MSR_VIRT_MSR_H

#include <stdbool.h>
#include <stdint.h>

#include "msr/contract.h"

enum msr_result {
	MSR_OK,	     /* done, nothing that a decision depends on changed */
	MSR_CHANGED, /* done, and the report changed or SPEC_CTRL was written, be it with the
			same value (an INIT that the VMM did not see may have cleared the
			hardware's): decide and apply again */
	MSR_GP,	     /* the access is #GP(0) */
	MSR_UNKNOWN, /* not one of these MSRs */
};

/* What one vCPU said since its last reset. */
struct vcpu_report {
	bool aware;	/* it read 0x50000000 or 0x50000001, or wrote 0x50000002 */
	bool enum_read; /* it read 0x50000001, since INIT: a bit left clear in ctrl is an answer */
	bool written;	/* it wrote 0x50000002 */
	uint64_t ctrl;	/* MSR 0x50000002 */
};

/* One vCPU's state; migrates as a whole. */
struct vcpu_msrs {
	uint64_t spec_ctrl; /* the guest's own value, never the effective one */
	struct vcpu_report report;
};

/** vcpu_msrs_read - the guest's RDMSR of @index. @value is set on MSR_OK and MSR_CHANGED. */
enum msr_result vcpu_msrs_read(struct vcpu_msrs *m, const struct guest_contract *guest,
			       uint32_t index, uint64_t *value);

/**
 * vcpu_msrs_write - the guest's WRMSR of @index
 * 0x50000002 takes the bits that 0x50000001 offers. 0x48 takes the bits of spec_ctrl_legal() and
 * those that are set in it already: a guest from a VMM that allowed more may write back what it
 * reads.
 */
enum msr_result vcpu_msrs_write(struct vcpu_msrs *m, const struct guest_contract *guest,
				uint32_t index, uint64_t value);

/**
 * pred_cmd_legal - the bits that a guest may write to IA32_PRED_CMD; 0 when it has no such MSR
 * @sbpb: it is shown SBPB (AMD), which Linux writes bare
 */
uint64_t pred_cmd_legal(const struct guest_contract *guest, bool sbpb);

/**
 * vcpu_msrs_reset - a full reset of the machine forgets all
 * vcpu_msrs_init - INIT clears 0x48, and 0x50000002 stays, as in the RFC's KVM
 * vcpu_msrs_starts - the vCPU is on its way up, from INIT as far as anyone can tell
 * What runs from then on may be another kernel: that a bit was left clear is an answer again when
 * 0x50000001 was read again. After INIT, too.
 */
void vcpu_msrs_reset(struct vcpu_msrs *m);
void vcpu_msrs_init(struct vcpu_msrs *m);
void vcpu_msrs_starts(struct vcpu_msrs *m);

#endif
