/*
 * Streams of releases load for ever: tests/data/streams/RELEASE-*.bin were written by this program
 * when the release was made, and are loaded here into the tables and readers of now, value by
 * value. Whatever fails here would refuse, or worse, change a guest that is on its way.
 *
 *   test_golden               loads them
 *   test_golden write PREFIX  writes them: once, when a release brings a new version of anything
 *
 * A release's values are below, and those of its description in description_sample.h: they are
 * never changed. What a later version adds has, in these, what stood in its place before there was
 * such a field.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "migration/ram/frame.h"
#include "migration/state/buf.h"
#include "migration/state/section.h"
#include "migration/wire/frame.h"
#include "msr/spec_ctrl.h"
#include "tests/fuzz/device_rig.h"
#include "tests/fuzz/state_rig.h"
#include "tests/unit/description_sample.h"

#define RELEASE "0.1.0"

/* ---- values of 0.1.0 ---- */

static const struct serial_regs serial_values = {
	.ier = 0x5,
	.fcr = 0x1,
	.lcr = 0x3,
	.mcr = 0xb,
	.lsr_err = 0x2,
	.scr = 0x5a,
	.dll = 1,
	.dlm = 2,
	.thre_pending = 1,
	.irq_level = 1,
	.rx_len = 3,
	.tx_len = 2,
	.rx = "abc",
	.tx = "de",
};

/* A driver that runs, at another place in each device. */
static struct virtio_mmio_regs mmio_values(uint64_t offered, uint32_t n_queues, uint32_t base)
{
	struct virtio_mmio_regs r = {
		.device_features = offered,
		.driver_features = offered,
		.device_features_sel = 1,
		.driver_features_sel = 1,
		.queue_sel = n_queues - 1,
		.status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			  VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK,
		.interrupt_status = 1,
		.config_generation = 7,
	};
	uint32_t i;

	for (i = 0; i < n_queues; i++)
		r.queue[i] = (struct virtq_regs) {
			.desc = base + i * 0x3000,
			.avail = base + i * 0x3000 + 0x1000,
			.used = base + i * 0x3000 + 0x2000,
			.num = 8,
			.ready = 1,
			.last_avail = (uint16_t)(i + 5),
			.used_idx = (uint16_t)(i + 5),
			.signalled = (uint16_t)(i + 4),
		};
	return r;
}

#define OFFERED_RNG 0x130000000ULL
#define OFFERED_BLK 0x130000240ULL

static const struct virtio_blk_regs blk_values = {
	.capacity_sectors = RIG_DISK / 512,
	.block_size = 512,
	.serial = "disk",
};

static const struct virtio_net_regs net_values = {
	.mac = {2, 0, 0, 0, 0, 1},
	.status = 1,
};

static struct mitigation_saved mitigation_values(struct mitigation_saved_vcpu vcpu[RIG_VCPUS])
{
	vcpu[0] = (struct mitigation_saved_vcpu) {
		.report = {true, true, true, 1},
		.promise = {true, SPEC_CTRL_BHI_DIS_S, SPEC_CTRL_BHI_DIS_S, false},
		.held = SPEC_CTRL_BHI_DIS_S,
		.shadow = 1,
		.ibpb_issued = true,
	};
	vcpu[1] = (struct mitigation_saved_vcpu) {.promise = {true, 0, 0, true}};
	return (struct mitigation_saved) {
		.backend = BACKEND_MSR_FILTER,
		.contract = {.vendor = CPU_VENDOR_INTEL,
			     .leaf7_0_edx = 1u << 29,
			     .leaf7_2_edx = 16,
			     .leaf80000008_ebx = 5,
			     .arch_cap = 1ULL << 63,
			     .virt_enum = 1,
			     .mitigation_enum = 3},
		.ibpb_seen = true,
		.n_vcpus = RIG_VCPUS,
		.vcpu = vcpu,
	};
}

/* ---- files ---- */

