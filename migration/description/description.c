#include "migration/description/description.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "base/text.h"

struct machine_description *description_new(void)
{
	return calloc(1, sizeof(struct machine_description));
}

void description_free(struct machine_description *d)
{
	if (!d)
		return;
	free(d->policy);
	free(d->host_facts);
	free(d);
}

uint64_t description_memory_size(const struct machine_description *d)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < d->n_regions; i++)
		sum += d->region[i].size;
	return sum;
}

struct description_device *description_add_device(struct machine_description *d, const char *type)
{
	struct description_device *dev;

	if (d->n_devices == DESCRIPTION_DEVICES_MAX)
		return NULL;
	dev = &d->device[d->n_devices++];
	*dev = (struct description_device) {
		.slot = DESCRIPTION_NO_SLOT,
		.irq = DESCRIPTION_NO_IRQ,
	};
	memcpy(dev->type, type, strnlen(type, sizeof(dev->type) - 1));
	return dev;
}

int description_add_prop(struct description_device *dev, const char *name, const char *fmt, ...)
{
	struct description_prop *p;
	va_list args;
	int len;

	if (dev->n_props == DESCRIPTION_PROPS_MAX)
		return -ENOSPC;
	p = &dev->prop[dev->n_props];
	if (strlen(name) >= sizeof(p->name))
		return -EINVAL;
	memset(p, 0, sizeof(*p));
	memcpy(p->name, name, strlen(name));
	va_start(args, fmt);
	len = vsnprintf(p->value, sizeof(p->value), fmt, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof(p->value))
		return -EINVAL;
	dev->n_props++;
	return 0;
}

const char *description_prop(const struct description_device *dev, const char *name)
{
	unsigned int i;

	for (i = 0; i < dev->n_props; i++)
		if (strcmp(dev->prop[i].name, name) == 0)
			return dev->prop[i].value;
	return NULL;
}

/* ---- bounds ---- */

enum text_kind {
	TEXT_NAME,    /* a-z, 0-9 and '-', not empty */
	TEXT_ASCII,   /* printable ASCII, may be empty */
	TEXT_CMDLINE, /* no control characters */
	TEXT_LINES,   /* printable, with newlines and tabs */
};

static bool is_legal_char(enum text_kind kind, unsigned char c)
{
	switch (kind) {
	case TEXT_NAME:
		return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
	case TEXT_ASCII:
		return c >= ' ' && c <= '~';
	case TEXT_CMDLINE:
		return c >= ' ' && c != 0x7f;
	case TEXT_LINES:
		return (c >= ' ' && c != 0x7f) || c == '\n' || c == '\t';
	}
	return false;
}

static int check_text(const char *what, enum text_kind kind, const char *s, size_t size,
		      struct err *e)
{
	static const char *const legal[] = {"a-z, 0-9 and '-'", "printable ASCII",
					    "no control characters",
					    "printable text with newlines"};
	size_t len = strnlen(s, size), i;

	if (len == size)
		return err_set(e, -EINVAL, "machine description: %s has more than %zu bytes", what,
			       size - 1);
	if (kind == TEXT_NAME && !len)
		return err_set(e, -EINVAL, "machine description: %s is empty; legal is %s", what,
			       legal[kind]);
	for (i = 0; i < len; i++)
		if (!is_legal_char(kind, (unsigned char)s[i]))
			return err_set(
				e, -EINVAL,
				"machine description: %s has byte 0x%02x at %zu; legal is %s", what,
				(unsigned char)s[i], i, legal[kind]);
	return 0;
}

static int check_memory(const struct machine_description *d, struct err *e)
{
	uint64_t sum = 0, end = 0;
	unsigned int i;

	if (!d->n_regions || d->n_regions > DESCRIPTION_REGIONS_MAX)
		return err_set(e, -EINVAL,
			       "machine description: %u memory regions; legal is 1 to %d",
			       d->n_regions, DESCRIPTION_REGIONS_MAX);
	for (i = 0; i < d->n_regions; i++) {
		uint64_t base = d->region[i].base, size = d->region[i].size;

		if (!size || size > DESCRIPTION_MEMORY_MAX || size % GUEST_PAGE ||
		    base % GUEST_PAGE || base < end || base > 2 * DESCRIPTION_MEMORY_MAX)
			return err_set(e, -EINVAL,
				       "machine description: memory@%llx has 0x%llx bytes; regions "
				       "are whole pages, ascending, up to 1 TiB in all",
				       (unsigned long long)base, (unsigned long long)size);
		end = base + size;
		sum += size;
	}
	if (sum > DESCRIPTION_MEMORY_MAX)
		return err_set(e, -EINVAL,
			       "machine description: 0x%llx bytes of memory; legal is up to 1 TiB",
			       (unsigned long long)sum);
	return 0;
}

