/* May a guest that comes be built as what this side was configured for? */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/num.h"
#include "base/text.h"
#include "migration/description/description.h"

/* How a device is asked for on the command line, for the cure in a message. */
static const struct {
	const char *type, *noun, *add, *leave_out;
} options[] = {
	{"virtio-blk", "disk", "add -d FILE", "leave out -d"},
	{"virtio-net", "network device", "add -n tap=INTERFACE", "leave out -n"},
	{"virtio-rng", "entropy source", "leave out --no-rng", "give --no-rng"},
};

enum prop_rule {
	PROP_EQUAL,    /* the guest has seen the value */
	PROP_CONTAINS, /* bits: the destination's hold the source's */
};

static const struct prop_row {
	const char *name;
	enum prop_rule rule;
	const char *cure;
} props[] = {
	{DESCRIPTION_SERIAL_NUMBER, PROP_EQUAL,
	 "give the disks in the order of the source, and leave serial= out: it comes with the "
	 "guest"},
	{DESCRIPTION_CAPACITY, PROP_EQUAL, "give the same disk, or a copy of the same size"},
	{DESCRIPTION_BLOCK_SIZE, PROP_EQUAL, "give a disk of the same block size"},
	{DESCRIPTION_READ_ONLY, PROP_EQUAL, "leave ro out: it is as at the source then"},
	{DESCRIPTION_MAC, PROP_EQUAL, "leave mac= out: the address comes with the guest"},
	{DESCRIPTION_FEATURES, PROP_CONTAINS,
	 "use a back end or a testudo that offers all that the source's does"},
};

/* "virtio-blk in slot 2", "serial at port 0x3f8" */
struct place_text {
	char s[96];
};

static struct place_text place_of(const struct description_device *dev)
{
	struct place_text t;

	if (dev->slot != DESCRIPTION_NO_SLOT)
		snprintf(t.s, sizeof(t.s), "%s in slot %u", dev->type, dev->slot);
	else
		snprintf(t.s, sizeof(t.s), "%s at %s 0x%llx", dev->type,
			 dev->space == DESCRIPTION_PORTS ? "port" : "address",
			 (unsigned long long)dev->base);
	return t;
}

static int check_memory(const struct machine_description *from,
			const struct machine_description *here, struct err *e)
{
	const uint64_t there = description_memory_size(from), mine = description_memory_size(here);
	unsigned int i;

	if (!here->n_regions)
		return 0;
	if (there != mine)
		return err_set(
			e, -EINVAL,
			"the guest has %llu MiB of memory, the destination is configured for "
			"%llu MiB; leave -m out, or give -m %llu",
			(unsigned long long)(there / MiB), (unsigned long long)(mine / MiB),
			(unsigned long long)(there / MiB));
	for (i = 0; i < from->n_regions; i++)
		if (from->n_regions != here->n_regions ||
		    from->region[i].base != here->region[i].base)
			return err_set(e, -EINVAL,
				       "the guest's memory region %u begins at 0x%llx, the "
				       "destination's testudo "
				       "lays it out otherwise; use the version of the source (%s)",
				       i, (unsigned long long)from->region[i].base, from->program);
	return 0;
}

static int check_prop(const struct prop_row *row, const struct description_device *from,
		      const struct description_device *here, struct err *e)
{
	const char *a = description_prop(from, row->name), *b = description_prop(here, row->name);
	uint64_t want = 0, have = 0;
	int ret;

	if (!a && !b)
		return 0;
	if (row->rule == PROP_EQUAL) {
		if (a && b && strcmp(a, b) == 0)
			return 0;
		return err_set(e, -EINVAL, "%s: the guest's has %s %s, the destination's %s; %s",
			       place_of(from).s, row->name, a ? text_quote(a, strlen(a)).s : "none",
			       b ? text_quote(b, strlen(b)).s : "none", row->cure);
	}
	ret = a ? num_parse_u64(row->name, a, 0, UINT64_MAX, &want, e) : 0;
	if (!ret && b)
		ret = num_parse_u64(row->name, b, 0, UINT64_MAX, &have, e);
	if (ret < 0)
		return ret;
	if (want & ~have)
		return err_set(
			e, -EINVAL,
			"%s: the guest was offered %s 0x%llx, the destination offers 0x%llx and "
			"lacks 0x%llx; %s",
			place_of(from).s, row->name, (unsigned long long)want,
			(unsigned long long)have, (unsigned long long)(want & ~have), row->cure);
	return 0;
}

