/*
 * A machine description with something in every member, for tests and as a fuzzer's first input.
 * tests/data/streams has it as a release wrote it: values are added here, never changed.
 */
#ifndef TESTS_UNIT_DESCRIPTION_SAMPLE_H
#define TESTS_UNIT_DESCRIPTION_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "migration/description/description.h"

static inline struct machine_description *description_sample(unsigned int n_vcpus)
{
	struct machine_description *d = description_new();
	struct description_device *dev;
	unsigned int i;

	if (!d)
		abort();
	strcpy(d->program, "testudo 0.1.0");
	strcpy(d->guest_name, "web-1");
	strcpy(d->cmdline, "console=ttyS0 root=/dev/vda1 ro quiet");
	d->n_regions = 2;
	d->region[0].size = 0xc0000000;
	d->region[1].base = 0x100000000;
	d->region[1].size = 0x40000000;
	d->n_vcpus = n_vcpus;
	for (i = 0; i < n_vcpus; i++) {
		struct description_vcpu *v = &d->vcpu[i];

		v->report = (struct vcpu_report) {
			.aware = i & 1, .enum_read = i & 2, .written = i & 4, .ctrl = i & 3};
		if (i % 3)
			v->promise = (struct mitigation_promise) {true, 0x400 | i, i, i & 2};
		v->held = i & 1 ? 0x400 : 0;
		v->shadow = i % 2 ? 0x400 : 1;
	}
	d->cpuid.n_leaves = 3;
	d->cpuid.leaf[0] = (struct cpuid_leaf) {.eax = 0x20, .ebx = 0x756e6547};
	d->cpuid.leaf[1] = (struct cpuid_leaf) {.leaf = 7, .indexed = true, .edx = 1u << 29};
	d->cpuid.leaf[2] =
		(struct cpuid_leaf) {.leaf = 7, .subleaf = 2, .indexed = true, .edx = 16};
	d->contract = (struct guest_contract) {
		.vendor = CPU_VENDOR_INTEL,
		.leaf7_0_edx = 1u << 29,
		.leaf7_2_edx = 16,
		.leaf80000008_ebx = 5,
		.arch_cap = 0x8000000000000001,
		.virt_enum = 1,
		.mitigation_enum = 3,
	};
	d->nested_shown = true;
	strcpy(d->host_name, "icx1.example.org");
	strcpy(d->backend, "msr-filter");
	d->policy = strdup("{\"version\": 1, \"bhi\": \"auto\"}");
	d->host_facts = strdup("{\n\t\"facts\": {}\n}\n");

	dev = description_add_device(d, "virtio-blk");
	dev->slot = 0;
	dev->base = 0xd0000000;
	dev->size = 0x1000;
	dev->irq = 5;
	description_add_prop(dev, DESCRIPTION_SERIAL_NUMBER, "disk-%d", 0);
	description_add_prop(dev, DESCRIPTION_CAPACITY, "%llu", 1073741824ULL);
	description_add_prop(dev, DESCRIPTION_FEATURES, "0x%llx", 0x130000240ULL);
	description_add_prop(dev, DESCRIPTION_PATH, "/srv/disk \"0\".img");
	dev = description_add_device(d, "virtio-rng");
	dev->slot = 1;
	dev->base = 0xd0001000;
	dev->size = 0x1000;
	dev->irq = 6;
	dev = description_add_device(d, "serial");
	dev->space = DESCRIPTION_PORTS;
	dev->base = 0x3f8;
	dev->size = 8;
	dev->irq = 4;
	dev = description_add_device(d, "pvpanic");
	dev->space = DESCRIPTION_PORTS;
	dev->base = 0x505;
	dev->size = 1;
	return d;
}

#endif
