/*
 * A flattened device tree that somebody sent, as a machine description. dtb_check() sees that it
 * is whole before libfdt does; here every value is taken out by length, then judged by
 * description_check_bounds().
 */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "migration/description/description_fdt.h"
#include "migration/description/dtb.h"

struct reader {
	const void *blob;
	struct err *e;
};

static int bad_prop(const struct reader *r, int node, const char *name, const char *legal)
{
	int len;
	const char *found = fdt_get_name(r->blob, node, &len);

	return err_set(r->e, -EINVAL,
		       "machine description: node '%s': property %s is missing or "
		       "malformed; it is %s",
		       found ? text_clean(found).s : "?", name, legal);
}

/* A required property of exactly @len bytes. Return: NULL, with the error set */
static const void *get_exact(const struct reader *r, int node, const char *name, size_t len,
			     const char *legal)
{
	int found;
	const void *p = fdt_getprop(r->blob, node, name, &found);

	if (p && found >= 0 && (size_t)found == len)
		return p;
	bad_prop(r, node, name, legal);
	return NULL;
}

static int get_u32(const struct reader *r, int node, const char *name, uint32_t *v)
{
	const void *p = get_exact(r, node, name, 4, "one cell");

	if (p)
		*v = fdt32_ld(p);
	return p ? 0 : -EINVAL;
}

static int get_u64(const struct reader *r, int node, const char *name, uint64_t *v)
{
	const void *p = get_exact(r, node, name, 8, "two cells");

	if (p)
		*v = fdt64_ld(p);
	return p ? 0 : -EINVAL;
}

static int get_pair64(const struct reader *r, int node, const char *name, uint64_t *a, uint64_t *b)
{
	const char *p = get_exact(r, node, name, 16, "four cells");

	if (p) {
		*a = fdt64_ld((const void *)p);
		*b = fdt64_ld((const void *)(p + 8));
	}
	return p ? 0 : -EINVAL;
}

/* One text with its NUL and no other, up to @max bytes. Return: NULL when it is none */
static const char *text_of(const void *p, int len, size_t max)
{
	if (!p || len < 1 || (size_t)len > max ||
	    memchr(p, '\0', (size_t)len) != (const char *)p + len - 1)
		return NULL;
	return p;
}

static int get_text(const struct reader *r, int node, const char *name, char *to, size_t size)
{
	int len;
	const void *p = fdt_getprop(r->blob, node, name, &len);
	char legal[64];

	if (text_of(p, len, size)) {
		memcpy(to, p, (size_t)len);
		return 0;
	}
	snprintf(legal, sizeof(legal), "a text of less than %zu bytes", size);
	return bad_prop(r, node, name, legal);
}

/* Optional long texts go to the heap. */
static int get_long_text(const struct reader *r, int node, const char *name, char **to)
{
	int len;
	const void *p = fdt_getprop(r->blob, node, name, &len);

	if (!p && len == -FDT_ERR_NOTFOUND)
		return 0;
	if (!text_of(p, len, DESCRIPTION_TEXT_MAX))
		return bad_prop(r, node, name, "a text of less than 64 KiB");
	*to = strdup(p);
	return *to ? 0 : err_set(r->e, -ENOMEM, "no memory for the machine description");
}

static bool has(const struct reader *r, int node, const char *name)
{
	return fdt_getprop(r->blob, node, name, NULL) != NULL;
}

static int find_node(const struct reader *r, const char *name)
{
	int node = fdt_subnode_offset(r->blob, 0, name);

	if (node < 0)
		return err_set(r->e, -EINVAL,
			       "machine description: there is no node '%s' in it; it must be there",
			       name);
	return node;
}

/* Is @node called "NAME" or "NAME@..."? */
static bool is_named(const struct reader *r, int node, const char *name)
{
	const char *found = fdt_get_name(r->blob, node, NULL);
	size_t len = strlen(name);

	return found && strncmp(found, name, len) == 0 && (!found[len] || found[len] == '@');
}

static int read_memory(const struct reader *r, struct machine_description *d)
{
	int node, ret;

	fdt_for_each_subnode(node, r->blob, 0)
	{
		if (!is_named(r, node, "memory"))
			continue;
		if (d->n_regions == DESCRIPTION_REGIONS_MAX)
			return err_set(r->e, -EINVAL,
				       "machine description: more than %d memory regions",
				       DESCRIPTION_REGIONS_MAX);
		ret = get_pair64(r, node, "reg", &d->region[d->n_regions].base,
				 &d->region[d->n_regions].size);
		if (ret < 0)
			return ret;
		d->n_regions++;
	}
	return 0;
}