static void put_file(const char *prefix, const char *name, struct wbuf *w)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s-%s.bin", prefix, name);
	f = fopen(path, "wxe"); /* what was released is not written again */
	rig_must(f && !w->failed && fwrite(w->data, 1, w->len, f) == w->len && fclose(f) == 0,
		 path);
	wbuf_fini(w);
}

static struct wbuf get_file(const char *name)
{
	char path[4096];
	struct wbuf w = {0};
	uint8_t *p = wbuf_reserve(&w, 256 * KiB);
	FILE *f;

	snprintf(path, sizeof(path), SOURCE_ROOT "/tests/data/streams/" RELEASE "-%s.bin", name);
	f = fopen(path, "re");
	if (!f || !p)
		fail_msg("%s: cannot be read", path);
	w.len = fread(p, 1, w.len, f);
	assert_true(w.len > 0 && feof(f));
	fclose(f);
	return w;
}

/* ---- devices ---- */

struct devices {
	struct rig rig;
	struct rig_device serial, rng, blk, net;
};

static struct devices *devices_new(void)
{
	struct devices *d = calloc(1, sizeof(*d));

	rig_must(d, "memory");
	rig_init(&d->rig);
	rig_make(&d->rig, &d->serial, RIG_SERIAL);
	rig_make(&d->rig, &d->rng, RIG_RNG);
	rig_make(&d->rig, &d->blk, RIG_BLK);
	rig_make(&d->rig, &d->net, RIG_NET);
	return d;
}

static void devices_free(struct devices *d)
{
	rig_unmake(&d->serial);
	rig_unmake(&d->rng);
	rig_unmake(&d->blk);
	rig_unmake(&d->net);
	free(d);
}

static struct virtio_mmio_regs rng_mmio_values(void)
{
	return mmio_values(OFFERED_RNG, 1, 0x200000);
}

static struct virtio_mmio_regs blk_mmio_values(void)
{
	return mmio_values(OFFERED_BLK, 1, 0x300000);
}

static struct virtio_mmio_regs net_mmio_values(void)
{
	struct virtio_mmio_regs r = {.device_features = 0x130000000ULL, .status = 1};

	return r; /* a driver that has only begun */
}

static void write_devices(const char *prefix)
{
	struct devices *d = devices_new();
	struct wbuf w = {0};

	d->serial.serial.regs = serial_values;
	d->rng.mmio.regs = rng_mmio_values();
	d->blk.mmio.regs = blk_mmio_values();
	d->blk.blk.regs = blk_values;
	d->net.mmio.regs = net_mmio_values();
	d->net.net.regs = net_values;
	state_save(&d->serial.serial.dev.ops->state, "serial", 0, &d->serial.serial.regs, &w);
	virtio_mmio_save(&d->rng.mmio, 0, &w);
	virtio_mmio_save(&d->blk.mmio, 1, &w);
	virtio_mmio_save(&d->net.mmio, 2, &w);
	put_file(prefix, "devices", &w);
	free(d); /* its devices have values that no driver brought about */
}

static void check_mmio(const struct rig_device *d, uint16_t instance, struct rbuf *r,
		       const struct virtio_mmio_regs *wanted)
{
	const struct device_ops *ops = d->mmio.dev.ops;
	struct virtio_mmio_regs regs;
	struct err e = {0};

	if (state_load(&ops->state, ops->name, instance, r, &regs, &e))
		fail_msg("%s", e.text);
	assert_memory_equal(&regs, wanted, sizeof(regs));
}

static void check_virtio(struct rig_device *d, uint16_t instance, struct rbuf *r,
			 const void *wanted)
{
	const struct virtio_dev_ops *ops = rig_virtio(d)->ops;
	uint8_t regs[256];
	struct err e = {0};

	assert_true(ops->state.size <= sizeof(regs));
	if (state_load(&ops->state, ops->name, instance, r, regs, &e))
		fail_msg("%s", e.text);
	if (wanted)
		assert_memory_equal(regs, wanted, ops->state.size);
}

