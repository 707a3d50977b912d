#include "vmm/guest/describe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/num.h"
#include "base/version.h"
#include "cpuid/subset.h"
#include "migration/description/description.h"
#include "vmm/guest/guest.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/layout.h"

static int no_room(struct err *e)
{
	return err_set(e, -ENOSPC, "too many devices to describe; leave some out");
}

static struct description_device *add_virtio(struct machine_description *d, const char *type,
					     unsigned int slot)
{
	struct description_device *dev = description_add_device(d, type);

	if (!dev)
		return NULL;
	dev->slot = slot;
	dev->space = DESCRIPTION_MMIO;
	dev->base = LAYOUT_VIRTIO_BASE + (uint64_t)slot * LAYOUT_VIRTIO_SIZE;
	dev->size = LAYOUT_VIRTIO_SIZE;
	dev->irq = LAYOUT_VIRTIO_GSI + slot;
	return dev;
}

static int add_disk(const struct blk_file *f, const struct blk_options *o, unsigned int slot,
		    struct machine_description *d, struct err *e)
{
	struct description_device *dev = add_virtio(d, "virtio-blk", slot);
	int ret;

	if (!dev)
		return no_room(e);
	ret = description_add_prop(dev, DESCRIPTION_CAPACITY, "%llu",
				   (unsigned long long)f->size_bytes);
	if (!ret)
		ret = description_add_prop(dev, DESCRIPTION_BLOCK_SIZE, "%u", f->block_size);
	if (!ret)
		ret = description_add_prop(dev, DESCRIPTION_READ_ONLY, "%s",
					   f->readonly ? "yes" : "no");
	if (!ret && o->serial)
		ret = description_add_prop(dev, DESCRIPTION_SERIAL_NUMBER, "%s", o->serial);
	if (ret)
		return err_set(e, ret, "disk '%s' cannot be described; is its serial printable?",
			       o->path);
	/* only a hint; a path that is too long is left out */
	description_add_prop(dev, DESCRIPTION_PATH, "%s", o->path);
	return 0;
}

static int add_net(const struct tap *tap, unsigned int slot, struct machine_description *d,
		   struct err *e)
{
	struct description_device *dev = add_virtio(d, "virtio-net", slot);
	const uint8_t *m = tap->mac;

	if (!dev)
		return no_room(e);
	description_add_prop(dev, DESCRIPTION_INTERFACE, "%s", tap->name);
	description_add_prop(dev, DESCRIPTION_VHOST, "%s", tap->vhost.call ? "yes" : "no");
	return description_add_prop(dev, DESCRIPTION_MAC, "%02x:%02x:%02x:%02x:%02x:%02x", m[0],
				    m[1], m[2], m[3], m[4], m[5]);
}

static int add_port(struct machine_description *d, const char *type, uint16_t base, uint16_t size,
		    uint32_t irq, struct err *e)
{
	struct description_device *dev = description_add_device(d, type);

	if (!dev)
		return no_room(e);
	dev->space = DESCRIPTION_PORTS;
	dev->base = base;
	dev->size = size;
	dev->irq = irq;
	return 0;
}

int describe_devices(const struct guest *g, struct machine_description *d, struct err *e)
{
	const struct run_config *c = &g->config;
	unsigned int i, slot = 0;
	int ret = add_port(d, "serial", LAYOUT_PORT_COM1, 8, LAYOUT_GSI_COM1, e);

	if (!ret)
		ret = add_port(d, "power", LAYOUT_PORT_RESET, 3, DESCRIPTION_NO_IRQ, e);
	if (!ret)
		ret = add_port(d, "pvpanic", LAYOUT_PORT_PVPANIC, 1, DESCRIPTION_NO_IRQ, e);
	for (i = 0; !ret && i < c->machine.n_disks; i++)
		ret = add_disk(&g->disk[i], &c->machine.disk[i], slot++, d, e);
	for (i = 0; !ret && i < c->machine.n_nets; i++)
		ret = add_net(&g->tap[i], slot++, d, e);
	if (!ret && c->machine.rng && !add_virtio(d, "virtio-rng", slot))
		ret = no_room(e);
	return ret;
}

static int describe_mitigation(struct guest *g, struct machine_description *d, struct err *e)
{
	struct mitigation_saved saved = {0};
	uint32_t i;
	int ret = mitigation_save(&g->mitigation, false, &saved, e);

	if (!ret) {
		d->contract = saved.contract;
		d->n_vcpus = saved.n_vcpus;
		for (i = 0; i < saved.n_vcpus; i++)
			d->vcpu[i] = (struct description_vcpu) {
				.report = saved.vcpu[i].report,
				.promise = saved.vcpu[i].promise,
				.held = saved.vcpu[i].held,
				.shadow = saved.vcpu[i].shadow,
			};
		snprintf(d->backend, sizeof(d->backend), "%s", backend_name(saved.backend));
	}
	mitigation_saved_fini(&saved);
	return ret;
}