static int check_device(const struct description_device *from,
			const struct description_device *here, struct err *e)
{
	unsigned int i;
	int ret = 0;

	if (strcmp(from->type, here->type) != 0)
		return err_set(e, -EINVAL,
			       "the guest has %s, the destination has %s in its place; give the "
			       "devices in the "
			       "order of the source",
			       place_of(from).s, here->type);
	if (from->slot != here->slot || from->size != here->size || from->irq != here->irq)
		return err_set(e, -EINVAL,
			       "%s: the guest's has slot %d, 0x%llx bytes and interrupt %d, this "
			       "side's slot %d, 0x%llx bytes and interrupt %d; use the version of "
			       "testudo that the source has",
			       place_of(from).s, (int)from->slot, (unsigned long long)from->size,
			       (int)from->irq, (int)here->slot, (unsigned long long)here->size,
			       (int)here->irq);
	for (i = 0; !ret && i < ARRAY_SIZE(props); i++)
		ret = check_prop(&props[i], from, here, e);
	return ret;
}

static unsigned int count_type(const struct machine_description *d, const char *type)
{
	unsigned int i, n = 0;

	for (i = 0; i < d->n_devices; i++)
		n += strcmp(d->device[i].type, type) == 0;
	return n;
}

/* "2 disks", "1 disk", "no disk" */
struct count_text {
	char s[32];
};

static struct count_text count_of(unsigned int n, const char *noun)
{
	struct count_text t;

	if (n)
		snprintf(t.s, sizeof(t.s), "%u %s%s", n, noun, n > 1 ? "s" : "");
	else
		snprintf(t.s, sizeof(t.s), "no %s", noun);
	return t;
}

/*
 * Places move with the number of devices before them, so a device that was forgotten is told by
 * its option, not by what is found at its place.
 */
static int check_counts(const struct machine_description *from,
			const struct machine_description *here, struct err *e)
{
	char text[512] = "";
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(options); i++) {
		const unsigned int there = count_type(from, options[i].type);
		const unsigned int mine = count_type(here, options[i].type);
		const size_t at = strlen(text);

		if (there == mine)
			continue;
		snprintf(text + at, sizeof(text) - at,
			 "%sthe guest has %s (%s), testudo run --incoming was given %s: %s",
			 at ? ". " : "", count_of(there, options[i].noun).s, options[i].type,
			 count_of(mine, options[i].noun).s,
			 there > mine ? options[i].add : options[i].leave_out);
	}
	return text[0] ? err_set(e, -ENODEV, "%s; the same devices in the order of the source",
				 text)
		       : 0;
}

/* What is at the place of @dev? */
static const struct description_device *same_place(const struct machine_description *d,
						   const struct description_device *dev)
{
	unsigned int i;

	for (i = 0; i < d->n_devices; i++)
		if (d->device[i].space == dev->space && d->device[i].base == dev->base)
			return &d->device[i];
	return NULL;
}

int description_check(const struct machine_description *from,
		      const struct machine_description *here, struct err *e)
{
	unsigned int i;
	int ret = check_memory(from, here, e);

	if (!ret && here->n_vcpus && here->n_vcpus != from->n_vcpus)
		ret = err_set(
			e, -EINVAL,
			"the guest has %u vCPUs, the destination is configured for %u; leave -c "
			"out, or give -c %u",
			from->n_vcpus, here->n_vcpus, from->n_vcpus);
	if (!ret)
		ret = check_counts(from, here, e);
	for (i = 0; !ret && i < from->n_devices; i++) {
		const struct description_device *dev = &from->device[i],
						*mine = same_place(here, dev);

		if (!mine)
			ret = err_set(e, -ENODEV,
				      "the guest has %s, the destination puts nothing in that "
				      "place; use the "
				      "version of the source (%s)",
				      place_of(dev).s, from->program);
		else
			ret = check_device(dev, mine, e);
	}
	for (i = 0; !ret && i < here->n_devices; i++)
		if (!same_place(from, &here->device[i]))
			ret = err_set(e, -ENODEV,
				      "the destination has %s, the guest has nothing in that "
				      "place; use the "
				      "version of the source (%s)",
				      place_of(&here->device[i]).s, from->program);
	return ret;
}
