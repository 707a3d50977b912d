/*
 * The machine as values: what a guest was built as and what it was promised, carried as a flattened
 * device tree (a format with a reader in every language) in the first frame of a stream, in a
 * snapshot, and by --dump-dtb.
 *
 * Reading it back trusts nothing: dtb_check() on its form before libfdt sees it, then bounds on
 * every count, size and text. Nodes and properties that are not known are ignored, except those
 * that the sender lists as required.
 */
#ifndef MIGRATION_DESCRIPTION_DESCRIPTION_H
#define MIGRATION_DESCRIPTION_DESCRIPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpuid/cpuid.h"
#include "migration/description/dtb.h"
#include "msr/decide.h"

struct err;

#define DESCRIPTION_SIZE_MAX	DTB_SIZE_MAX /* bytes of the blob */
#define DESCRIPTION_VCPUS_MAX	255
#define DESCRIPTION_DEVICES_MAX 40
#define DESCRIPTION_PROPS_MAX	16
#define DESCRIPTION_REGIONS_MAX 4
#define DESCRIPTION_MEMORY_MAX	(UINT64_C(1) << 40) /* bytes */
#define DESCRIPTION_CMDLINE_MAX 4096		    /* NUL included */
#define DESCRIPTION_TEXT_MAX	(64 * 1024)	    /* policy, host facts */
#define DESCRIPTION_NO_IRQ	UINT32_MAX
#define DESCRIPTION_NO_SLOT	UINT32_MAX

/* A property of a device's back end, as text: "capacity" = "1073741824". */
struct description_prop {
	char name[24];	 /* a-z, 0-9 and '-' */
	char value[256]; /* printable ASCII */
};

/*
 * The properties that have a meaning; others may be there and are ignored.
 *   serial-number, capacity (bytes), block-size (bytes), mac: must be equal on both sides
 *   features (0x.., as offered to the guest): the destination's must contain the source's
 *   read-only ("yes", "no"): equal
 *   path, interface, vhost ("yes", "no"): a hint for people
 */
#define DESCRIPTION_SERIAL_NUMBER "serial-number"
#define DESCRIPTION_CAPACITY	  "capacity"
#define DESCRIPTION_BLOCK_SIZE	  "block-size"
#define DESCRIPTION_FEATURES	  "features"
#define DESCRIPTION_READ_ONLY	  "read-only"
#define DESCRIPTION_MAC		  "mac"
#define DESCRIPTION_PATH	  "path"
#define DESCRIPTION_INTERFACE	  "interface"
#define DESCRIPTION_VHOST	  "vhost"

enum description_space { DESCRIPTION_MMIO, DESCRIPTION_PORTS };

struct description_device {
	char type[24];		      /* "virtio-blk", "serial", "pvpanic": a-z, 0-9 and '-' */
	uint32_t slot;		      /* of virtio; DESCRIPTION_NO_SLOT: none */
	enum description_space space; /* what base and size are in */
	uint64_t base, size;
	uint32_t irq; /* GSI; DESCRIPTION_NO_IRQ: none */
	unsigned int n_props;
	struct description_prop prop[DESCRIPTION_PROPS_MAX];
};

struct description_vcpu {
	struct vcpu_report report;
	struct mitigation_promise promise;
	uint64_t held;	 /* bits at 1 there now; the promise may name more */
	uint64_t shadow; /* the guest's own value of SPEC_CTRL, never the effective one */
};

struct machine_description {
	char program[64];    /* "testudo 0.1.0" that wrote it */
	char guest_name[65]; /* "" if it was given none */
	unsigned int n_regions;
	struct {
		uint64_t base, size; /* guest-physical, multiples of GUEST_PAGE, ascending */
	} region[DESCRIPTION_REGIONS_MAX];
	char cmdline[DESCRIPTION_CMDLINE_MAX];

	struct cpuid_set cpuid; /* without topology */
	struct guest_contract contract;
	bool nested_shown;
	unsigned int n_vcpus;
	struct description_vcpu vcpu[DESCRIPTION_VCPUS_MAX];

	char host_name[65]; /* of the host that wrote it, as it calls itself; "" if unknown */
	char backend[32];   /* backend_name() where it was written; "" if none */
	char *policy;	    /* policy_format(); owned, NULL: none */
	char *host_facts;   /* host_file_format(); owned, NULL: none */

	unsigned int n_devices;
	struct description_device device[DESCRIPTION_DEVICES_MAX];
};

/* A description is large: allocate it. */
struct machine_description *description_new(void);
/** description_free - @d may be NULL */
void description_free(struct machine_description *d);

/** description_memory_size - the sum of the regions, bytes */
uint64_t description_memory_size(const struct machine_description *d);

/**
 * description_add_device - the next device
 * Return: the entry to fill in, zeroed but for "no slot", "no irq"; NULL when there are too many
 */
struct description_device *description_add_device(struct machine_description *d, const char *type);
/** description_add_prop - one property, by printf. Return: 0, -ENOSPC or -EINVAL (too long) */
int description_add_prop(struct description_device *dev, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** description_prop - its value, or NULL */
const char *description_prop(const struct description_device *dev, const char *name);

/**
 * description_check_bounds - is every value within the bounds above?
 * Called by both functions below; a description that passes can be written and read back equal.
 * Return: 0, or -EINVAL with node, property, value and bound in @e
 */
int description_check_bounds(const struct machine_description *d, struct err *e);

/**
 * description_to_fdt - write @d as a flattened device tree
 * @blob: receives a block of @len bytes that the caller frees
 * Return: 0; -EINVAL when a value is out of bounds, with its name in @e; -ENOMEM
 */
int description_to_fdt(const struct machine_description *d, void **blob, size_t *len,
		       struct err *e);

/**
 * description_from_fdt - read a flattened device tree that somebody sent
 * @len: of @blob; what the blob says about its own size must agree
 * @d: receives the description, the caller's to description_free(); NULL on error
 * Return: 0; -EINVAL or -E2BIG with node, property, value and bound in @e; -ENOMEM
 */
int description_from_fdt(const void *blob, size_t len, struct machine_description **d,
			 struct err *e);

/**
 * description_check - may the guest of @from be built as what @here was configured for?
 * @here: what the destination's command line made; n_regions 0 and n_vcpus 0 mean "as the stream
 *        says", and the CPU contract is not compared: the guest brings it
 * Devices must agree in number, order of slots, type, place and interrupt, and in the properties
 * that the guest can see.
 * Return: 0, or -ENODEV/-EINVAL with the first difference, both values and the cure in @e
 */
int description_check(const struct machine_description *from,
		      const struct machine_description *here, struct err *e);

#endif