static void test_device_values(void **state)
{
	const struct virtio_mmio_regs rng = rng_mmio_values(), blk = blk_mmio_values(),
				      net = net_mmio_values();
	struct devices *d = devices_new();
	struct wbuf w = get_file("devices");
	struct rbuf r = rbuf_of(w.data, w.len);
	struct serial_regs serial;
	struct err e = {0};

	(void)state;
	if (state_load(&d->serial.serial.dev.ops->state, "serial", 0, &r, &serial, &e))
		fail_msg("%s", e.text);
	assert_memory_equal(&serial, &serial_values, sizeof(serial));
	check_mmio(&d->rng, 0, &r, &rng);
	check_virtio(&d->rng, 0, &r, NULL);
	check_mmio(&d->blk, 1, &r, &blk);
	check_virtio(&d->blk, 1, &r, &blk_values);
	check_mmio(&d->net, 2, &r, &net);
	check_virtio(&d->net, 2, &r, &net_values);
	assert_int_equal(section_finish(&r, &e), 0);
	wbuf_fini(&w);
	devices_free(d);
}

/* As a destination loads them, through every check. */
static void test_devices_load(void **state)
{
	struct devices *d = devices_new();
	struct wbuf w = get_file("devices");
	struct rbuf r = rbuf_of(w.data, w.len);
	struct serial_regs serial;
	struct err e = {0};

	(void)state;
	if (state_load(&d->serial.serial.dev.ops->state, "serial", 0, &r, &serial, &e) ||
	    virtio_mmio_load(&d->rng.mmio, 0, &r, &e) ||
	    virtio_mmio_load(&d->blk.mmio, 1, &r, &e) ||
	    virtio_mmio_load(&d->net.mmio, 2, &r, &e) || section_finish(&r, &e))
		fail_msg("%s", e.text);
	assert_true(rig_virtio(&d->blk)->active);
	assert_int_equal(d->blk.mmio.regs.queue[0].last_avail, 5);
	assert_int_equal(d->net.mmio.regs.status, 1);
	wbuf_fini(&w);
	devices_free(d);
}

/* ---- mitigations, and what KVM has ---- */

static void write_mitigation(const char *prefix)
{
	struct mitigation_saved_vcpu vcpu[RIG_VCPUS];
	const struct mitigation_saved s = mitigation_values(vcpu);
	struct wbuf w = {0};

	mitigation_saved_encode(&s, &w);
	put_file(prefix, "mitigation", &w);
}

static void check_promise(const struct mitigation_saved_vcpu *a,
			  const struct mitigation_saved_vcpu *b)
{
	assert_int_equal(a->report.aware, b->report.aware);
	assert_int_equal(a->report.enum_read, b->report.enum_read);
	assert_int_equal(a->report.written, b->report.written);
	assert_int_equal(a->report.ctrl, b->report.ctrl);
	assert_int_equal(a->promise.valid, b->promise.valid);
	assert_int_equal(a->promise.mask, b->promise.mask);
	assert_int_equal(a->promise.value, b->promise.value);
	assert_int_equal(a->promise.weak, b->promise.weak);
	assert_int_equal(a->held, b->held);
	assert_int_equal(a->shadow, b->shadow);
}

static void test_mitigation(void **state)
{
	struct mitigation_saved_vcpu vcpu[RIG_VCPUS];
	const struct mitigation_saved wanted = mitigation_values(vcpu);
	struct wbuf w = get_file("mitigation");
	struct rbuf r = rbuf_of(w.data, w.len);
	struct mitigation_saved s;
	struct err e = {0};
	uint32_t i;

	(void)state;
	if (mitigation_saved_decode(&r, &s, &e) || section_finish(&r, &e))
		fail_msg("%s", e.text);
	assert_int_equal(s.backend, wanted.backend);
	assert_int_equal(s.ibpb_seen, wanted.ibpb_seen);
	assert_int_equal(s.contract.vendor, wanted.contract.vendor);
	assert_int_equal(s.contract.leaf7_0_edx, wanted.contract.leaf7_0_edx);
	assert_int_equal(s.contract.leaf7_2_edx, wanted.contract.leaf7_2_edx);
	assert_int_equal(s.contract.leaf80000008_ebx, wanted.contract.leaf80000008_ebx);
	assert_int_equal(s.contract.arch_cap, wanted.contract.arch_cap);
	assert_int_equal(s.contract.virt_enum, wanted.contract.virt_enum);
	assert_int_equal(s.contract.mitigation_enum, wanted.contract.mitigation_enum);
	assert_int_equal(s.n_vcpus, wanted.n_vcpus);
	for (i = 0; i < s.n_vcpus; i++) {
		check_promise(&s.vcpu[i], &wanted.vcpu[i]);
		assert_int_equal(s.vcpu[i].ibpb_issued, wanted.vcpu[i].ibpb_issued);
	}
	mitigation_saved_fini(&s);
	wbuf_fini(&w);
}

