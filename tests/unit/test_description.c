#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/description/description.h"
#include "tests/unit/description_sample.h"

static void expect_text(const struct err *e, const char *word)
{
	if (!strstr(e->text, word))
		fail_msg("'%s' is not in: %s", word, e->text);
	assert_null(strchr(e->text, '\n'));
}

/* Equal in every member; texts of the heap by content. */
static void expect_equal(const struct machine_description *a, const struct machine_description *b)
{
	struct machine_description *x = malloc(sizeof(*x)), *y = malloc(sizeof(*y));

	assert_int_equal(!a->policy, !b->policy);
	assert_int_equal(!a->host_facts, !b->host_facts);
	if (a->policy)
		assert_string_equal(a->policy, b->policy);
	if (a->host_facts)
		assert_string_equal(a->host_facts, b->host_facts);
	*x = *a;
	*y = *b;
	x->policy = y->policy = x->host_facts = y->host_facts = NULL;
	assert_memory_equal(x, y, sizeof(*x));
	free(x);
	free(y);
}

static void round_trip(void **state)
{
	static const unsigned int vcpus[] = {1, 2, 17, 255};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(vcpus); i++) {
		struct machine_description *d = description_sample(vcpus[i]), *back;
		void *blob, *again;
		size_t len, len2;

		assert_int_equal(description_to_fdt(d, &blob, &len, NULL), 0);
		assert_int_equal(description_from_fdt(blob, len, &back, NULL), 0);
		expect_equal(d, back);
		assert_int_equal(description_to_fdt(back, &again, &len2, NULL), 0);
		assert_int_equal(len, len2);
		assert_memory_equal(blob, again, len);
		description_free(back);
		description_free(d);
		free(blob);
		free(again);
	}
}

/* The largest of everything fits into what a frame may carry. */
static void largest_fits(void **state)
{
	struct machine_description *d = description_sample(255), *back;
	unsigned int i, j;
	void *blob;
	size_t len;

	(void)state;
	memset(d->cmdline, 'x', sizeof(d->cmdline) - 1);
	d->cpuid.n_leaves = CPUID_SET_MAX;
	free(d->policy);
	free(d->host_facts);
	d->policy = calloc(1, DESCRIPTION_TEXT_MAX);
	d->host_facts = calloc(1, DESCRIPTION_TEXT_MAX);
	memset(d->policy, 'p', DESCRIPTION_TEXT_MAX - 1);
	memset(d->host_facts, 'h', DESCRIPTION_TEXT_MAX - 1);
	d->n_devices = 0;
	for (i = 0; i < DESCRIPTION_DEVICES_MAX; i++) {
		struct description_device *dev =
			description_add_device(d, "virtio-a-very-long-name");

		dev->base = 0xd0000000 + i * 0x1000;
		dev->size = 0x1000;
		for (j = 0; j < DESCRIPTION_PROPS_MAX; j++) {
			char name[32], value[256];

			snprintf(name, sizeof(name), "property-%u-%u", j, 10000u + i);
			memset(value, 'v', sizeof(value) - 1);
			value[sizeof(value) - 1] = '\0';
			assert_int_equal(description_add_prop(dev, name, "%s", value), 0);
		}
		assert_int_equal(description_add_prop(dev, "one-more", "x"), -ENOSPC);
	}
	assert_null(description_add_device(d, "one-more"));
	assert_int_equal(description_to_fdt(d, &blob, &len, NULL), 0);
	assert_true(len < DESCRIPTION_SIZE_MAX);
	assert_int_equal(description_from_fdt(blob, len, &back, NULL), 0);
	expect_equal(d, back);
	description_free(back);
	description_free(d);
	free(blob);
}

/* ---- values out of bounds, on both ways ---- */

