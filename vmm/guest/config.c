#include "vmm/guest/config.h"

#include <errno.h>
#include <limits.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/num.h"
#include "base/options.h"
#include "control/rundir.h"
#include "vmm/hold/backend.h"
#include "vmm/kvm/dirty_ring.h"
#include "vmm/layout.h"
#include "vmm/machine/cpu_option.h"

#define DEFAULT_CONSOLE "console=ttyS0"

/*
 * Cut the next comma-separated word off *@rest, in place; ",," stands for one comma. Returns NULL
 * at the end.
 */
static char *next_word(char **rest)
{
	char *word = *rest, *from = word, *to = word;

	if (!word)
		return NULL;
	while (*from && (*from != ',' || from[1] == ',')) {
		if (*from == ',')
			from++;
		*to++ = *from++;
	}
	*rest = *from ? from + 1 : NULL;
	*to = '\0';
	return word;
}

static int take_dirty_ring(void *into, char *text, struct err *e)
{
	struct run_config *c = into;
	uint64_t n;
	int ret = num_parse_u64("--dirty-ring", text, 0, DIRTY_RING_MAX, &n, e);

	if (ret < 0)
		return ret;
	if (n && (n < DIRTY_RING_MIN || n & (n - 1)))
		return err_set(e, -EINVAL,
			       "--dirty-ring %llu: the size of a ring is a power of two from %d to "
			       "%d; give 4096",
			       (unsigned long long)n, DIRTY_RING_MIN, DIRTY_RING_MAX);
	c->machine.dirty_ring = (uint32_t)n;
	return 0;
}

static int take_disk(void *into, char *arg, struct err *e)
{
	struct run_config *c = into;
	struct blk_options *d = &c->machine.disk[c->machine.n_disks];
	char *rest = arg, *word;

	if (c->machine.n_disks == MACHINE_MAX_DISKS)
		return err_set(e, -EINVAL, "-d: more than %d disks; leave some out",
			       MACHINE_MAX_DISKS);
	memset(d, 0, sizeof(*d));
	d->path = next_word(&rest);
	if (!*d->path)
		return err_set(e, -EINVAL,
			       "-d: no file name; give "
			       "FILE[,ro][,direct][,serial=ID][,format=raw]");
	while ((word = next_word(&rest))) {
		if (strcmp(word, "ro") == 0)
			d->readonly = true;
		else if (strcmp(word, "direct") == 0)
			d->direct = true;
		else if (strncmp(word, "serial=", 7) == 0)
			d->serial = word + 7;
		else if (strcmp(word, "format=raw") == 0)
			d->raw = true;
		else if (strncmp(word, "format=", 7) == 0)
			return err_set(e, -EINVAL,
				       "-d %s: '%s': only raw images can be used; make one with "
				       "qemu-img convert -O raw",
				       d->path, word);
		else
			return err_set(e, -EINVAL,
				       "-d %s: unknown word '%s'; give ro, direct, serial=ID or "
				       "format=raw (a comma in the file's name is written ,,)",
				       d->path, word);
	}
	if (d->serial && strlen(d->serial) > VIRTIO_BLK_ID_BYTES)
		return err_set(e, -EINVAL, "-d %s: serial '%s' has %zu bytes; give at most %d",
			       d->path, d->serial, strlen(d->serial), VIRTIO_BLK_ID_BYTES);
	d->has_serial = d->serial;
	c->machine.n_disks++;
	return 0;
}

/* vhost, vhost=on, vhost=off, vhostfd=N. Return: 1; 0 for another word; -EINVAL */
static int parse_vhost(const char *word, struct tap_options *n, struct err *e)
{
	uint64_t fd;
	int ret;

	if (strcmp(word, "vhost") == 0 || strcmp(word, "vhost=on") == 0) {
		n->vhost = true;
		return 1;
	}
	if (strcmp(word, "vhost=off") == 0) {
		n->vhost = false;
		return 1;
	}
	if (strncmp(word, "vhost=", 6) == 0)
		return err_set(e, -EINVAL, "-n: '%s': give vhost, vhost=on or vhost=off", word);
	if (strncmp(word, "vhostfd=", 8) != 0)
		return 0;
	ret = num_parse_u64("-n vhostfd", word + 8, 3, INT_MAX, &fd, e);
	if (ret < 0)
		return ret;
	n->vhost = true;
	n->vhost_fd = (int)fd;
	return 1;
}