/* Requests whose structs are bytes to testudo, with what may not be any byte set right. */
static const struct {
	unsigned long set;
	bool of_vm;
	uint32_t chip; /* of KVM_SET_IRQCHIP */
} kvm_structs[] = {
	{KVM_SET_SREGS2, false, 0},	 {KVM_SET_XCRS, false, 0},
	{KVM_SET_XSAVE, false, 0},	 {KVM_SET_LAPIC, false, 0},
	{KVM_SET_REGS, false, 0},	 {KVM_SET_DEBUGREGS, false, 0},
	{KVM_SET_VCPU_EVENTS, false, 0}, {KVM_SET_MP_STATE, false, 0},
	{KVM_SET_IRQCHIP, true, 0},	 {KVM_SET_IRQCHIP, true, 1},
	{KVM_SET_IRQCHIP, true, 2},
};

#define MSR_VALUE(i) (0x1122334400000000ULL + (i))

/* What KVM has of @row for the vCPU or VM of descriptor @fd. */
static void kvm_values(size_t row, int fd, uint8_t bytes[RIG_ROOM])
{
	struct kvm_sregs2 *sregs = (struct kvm_sregs2 *)(void *)bytes;
	size_t i;

	for (i = 0; i < RIG_ROOM; i++)
		bytes[i] = (uint8_t)(i * 7 + row * 31 + (size_t)fd);
	if (kvm_structs[row].set == KVM_SET_SREGS2) {
		sregs->cr4 = 0x20; /* no guest that runs guests */
		sregs->efer = 0x500;
	}
	if (kvm_structs[row].set == KVM_SET_IRQCHIP)
		memcpy(bytes, &kvm_structs[row].chip, sizeof(uint32_t));
}

static void kvm_clear(void)
{
	memset(rig_kvm(), 0, sizeof(*rig_kvm()));
}

static void kvm_fill(void)
{
	uint64_t raw[RIG_ROOM / sizeof(uint64_t)];
	struct kvm_pit_state2 pit = {.channels[0] = {.count = 0x1234, .mode = 2, .rw_mode = 3}};
	struct kvm_clock_data clock = {.clock = 123456789};
	uint32_t v, i;
	size_t row;

	kvm_clear();
	for (row = 0; row < ARRAY_SIZE(kvm_structs); row++)
		for (v = 0; v < (kvm_structs[row].of_vm ? 1 : RIG_VCPUS); v++) {
			const int fd = kvm_structs[row].of_vm ? RIG_VM_FD : RIG_VCPU_FD + (int)v;

			kvm_values(row, fd, (uint8_t *)raw);
			rig_must(rig_ioctl(fd, kvm_structs[row].set, raw) == 0, "KVM");
		}
	rig_must(rig_ioctl(RIG_VM_FD, KVM_SET_PIT2, &pit) == 0, "KVM_SET_PIT2");
	rig_must(rig_ioctl(RIG_VM_FD, KVM_SET_CLOCK, &clock) == 0, "KVM_SET_CLOCK");
	for (v = 0; v < RIG_VCPUS; v++)
		for (i = 0; i < RIG_LISTED; i++)
			backend_set_msr(RIG_VCPU_FD + (int)v, rig_listed(i), MSR_VALUE(i));
}