int describe_guest(struct guest *g, struct machine_description *d, struct err *e)
{
	const struct guest_mem *gm = &g->machine.memory.guest;
	struct host_file host = {.facts = g->mitigation.host,
				 .backend = mitigation_backend_facts(&g->mitigation)};
	unsigned int i;
	int ret;

	snprintf(d->program, sizeof(d->program), "testudo %s", TESTUDO_VERSION);
	snprintf(d->host_name, sizeof(d->host_name), "%s", g->host_name);
	snprintf(d->guest_name, sizeof(d->guest_name), "%s", g->name.name);
	d->n_regions = gm->n_regions;
	for (i = 0; i < gm->n_regions; i++) {
		d->region[i].base = gm->region[i].gpa;
		d->region[i].size = gm->region[i].len_bytes;
	}
	if (strlen(g->config.params) >= sizeof(d->cmdline))
		return err_set(e, -E2BIG, "the kernel command line has %zu bytes; at most %zu move",
			       strlen(g->config.params), sizeof(d->cmdline) - 1);
	snprintf(d->cmdline, sizeof(d->cmdline), "%s", g->config.params);
	d->cpuid = g->cpuid;
	d->nested_shown = g->mitigation.nested;
	ret = describe_mitigation(g, d, e);
	if (ret < 0)
		return ret;
	d->policy = policy_format(&g->policy);
	d->host_facts = host_file_format(&host);
	if (!d->policy || !d->host_facts)
		return err_no_memory(e);
	return describe_devices(g, d, e);
}

/* Memory and CPUs that the command line named must be the guest's. */
static int check_sizes(const struct guest *g, const struct machine_description *d, struct err *e)
{
	const uint64_t size = description_memory_size(d);
	const struct run_config *c = &g->config;

	if (c->memory_given && c->machine.memory.size_bytes != size)
		return err_set(e, -EINVAL,
			       "-m says %llu MiB, the guest that comes has %llu MiB; leave -m out",
			       (unsigned long long)(c->machine.memory.size_bytes / MiB),
			       (unsigned long long)(size / MiB));
	if (c->cpus_given && c->machine.n_vcpus != d->n_vcpus)
		return err_set(e, -EINVAL,
			       "-c says %u vCPUs, the guest that comes has %u; leave -c out",
			       c->machine.n_vcpus, d->n_vcpus);
	if (d->n_vcpus > g->kvm.max_vcpus)
		return err_set(e, -EINVAL,
			       "the guest has %u vCPUs, the destination's KVM has room for %u; use "
			       "another host",
			       d->n_vcpus, g->kvm.max_vcpus);
	return 0;
}

/*
 * What the user did not name at this side is as the guest knows it: what testudo would otherwise
 * make up here, or take from a default, the guest has seen another value of. What was named is
 * compared (description_check()). Nothing of a guest that did not come after all stays: each one
 * sets all of it.
 */
static int take_disk(struct guest *g, unsigned int n, const struct description_device *dev,
		     struct err *e)
{
	const char *serial = description_prop(dev, DESCRIPTION_SERIAL_NUMBER);
	const char *ro = description_prop(dev, DESCRIPTION_READ_ONLY);
	const char *block = description_prop(dev, DESCRIPTION_BLOCK_SIZE);
	uint64_t block_size = BLK_SECTOR;

	if (block &&
	    num_parse_u64(DESCRIPTION_BLOCK_SIZE, block, 1, UINT32_MAX, &block_size, e) < 0)
		return -EINVAL;
	blk_file_suit(&g->disk[n], ro && strcmp(ro, "yes") == 0, (uint32_t)block_size);
	if (g->config.machine.disk[n].has_serial)
		return 0;
	if (serial && strlen(serial) >= sizeof(g->serial_number[n]))
		return err_set(e, -EINVAL,
			       "machine description: the serial number of disk %u has %zu bytes; "
			       "legal is up to %zu",
			       n, strlen(serial), sizeof(g->serial_number[n]) - 1);
	snprintf(g->serial_number[n], sizeof(g->serial_number[n]), "%s", serial ? serial : "");
	g->config.machine.disk[n].serial = serial ? g->serial_number[n] : NULL;
	return 0;
}

static int take_net(struct guest *g, unsigned int n, const struct description_device *dev,
		    struct err *e)
{
	const char *mac = description_prop(dev, DESCRIPTION_MAC);

	if (!mac || g->config.machine.net[n].has_mac)
		return 0;
	return tap_parse_mac("machine description: mac", mac, g->tap[n].mac, e);
}