static void no_memory(struct machine_description *d)
{
	d->n_regions = 0;
}
static void overlapping(struct machine_description *d)
{
	d->region[1].base = 0x1000;
}
static void unaligned(struct machine_description *d)
{
	d->region[0].size = 4095;
}
static void huge_memory(struct machine_description *d)
{
	d->region[1].size = DESCRIPTION_MEMORY_MAX;
}
static void wrapping_memory(struct machine_description *d)
{
	d->region[1].base = UINT64_MAX - 4095;
}
static void no_vcpus(struct machine_description *d)
{
	d->n_vcpus = 0;
}
static void no_cpuid(struct machine_description *d)
{
	d->cpuid.n_leaves = 0;
}
static void promise_outside(struct machine_description *d)
{
	d->vcpu[1].promise = (struct mitigation_promise) {true, 0x400, 0x401, false};
}
static void newline_in_cmdline(struct machine_description *d)
{
	strcpy(d->cmdline, "a\nb");
}
static void escape_in_name(struct machine_description *d)
{
	strcpy(d->guest_name, "\x1b[2J");
}
static void bell_in_policy(struct machine_description *d)
{
	d->policy[0] = '\a';
}
static void device_beyond(struct machine_description *d)
{
	d->device[0].base = UINT64_MAX;
}
static void port_beyond(struct machine_description *d)
{
	d->device[2].base = 0xffff;
}
static void device_empty(struct machine_description *d)
{
	d->device[0].size = 0;
}
static void device_twice(struct machine_description *d)
{
	d->device[1].base = d->device[0].base;
}
static void irq_beyond(struct machine_description *d)
{
	d->device[0].irq = 1024;
}
static void slot_beyond(struct machine_description *d)
{
	d->device[0].slot = 256;
}
static void type_capital(struct machine_description *d)
{
	d->device[0].type[0] = 'V';
}
static void type_empty(struct machine_description *d)
{
	d->device[3].type[0] = '\0';
}
static void prop_twice(struct machine_description *d)
{
	strcpy(d->device[0].prop[1].name, d->device[0].prop[0].name);
}
static void prop_newline(struct machine_description *d)
{
	d->device[0].prop[0].value[0] = '\n';
}

static const struct {
	void (*change)(struct machine_description *);
	const char *says;
} out_of_bounds[] = {
	{no_memory, "0 memory regions"},
	{overlapping, "memory@1000"},
	{unaligned, "whole pages"},
	{huge_memory, "up to 1 TiB"},
	{wrapping_memory, "memory@fffffffffffff000"},
	{no_vcpus, "0 vCPUs"},
	{no_cpuid, "0 CPUID leaves"},
	{promise_outside, "cpu@1 was promised 0x401"},
	{newline_in_cmdline, "bootargs has byte 0x0a at 1"},
	{escape_in_name, "guest-name has byte 0x1b"},
	{bell_in_policy, "policy has byte 0x07"},
	{device_beyond, "virtio-blk has 0x1000 bytes at 0xffffffffffffffff"},
	{port_beyond, "below 0x10000"},
	{device_empty, "virtio-blk has 0x0 bytes"},
	{device_twice, "are both at 0xd0000000"},
	{irq_beyond, "interrupt 1024"},
	{slot_beyond, "slot 256"},
	{type_capital, "type has byte 0x56"},
	{type_empty, "type is empty"},
	{prop_twice, "property serial-number twice"},
	{prop_newline, "serial-number has byte 0x0a"},
};

static void bounds_hold(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(out_of_bounds); i++) {
		struct machine_description *d = description_sample(4);
		struct err e = {0};
		void *blob;
		size_t len;

		out_of_bounds[i].change(d);
		assert_int_equal(description_to_fdt(d, &blob, &len, &e), -EINVAL);
		expect_text(&e, out_of_bounds[i].says);
		description_free(d);
	}
}

/* ---- trees that somebody else wrote ---- */

struct edit {
	const char *name;
	const char *node, *prop;
	const void *value; /* NULL: delete the property, or the node when @prop is NULL */
	int len;
	const char *says; /* NULL: taken */
};