static int read_cpuid(const struct reader *r, int cpus, struct cpuid_set *set)
{
	const size_t row = FDT_CPUID_CELLS * sizeof(fdt32_t);
	int len;
	const char *p = fdt_getprop(r->blob, cpus, FDT_CPUID, &len);
	uint32_t i;

	if (!p || len < 0 || (size_t)len % row || (size_t)len / row > CPUID_SET_MAX)
		return bad_prop(r, cpus, FDT_CPUID, "up to 256 rows of seven cells");
	set->n_leaves = (uint32_t)((size_t)len / row);
	for (i = 0; i < set->n_leaves; i++, p += row) {
		const fdt32_t *c = (const void *)p;

		set->leaf[i] = (struct cpuid_leaf) {
			.leaf = fdt32_ld(c),
			.subleaf = fdt32_ld(c + 1),
			.indexed = fdt32_ld(c + 2) != 0,
			.eax = fdt32_ld(c + 3),
			.ebx = fdt32_ld(c + 4),
			.ecx = fdt32_ld(c + 5),
			.edx = fdt32_ld(c + 6),
		};
	}
	return 0;
}

static int read_contract(const struct reader *r, int cpus, struct guest_contract *g)
{
	const struct fdt_number *row;
	char vendor[16];
	unsigned int n, i;
	int ret = get_text(r, cpus, FDT_VENDOR, vendor, sizeof(vendor));

	for (i = 0; !ret && (!fdt_vendor_name(i) || strcmp(fdt_vendor_name(i), vendor) != 0); i++)
		if (!fdt_vendor_name(i))
			return bad_prop(r, cpus, FDT_VENDOR, "other, intel, amd, hygon or zhaoxin");
	g->vendor = (enum cpu_vendor)i;
	row = fdt_contract(&n);
	for (i = 0; !ret && i < n; i++) {
		char *to = (char *)g + row[i].offset;
		uint32_t v32 = 0;
		uint64_t v64 = 0;

		if (row[i].size == sizeof(v32)) {
			ret = get_u32(r, cpus, row[i].name, &v32);
			memcpy(to, &v32, sizeof(v32));
		} else {
			ret = get_u64(r, cpus, row[i].name, &v64);
			memcpy(to, &v64, sizeof(v64));
		}
	}
	return ret;
}

static int read_vcpu(const struct reader *r, int node, unsigned int i, struct description_vcpu *v)
{
	uint32_t reg;
	int ret = get_u32(r, node, "reg", &reg);

	if (!ret && reg != i)
		ret = err_set(r->e, -EINVAL,
			      "machine description: cpu number %u has reg %u; they are numbered "
			      "from 0 in order",
			      i, reg);
	v->report.aware = has(r, node, FDT_AWARE);
	v->report.enum_read = has(r, node, FDT_ENUM_READ);
	v->report.written = has(r, node, FDT_WRITTEN);
	v->promise.valid = has(r, node, FDT_PROMISE);
	if (!ret && v->promise.valid)
		ret = get_pair64(r, node, FDT_PROMISE, &v->promise.mask, &v->promise.value);
	if (!ret)
		ret = get_u64(r, node, FDT_CTRL, &v->report.ctrl);
	v->promise.weak = has(r, node, FDT_WEAK);
	if (!ret)
		ret = get_u64(r, node, FDT_HELD, &v->held);
	return ret ? ret : get_u64(r, node, FDT_SHADOW, &v->shadow);
}

static int read_cpus(const struct reader *r, struct machine_description *d)
{
	int cpus = find_node(r, "cpus"), node, ret;

	if (cpus < 0)
		return cpus;
	ret = read_contract(r, cpus, &d->contract);
	if (!ret)
		ret = read_cpuid(r, cpus, &d->cpuid);
	if (ret < 0)
		return ret;
	fdt_for_each_subnode(node, r->blob, cpus)
	{
		if (!is_named(r, node, "cpu"))
			continue;
		if (d->n_vcpus == DESCRIPTION_VCPUS_MAX)
			return err_set(r->e, -EINVAL, "machine description: more than %d vCPUs",
				       DESCRIPTION_VCPUS_MAX);
		ret = read_vcpu(r, node, d->n_vcpus, &d->vcpu[d->n_vcpus]);
		if (ret < 0)
			return ret;
		d->n_vcpus++;
	}
	return 0;
}

static int read_mitigation(const struct reader *r, struct machine_description *d)
{
	int node = find_node(r, FDT_MITIGATION), ret;

	if (node < 0)
		return node;
	d->nested_shown = has(r, node, FDT_NESTED);
	ret = get_text(r, node, FDT_HOST_NAME, d->host_name, sizeof(d->host_name));
	if (!ret)
		ret = get_text(r, node, FDT_BACKEND, d->backend, sizeof(d->backend));
	if (!ret)
		ret = get_long_text(r, node, FDT_POLICY, &d->policy);
	return ret ? ret : get_long_text(r, node, FDT_HOST_FACTS, &d->host_facts);
}