static int take_network(void *into, char *arg, struct err *e)
{
	struct run_config *c = into;
	struct tap_options *n = &c->machine.net[c->machine.n_nets];
	char *rest = arg, *word;
	uint64_t fd = 0;
	int ret = 0;

	if (c->machine.n_nets == MACHINE_MAX_NETS)
		return err_set(e, -EINVAL, "-n: more than %d network devices; leave some out",
			       MACHINE_MAX_NETS);
	memset(n, 0, sizeof(*n));
	while (ret >= 0 && (word = next_word(&rest))) {
		ret = parse_vhost(word, n, e);
		if (ret)
			continue;
		if (strncmp(word, "tap=", 4) == 0 && word[4] && strlen(word + 4) < IFNAMSIZ)
			n->name = word + 4;
		else if (strncmp(word, "fd=", 3) == 0)
			ret = num_parse_u64("-n fd", word + 3, 3, INT_MAX, &fd, e);
		else if (strncmp(word, "mac=", 4) == 0)
			ret = tap_parse_mac("-n mac", word + 4, n->mac, e);
		else
			ret = err_set(e, -EINVAL,
				      "-n: '%s' is not tap=IF with a name of 1 to %d characters, "
				      "fd=N, mac=MAC, vhost or vhostfd=N; give -n "
				      "tap=IF[,mac=MAC][,vhost] or -n fd=N[,mac=MAC][,vhost]",
				      word, IFNAMSIZ - 1);
		if (!ret && strncmp(word, "mac=", 4) == 0)
			n->has_mac = true;
	}
	if (ret < 0)
		return ret;
	if (!n->name == !fd)
		return err_set(e, -EINVAL,
			       "-n: give one interface by tap=IF, or one descriptor by fd=N");
	if (n->vhost_fd && (!n->vhost || n->vhost_fd == (int)fd))
		return err_set(e, -EINVAL,
			       "-n vhostfd=%d with %s; vhostfd is an open /dev/vhost-net of its "
			       "own",
			       n->vhost_fd, n->vhost ? "the same fd" : "vhost=off");
	n->fd = (int)fd;
	c->machine.n_nets++;
	return 0;
}

static int append_params(struct run_config *c, const char *more, struct err *e)
{
	char *joined = NULL;

	if (asprintf(&joined, "%s%s%s", c->params ? c->params : "", c->params ? " " : "", more) < 0)
		return err_no_memory(e);
	free(c->params);
	c->params = joined;
	return 0;
}

static int take_params(void *into, char *more, struct err *e)
{
	return append_params(into, more, e);
}

static int take_kernel(void *into, char *path, struct err *e)
{
	struct run_config *c = into;

	if (c->kernel)
		return err_set(e, -EINVAL,
			       "two kernels, '%s' and '%s'; give one, and the command line with -p",
			       c->kernel, path);
	c->kernel = path;
	return 0;
}

static int take_name(void *into, char *name, struct err *e)
{
	struct run_config *c = into;

	c->name = name;
	return rundir_check_name("--name", name, e);
}

/* Where the value of an option goes. */
#define SETS(member, value)	    OPTION_SETS(struct run_config, member, value)
#define TEXT(member)		    OPTION_TEXT_IN(struct run_config, member)
#define NUMBER(member, least, most) OPTION_NUMBER_IN(struct run_config, member, least, most)
#define SIZE(member)		    OPTION_SIZE_IN(struct run_config, member)
#define GIVEN(member)		    OPTION_GIVEN_IN(struct run_config, member)