static const struct edit edits[] = {
	{"nothing", "/", "testudo,program", "x", 2, NULL},
	{"another machine", "/", "compatible", "qemu,virt", 10, "not compatible"},
	{"something required", "/", "testudo,required", "tpm", 4, "requires 'tpm'"},
	{"unknown property", "/cpus", "testudo,new", "x", 2, NULL},
	{"no chosen", "/chosen", NULL, NULL, 0, "no node 'chosen'"},
	{"no bootargs", "/chosen", "bootargs", NULL, 0, "property bootargs"},
	{"bootargs without NUL", "/chosen", "bootargs", "abc", 3, "property bootargs"},
	{"bootargs with two", "/chosen", "bootargs", "a\0b", 4, "property bootargs"},
	{"empty bootargs", "/chosen", "bootargs", "", 1, NULL},
	{"bootargs with nothing", "/chosen", "bootargs", "", 0, "property bootargs"},
	{"control character", "/chosen", "bootargs", "\x1b", 2, "byte 0x1b"},
	{"no cpus", "/cpus", NULL, NULL, 0, "no node 'cpus'"},
	{"vendor", "/cpus", "testudo,vendor", "via", 4, "zhaoxin"},
	{"no vendor", "/cpus", "testudo,vendor", NULL, 0, "property testudo,vendor"},
	{"short number", "/cpus", "testudo,arch-capabilities", "abcd", 4, "two cells"},
	{"cpuid of half a row", "/cpus", "testudo,cpuid", "abcdefghijklmnopqrstuvwxyz", 26,
	 "seven cells"},
	{"no cpuid", "/cpus", "testudo,cpuid", "", 0, "0 CPUID leaves"},
	{"cpu out of order", "/cpus/cpu@1", "reg", "\0\0\0\5", 4, "has reg 5"},
	{"cpu 0 missing", "/cpus/cpu@0", NULL, NULL, 0, "has reg 1"},
	{"last cpu missing", "/cpus/cpu@3", NULL, NULL, 0, NULL},
	{"half a promise", "/cpus/cpu@1", "testudo,promise", "12345678", 8, "four cells"},
	{"not what was held", "/cpus/cpu@2", "testudo,held", NULL, 0, "testudo,held"},
	{"weak without a promise", "/cpus/cpu@0", "testudo,promise-weak", "", 0, "was promised"},
	{"no host name", "/mitigation", "testudo,host-name", NULL, 0, "less than 65"},
	{"host name that is none", "/mitigation", "testudo,host-name", "a\nb", 4, "byte 0x0a"},
	{"no shadow", "/cpus/cpu@2", "testudo,spec-ctrl", NULL, 0, "testudo,spec-ctrl"},
	{"no policy", "/mitigation", "testudo,policy", NULL, 0, NULL},
	{"policy without NUL", "/mitigation", "testudo,policy", "x", 1, "64 KiB"},
	{"no mitigation", "/mitigation", NULL, NULL, 0, "no node 'mitigation'"},
	{"memory without place", "/memory@0", "reg", NULL, 0, "property reg"},
	{"no low memory", "/memory@0", NULL, NULL, 0, NULL},
	{"short place", "/soc/virtio@d0000000", "reg", "abcd", 4, "four cells"},
	{"no type: not a device", "/soc/virtio@d0000000", "testudo,type", NULL, 0, NULL},
	{"type too long", "/soc/virtio@d0000000", "testudo,type", "abcdefghijklmnopqrstuvwxyz", 27,
	 "less than 24"},
	{"interrupt of one cell", "/soc/virtio@d0000000", "interrupts", "abcd", 4, "two cells"},
	{"no interrupt", "/soc/virtio@d0000000", "interrupts", NULL, 0, NULL},
	{"property name too long", "/soc/virtio@d0000000/back-end", "a-name-of-twenty-four-ch", "x",
	 2, "name of less than"},
	{"property name with capital", "/soc/virtio@d0000000/back-end", "Capacity", "x", 2,
	 "name has byte 0x43"},
	{"no back end", "/soc/virtio@d0000000/back-end", NULL, NULL, 0, NULL},
	{"no isa", "/isa", NULL, NULL, 0, "no node 'isa'"},
};

static void foreign_trees(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(edits); i++) {
		struct machine_description *d = description_sample(4), *back;
		const struct edit *x = &edits[i];
		struct err e = {0};
		void *blob, *room;
		size_t len;
		int node;

		print_message("%s\n", x->name);
		assert_int_equal(description_to_fdt(d, &blob, &len, NULL), 0);
		room = malloc(len + 1024);
		assert_int_equal(fdt_open_into(blob, room, (int)len + 1024), 0);
		node = fdt_path_offset(room, x->node);
		assert_true(node >= 0);
		if (!x->prop)
			assert_int_equal(fdt_del_node(room, node), 0);
		else if (!x->value)
			assert_int_equal(fdt_delprop(room, node, x->prop), 0);
		else
			assert_int_equal(fdt_setprop(room, node, x->prop, x->value, x->len), 0);
		assert_int_equal(fdt_pack(room), 0);
		if (x->says) {
			assert_int_equal(description_from_fdt(room, fdt_totalsize(room), &back, &e),
					 -EINVAL);
			assert_null(back);
			expect_text(&e, x->says);
		} else {
			assert_int_equal(description_from_fdt(room, fdt_totalsize(room), &back, &e),
					 0);
			description_free(back);
		}
		description_free(d);
		free(blob);
		free(room);
	}
}

