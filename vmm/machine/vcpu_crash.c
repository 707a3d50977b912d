#include "vmm/machine/vcpu_crash.h"

#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/guest_mem.h"
#include "base/log.h"

#define INSN_MAX 15 /* SDM vol.2, 2.3.11: the longest instruction */

static const char cure_emulation[] =
	"this host's KVM can neither run nor emulate that instruction: it cannot run this kernel "
	"(a KVM without VMX or SVM emulates a guest's ring 0); use a host with hardware "
	"virtualization";

static const struct {
	uint32_t suberror;
	const char *what, *cure;
} internal_errors[] = {
	{KVM_INTERNAL_ERROR_EMULATION, "emulation failed", cure_emulation},
	{KVM_INTERNAL_ERROR_SIMUL_EX, "two exceptions at once that do not combine",
	 "the guest's exception handling is broken, or this host's KVM is"},
	{KVM_INTERNAL_ERROR_DELIVERY_EV, "an event could not be delivered",
	 "the guest's IDT, stack or page tables are not usable"},
	{KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, "an exit that KVM does not know",
	 "update the host's kernel"},
};

static void format_bytes(char *out, size_t size, const uint8_t *bytes, size_t n)
{
	size_t i, len = 0;

	out[0] = '\0';
	for (i = 0; i < n && len + 4 < size; i++)
		len += (size_t)snprintf(out + len, size - len, "%s%02x", i ? " " : "", bytes[i]);
}

/* The bytes at RIP: from KVM when it fetched them, else through the guest's own page tables. */
static void bytes_at_rip(int fd, const struct kvm_run *run, const struct guest_mem *mem,
			 uint64_t rip, char *out, size_t size)
{
	struct kvm_translation t = {0};
	struct kvm_sregs sregs;
	const uint8_t *p;
	size_t n;

	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	    run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES &&
	    run->emulation_failure.insn_size) {
		n = run->emulation_failure.insn_size;
		format_bytes(out, size, run->emulation_failure.insn_bytes,
			     n < INSN_MAX ? n : INSN_MAX);
		return;
	}
	t.linear_address = rip;
	if (ioctl(fd, KVM_GET_SREGS, &sregs) == 0)
		t.linear_address += sregs.cs.base;
	if (ioctl(fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
		t.physical_address = t.linear_address;
	/* not across a page: the next one is somewhere else */
	n = GUEST_PAGE - t.physical_address % GUEST_PAGE;
	if (n > INSN_MAX)
		n = INSN_MAX;
	p = gpa_span(mem, t.physical_address, n);
	if (p)
		format_bytes(out, size, p, n);
	else
		snprintf(out, size, "not in memory");
}

static void describe(const struct kvm_run *run, char *out, size_t size, const char **cure)
{
	size_t i;

	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		snprintf(out, size, "triple fault");
		*cure = "the guest met an exception that it could not handle, or reset itself that "
			"way";
		return;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(out, size, "the CPU refuses to enter the guest, hardware reason %#llx",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		*cure = "the guest's register state is not valid on this CPU; see the kernel's log";
		return;
	case KVM_EXIT_INTERNAL_ERROR:
		for (i = 0; i < ARRAY_SIZE(internal_errors); i++) {
			if (internal_errors[i].suberror != run->internal.suberror)
				continue;
			snprintf(out, size, "KVM internal error %u, %s", run->internal.suberror,
				 internal_errors[i].what);
			*cure = internal_errors[i].cure;
			return;
		}
		snprintf(out, size, "KVM internal error %u", run->internal.suberror);
		*cure = "see the kernel's log";
		return;
	default:
		snprintf(out, size, "KVM exit %u, which testudo does not ask for",
			 run->exit_reason);
		*cure = "this is a disagreement between testudo and the host's kernel; report it";
	}
}

void vcpu_log_crash(uint32_t id, int fd, const struct kvm_run *run, const struct guest_mem *mem)
{
	char what[128], bytes[3 * INSN_MAX + 16];
	struct kvm_regs regs = {0};
	const char *cure = "";

	describe(run, what, sizeof(what), &cure);
	if (ioctl(fd, KVM_GET_REGS, &regs) < 0)
		memset(&regs, 0, sizeof(regs));
	bytes_at_rip(fd, run, mem, regs.rip, bytes, sizeof(bytes));
	log_err("vCPU %u stopped: %s: rip=%#llx bytes=%s; %s", id, what,
		(unsigned long long)regs.rip, bytes, cure);
	log_debug(
		"vCPU %u: rax=%llx rbx=%llx rcx=%llx rdx=%llx rsi=%llx rdi=%llx rsp=%llx rbp=%llx "
		"rflags=%llx",
		id, regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp,
		regs.rflags);
}