static const struct option_row rows[] = {
	{"kernel", 'k', "FILE", "kernel: bzImage, or ELF with a PVH note; also as a plain argument",
	 OPTION_CALLS(take_kernel)},
	{"initrd", 'i', "FILE", "initial RAM disk", TEXT(initrd)},
	{"params", 'p', "STRING",
	 "kernel command line, after " DEFAULT_CONSOLE " (which a console= of yours replaces)",
	 OPTION_CALLS(take_params), GIVEN(params_given)},
	{"cpus", 'c', "N", "virtual CPUs, 1 to 255 (default 1)",
	 NUMBER(machine.n_vcpus, 1, MACHINE_MAX_VCPUS), GIVEN(cpus_given)},
	{"mem", 'm', "SIZE", "memory; a plain number is MiB, suffixes K M G T P (default 512)",
	 SIZE(machine.memory.size_bytes), GIVEN(memory_given)},
	{"disk", 'd', "FILE[,ro][,direct][,serial=ID][,format=raw]",
	 "raw image or block device as a virtio disk; may be repeated; a comma in FILE is written "
	 ",,; with format=raw it is raw even if it looks like another format",
	 OPTION_CALLS(take_disk)},
	{"network", 'n', "tap=IF|fd=N[,mac=MAC][,vhost|,vhostfd=N]",
	 "virtio network device on a tap interface that exists, or on the descriptor of an open "
	 "one; with vhost the host's kernel moves the frames (vhostfd: by an open /dev/vhost-net); "
	 "may be repeated",
	 OPTION_CALLS(take_network)},
	{"serial", 0, "WHERE",
	 "COM1 on stdio (default), file:PATH, unix:PATH, pty or none; on a terminal Ctrl-a x ends "
	 "the guest, Ctrl-a h tells more",
	 TEXT(serial)},
	{"name", 0, "NAME",
	 "what testudo list and its like know the guest by (default guest-PID; with --incoming the "
	 "name that the guest had)",
	 OPTION_CALLS(take_name)},
	{"incoming", 0, "URI",
	 "do not boot: wait for a guest that testudo migrate sends to tcp:HOST:PORT, unix:PATH or "
	 "fd:N, or load the one that testudo save wrote to file:PATH",
	 TEXT(incoming)},
	{"daemonize", 0, NULL,
	 "go into the background once the guest runs, or listens with --incoming; --serial is none "
	 "then unless given",
	 SETS(daemonize, true)},
	{"ready-fd", 0, "N",
	 "write a line to descriptor N once the guest can be paused, saved and moved, or listens "
	 "with --incoming",
	 NUMBER(ready_fd, 1, INT_MAX)},
	{"paused", 'S', NULL, "do not let the guest run before testudo resume", SETS(paused, true)},
	{"verify-snapshot", 0, NULL,
	 "with --incoming file: read all memory and compare it with its checksums before the guest "
	 "runs",
	 SETS(verify_snapshot, true)},
	{"clock-realtime", 0, NULL,
	 "with --incoming file: set the guest's clocks on by the time of day that passed since it "
	 "was saved; by default they stood still",
	 SETS(clock_realtime, true)},
	{"dump-dtb", 0, "FILE",
	 "write the machine's description to FILE as a flattened device tree, and go on",
	 TEXT(dump_dtb)},
	{"no-reboot", 0, NULL, "end with exit code 32 when the guest resets, do not restart it",
	 SETS(no_reboot, true)},
	{"hugepages", 0, NULL, "guest memory from the host's pool of 2 MiB pages",
	 SETS(machine.memory.hugepages, true)},
	{"prealloc", 0, NULL, "take all guest memory before the guest starts",
	 SETS(machine.memory.prealloc, true)},
	{"dirty-ring", 0, "N",
	 "let each vCPU tell a migration what it wrote, in a ring of N entries (a power of two, "
	 "1024 to 65536); 0, the default: KVM's dirty log",
	 OPTION_CALLS(take_dirty_ring)},
	{"no-rng", 0, NULL, "leave out the virtio entropy source", SETS(machine.rng, false),
	 GIVEN(rng_given)},
	{"no-sandbox", 0, NULL, "do not lock the process in (debuggers, odd environments)",
	 SETS(sandbox, false)},
	{"cpu", 0, "CPU",
	 "the CPU that the guest is shown: host (default), x86-64-v2, -v3, -v4, a server model "
	 "such as icelake-server, each with ,+FEATURE and ,-FEATURE; or a template FILE.json; help "
	 "lists the names",
	 TEXT(cpu)},
	{"policy", 0, "FILE",
	 "what to hold in SPEC_CTRL for the guest, and what to do where this host cannot (YAML)",
	 TEXT(policy)},
	{"host-facts", 0, "FILE",
	 "believe FILE (from testudo host --json) about this host's CPU, where its own CPUID hides "
	 "what it is",
	 TEXT(host_facts)},
	{"mitigation-report", 0, "FILE",
	 "keep FILE true about which SPEC_CTRL bits are held for the guest, and why (JSON)",
	 TEXT(mitigation_report)},
	{CONFIG_FORCE_CAP, 0, "N",
	 "the number of KVM_CAP_FORCE_SPEC_CTRL on a patched kernel (default: found by trying)",
	 NUMBER(force_cap, 1, CONFIG_FORCE_CAP_MAX)},
	{"quiet", 'q', NULL, "only errors on standard error", SETS(log_level, LOG_ERR)},
	{"verbose", 'v', NULL, "debug messages on standard error", SETS(log_level, LOG_DEBUG)},
	OPTION_HELP_ROW,
};

