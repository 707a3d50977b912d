/*
 * Time goes on while the guest is on its way: both of its clocks, TSC and kvmclock, are set on by
 * the same span, so neither sees the other jump, and the time of day that the guest derives from
 * them stays right. The span is the difference of the two hosts' CLOCK_REALTIME; a destination
 * whose clock is behind counts as no time passed.
 *
 * TSCs are set by their offset (KVM_VCPU_TSC_OFFSET, Linux 5.16) and not by the MSR: KVM takes MSR
 * writes of nearly the same value for an attempt to synchronize and rounds them, by up to a second.
 */
#include "vmm/vm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/section.h"
#include "vmm/backend.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

#define VERSION	       1
#define NS_PER_SEC     1000000000
#define MSR_IA32_TSC   0x10
#define TSC_TOLERANCE  250  /* ppm: KVM's own, below which it does not scale */
#define PIT_MODE_RESET 0xff /* KVM's, of a channel that was never programmed */
#define TSC_KHZ_MAX    100000000
/* A computed offset this near to the saved one is the saved one: the same host, or synchronous. */
#define SAME_OFFSET_MS 1

static int call(const struct vm *vm, unsigned long request, void *arg, const char *name,
		struct err *e)
{
	if (ioctl(vm->fd, request, arg) >= 0)
		return 0;
	return err_set(e, -errno, "%s: %s; see the kernel's log", name, strerror(errno));
}

/* ---- interrupt controllers and PIT ---- */

static const struct {
	const char *name;
	uint32_t id;
	size_t size;
} chips[] = {
	{"pic", KVM_IRQCHIP_PIC_MASTER, sizeof(struct kvm_pic_state)},
	{"pic", KVM_IRQCHIP_PIC_SLAVE, sizeof(struct kvm_pic_state)},
	{"ioapic", KVM_IRQCHIP_IOAPIC, sizeof(struct kvm_ioapic_state)},
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

/*
 * KVM counts a channel from count_load_time, in this host's monotonic time: an age is what another
 * host understands.
 */
static int save_pit(const struct vm *vm, struct wbuf *w, struct err *e)
{
	struct kvm_pit_state2 pit;
	const struct wbuf body = {.data = (uint8_t *)&pit, .len = sizeof(pit)};
	const uint64_t now = now_ns(CLOCK_MONOTONIC);
	size_t i;
	int ret = call(vm, KVM_GET_PIT2, &pit, "KVM_GET_PIT2", e);

	if (ret < 0)
		return ret;
	for (i = 0; i < ARRAY_SIZE(pit.channels); i++)
		pit.channels[i].count_load_time = (int64_t)now - pit.channels[i].count_load_time;
	section_put(w, "pit", 0, VERSION, &body);
	return 0;
}

int vm_save_chips(const struct vm *vm, struct wbuf *w, struct err *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].id};
		const struct wbuf body = {.data = (uint8_t *)&chip.chip, .len = chips[i].size};

		ret = call(vm, KVM_GET_IRQCHIP, &chip, "KVM_GET_IRQCHIP", e);
		if (!ret)
			section_put(w, chips[i].name, (uint16_t)chips[i].id, VERSION, &body);
	}
	return ret ? ret : save_pit(vm, w, e);
}

/* A section that is one struct of KVM's. */
static int read_struct(struct rbuf *r, const char *name, uint32_t instance, void *to, size_t size,
		       struct err *e)
{
	struct section s;
	const uint8_t *from;
	int ret = section_expect(r, name, (uint16_t)instance, VERSION, &s, e);

	if (ret < 0)
		return ret;
	from = rbuf_bytes(&s.body, size);
	ret = section_end(&s, e);
	if (!ret)
		memcpy(to, from, size);
	return ret;
}

/* KVM trusts these fields as far as not to crash; what it would misread is refused here. */
static int check_pit(const struct kvm_pit_state2 *pit, struct err *e)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pit->channels); i++) {
		const struct kvm_pit_channel_state *c = &pit->channels[i];

		if (c->count > 0x10000 || (c->mode > 7 && c->mode != PIT_MODE_RESET) ||
		    c->rw_mode > 4)
			return err_set(e, -EINVAL,
				       "state: section 'pit': channel %zu: count %u, mode %u, "
				       "access %u are no PIT's; the stream is damaged",
				       i, c->count, c->mode, c->rw_mode);
	}
	return 0;
}