static int take_devices(struct guest *g, const struct machine_description *d, struct err *e)
{
	unsigned int i, disks = 0, nets = 0;
	bool rng = false;
	int ret = 0;

	for (i = 0; !ret && i < d->n_devices; i++) {
		const struct description_device *dev = &d->device[i];

		if (strcmp(dev->type, "virtio-blk") == 0 && disks < g->config.machine.n_disks)
			ret = take_disk(g, disks++, dev, e);
		else if (strcmp(dev->type, "virtio-net") == 0 && nets < g->config.machine.n_nets)
			ret = take_net(g, nets++, dev, e);
		else if (strcmp(dev->type, "virtio-rng") == 0)
			rng = true;
	}
	if (!g->config.rng_given)
		g->config.machine.rng = rng;
	if (!ret && g->config.machine.n_disks + g->config.machine.n_nets + g->config.machine.rng >
			    LAYOUT_VIRTIO_SLOTS)
		ret = err_set(e, -EINVAL,
			      "%u disks (-d), %u network devices (-n) and the guest's entropy "
			      "source do not fit into %d virtio slots; give those of the guest",
			      g->config.machine.n_disks, g->config.machine.n_nets,
			      LAYOUT_VIRTIO_SLOTS);
	return ret;
}

/* KVM takes any CPUID; that the CPU has it, too, is for us to see. */
static int check_cpu(const struct guest *g, const struct machine_description *d, struct err *e)
{
	struct cpuid_set *set = calloc(2, sizeof(*set));
	int ret;

	if (!set)
		return err_no_memory(e);
	set[0] = d->cpuid;
	set[1] = g->kvm.cpuid;
	vcpu_base_cpuid(&set[1], &g->kvm, true);
	ret = cpuid_check_subset(&set[0], &set[1], e);
	free(set);
	return ret;
}

/* A host in words: "icx1 (Ice Lake-SP)". @otherwise: for one that has no name */
static void name_host(const char *host, const char *otherwise, const struct host_facts *facts,
		      char *name, size_t len)
{
	struct host_traits t = {.name = "CPU unknown"};

	if (facts)
		host_traits_derive(facts, &t);
	snprintf(name, len, "%s (%s)", *host ? host : otherwise, t.name);
}

static int adopt_mitigation(struct guest *g, const struct machine_description *d, struct err *e)
{
	struct mitigation_saved saved = {.contract = d->contract, .n_vcpus = d->n_vcpus};
	uint32_t i;
	int ret;

	saved.vcpu = calloc(d->n_vcpus, sizeof(*saved.vcpu));
	if (!saved.vcpu)
		return err_no_memory(e);
	for (i = 0; i < d->n_vcpus; i++)
		saved.vcpu[i] = (struct mitigation_saved_vcpu) {
			.report = d->vcpu[i].report,
			.promise = d->vcpu[i].promise,
			.held = d->vcpu[i].held,
			.shadow = d->vcpu[i].shadow,
		};
	g->mitigation.n_vcpus = d->n_vcpus;
	ret = mitigation_adopt(&g->mitigation, &g->cpuid, &saved, e);
	mitigation_saved_fini(&saved);
	return ret;
}

/* Both hosts get their names before anything can be said of them. */
static void name_hosts(struct guest *g, const struct machine_description *d)
{
	struct mitigation *m = &g->mitigation;
	const char *text = d->host_facts;
	struct host_file f;
	const bool known =
		text && host_file_parse("of the source", text, strlen(text), &f, NULL) == 0;

	name_host(d->host_name, "the source", known ? &f.facts : NULL, m->source_name,
		  sizeof(m->source_name));
	name_host(g->host_name, "the destination", &m->host, m->destination_name,
		  sizeof(m->destination_name));
}

int describe_apply(struct guest *g, const struct machine_description *d, struct err *e)
{
	struct machine_description *here = description_new();
	int ret;

	if (!here)
		return err_no_memory(e);
	ret = guest_name_hear(&g->name, d->guest_name, e);
	if (!ret)
		ret = check_sizes(g, d, e);
	if (!ret)
		ret = take_devices(g, d, e);
	if (!ret)
		ret = describe_devices(g, here, e);
	if (!ret)
		ret = description_check(d, here, e);
	description_free(here);
	if (ret < 0)
		return ret;
	g->config.machine.n_vcpus = d->n_vcpus;
	g->config.machine.memory.size_bytes = description_memory_size(d);
	ret = memory_check(&g->config.machine.memory, cpuid_phys_bits(&g->kvm.cpuid), e);
	if (ret < 0)
		return ret;
	if (!g->config.params_given) {
		char *params = strdup(d->cmdline);

		if (!params)
			return err_no_memory(e);
		free(g->config.params);
		g->config.params = params;
		g->kernel.cmdline = params;
	}
	g->cpuid = d->cpuid;
	name_hosts(g, d);
	/* policy first: a bit, a row and code 4 say more than the same bit as a missing feature */
	ret = adopt_mitigation(g, d, e);
	return ret ? ret : check_cpu(g, d, e);
}

void describe_change(struct guest *g, char *change, size_t len)
{
	mitigation_describe_change(&g->mitigation, g->mitigation.source_name,
				   g->mitigation.destination_name, change, len);
}