static const struct options options = {
	OPTIONS_TABLE(rows),
	.see = "testudo run --help",
	.head = "Usage: testudo run [OPTION]... [KERNEL]\n\n"
		"Boot a guest and wait until it ends.\n\nOptions:\n",
	.tail = "\nExit codes:\n"
		"  0   the guest powered off, or was ended with the escape key\n"
		"  1   testudo or the host failed\n"
		"  2   wrong usage\n"
		"  3   bad input: kernel, initrd, disk, network interface, command line, a name in "
		"use\n"
		"  4   refused: this host cannot do what the policy demands\n"
		"  32  the guest reset, with --no-reboot\n"
		"  33  triple fault, or KVM could not go on\n"
		"  34  the guest panicked (pvpanic)\n",
	.indent = 6,
};

bool config_print_help(void)
{
	return options_print_help(&options);
}

/* ---- what options say together ---- */

/* The console goes first: what follows a "--" in @params is for init, not for the kernel. */
static int add_console(struct run_config *c, struct err *e)
{
	char *user = c->params;
	int ret;

	if (user && (strncmp(user, "console=", 8) == 0 || strstr(user, " console=")))
		return 0;
	c->params = NULL;
	ret = append_params(c, DEFAULT_CONSOLE, e);
	if (!ret && user)
		ret = append_params(c, user, e);
	free(user);
	return ret;
}

static bool from_file(const struct run_config *c)
{
	return c->incoming && strncmp(c->incoming, "file:", 5) == 0;
}

static int check_serial(const struct run_config *c, struct err *e)
{
	if (c->daemonize && c->serial && strcmp(c->serial, "stdio") == 0)
		return err_set(
			e, -EINVAL,
			"--serial stdio with --daemonize: nothing is left to read and write; "
			"give file:PATH, unix:PATH, pty or none");
	return 0;
}

static int check_kernel(const struct run_config *c, struct err *e)
{
	if (!c->kernel && !c->incoming)
		return err_set(e, -EINVAL, "no kernel; give one: testudo run [OPTION]... KERNEL");
	return 0;
}

static int check_cpu(const struct run_config *c, struct err *e)
{
	if (c->incoming && c->cpu)
		return err_set(
			e, -EINVAL,
			"--cpu %s with --incoming: a guest brings the CPU that it was shown; "
			"leave --cpu out",
			c->cpu);
	return 0;
}

static int check_file(const struct run_config *c, struct err *e)
{
	if (c->verify_snapshot && !from_file(c))
		return err_set(e, -EINVAL,
			       "--verify-snapshot: only a guest from a file can be checked "
			       "beforehand; give --incoming file:PATH");
	if (c->clock_realtime && !from_file(c))
		return err_set(e, -EINVAL,
			       "--clock-realtime: only a guest from a file stood still by the wall "
			       "clock; give --incoming file:PATH");
	if (from_file(c) && (c->machine.memory.hugepages || c->machine.memory.prealloc))
		return err_set(e, -EINVAL,
			       "--%s with --incoming file: memory is mapped from the file; leave "
			       "it out",
			       c->machine.memory.hugepages ? "hugepages" : "prealloc");
	return 0;
}