/* Cut at every byte, and every byte changed: an error or a description within bounds. */
static void damaged_trees(void **state)
{
	struct machine_description *d = description_sample(2), *back;
	uint8_t *blob, *copy;
	size_t len, i;

	(void)state;
	assert_int_equal(description_to_fdt(d, (void **)&blob, &len, NULL), 0);
	for (i = 0; i < len; i++) {
		copy = malloc(i ? i : 1); /* a block of that size: the sanitizer sees each byte */
		memcpy(copy, blob, i);
		assert_int_not_equal(description_from_fdt(copy, i, &back, NULL), 0);
		free(copy);
	}
	copy = malloc(len);
	for (i = 0; i < len; i++) {
		struct err e = {0};

		memcpy(copy, blob, len);
		copy[i] ^= (uint8_t)(1u << i % 8);
		if (description_from_fdt(copy, len, &back, &e) == 0)
			assert_int_equal(description_check_bounds(back, NULL), 0);
		else
			assert_null(strchr(e.text, '\n'));
		description_free(back);
	}
	free(copy);
	/* a length that the blob does not agree with */
	assert_int_equal(description_from_fdt(blob, len - 1, &back, NULL), -EINVAL);
	blob = realloc(blob, DESCRIPTION_SIZE_MAX + 1);
	assert_int_equal(description_from_fdt(blob, DESCRIPTION_SIZE_MAX + 1, &back, NULL), -E2BIG);
	free(blob);
	description_free(d);
}

/* People read it with dtc, which finds nothing to complain of. */
static void dtc_is_content(void **state)
{
	char path[64] = "/tmp/test_description.XXXXXX", cmd[512], line[512], all[16384] = "";
	struct machine_description *d = description_sample(4);
	int fd = mkstemp(path);
	void *blob;
	size_t len;
	FILE *p;

	(void)state;
	if (system("dtc --version >/dev/null 2>&1") != 0) {
		print_message("dtc is not installed (device-tree-compiler)\n");
		unlink(path);
		skip();
	}
	assert_int_equal(description_to_fdt(d, &blob, &len, NULL), 0);
	assert_int_equal(write(fd, blob, len), len);
	close(fd);
	/* decompiled, then compiled again: the checks run on both ways */
	snprintf(cmd, sizeof(cmd),
		 "{ dtc -I dtb -O dts %s | tee %s.dts | dtc -I dts -O dtb -o /dev/null; } 2>&1; "
		 "cat %s.dts",
		 path, path, path);
	p = popen(cmd, "r");
	assert_non_null(p);
	while (fgets(line, sizeof(line), p))
		if (strlen(all) + strlen(line) < sizeof(all))
			strcat(all, line);
	assert_int_equal(pclose(p), 0);
	unlink(path);
	strcat(path, ".dts");
	unlink(path);
	assert_null(strstr(all, "Warning"));
	assert_null(strstr(all, "ERROR"));
	assert_non_null(strstr(all, "bootargs = \"console=ttyS0 root=/dev/vda1 ro quiet\";"));
	assert_non_null(strstr(all, "virtio@d0000000 {"));
	assert_non_null(strstr(all, "serial@i3f8 {"));
	assert_non_null(strstr(all, "serial-number = \"disk-0\";"));
	description_free(d);
	free(blob);
}

/* ---- does a guest fit here? ---- */

static void set_prop(struct machine_description *d, unsigned int dev, unsigned int prop,
		     const char *value)
{
	strcpy(d->device[dev].prop[prop].value, value);
}

