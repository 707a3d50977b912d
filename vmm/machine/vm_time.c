/*
 * Time goes on while the guest is on its way: both of its clocks, TSC and kvmclock, are set on by
 * the same span, so neither sees the other jump, and the time of day that the guest derives from
 * them stays right.
 *
 * TSCs are set by their offset (KVM_VCPU_TSC_OFFSET, Linux 5.16) and not by the MSR: KVM takes MSR
 * writes of nearly the same value for an attempt to synchronize and rounds them, by up to a second.
 * Documentation/virt/kvm/devices/vcpu.rst has KVM_SET_CLOCK add what passed by both hosts'
 * CLOCK_REALTIME; it is added here, since wall clocks are not to be believed.
 *
 * KVM_SET_TSC_KHZ without KVM_CAP_TSC_CONTROL succeeds for a frequency above the host's, and lets
 * the TSC run too slow and jump at exits ("catch-up"). A guest that reads the TSC goes wrong by it:
 * it is never asked for that.
 */
#include "vmm/machine/vm_time.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/state/section.h"
#include "vmm/hold/backend.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/vcpu.h"

#define VERSION	     1
#define MSR_IA32_TSC 0x10
#define TSC_KHZ_MAX  100000000
#define SET_CLOCK_NS UINT64_C(1000000) /* KVM_SET_CLOCK takes less when nothing comes between */
/* A computed offset this near to the saved one is the saved one: the same host, or synchronous. */
#define SAME_OFFSET_MS 1

static int call(const struct vm *vm, unsigned long request, void *arg, const char *name,
		struct err *e)
{
	if (ioctl(vm->fd, request, arg) >= 0)
		return 0;
	return err_set(e, -errno, "%s: %s; see the kernel's log", name, strerror(errno));
}

/* ---- frequency ---- */

uint32_t vm_time_tsc_khz(const struct vcpu *v)
{
	const int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint32_t)khz : 0;
}

static int other_frequency(uint32_t khz, uint32_t here, struct err *e)
{
	return err_set(
		e, -ENOTSUP,
		"the guest's TSC runs at %u kHz, the destination's at %u kHz, and KVM "
		"cannot scale it: its clocks would go wrong; use a host of that frequency or "
		"with TSC scaling",
		khz, here);
}

int vm_time_check_tsc(const struct kvm *kvm, uint32_t khz, bool invariant, struct err *e)
{
	AUTO_CLOSE int vm_fd = -1;
	AUTO_CLOSE int vcpu_fd = -1;
	int here;

	if (!khz || !invariant || kvm->tsc_scaling)
		return 0;
	vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	if (vm_fd >= 0)
		vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu_fd < 0)
		return err_set(e, -errno,
			       "no VM to ask for the TSC's frequency: %s; see the "
			       "kernel's log",
			       strerror(errno));
	here = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
	if (here <= 0 || clock_same_frequency(khz, (uint32_t)here))
		return 0;
	return other_frequency(khz, (uint32_t)here, e);
}

static int set_frequency(const struct vcpu *v, uint32_t khz, const struct vm_time_load *load,
			 struct err *e)
{
	const uint32_t here = vm_time_tsc_khz(v);
	const bool same = clock_same_frequency(khz, here);

	/* also one that is as good as equal: KVM is to know by what the guest reckons, and so is
	 * the next host, or small differences would add up from move to move */
	if (khz == here ||
	    ((same || load->tsc_scaling) && ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) == 0))
		return 0;
	if (same)
		return 0;
	if (load->invariant_tsc)
		return other_frequency(khz, here, e);
	if (v->id == 0)
		log_warn("the guest's TSC ran at %u kHz and runs at %u kHz from here on; it was "
			 "not told that its TSC is invariant, and kvmclock stays right",
			 khz, here);
	return 0;
}

/* ---- TSCs ---- */

static int tsc_offset(const struct vcpu *v, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return ioctl(v->fd, request, &attr) < 0 ? -errno : 0;
}

/*
 * The guest's TSC of vCPU 0 and CLOCK_MONOTONIC of one moment. Several tries, for the one that was
 * not interrupted between the two.
 */
