#include "vmm/kvm/msr_filter.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/err.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"

#define BOTH (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)

int msr_filter_set(const struct msr_filter *f, int vm_fd, struct err *e)
{
	const struct {
		bool wanted;
		uint32_t base, n, flags;
	} rows[] = {
		{f->spec_ctrl, MSR_IA32_SPEC_CTRL, 1, BOTH},
		{f->virtual, MSR_VIRTUAL_ENUMERATION, 3, BOTH},
		{f->arch_cap, MSR_IA32_ARCH_CAPABILITIES, 1, KVM_MSR_FILTER_READ},
		{f->efer, MSR_EFER, 1, KVM_MSR_FILTER_WRITE},
		{f->pred_cmd, MSR_IA32_PRED_CMD, 1, KVM_MSR_FILTER_WRITE},
	};
	/* one exit reason, enabled before the filter: without it a denied access is #GP */
	const struct kvm_enable_cap exits = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = {KVM_MSR_EXIT_REASON_FILTER},
	};
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
	uint8_t deny = 0; /* a clear bit denies; no row has more than 8 MSRs */
	unsigned int n = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!rows[i].wanted)
			continue;
		filter.ranges[n++] = (struct kvm_msr_filter_range) {
			.flags = rows[i].flags,
			.base = rows[i].base,
			.nmsrs = rows[i].n,
			.bitmap = &deny,
		};
	}
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &exits) < 0)
		return err_set(e, -errno, "KVM_CAP_X86_USER_SPACE_MSR: %s; see the kernel's log",
			       strerror(errno));
	if (ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return err_set(e, -errno, "KVM_X86_SET_MSR_FILTER: %s; see the kernel's log",
			       strerror(errno));
	return 0;
}