static int restore_pit(const struct vm *vm, struct rbuf *r, struct err *e)
{
	struct kvm_pit_state2 pit;
	const uint64_t now = now_ns(CLOCK_MONOTONIC);
	size_t i;
	int ret = read_struct(r, "pit", 0, &pit, sizeof(pit), e);

	if (!ret)
		ret = check_pit(&pit, e);
	if (ret < 0)
		return ret;
	for (i = 0; i < ARRAY_SIZE(pit.channels); i++)
		pit.channels[i].count_load_time =
			(int64_t)(now - (uint64_t)pit.channels[i].count_load_time);
	return call(vm, KVM_SET_PIT2, &pit, "KVM_SET_PIT2", e);
}

int vm_restore_chips(const struct vm *vm, struct rbuf *r, struct err *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].id};

		ret = read_struct(r, chips[i].name, chips[i].id, &chip.chip, chips[i].size, e);
		if (!ret)
			ret = call(vm, KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP", e);
	}
	return ret ? ret : restore_pit(vm, r, e);
}

/* ---- time ---- */

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
 * The guest's TSC of vCPU 0 and the time of day of one moment. Several tries, for the one that was
 * not interrupted between the two.
 */
static int read_pair(const struct vcpu *v, uint64_t *tsc, uint64_t *real_ns, struct err *e)
{
	uint64_t best = UINT64_MAX;
	unsigned int i;

	for (i = 0; i < 5; i++) {
		uint64_t t = 0;
		const uint64_t before = __rdtsc(), real = now_ns(CLOCK_REALTIME);
		int ret = backend_get_msr(v->fd, MSR_IA32_TSC, &t);
		const uint64_t took = __rdtsc() - before;

		if (ret < 0)
			return err_set(e, ret, "vCPU %u: KVM does not tell its TSC: %s", v->id,
				       strerror(-ret));
		if (took >= best)
			continue;
		best = took;
		*tsc = t;
		*real_ns = real;
	}
	return 0;
}

struct saved_time {
	uint64_t real_ns, tsc; /* the guest's TSC on vCPU 0, at that time of day */
	uint64_t kvmclock_ns;
	uint32_t tsc_khz;
	bool offsets; /* KVM told the offsets; else all TSCs are taken for equal */
};

int vm_save_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus, struct wbuf *w,
		 struct err *e)
{
	struct kvm_clock_data clock = {0};
	struct saved_time t = {.offsets = true};
	struct wbuf body = {0};
	uint32_t i;
	int khz = ioctl(vcpus[0].fd, KVM_GET_TSC_KHZ, 0), ret;

	if (khz <= 0)
		return err_set(e, khz ? -errno : -EIO, "KVM_GET_TSC_KHZ: %s; see the kernel's log",
			       khz ? strerror(errno) : "0");
	ret = read_pair(&vcpus[0], &t.tsc, &t.real_ns, e);
	if (!ret)
		ret = call(vm, KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK", e);
	if (ret < 0)
		return ret;
	for (i = 0; i < n_vcpus; i++) {
		uint64_t offset = 0;

		t.offsets &= tsc_offset(&vcpus[i], KVM_GET_DEVICE_ATTR, &offset) == 0;
		wbuf_u64(&body, offset);
	}
	wbuf_u64(&body, t.real_ns);
	wbuf_u64(&body, t.tsc);
	wbuf_u64(&body, clock.clock);
	wbuf_u32(&body, (uint32_t)khz);
	wbuf_u8(&body, t.offsets);
	section_put(w, "time", 0, VERSION, &body);
	wbuf_fini(&body);
	return 0;
}

static uint64_t ticks(uint64_t ns, uint32_t khz)
{
	return ns / 1000000 * khz + ns % 1000000 * khz / 1000000;
}

static int set_frequency(const struct vcpu *v, uint32_t khz, bool invariant, struct err *e)
{
	const int here = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	const uint64_t slack = (uint64_t)khz * TSC_TOLERANCE / 1000000;

	if (here > 0 && (uint64_t)here + slack >= khz && (uint64_t)here <= khz + slack)
		return 0;
	if (ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) == 0)
		return 0;
	if (invariant)
		return err_set(e, -ENOTSUP,
			       "vCPU %u: the guest's TSC runs at %u kHz, this host's at %d kHz and "
			       "cannot be scaled: its clocks would go wrong; use a host of that "
			       "frequency or with TSC scaling",
			       v->id, khz, here);
	if (v->id == 0)
		log_warn("the guest's TSC ran at %u kHz and runs at %d kHz from here on; it was "
			 "not told that its TSC is invariant",
			 khz, here);
	return 0;
}

