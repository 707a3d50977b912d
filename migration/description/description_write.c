/* The machine description as a flattened device tree, written node by node. */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "cpuid/host.h"
#include "migration/description/description_fdt.h"

#define IOAPIC_PHANDLE 1
#define IOAPIC_BASE    0xfec00000 /* where every PC has it */
#define ISA_IO	       1	  /* first address cell of an I/O port, IEEE 1275 ISA binding */
#define IRQ_EDGE       1

static const struct fdt_number contract[] = {
	{"testudo,cpuid-7-0-edx", offsetof(struct guest_contract, leaf7_0_edx), 4},
	{"testudo,cpuid-7-2-edx", offsetof(struct guest_contract, leaf7_2_edx), 4},
	{"testudo,cpuid-80000008-ebx", offsetof(struct guest_contract, leaf80000008_ebx), 4},
	{"testudo,arch-capabilities", offsetof(struct guest_contract, arch_cap), 8},
	{"testudo,virtual-enumeration", offsetof(struct guest_contract, virt_enum), 8},
	{"testudo,mitigation-enum", offsetof(struct guest_contract, mitigation_enum), 8},
};

const struct fdt_number *fdt_contract(unsigned int *n)
{
	*n = ARRAY_SIZE(contract);
	return contract;
}

const char *fdt_vendor_name(unsigned int vendor)
{
	static const char *const names[] = {
		[CPU_VENDOR_OTHER] = "other",	  [CPU_VENDOR_INTEL] = "intel",
		[CPU_VENDOR_AMD] = "amd",	  [CPU_VENDOR_HYGON] = "hygon",
		[CPU_VENDOR_ZHAOXIN] = "zhaoxin",
	};

	return vendor < ARRAY_SIZE(names) ? names[vendor] : NULL;
}

/* A tree under construction; the first error sticks, so that the code below reads as the tree. */
struct tree {
	void *blob;
	int ret; /* libfdt's; 0: fine so far */
};

static void begin(struct tree *t, const char *name)
{
	if (!t->ret)
		t->ret = fdt_begin_node(t->blob, name);
}

static void begin_at(struct tree *t, const char *name, const char *prefix, uint64_t address)
{
	char full[64];

	snprintf(full, sizeof(full), "%s@%s%llx", name, prefix, (unsigned long long)address);
	begin(t, full);
}

static void end(struct tree *t)
{
	if (!t->ret)
		t->ret = fdt_end_node(t->blob);
}

static void bytes(struct tree *t, const char *name, const void *p, size_t len)
{
	if (!t->ret)
		t->ret = fdt_property(t->blob, name, p, (int)len);
}

static void text(struct tree *t, const char *name, const char *s)
{
	bytes(t, name, s, strlen(s) + 1);
}

static void flag(struct tree *t, const char *name, bool set)
{
	if (set)
		bytes(t, name, NULL, 0);
}

static void cell(struct tree *t, const char *name, uint32_t v)
{
	if (!t->ret)
		t->ret = fdt_property_u32(t->blob, name, v);
}

static void cell64(struct tree *t, const char *name, uint64_t v)
{
	if (!t->ret)
		t->ret = fdt_property_u64(t->blob, name, v);
}

static void pair64(struct tree *t, const char *name, uint64_t a, uint64_t b)
{
	fdt64_t v[2] = {cpu_to_fdt64(a), cpu_to_fdt64(b)};

	bytes(t, name, v, sizeof(v));
}

static void cells(struct tree *t, uint32_t address, uint32_t size)
{
	cell(t, "#address-cells", address);
	cell(t, "#size-cells", size);
}

static void write_cpuid(struct tree *t, const struct cpuid_set *set)
{
	void *room;
	fdt32_t *c;
	uint32_t i;

	if (t->ret)
		return;
	t->ret = fdt_property_placeholder(
		t->blob, FDT_CPUID, (int)(set->n_leaves * FDT_CPUID_CELLS * sizeof(*c)), &room);
	for (c = room, i = 0; !t->ret && i < set->n_leaves; i++) {
		const struct cpuid_leaf *l = &set->leaf[i];

		*c++ = cpu_to_fdt32(l->leaf);
		*c++ = cpu_to_fdt32(l->subleaf);
		*c++ = cpu_to_fdt32(l->indexed);
		*c++ = cpu_to_fdt32(l->eax);
		*c++ = cpu_to_fdt32(l->ebx);
		*c++ = cpu_to_fdt32(l->ecx);
		*c++ = cpu_to_fdt32(l->edx);
	}
}

static void write_vcpu(struct tree *t, const struct description_vcpu *v, unsigned int i)
{
	begin_at(t, "cpu", "", i);
	text(t, "device_type", "cpu");
	cell(t, "reg", i);
	flag(t, FDT_AWARE, v->report.aware);
	flag(t, FDT_ENUM_READ, v->report.enum_read);
	flag(t, FDT_WRITTEN, v->report.written);
	cell64(t, FDT_CTRL, v->report.ctrl);
	if (v->promise.valid)
		pair64(t, FDT_PROMISE, v->promise.mask, v->promise.value);
	flag(t, FDT_WEAK, v->promise.weak);
	cell64(t, FDT_HELD, v->held);
	cell64(t, FDT_SHADOW, v->shadow);
	end(t);
}