static void here_same(struct machine_description *d)
{
	(void)d;
}
static void here_open(struct machine_description *d)
{
	d->n_regions = 0;
	d->n_vcpus = 0;
}
static void here_smaller(struct machine_description *d)
{
	d->n_regions = 1;
	d->region[0].size = 512 * MiB;
}
static void here_laid_out(struct machine_description *d)
{
	d->region[1].base += 4096;
}
static void here_vcpus(struct machine_description *d)
{
	d->n_vcpus = 8;
}
static void here_no_disk(struct machine_description *d)
{
	d->device[0] = d->device[3];
	d->n_devices = 3;
}
static void here_extra(struct machine_description *d)
{
	struct description_device *dev = description_add_device(d, "virtio-net");

	dev->slot = 2;
	dev->base = 0xd0002000;
	dev->size = 0x1000;
}
static void here_swapped(struct machine_description *d)
{
	strcpy(d->device[0].type, "virtio-net");
}
static void here_no_rng(struct machine_description *d)
{
	d->device[1] = d->device[3];
	d->n_devices = 3;
}
static void here_in_other_order(struct machine_description *d)
{
	strcpy(d->device[0].type, "virtio-rng");
	strcpy(d->device[1].type, "virtio-blk");
}
static void here_elsewhere(struct machine_description *d)
{
	d->device[0].base = 0xd0009000;
}
static void here_irq(struct machine_description *d)
{
	d->device[0].irq = 9;
}
static void here_serial_number(struct machine_description *d)
{
	set_prop(d, 0, 0, "disk-1");
}
static void here_capacity(struct machine_description *d)
{
	set_prop(d, 0, 1, "1073741312");
}
static void here_more_features(struct machine_description *d)
{
	set_prop(d, 0, 2, "0x130000340");
}
static void here_fewer_features(struct machine_description *d)
{
	set_prop(d, 0, 2, "0x130000040");
}
static void here_path(struct machine_description *d)
{
	set_prop(d, 0, 3, "/elsewhere");
}
static void here_no_serial_number(struct machine_description *d)
{
	strcpy(d->device[0].prop[0].name, "other");
}

static const struct {
	void (*change)(struct machine_description *);
	int ret;
	const char *says, *cure;
} fits[] = {
	{here_same, 0, NULL, NULL},
	{here_open, 0, NULL, NULL},
	{here_more_features, 0, NULL, NULL},
	{here_path, 0, NULL, NULL},
	{here_smaller, -EINVAL,
	 "the guest has 4096 MiB of memory, the destination is configured for 512", "give -m 4096"},
	{here_laid_out, -EINVAL, "memory region 1 begins at 0x100000000", "testudo 0.1.0"},
	{here_vcpus, -EINVAL, "the guest has 4 vCPUs, the destination is configured for 8",
	 "give -c 4"},
	{here_no_disk, -ENODEV,
	 "the guest has 1 disk (virtio-blk), testudo run --incoming was given no disk",
	 "add -d FILE"},
	{here_extra, -ENODEV,
	 "the guest has no network device (virtio-net), testudo run --incoming was given 1 network "
	 "device",
	 "leave out -n"},
	{here_no_rng, -ENODEV,
	 "the guest has 1 entropy source (virtio-rng), testudo run --incoming was given no entropy "
	 "source",
	 "leave out --no-rng"},
	{here_swapped, -ENODEV, "given no disk: add -d FILE. the guest has no network device",
	 "leave out -n"},
	{here_in_other_order, -EINVAL,
	 "the guest has virtio-blk in slot 0, the destination has virtio-rng",
	 "order of the source"},
	{here_elsewhere, -ENODEV,
	 "the guest has virtio-blk in slot 0, the destination puts nothing in that place",
	 "version of the source (testudo 0.1.0)"},
	{here_irq, -EINVAL, "interrupt 5", "interrupt 9"},
	{here_serial_number, -EINVAL, "serial-number 'disk-0', the destination's 'disk-1'",
	 "serial="},
	{here_no_serial_number, -EINVAL, "serial-number 'disk-0', the destination's none",
	 "serial="},
	{here_capacity, -EINVAL, "capacity '1073741824', the destination's '1073741312'",
	 "same size"},
	{here_fewer_features, -EINVAL,
	 "offered features 0x130000240, the destination offers 0x130000040", "lacks 0x200"},
};

static void what_fits(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(fits); i++) {
		struct machine_description *from = description_sample(4),
					   *here = description_sample(4);
		struct err e = {0};

		fits[i].change(here);
		assert_int_equal(description_check(from, here, &e), fits[i].ret);
		if (fits[i].says) {
			expect_text(&e, fits[i].says);
			expect_text(&e, fits[i].cure);
		}
		description_free(from);
		description_free(here);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),	 cmocka_unit_test(largest_fits),
		cmocka_unit_test(bounds_hold),	 cmocka_unit_test(foreign_trees),
		cmocka_unit_test(damaged_trees), cmocka_unit_test(dtc_is_content),
		cmocka_unit_test(what_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