/* Offsets from the one that makes vCPU 0's TSC @want now. Return: 0, or -errno: use the MSR */
static int set_offsets(const struct vcpu *vcpus, uint32_t n_vcpus, const uint64_t *saved,
		       uint64_t want, uint64_t now, uint32_t khz)
{
	const int64_t near = (int64_t)khz * SAME_OFFSET_MS;
	uint64_t first = 0;
	uint32_t i;
	int ret = tsc_offset(&vcpus[0], KVM_GET_DEVICE_ATTR, &first);

	if (ret < 0)
		return ret;
	first += want - now;
	if ((int64_t)(first - saved[0]) < near && (int64_t)(saved[0] - first) < near)
		first = saved[0];
	for (i = 0; !ret && i < n_vcpus; i++) {
		uint64_t offset = first + (saved[i] - saved[0]);

		ret = tsc_offset(&vcpus[i], KVM_SET_DEVICE_ATTR, &offset);
	}
	return ret;
}

static int set_tscs(const struct vcpu *vcpus, uint32_t n_vcpus, const struct saved_time *t,
		    const uint64_t *offsets, uint64_t *passed_ns, struct err *e)
{
	uint64_t now_tsc, real_ns, want;
	uint32_t i;
	int ret = read_pair(&vcpus[0], &now_tsc, &real_ns, e);

	if (ret < 0)
		return ret;
	*passed_ns = real_ns > t->real_ns ? real_ns - t->real_ns : 0;
	want = t->tsc + ticks(*passed_ns, t->tsc_khz);
	if (t->offsets && set_offsets(vcpus, n_vcpus, offsets, want, now_tsc, t->tsc_khz) == 0)
		return 0;
	for (i = 0; !ret && i < n_vcpus; i++) {
		ret = backend_set_msr(vcpus[i].fd, MSR_IA32_TSC, want);
		if (ret < 0)
			ret = err_set(e, -EIO, "vCPU %u: KVM refuses TSC = %#" PRIx64 ": %s", i,
				      want, strerror(-ret));
	}
	return ret;
}

static int restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
			bool invariant_tsc, struct section *s, uint64_t *offsets, struct err *e)
{
	struct kvm_clock_data clock = {0};
	struct saved_time t;
	uint64_t passed_ns = 0;
	uint32_t i;
	int ret;

	for (i = 0; i < n_vcpus; i++)
		offsets[i] = rbuf_u64(&s->body);
	t.real_ns = rbuf_u64(&s->body);
	t.tsc = rbuf_u64(&s->body);
	t.kvmclock_ns = rbuf_u64(&s->body);
	t.tsc_khz = rbuf_u32(&s->body);
	t.offsets = rbuf_u8(&s->body);
	ret = section_end(s, e);
	if (ret < 0)
		return ret;
	if (!t.tsc_khz || t.tsc_khz > TSC_KHZ_MAX || t.kvmclock_ns > INT64_MAX)
		return err_set(e, -EINVAL,
			       "state: section 'time': TSC of %u kHz, kvmclock of %" PRIu64
			       " ns: no computer's; the stream is damaged",
			       t.tsc_khz, t.kvmclock_ns);
	for (i = 0; !ret && i < n_vcpus; i++)
		ret = set_frequency(&vcpus[i], t.tsc_khz, invariant_tsc, e);
	if (!ret)
		ret = set_tscs(vcpus, n_vcpus, &t, offsets, &passed_ns, e);
	if (ret < 0)
		return ret;
	clock.clock = t.kvmclock_ns + passed_ns;
	return call(vm, KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK", e);
}

int vm_restore_time(const struct vm *vm, const struct vcpu *vcpus, uint32_t n_vcpus,
		    bool invariant_tsc, struct rbuf *r, struct err *e)
{
	uint64_t *offsets = calloc(n_vcpus, sizeof(*offsets));
	struct section s;
	int ret = offsets ? section_expect(r, "time", 0, VERSION, &s, e)
			  : err_set(e, -ENOMEM, "out of memory");

	if (!ret)
		ret = restore_time(vm, vcpus, n_vcpus, invariant_tsc, &s, offsets, e);
	free(offsets);
	return ret;
}
