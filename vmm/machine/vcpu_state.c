/*
 * The sections stand in the order of a restore. What fixes it (arch/x86/kvm of Linux 6.12, and the
 * notes in api.rst):
 *
 *   sregs2     first: CR4, EFER and the APIC base decide what the calls behind it accept
 *   xcrs       before xsave: XCR0 says which components the area may have
 *   xsave
 *   lapic      after sregs2: xAPIC or x2APIC layout follows from the APIC base. A one-shot timer
 *              that is over fires once more: KVM does not tell whether its interrupt was taken,
 *              and systems cope with one too many but not with one too few
 *   msrs       after lapic: a write of TSC_DEADLINE is dropped unless the LVT timer is in that
 *              mode; within them TSC_DEADLINE is the last
 *   regs
 *   debugregs
 *   events     after sregs2 and regs: SMM and what is injected refer to them
 *   mp-state   last: the vCPU would begin to accept INIT and SIPI
 */
#include "vmm/machine/vcpu_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "migration/state/section.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/msr_state.h"
#include "vmm/machine/vcpu.h"

#define CR4_VMXE  (1u << 13)
#define EFER_SVME (1u << 12)

#define VERSION 1

struct row {
	const char *name;
	unsigned long get, set;
	const char *get_name, *set_name;
	size_t size; /* of KVM's struct, which is what the section holds */
};

#define ROW(text, what, type)                                                                    \
	{                                                                                        \
		.name = (text), .get = KVM_GET_##what, .set = KVM_SET_##what,                    \
		.get_name = "KVM_GET_" #what, .set_name = "KVM_SET_" #what, .size = sizeof(type) \
	}

static const struct row sregs = ROW("vcpu-sregs2", SREGS2, struct kvm_sregs2);
static const struct row xcrs = ROW("vcpu-xcrs", XCRS, struct kvm_xcrs);
static const struct row lapic = ROW("vcpu-lapic", LAPIC, struct kvm_lapic_state);
static const struct row after_msrs[] = {
	ROW("vcpu-regs", REGS, struct kvm_regs),
	ROW("vcpu-debugregs", DEBUGREGS, struct kvm_debugregs),
	ROW("vcpu-events", VCPU_EVENTS, struct kvm_vcpu_events),
	ROW("vcpu-mp-state", MP_STATE, struct kvm_mp_state),
};

#define LARGEST_ROW sizeof(struct kvm_lapic_state)
_Static_assert(sizeof(struct kvm_lapic_state) >= sizeof(struct kvm_xcrs), "LARGEST_ROW");
_Static_assert(sizeof(struct kvm_lapic_state) >= sizeof(struct kvm_sregs2), "LARGEST_ROW");

static int call(const struct vcpu *v, unsigned long request, void *arg, const char *name,
		struct err *e)
{
	if (ioctl(v->fd, request, arg) >= 0)
		return 0;
	return err_set(e, -errno, "vCPU %u: %s: %s; see the kernel's log", v->id, name,
		       strerror(errno));
}

/* ---- save ---- */

static int save_row(const struct vcpu *v, const struct row *row, struct wbuf *w, struct err *e)
{
	uint64_t buf[LARGEST_ROW / sizeof(uint64_t)] = {0};
	const struct wbuf body = {.data = (uint8_t *)buf, .len = row->size};
	int ret = call(v, row->get, buf, row->get_name, e);

	if (!ret)
		section_put(w, row->name, (uint16_t)v->id, VERSION, &body);
	return ret;
}

/* Bytes of the vCPU's extended state area: 4 KiB, more where dynamic components are enabled. */
static size_t xsave_size(const struct vm *vm)
{
	int size = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
}