static void write_kvm(const char *prefix)
{
	const struct kvm kvm = {.fd = RIG_KVM_FD};
	const struct clock_reading base = {.wall_ns = 1700000000000000000};
	struct vcpu vcpus[RIG_VCPUS];
	struct wbuf w = {0};
	struct vm vm;
	uint32_t i;

	rig_machine(&vm, vcpus);
	kvm_fill();
	rig_must(vm_save_time(&vm, vcpus, RIG_VCPUS, &base, &w, NULL) == 0, "time");
	for (i = 0; i < RIG_VCPUS; i++)
		rig_must(vcpu_save(&vcpus[i], &kvm, &vm, &w, NULL) == 0, "vCPU");
	rig_must(vm_save_chips(&vm, &w, NULL) == 0, "chips");
	put_file(prefix, "kvm", &w);
}

static void check_kvm_has(size_t row, int fd)
{
	static const size_t head = offsetof(struct kvm_irqchip, chip);
	uint8_t wanted[RIG_ROOM];
	unsigned long both = 0;
	size_t size = rig_size(kvm_structs[row].set, &both), from = 0;
	const struct rig_kvm *k = rig_kvm();
	unsigned int i;

	kvm_values(row, fd, wanted);
	if (both == KVM_SET_IRQCHIP) { /* what is sent is the chip's own struct */
		from = head;
		size = head + (kvm_structs[row].chip == KVM_IRQCHIP_IOAPIC
				       ? sizeof(struct kvm_ioapic_state)
				       : sizeof(struct kvm_pic_state));
	}
	for (i = 0; i < k->n_kept; i++) {
		const struct rig_kept *kept = &k->kept[i];

		if (kept->fd == fd && kept->request == both &&
		    (both != KVM_SET_IRQCHIP || kept->id == kvm_structs[row].chip)) {
			assert_memory_equal(kept->data + from, wanted + from, size - from);
			return;
		}
	}
	fail_msg("request %#lx of %d was not restored", both, fd);
}

/* Into a KVM that knows the same MSRs and has nothing in them. */
static void kvm_make(void)
{
	uint32_t v, i;

	kvm_clear();
	for (v = 0; v < RIG_VCPUS; v++)
		for (i = 0; i < RIG_LISTED; i++)
			rig_kvm()->msr[rig_kvm()->n_msrs++] = (__typeof__(rig_kvm()->msr[0])) {
				RIG_VCPU_FD + (int)v, rig_listed(i), 0};
}

static void check_msrs(void)
{
	static const uint32_t saved[] = {0x174, 0x175, 0x176, 0x277, 0xc0000081, 0xc0000102};
	uint32_t v, i, k;

	for (v = 0; v < RIG_VCPUS; v++)
		for (i = 0; i < RIG_LISTED; i++)
			for (k = 0; k < ARRAY_SIZE(saved); k++) {
				uint64_t value = 0;

				if (rig_listed(i) != saved[k])
					continue;
				backend_get_msr(RIG_VCPU_FD + (int)v, saved[k], &value);
				assert_int_equal(value, MSR_VALUE(i));
			}
}