static int read_pair(const struct vcpu *v, uint64_t *tsc, uint64_t *mono_ns, struct err *e)
{
	uint64_t best = UINT64_MAX;
	unsigned int i;

	for (i = 0; i < 5; i++) {
		uint64_t t = 0;
		const uint64_t before = __rdtsc(), mono = monotonic_ns();
		int ret = backend_get_msr(v->fd, MSR_IA32_TSC, &t);
		const uint64_t took = __rdtsc() - before;

		if (ret < 0)
			return err_set(e, ret, "vCPU %u: KVM does not tell its TSC: %s", v->id,
				       strerror(-ret));
		if (took >= best)
			continue;
		best = took;
		*tsc = t;
		*mono_ns = mono;
	}
	return 0;
}

/* The same of kvmclock. */
static int read_kvmclock(const struct vm *vm, uint64_t *kvmclock_ns, uint64_t *mono_ns,
			 struct err *e)
{
	uint64_t best = UINT64_MAX;
	unsigned int i;

	for (i = 0; i < 5; i++) {
		struct kvm_clock_data clock = {0};
		const uint64_t mono = monotonic_ns();
		int ret = call(vm, KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK", e);
		const uint64_t took = monotonic_ns() - mono;

		if (ret < 0)
			return ret;
		if (took >= best)
			continue;
		best = took;
		*kvmclock_ns = clock.clock;
		*mono_ns = mono;
	}
	return 0;
}

/* ---- the section ---- */

struct saved_time {
	uint64_t wall_ns, tsc; /* the guest's TSC on vCPU 0, at that moment: see clock.h */
	uint64_t kvmclock_ns;
	uint32_t tsc_khz;
	bool offsets; /* KVM told the offsets; else all TSCs are taken for equal */
};

int vm_save_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		 const struct clock_reading *base, struct wbuf *w, struct err *e)
{
	struct saved_time t = {.offsets = true};
	struct wbuf body = {0};
	uint64_t mono_ns, clock_mono_ns = 0, between_ns;
	uint32_t i;
	int khz = ioctl(vcpus[0].fd, KVM_GET_TSC_KHZ, 0), ret;

	if (khz <= 0)
		return err_set(e, khz ? -errno : -EIO, "KVM_GET_TSC_KHZ: %s; see the kernel's log",
			       khz ? strerror(errno) : "0");
	ret = read_pair(&vcpus[0], &t.tsc, &mono_ns, e);
	if (!ret)
		ret = read_kvmclock(vm, &t.kvmclock_ns, &clock_mono_ns, e);
	if (ret < 0)
		return ret;
	/* both clocks of the moment of the TSC */
	between_ns = clock_mono_ns - mono_ns;
	t.kvmclock_ns -= between_ns < t.kvmclock_ns ? between_ns : t.kvmclock_ns;
	for (i = 0; i < n_vcpus; i++) {
		uint64_t offset = 0;

		t.offsets &= tsc_offset(&vcpus[i], KVM_GET_DEVICE_ATTR, &offset) == 0;
		wbuf_u64(&body, offset);
	}
	wbuf_u64(&body, base->wall_ns + (mono_ns - base->mono_ns));
	wbuf_u64(&body, t.tsc);
	wbuf_u64(&body, t.kvmclock_ns);
	wbuf_u32(&body, (uint32_t)khz);
	wbuf_u8(&body, t.offsets);
	section_put(w, "time", 0, VERSION, &body);
	wbuf_fini(&body);
	return 0;
}

/*
 * Offsets from the one that makes vCPU 0's TSC @want, where it is @now.
 * Return: 0, or -errno: use the MSR
 */