static int read_back_end(const struct reader *r, int node, struct description_device *dev)
{
	int at;

	fdt_for_each_property_offset(at, r->blob, node)
	{
		struct description_prop *p = &dev->prop[dev->n_props];
		const char *name, *value;
		int len;

		value = fdt_getprop_by_offset(r->blob, at, &name, &len);
		if (dev->n_props == DESCRIPTION_PROPS_MAX)
			return err_set(r->e, -EINVAL,
				       "machine description: %s has more than %d properties",
				       text_clean(dev->type).s, DESCRIPTION_PROPS_MAX);
		if (!value || !name || strlen(name) >= sizeof(p->name) ||
		    !text_of(value, len, sizeof(p->value)))
			return bad_prop(r, node, name ? text_clean(name).s : "?",
					"a text of less than 256 bytes under a name of less than "
					"24");
		memcpy(p->name, name, strlen(name) + 1);
		memcpy(p->value, value, (size_t)len);
		dev->n_props++;
	}
	return 0;
}

static int read_place(const struct reader *r, int node, struct description_device *dev)
{
	const char *p;

	if (dev->space == DESCRIPTION_MMIO)
		return get_pair64(r, node, "reg", &dev->base, &dev->size);
	p = get_exact(r, node, "reg", 12, "three cells");
	if (!p)
		return -EINVAL;
	dev->base = fdt32_ld((const void *)(p + 4));
	dev->size = fdt32_ld((const void *)(p + 8));
	return 0;
}

static int read_device(const struct reader *r, int node, enum description_space space,
		       struct machine_description *d)
{
	struct description_device *dev = description_add_device(d, "");
	const void *irq;
	int back_end, ret;

	if (!dev)
		return err_set(r->e, -EINVAL, "machine description: more than %d devices",
			       DESCRIPTION_DEVICES_MAX);
	dev->space = space;
	ret = get_text(r, node, FDT_TYPE, dev->type, sizeof(dev->type));
	if (!ret)
		ret = read_place(r, node, dev);
	if (!ret && has(r, node, FDT_SLOT))
		ret = get_u32(r, node, FDT_SLOT, &dev->slot);
	if (!ret && has(r, node, "interrupts")) {
		irq = get_exact(r, node, "interrupts", 8, "two cells");
		if (!irq)
			return -EINVAL;
		dev->irq = fdt32_ld(irq);
	}
	back_end = fdt_subnode_offset(r->blob, node, FDT_BACK_END);
	if (!ret && back_end >= 0)
		ret = read_back_end(r, back_end, dev);
	return ret;
}

/* Devices are the nodes that say so; the interrupt controller, say, is none. */
static int read_bus(const struct reader *r, const char *name, enum description_space space,
		    struct machine_description *d)
{
	int bus = find_node(r, name), node, ret;

	if (bus < 0)
		return bus;
	fdt_for_each_subnode(node, r->blob, bus)
	{
		if (!has(r, node, FDT_TYPE))
			continue;
		ret = read_device(r, node, space, d);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int check_form(const struct reader *r, size_t len)
{
	const char *s;
	int n, ret = dtb_check(r->blob, len, r->e);

	if (ret < 0)
		return ret;
	if (fdt_node_check_compatible(r->blob, 0, FDT_COMPATIBLE) != 0)
		return err_set(r->e, -EINVAL,
			       "the device tree is not compatible with " FDT_COMPATIBLE
			       "; is it one of testudo's?");
	s = fdt_getprop(r->blob, 0, FDT_REQUIRED, &n);
	if (s)
		return err_set(r->e, -EINVAL,
			       "the machine description requires %s to be known, which this "
			       "testudo does not; use a newer one",
			       text_quote(s, strnlen(s, (size_t)n)).s);
	return 0;
}

int description_from_fdt(const void *blob, size_t len, struct machine_description **d,
			 struct err *e)
{
	struct reader r = {.blob = blob, .e = e};
	struct machine_description *m;
	int chosen, ret = check_form(&r, len);

	*d = NULL;
	if (ret < 0)
		return ret;
	m = description_new();
	if (!m)
		return err_set(e, -ENOMEM, "no memory for the machine description");
	ret = get_text(&r, 0, FDT_PROGRAM, m->program, sizeof(m->program));
	if (!ret)
		ret = get_text(&r, 0, FDT_GUEST_NAME, m->guest_name, sizeof(m->guest_name));
	chosen = ret ? ret : find_node(&r, "chosen");
	ret = chosen < 0 ? chosen
			 : get_text(&r, chosen, "bootargs", m->cmdline, sizeof(m->cmdline));
	if (!ret)
		ret = read_memory(&r, m);
	if (!ret)
		ret = read_cpus(&r, m);
	if (!ret)
		ret = read_mitigation(&r, m);
	if (!ret)
		ret = read_bus(&r, "soc", DESCRIPTION_MMIO, m);
	if (!ret)
		ret = read_bus(&r, "isa", DESCRIPTION_PORTS, m);
	if (!ret)
		ret = description_check_bounds(m, e);
	if (ret < 0)
		description_free(m);
	else
		*d = m;
	return ret;
}