static void test_kvm(void **state)
{
	struct vm_time_load time = {.window = clock_window_still(), .invariant_tsc = true};
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct vcpu vcpus[RIG_VCPUS];
	struct wbuf w = get_file("kvm");
	struct rbuf r = rbuf_of(w.data, w.len);
	struct err e = {0};
	struct vm vm;
	size_t row;
	uint32_t i;

	(void)state;
	rig_machine(&vm, vcpus);
	kvm_make();
	if (vm_restore_time(&vm, vcpus, RIG_VCPUS, &time, &r, &e))
		fail_msg("%s", e.text);
	for (i = 0; i < RIG_VCPUS; i++)
		if (vcpu_restore(&vcpus[i], &vm, &r, &e))
			fail_msg("%s", e.text);
	if (vm_restore_chips(&vm, &r, &e) || section_finish(&r, &e))
		fail_msg("%s", e.text);
	for (row = 0; row < ARRAY_SIZE(kvm_structs); row++)
		for (i = 0; i < (kvm_structs[row].of_vm ? 1 : RIG_VCPUS); i++)
			check_kvm_has(row,
				      kvm_structs[row].of_vm ? RIG_VM_FD : RIG_VCPU_FD + (int)i);
	check_msrs();
	assert_int_equal(rig_ioctl(RIG_VM_FD, KVM_GET_PIT2, &pit), 0);
	assert_int_equal(pit.channels[0].count, 0x1234);
	assert_int_equal(pit.channels[0].mode, 2);
	assert_int_equal(pit.channels[0].rw_mode, 3);
	assert_int_equal(rig_ioctl(RIG_VM_FD, KVM_GET_CLOCK, &clock), 0);
	assert_in_range(clock.clock, 123456789 - 100000000, 123456789); /* at the TSC's moment */
	wbuf_fini(&w);
}

/* ---- the description ---- */

static void write_description(const char *prefix)
{
	struct machine_description *d = description_sample(3);
	struct wbuf w = {0};
	void *blob;
	size_t len;

	rig_must(description_to_fdt(d, &blob, &len, NULL) == 0, "description");
	wbuf_bytes(&w, blob, len);
	put_file(prefix, "description", &w);
	description_free(d);
	free(blob);
}