static void write_cpus(struct tree *t, const struct machine_description *d)
{
	unsigned int i;

	begin(t, "cpus");
	cells(t, 1, 0);
	text(t, FDT_VENDOR, fdt_vendor_name(d->contract.vendor));
	for (i = 0; i < ARRAY_SIZE(contract); i++) {
		const char *at = (const char *)&d->contract + contract[i].offset;
		uint32_t v32;
		uint64_t v64;

		if (contract[i].size == sizeof(v32)) {
			memcpy(&v32, at, sizeof(v32));
			cell(t, contract[i].name, v32);
		} else {
			memcpy(&v64, at, sizeof(v64));
			cell64(t, contract[i].name, v64);
		}
	}
	write_cpuid(t, &d->cpuid);
	for (i = 0; i < d->n_vcpus; i++)
		write_vcpu(t, &d->vcpu[i], i);
	end(t);
}

static void write_device(struct tree *t, const struct description_device *dev)
{
	const bool ports = dev->space == DESCRIPTION_PORTS;
	const bool virtio = strncmp(dev->type, "virtio-", 7) == 0;
	fdt32_t isa[3] = {cpu_to_fdt32(ISA_IO), cpu_to_fdt32((uint32_t)dev->base),
			  cpu_to_fdt32((uint32_t)dev->size)};
	fdt32_t irq[2] = {cpu_to_fdt32(dev->irq), cpu_to_fdt32(IRQ_EDGE)};
	char own[40];
	unsigned int i;

	snprintf(own, sizeof(own), "testudo,%s", dev->type);
	begin_at(t, virtio ? "virtio" : dev->type, ports ? "i" : "", dev->base);
	text(t, "compatible",
	     virtio			   ? "virtio,mmio"
	     : strcmp(dev->type, "serial") ? own
					   : "ns16550a");
	if (ports)
		bytes(t, "reg", isa, sizeof(isa));
	else
		pair64(t, "reg", dev->base, dev->size);
	if (dev->irq != DESCRIPTION_NO_IRQ)
		bytes(t, "interrupts", irq, sizeof(irq));
	text(t, FDT_TYPE, dev->type);
	if (dev->slot != DESCRIPTION_NO_SLOT)
		cell(t, FDT_SLOT, dev->slot);
	if (dev->n_props) {
		begin(t, FDT_BACK_END);
		for (i = 0; i < dev->n_props; i++)
			text(t, dev->prop[i].name, dev->prop[i].value);
		end(t);
	}
	end(t);
}

static void write_devices(struct tree *t, const struct machine_description *d,
			  enum description_space space)
{
	unsigned int i;

	for (i = 0; i < d->n_devices; i++)
		if (d->device[i].space == space)
			write_device(t, &d->device[i]);
}

static void write_buses(struct tree *t, const struct machine_description *d)
{
	begin(t, "soc");
	text(t, "compatible", "simple-bus");
	cells(t, 2, 2);
	flag(t, "ranges", true);
	begin_at(t, "interrupt-controller", "", IOAPIC_BASE);
	text(t, "compatible", "testudo,ioapic");
	pair64(t, "reg", IOAPIC_BASE, 0x1000);
	flag(t, "interrupt-controller", true);
	cell(t, "#address-cells", 0);
	cell(t, "#interrupt-cells", 2);
	cell(t, "phandle", IOAPIC_PHANDLE);
	end(t);
	write_devices(t, d, DESCRIPTION_MMIO);
	end(t);

	begin(t, "isa");
	text(t, "device_type", "isa");
	text(t, "compatible", "isa");
	cells(t, 2, 1);
	write_devices(t, d, DESCRIPTION_PORTS);
	end(t);
}

static void write_machine(struct tree *t, const struct machine_description *d)
{
	unsigned int i;

	begin(t, "");
	text(t, "compatible", FDT_COMPATIBLE);
	text(t, "model", "testudo");
	cells(t, 2, 2);
	cell(t, "interrupt-parent", IOAPIC_PHANDLE);
	text(t, FDT_PROGRAM, d->program);
	text(t, FDT_GUEST_NAME, d->guest_name);

	begin(t, "chosen");
	text(t, "bootargs", d->cmdline);
	end(t);
	for (i = 0; i < d->n_regions; i++) {
		begin_at(t, "memory", "", d->region[i].base);
		text(t, "device_type", "memory");
		pair64(t, "reg", d->region[i].base, d->region[i].size);
		end(t);
	}
	write_cpus(t, d);
	begin(t, FDT_MITIGATION);
	text(t, FDT_HOST_NAME, d->host_name);
	text(t, FDT_BACKEND, d->backend);
	flag(t, FDT_NESTED, d->nested_shown);
	if (d->policy)
		text(t, FDT_POLICY, d->policy);
	if (d->host_facts)
		text(t, FDT_HOST_FACTS, d->host_facts);
	end(t);
	write_buses(t, d);
	end(t);
}

int description_to_fdt(const struct machine_description *d, void **blob, size_t *len, struct err *e)
{
	struct tree t = {0};
	void *smaller;
	int ret = description_check_bounds(d, e);

	if (!ret && !fdt_vendor_name(d->contract.vendor))
		ret = err_set(e, -EINVAL, "machine description: vendor %d is not known",
			      d->contract.vendor);
	if (ret < 0)
		return ret;
	t.blob = malloc(DESCRIPTION_SIZE_MAX);
	if (!t.blob)
		return err_set(e, -ENOMEM, "no memory for the machine description");
	t.ret = fdt_create(t.blob, DESCRIPTION_SIZE_MAX);
	if (!t.ret)
		t.ret = fdt_finish_reservemap(t.blob);
	write_machine(&t, d);
	if (!t.ret)
		t.ret = fdt_finish(t.blob);
	if (t.ret) {
		free(t.blob);
		return err_set(e, -E2BIG, "machine description: cannot be written: %s",
			       fdt_strerror(t.ret));
	}
	*len = fdt_totalsize(t.blob);
	smaller = realloc(t.blob, *len);
	*blob = smaller ? smaller : t.blob;
	return 0;
}