static int set_offsets(const struct vcpu *vcpus, uint32_t n_vcpus, const uint64_t *saved,
		       const struct saved_time *t, uint64_t want, uint64_t now)
{
	const int64_t near = (int64_t)t->tsc_khz * SAME_OFFSET_MS;
	uint64_t first = 0;
	int64_t ahead;
	uint32_t i;
	int ret = tsc_offset(&vcpus[0], KVM_GET_DEVICE_ATTR, &first);

	if (ret < 0)
		return ret;
	first += want - now;
	ahead = (int64_t)(saved[0] - first); /* of the saved offset before the computed one */
	if (ahead < near && ahead > -near && (int64_t)(want + (uint64_t)ahead - t->tsc) >= 0)
		first = saved[0];
	for (i = 0; !ret && i < n_vcpus; i++) {
		uint64_t offset = first + (saved[i] - saved[0]);

		ret = tsc_offset(&vcpus[i], KVM_SET_DEVICE_ATTR, &offset);
	}
	return ret;
}

static int set_tscs(const struct vcpu *vcpus, uint32_t n_vcpus, const struct saved_time *t,
		    const uint64_t *offsets, struct vm_time_load *load, struct err *e)
{
	uint64_t now_tsc, mono_ns, want;
	uint32_t i;
	int ret = read_pair(&vcpus[0], &now_tsc, &mono_ns, e);

	if (ret < 0)
		return ret;
	want = t->tsc + clock_ticks(clock_passed(&load->window, t->wall_ns, mono_ns, &load->off_ns),
				    t->tsc_khz);
	if (t->offsets && set_offsets(vcpus, n_vcpus, offsets, t, want, now_tsc) == 0)
		return 0;
	for (i = 0; !ret && i < n_vcpus; i++) {
		ret = backend_set_msr(vcpus[i].fd, MSR_IA32_TSC, want);
		if (ret < 0)
			ret = err_set(e, -EIO, "vCPU %u: KVM refuses TSC = %#llx: %s", i,
				      (unsigned long long)want, strerror(-ret));
	}
	return ret;
}

static int set_kvmclock(const struct vm *vm, const struct saved_time *t, struct vm_time_load *load,
			struct err *e)
{
	uint64_t now_ns;
	unsigned int i = 0;
	int ret;

	do { /* until nothing came between the look at the clock and its setting */
		struct kvm_clock_data clock = {.clock = t->kvmclock_ns};

		now_ns = monotonic_ns();
		clock.clock += clock_passed(&load->window, t->wall_ns, now_ns, &load->off_ns);
		if (clock.clock > INT64_MAX)
			clock.clock = INT64_MAX;
		ret = call(vm, KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK", e);
	} while (!ret && monotonic_ns() - now_ns > SET_CLOCK_NS && ++i < 5);
	return ret;
}

static int restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
			struct vm_time_load *load, struct section *s, uint64_t *offsets,
			struct err *e)
{
	struct saved_time t;
	uint32_t i;
	int ret;

	for (i = 0; i < n_vcpus; i++)
		offsets[i] = rbuf_u64(&s->body);
	t.wall_ns = rbuf_u64(&s->body);
	t.tsc = rbuf_u64(&s->body);
	t.kvmclock_ns = rbuf_u64(&s->body);
	t.tsc_khz = rbuf_u32(&s->body);
	t.offsets = rbuf_u8(&s->body);
	ret = section_end(s, e);
	if (ret < 0)
		return ret;
	if (!t.tsc_khz || t.tsc_khz > TSC_KHZ_MAX || t.kvmclock_ns > INT64_MAX)
		return err_set(e, -EINVAL,
			       "state: section 'time': TSC of %u kHz, kvmclock of %llu ns: no "
			       "computer's; the stream is damaged",
			       t.tsc_khz, (unsigned long long)t.kvmclock_ns);
	for (i = 0; !ret && i < n_vcpus; i++)
		ret = set_frequency(&vcpus[i], t.tsc_khz, load, e);
	if (!ret)
		ret = set_tscs(vcpus, n_vcpus, &t, offsets, load, e);
	return ret ? ret : set_kvmclock(vm, &t, load, e);
}

int vm_restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		    struct vm_time_load *load, struct rbuf *r, struct err *e)
{
	uint64_t *offsets = calloc(n_vcpus, sizeof(*offsets));
	struct section s;
	int ret = offsets ? section_expect(r, "time", 0, VERSION, &s, e) : err_no_memory(e);

	if (!ret)
		ret = restore_time(vm, vcpus, n_vcpus, load, &s, offsets, e);
	free(offsets);
	return ret;
}