static int save_xsave(const struct vcpu *v, const struct vm *vm, struct wbuf *w, struct err *e)
{
	const size_t size = xsave_size(vm);
	const bool large = size > sizeof(struct kvm_xsave);
	AUTO_FREE uint8_t *area = calloc(1, size);
	const struct wbuf body = {.data = area, .len = size};
	int ret;

	if (!area)
		return err_no_memory(e);
	ret = call(v, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area,
		   large ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE", e);
	if (!ret)
		section_put(w, "vcpu-xsave", (uint16_t)v->id, VERSION, &body);
	return ret;
}

/* Guests of the guest would need KVM_GET_NESTED_STATE, which is not carried. */
static int check_not_nested(const struct vcpu *v, const struct kvm_sregs2 *s, struct err *e)
{
	if (!(s->cr4 & CR4_VMXE) && !(s->efer & EFER_SVME))
		return 0;
	return err_set(e, -ENOTSUP,
		       "vCPU %u has virtualization switched on (CR4 %#llx, EFER %#llx): a guest "
		       "that runs guests cannot be moved; unload the hypervisor in it first",
		       v->id, (unsigned long long)s->cr4, (unsigned long long)s->efer);
}

/*
 * KVM_GET_MP_STATE is asked once in front: it lets a vCPU accept a pending INIT or SIPI, which
 * changes what the other calls return.
 */
static int prepare(const struct vcpu *v, const struct kvm *kvm, struct err *e)
{
	struct kvm_mp_state mp;
	struct kvm_sregs2 s;
	int ret;

	if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) <= 0)
		return err_set(
			e, -ENOTSUP,
			"the source's KVM has no KVM_CAP_SREGS2, which saving a guest needs; "
			"use a host kernel from 5.15 on");
	ret = call(v, KVM_GET_MP_STATE, &mp, "KVM_GET_MP_STATE", e);
	if (!ret)
		ret = call(v, KVM_GET_SREGS2, &s, "KVM_GET_SREGS2", e);
	return ret ? ret : check_not_nested(v, &s, e);
}

int vcpu_save(struct vcpu *v, const struct kvm *kvm, const struct vm *vm, struct wbuf *w,
	      struct err *e)
{
	size_t i;
	int ret = prepare(v, kvm, e);

	if (!ret)
		ret = save_row(v, &sregs, w, e);
	if (!ret)
		ret = save_row(v, &xcrs, w, e);
	if (!ret)
		ret = save_xsave(v, vm, w, e);
	if (!ret)
		ret = save_row(v, &lapic, w, e);
	if (!ret)
		ret = msrs_save(v, kvm, w, e);
	for (i = 0; !ret && i < ARRAY_SIZE(after_msrs); i++)
		ret = save_row(v, &after_msrs[i], w, e);
	return ret;
}

/* ---- restore ---- */

static int restore_row(const struct vcpu *v, const struct row *row, struct rbuf *r, struct err *e)
{
	uint64_t buf[LARGEST_ROW / sizeof(uint64_t)] = {0};
	struct section s;
	const uint8_t *from;
	int ret = section_expect(r, row->name, (uint16_t)v->id, VERSION, &s, e);

	if (ret < 0)
		return ret;
	from = rbuf_bytes(&s.body, row->size);
	ret = section_end(&s, e);
	if (ret < 0)
		return ret;
	memcpy(buf, from, row->size);
	if (row == &sregs)
		ret = check_not_nested(v, (const struct kvm_sregs2 *)(const void *)buf, e);
	return ret ? ret : call(v, row->set, buf, row->set_name, e);
}

/* An area that is longer than this host's may only have zeroes behind its end. */
static int restore_xsave(const struct vcpu *v, const struct vm *vm, struct rbuf *r, struct err *e)
{
	const size_t size = xsave_size(vm);
	AUTO_FREE uint8_t *area = calloc(1, size);
	struct section s;
	size_t i;
	int ret = section_expect(r, "vcpu-xsave", (uint16_t)v->id, VERSION, &s, e);

	if (ret < 0)
		return ret;
	if (!area)
		return err_no_memory(e);
	if (s.body.len < sizeof(struct kvm_xsave))
		return err_set(e, -EINVAL,
			       "state: section 'vcpu-xsave' %u has %zu bytes, at least %zu are "
			       "needed; the stream is damaged",
			       v->id, s.body.len, sizeof(struct kvm_xsave));
	for (i = size; i < s.body.len; i++)
		if (s.body.data[i])
			return err_set(
				e, -EINVAL,
				"vCPU %u: its extended state has %zu bytes, the destination's KVM "
				"takes %zu; use a host whose CPU has the same components",
				v->id, s.body.len, size);
	memcpy(area, s.body.data, s.body.len < size ? s.body.len : size);
	return call(v, KVM_SET_XSAVE, area, "KVM_SET_XSAVE", e);
}

int vcpu_restore(struct vcpu *v, const struct vm *vm, struct rbuf *r, struct err *e)
{
	size_t i;
	int ret = restore_row(v, &sregs, r, e);

	if (!ret)
		ret = restore_row(v, &xcrs, r, e);
	if (!ret)
		ret = restore_xsave(v, vm, r, e);
	if (!ret)
		ret = restore_row(v, &lapic, r, e);
	if (!ret)
		ret = msrs_restore(v, r, e);
	for (i = 0; !ret && i < ARRAY_SIZE(after_msrs); i++)
		ret = restore_row(v, &after_msrs[i], r, e);
	return ret;
}