static int check_device(const struct description_device *dev, struct err *e)
{
	const uint64_t limit =
		dev->space == DESCRIPTION_PORTS ? 0x10000 : 2 * DESCRIPTION_MEMORY_MAX;
	unsigned int i, j;
	int ret = check_text("a device's type", TEXT_NAME, dev->type, sizeof(dev->type), e);

	if (ret < 0)
		return ret;
	if (dev->space != DESCRIPTION_MMIO && dev->space != DESCRIPTION_PORTS)
		return err_set(e, -EINVAL,
			       "machine description: %s is in address space %d; legal "
			       "is 0 or 1",
			       dev->type, dev->space);
	if (!dev->size || dev->size > limit || dev->base > limit - dev->size)
		return err_set(e, -EINVAL,
			       "machine description: %s has 0x%llx bytes at 0x%llx; they must lie "
			       "below 0x%llx",
			       dev->type, (unsigned long long)dev->size,
			       (unsigned long long)dev->base, (unsigned long long)limit);
	if (dev->irq != DESCRIPTION_NO_IRQ && dev->irq > 1023)
		return err_set(e, -EINVAL,
			       "machine description: %s has interrupt %u; legal is 0 to 1023",
			       dev->type, dev->irq);
	if (dev->slot != DESCRIPTION_NO_SLOT && dev->slot > 255)
		return err_set(e, -EINVAL,
			       "machine description: %s is in slot %u; legal is 0 to 255",
			       dev->type, dev->slot);
	if (dev->n_props > DESCRIPTION_PROPS_MAX)
		return err_set(e, -EINVAL,
			       "machine description: %s has %u properties; legal is up to %d",
			       dev->type, dev->n_props, DESCRIPTION_PROPS_MAX);
	for (i = 0; i < dev->n_props; i++) {
		const struct description_prop *p = &dev->prop[i];

		ret = check_text("a property's name", TEXT_NAME, p->name, sizeof(p->name), e);
		if (!ret)
			ret = check_text(p->name, TEXT_ASCII, p->value, sizeof(p->value), e);
		if (ret < 0)
			return ret;
		for (j = 0; j < i; j++)
			if (strcmp(dev->prop[j].name, p->name) == 0)
				return err_set(e, -EINVAL,
					       "machine description: %s has property %s twice",
					       dev->type, p->name);
	}
	return 0;
}

static int check_devices(const struct machine_description *d, struct err *e)
{
	unsigned int i, j;
	int ret;

	if (d->n_devices > DESCRIPTION_DEVICES_MAX)
		return err_set(e, -EINVAL, "machine description: %u devices; legal is up to %d",
			       d->n_devices, DESCRIPTION_DEVICES_MAX);
	for (i = 0; i < d->n_devices; i++) {
		const struct description_device *dev = &d->device[i];

		ret = check_device(dev, e);
		if (ret < 0)
			return ret;
		for (j = 0; j < i; j++)
			if (d->device[j].space == dev->space && d->device[j].base == dev->base)
				return err_set(e, -EINVAL,
					       "machine description: %s and %s are both at 0x%llx",
					       d->device[j].type, dev->type,
					       (unsigned long long)dev->base);
	}
	return 0;
}

static int check_vcpus(const struct machine_description *d, struct err *e)
{
	unsigned int i;

	if (!d->n_vcpus || d->n_vcpus > DESCRIPTION_VCPUS_MAX)
		return err_set(e, -EINVAL, "machine description: %u vCPUs; legal is 1 to %d",
			       d->n_vcpus, DESCRIPTION_VCPUS_MAX);
	if (!d->cpuid.n_leaves || d->cpuid.n_leaves > CPUID_SET_MAX)
		return err_set(e, -EINVAL, "machine description: %u CPUID leaves; legal is 1 to %d",
			       d->cpuid.n_leaves, CPUID_SET_MAX);
	for (i = 0; i < d->n_vcpus; i++) {
		const struct mitigation_promise *p = &d->vcpu[i].promise;

		if (p->value & ~p->mask || (!p->valid && (p->mask || p->weak)))
			return err_set(e, -EINVAL,
				       "machine description: cpu@%x was promised 0x%llx within "
				       "0x%llx; the value must lie within the mask",
				       i, (unsigned long long)p->value,
				       (unsigned long long)p->mask);
	}
	return 0;
}

int description_check_bounds(const struct machine_description *d, struct err *e)
{
	int ret = check_text("program", TEXT_ASCII, d->program, sizeof(d->program), e);

	if (!ret)
		ret = check_text("guest-name", TEXT_ASCII, d->guest_name, sizeof(d->guest_name), e);
	if (!ret)
		ret = check_text("bootargs", TEXT_CMDLINE, d->cmdline, sizeof(d->cmdline), e);
	if (!ret)
		ret = check_text("host-name", TEXT_ASCII, d->host_name, sizeof(d->host_name), e);
	if (!ret)
		ret = check_text("backend", TEXT_ASCII, d->backend, sizeof(d->backend), e);
	if (!ret && d->policy)
		ret = check_text("policy", TEXT_LINES, d->policy, DESCRIPTION_TEXT_MAX, e);
	if (!ret && d->host_facts)
		ret = check_text("host-facts", TEXT_LINES, d->host_facts, DESCRIPTION_TEXT_MAX, e);
	if (!ret)
		ret = check_memory(d, e);
	if (!ret)
		ret = check_vcpus(d, e);
	return ret ? ret : check_devices(d, e);
}