static void test_description(void **state)
{
	struct machine_description *wanted = description_sample(3), *d;
	struct wbuf w = get_file("description"), a = {0};
	struct err e = {0};
	unsigned int i, k;

	(void)state;
	if (description_from_fdt(w.data, w.len, &d, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(d->program, wanted->program);
	assert_string_equal(d->guest_name, wanted->guest_name);
	assert_string_equal(d->cmdline, wanted->cmdline);
	assert_string_equal(d->host_name, wanted->host_name);
	assert_string_equal(d->backend, wanted->backend);
	assert_string_equal(d->policy, wanted->policy);
	assert_string_equal(d->host_facts, wanted->host_facts);
	assert_int_equal(d->nested_shown, wanted->nested_shown);
	assert_int_equal(d->n_regions, wanted->n_regions);
	assert_memory_equal(d->region, wanted->region, sizeof(d->region[0]) * d->n_regions);
	assert_int_equal(d->cpuid.n_leaves, wanted->cpuid.n_leaves);
	for (i = 0; i < d->cpuid.n_leaves; i++) {
		assert_int_equal(d->cpuid.leaf[i].leaf, wanted->cpuid.leaf[i].leaf);
		assert_int_equal(d->cpuid.leaf[i].subleaf, wanted->cpuid.leaf[i].subleaf);
		assert_int_equal(d->cpuid.leaf[i].ebx, wanted->cpuid.leaf[i].ebx);
		assert_int_equal(d->cpuid.leaf[i].edx, wanted->cpuid.leaf[i].edx);
	}
	assert_int_equal(d->contract.arch_cap, wanted->contract.arch_cap);
	assert_int_equal(d->contract.virt_enum, wanted->contract.virt_enum);
	assert_int_equal(d->contract.mitigation_enum, wanted->contract.mitigation_enum);
	assert_int_equal(d->n_vcpus, wanted->n_vcpus);
	for (i = 0; i < d->n_vcpus; i++) {
		assert_int_equal(d->vcpu[i].report.ctrl, wanted->vcpu[i].report.ctrl);
		assert_int_equal(d->vcpu[i].promise.valid, wanted->vcpu[i].promise.valid);
		assert_int_equal(d->vcpu[i].promise.mask, wanted->vcpu[i].promise.mask);
		assert_int_equal(d->vcpu[i].promise.weak, wanted->vcpu[i].promise.weak);
		assert_int_equal(d->vcpu[i].held, wanted->vcpu[i].held);
		assert_int_equal(d->vcpu[i].shadow, wanted->vcpu[i].shadow);
	}
	assert_int_equal(d->n_devices, wanted->n_devices);
	for (i = 0; i < d->n_devices; i++) {
		const struct description_device *is = &d->device[i], *was = &wanted->device[i];

		assert_string_equal(is->type, was->type);
		assert_int_equal(is->base, was->base);
		assert_int_equal(is->irq, was->irq);
		assert_int_equal(is->n_props, was->n_props);
		for (k = 0; k < is->n_props; k++)
			assert_string_equal(is->prop[k].value, was->prop[k].value);
	}
	wbuf_fini(&a);
	wbuf_fini(&w);
	description_free(d);
	description_free(wanted);
}

/* ---- frames ---- */

static const struct frame_hello hello_values = {.version_min = 1,
						.version_max = 1,
						.features = 1,
						.session = 0x1122334455667788,
						.n_data = 2,
						.flags = 3,
						.program = "testudo 0.1.0"};
static const struct frame_verdict verdict_values = {
	.code = FRAME_CODE_POLICY, .features = 1, .text = "no"};
static const struct frame_clock clock_values = {
	.what = FRAME_CLOCK_ANSWER, .mono_ns = 1, .wall_ns = 2, .tsc_khz = 3, .apart_ns = -4};
static const struct frame_memory memory_values = {
	.how = FRAME_MEMORY_IN_FILE, .size = 1 << 20, .offset = 1 << 21};
static const struct frame_round_end round_end_values = {
	.round = 1, .data_pages = 2, .zero_pages = 3};
static const struct frame_finish finish_values = {
	.data_pages = 2, .zero_pages = 3, .rounds = 4, .running = true};
static const struct frame_ready ready_values = {.load_ns = 5, .change = "BHI_DIS_S is held"};
static const struct frame_commit commit_values = {.session = 0x1122334455667788};
static const struct frame_ack ack_values = {.resume_ns = 6};
static const struct frame_fail fail_values = {.code = FRAME_CODE_FAILED, .text = "why"};

/* The small frames, in the order in which they stand in the file. */
#define EACH_FRAME(F)                 \
	F(FRAME_HELLO, hello)         \
	F(FRAME_VERDICT, verdict)     \
	F(FRAME_CLOCK, clock)         \
	F(FRAME_MEMORY, memory)       \
	F(FRAME_ROUND_END, round_end) \
	F(FRAME_FINISH, finish)       \
	F(FRAME_READY, ready)         \
	F(FRAME_COMMIT, commit)       \
	F(FRAME_ACK, ack)             \
	F(FRAME_FAIL, fail)

static void write_frames(const char *prefix)
{
	struct wbuf w = {0};

	stream_head_encode(0, wbuf_reserve(&w, STREAM_HEAD_SIZE));
#define WRITE(TYPE, name)                                                           \
	{                                                                           \
		struct wbuf payload = {0};                                          \
		uint8_t head[FRAME_HEAD_SIZE];                                      \
		frame_##name##_encode(&name##_values, &payload);                    \
		frame_head_encode(TYPE, payload.data, (uint32_t)payload.len, head); \
		wbuf_bytes(&w, head, sizeof(head));                                 \
		wbuf_bytes(&w, payload.data, payload.len);                          \
		wbuf_fini(&payload);                                                \
	}
	EACH_FRAME(WRITE)
	put_file(prefix, "frames", &w);
}

/* The next frame of @r; its payload is borrowed. */
static struct frame next_frame(struct rbuf *r, enum frame_type type)
{
	const uint8_t *raw = rbuf_bytes(r, FRAME_HEAD_SIZE);
	const struct frame_kind *kind = frame_kind_of(type);
	struct frame_head h;
	struct err e = {0};
	struct frame f;

	assert_non_null(raw);
	assert_non_null(kind);
	if (frame_head_decode(raw,
			      (kind->from & FRAME_FROM_SOURCE) ? FRAME_FROM_SOURCE
							       : FRAME_FROM_DESTINATION,
			      &h, &e) < 0)
		fail_msg("%s: %s", kind->name, e.text);
	assert_int_equal(h.type, type);
	f = (struct frame) {
		.type = h.type, .len = h.len, .payload = (uint8_t *)rbuf_bytes(r, h.len)};
	assert_int_equal(frame_check_payload(&h, f.payload, &e), 0);
	return f;
}

/* The structs have holes: compared is what they are as bytes of a stream. */
static void test_frames(void **state)
{
	struct wbuf w = get_file("frames");
	struct rbuf r = rbuf_of(w.data, w.len);
	struct stream_head head;
	struct err e = {0};

	(void)state;
	assert_int_equal(stream_head_decode(rbuf_bytes(&r, STREAM_HEAD_SIZE), &head, &e), 0);
	assert_int_equal(head.version, 1);
#define READ(TYPE, name)                                         \
	{                                                        \
		const struct frame f = next_frame(&r, TYPE);     \
		struct wbuf is = {0}, was = {0};                 \
		struct frame_##name v;                           \
		if (frame_##name##_decode(&f, &v, &e) < 0)       \
			fail_msg("%s", e.text);                  \
		frame_##name##_encode(&v, &is);                  \
		frame_##name##_encode(&name##_values, &was);     \
		assert_int_equal(is.len, was.len);               \
		assert_memory_equal(is.data, was.data, was.len); \
		wbuf_fini(&is);                                  \
		wbuf_fini(&was);                                 \
	}
	EACH_FRAME(READ)
	assert_int_equal(rbuf_left(&r), 0);
	wbuf_fini(&w);
}

/* ---- RAM ---- */

static const struct ram_run ram_values[] = {{0, 1, 6}, {128, 0, UINT64_MAX}};

static void write_ram(const char *prefix)
{
	struct ram_head h = {.kind = RAM_PAGES, .round = 1, .n_runs = 2, .n_pages = 1};
	uint8_t table[ARRAY_SIZE(ram_values) * RAM_RUN_BYTES], page[GUEST_PAGE];
	struct wbuf w = {0};

	memset(page, 0x5a, sizeof(page));
	h.table_crc = ram_table_put(table, ram_values, h.n_runs);
	h.pages_crc = crc32c_pages(page, 1);
	ram_head_put(wbuf_reserve(&w, RAM_HEAD_BYTES), &h);
	wbuf_bytes(&w, table, sizeof(table));
	wbuf_bytes(&w, page, sizeof(page));
	put_file(prefix, "ram", &w);
}

static void test_ram(void **state)
{
	struct wbuf w = get_file("ram");
	struct ram_run run[RAM_FRAME_RUNS];
	struct ram_head h;
	struct err e = {0};
	const uint8_t *page;

	(void)state;
	if (ram_head_get(&h, w.data, 1, &e) ||
	    ram_table_get(run, w.data + RAM_HEAD_BYTES, &h, 4096, &e))
		fail_msg("%s", e.text);
	assert_int_equal(h.kind, RAM_PAGES);
	assert_int_equal(h.n_runs, ARRAY_SIZE(ram_values));
	assert_memory_equal(run, ram_values, sizeof(ram_values));
	page = w.data + RAM_HEAD_BYTES + sizeof(ram_values);
	assert_int_equal(w.len, RAM_HEAD_BYTES + sizeof(ram_values) + GUEST_PAGE);
	assert_int_equal(crc32c_pages(page, 1), h.pages_crc);
	assert_int_equal(page[GUEST_PAGE - 1], 0x5a);
	wbuf_fini(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_device_values), cmocka_unit_test(test_devices_load),
		cmocka_unit_test(test_mitigation),    cmocka_unit_test(test_kvm),
		cmocka_unit_test(test_description),   cmocka_unit_test(test_frames),
		cmocka_unit_test(test_ram),
	};

	if (argc == 3 && strcmp(argv[1], "write") == 0) {
		write_devices(argv[2]);
		write_mitigation(argv[2]);
		write_kvm(argv[2]);
		write_description(argv[2]);
		write_frames(argv[2]);
		write_ram(argv[2]);
		return 0;
	}
	return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