static int check_slots(const struct run_config *c, struct err *e)
{
	/* a guest that comes may have none */
	const unsigned int rngs = c->machine.rng && !c->incoming;

	if (c->machine.n_disks + c->machine.n_nets + rngs > LAYOUT_VIRTIO_SLOTS)
		return err_set(e, -EINVAL,
			       "%u disks (-d), %u network devices (-n) and %d entropy source do "
			       "not fit into %d virtio slots; leave some out",
			       c->machine.n_disks, c->machine.n_nets, c->machine.rng,
			       LAYOUT_VIRTIO_SLOTS);
	return 0;
}

/* A descriptor that two options name would be closed, or read from, behind one's back. */
static int check_descriptors(const struct run_config *c, struct err *e)
{
	struct {
		const char *option;
		int fd; /* 0: none */
	} given[2 + 2 * MACHINE_MAX_NETS] = {{"--ready-fd ", c->ready_fd}};
	unsigned int n = 1, i, k;

	if (c->incoming && strncmp(c->incoming, "fd:", 3) == 0) {
		given[n].option = "--incoming fd:";
		given[n++].fd = (int)strtol(c->incoming + 3, NULL, 10);
	}
	for (i = 0; i < c->machine.n_nets; i++) {
		given[n].option = "-n fd=";
		given[n++].fd = c->machine.net[i].fd;
		given[n].option = "-n vhostfd=";
		given[n++].fd = c->machine.net[i].vhost_fd;
	}
	for (i = 1; i < n; i++)
		for (k = 0; given[i].fd && k < i; k++)
			if (given[k].fd == given[i].fd)
				return err_set(e, -EINVAL,
					       "%s%d and %s%d: a descriptor has one use; give "
					       "each its own",
					       given[k].option, given[k].fd, given[i].option,
					       given[i].fd);
	return 0;
}

/* What several options have to agree on, in the order in which it is told. */
static int (*const checks[])(const struct run_config *c, struct err *e) = {
	check_serial, check_kernel, check_cpu, check_file, check_slots, check_descriptors,
};

static void set_defaults(struct run_config *c)
{
	memset(c, 0, sizeof(*c));
	c->machine.n_vcpus = 1;
	c->machine.memory.size_bytes = 512 * MiB;
	c->machine.rng = true;
	c->sandbox = true;
	c->log_level = LOG_INFO;
	c->force_cap = BACKEND_FIND_CAP;
}

/* Options, then the kernel as a plain word. */
static int read_words(struct run_config *c, int argc, char **argv, struct err *e)
{
	int i = options_parse(&options, c, argc, argv, e), ret = i;

	c->help = i == 0;
	for (; i > 0 && i < argc && ret >= 0; i++)
		ret = take_kernel(c, argv[i], e);
	c->cpu_help = ret >= 0 && c->cpu && strcmp(c->cpu, CPU_OPTION_HELP) == 0;
	return ret < 0 ? ret : 0;
}

/* What depends on another option where it is not given. */
static int complete(struct run_config *c, struct err *e)
{
	if (!c->serial)
		c->serial = c->daemonize ? "none" : "stdio";
	if (c->incoming && !c->cpus_given)
		c->machine.n_vcpus = MACHINE_MAX_VCPUS;
	return add_console(c, e);
}

int config_parse(struct run_config *c, int argc, char **argv, struct err *e)
{
	size_t i;
	int ret;

	set_defaults(c);
	ret = read_words(c, argc, argv, e);
	if (ret < 0 || c->help || c->cpu_help)
		return ret;
	for (i = 0; !ret && i < ARRAY_SIZE(checks); i++)
		ret = checks[i](c, e);
	return ret ? ret : complete(c, e);
}

void config_fini(struct run_config *c)
{
	free(c->params);
	c->params = NULL;
}
