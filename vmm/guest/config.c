#include "vmm/guest/config.h"

#include <errno.h>
#include <getopt.h>
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

/* values above any letter, for options without one */
enum {
	OPT_SERIAL = 256,
	OPT_NAME,
	OPT_INCOMING,
	OPT_VERIFY,
	OPT_CLOCK_REALTIME,
	OPT_DUMP_DTB,
	OPT_DAEMONIZE,
	OPT_READY_FD,
	OPT_NO_REBOOT,
	OPT_HUGEPAGES,
	OPT_PREALLOC,
	OPT_DIRTY_RING,
	OPT_NO_RNG,
	OPT_NO_SANDBOX,
	OPT_CPU,
	OPT_POLICY,
	OPT_HOST_FACTS,
	OPT_REPORT,
	OPT_FORCE_CAP
};

/* One row an option: the parser, --help and the documentation's check all read these. */
static const struct option_row {
	const char *name;
	int value; /* the letter, or OPT_* */
	const char *arg;
	const char *help;
} rows[] = {
	{"kernel", 'k', "FILE",
	 "kernel: bzImage, or ELF with a PVH note; also as a plain argument"},
	{"initrd", 'i', "FILE", "initial RAM disk"},
	{"params", 'p', "STRING",
	 "kernel command line, after " DEFAULT_CONSOLE " (which a console= of "
	 "yours replaces)"},
	{"cpus", 'c', "N", "virtual CPUs, 1 to 255 (default 1)"},
	{"mem", 'm', "SIZE", "memory; a plain number is MiB, suffixes K M G T P (default 512)"},
	{"disk", 'd', "FILE[,ro][,direct][,serial=ID][,format=raw]",
	 "raw image or block device as a virtio disk; may be repeated; a comma in FILE is written "
	 ",,; with format=raw it is raw even if it looks like another format"},
	{"network", 'n', "tap=IF|fd=N[,mac=MAC][,vhost|,vhostfd=N]",
	 "virtio network device on a tap interface that exists, or on the descriptor of an open "
	 "one; with vhost the host's kernel moves the frames (vhostfd: by an open /dev/vhost-net); "
	 "may be repeated"},
	{"serial", OPT_SERIAL, "WHERE",
	 "COM1 on stdio (default), file:PATH, unix:PATH, pty or none; on a terminal Ctrl-a x ends "
	 "the "
	 "guest, Ctrl-a h tells more"},
	{"name", OPT_NAME, "NAME",
	 "what testudo list and its like know the guest by (default guest-PID; with --incoming the "
	 "name that the guest had)"},
	{"incoming", OPT_INCOMING, "URI",
	 "do not boot: wait for a guest that testudo migrate sends to tcp:HOST:PORT, unix:PATH or "
	 "fd:N, or load the one that testudo save wrote to file:PATH"},
	{"daemonize", OPT_DAEMONIZE, NULL,
	 "go into the background once the guest runs, or listens with --incoming; --serial is none "
	 "then unless given"},
	{"ready-fd", OPT_READY_FD, "N",
	 "write a line to descriptor N once the guest can be paused, saved and moved, or listens "
	 "with --incoming"},
	{"paused", 'S', NULL, "do not let the guest run before testudo resume"},
	{"verify-snapshot", OPT_VERIFY, NULL,
	 "with --incoming file: read all memory and compare it with its checksums before the guest "
	 "runs"},
	{"clock-realtime", OPT_CLOCK_REALTIME, NULL,
	 "with --incoming file: set the guest's clocks on by the time of day that passed since it "
	 "was saved; by default they stood still"},
	{"dump-dtb", OPT_DUMP_DTB, "FILE",
	 "write the machine's description to FILE as a flattened device tree, and go on"},
	{"no-reboot", OPT_NO_REBOOT, NULL,
	 "end with exit code 32 when the guest resets, do not restart it"},
	{"hugepages", OPT_HUGEPAGES, NULL, "guest memory from the host's pool of 2 MiB pages"},
	{"prealloc", OPT_PREALLOC, NULL, "take all guest memory before the guest starts"},
	{"dirty-ring", OPT_DIRTY_RING, "N",
	 "let each vCPU tell a migration what it wrote, in a ring of N entries (a power of two, "
	 "1024 to 65536); 0, the default: KVM's dirty log"},
	{"no-rng", OPT_NO_RNG, NULL, "leave out the virtio entropy source"},
	{"no-sandbox", OPT_NO_SANDBOX, NULL,
	 "do not lock the process in (debuggers, odd environments)"},
	{"cpu", OPT_CPU, "CPU",
	 "the CPU that the guest is shown: host (default), x86-64-v2, -v3, -v4, a server model "
	 "such as "
	 "icelake-server, each with ,+FEATURE and ,-FEATURE; or a template FILE.json; help lists "
	 "the names"},
	{"policy", OPT_POLICY, "FILE",
	 "what to hold in SPEC_CTRL for the guest, and what to do where this host cannot (YAML)"},
	{"host-facts", OPT_HOST_FACTS, "FILE",
	 "believe FILE (from testudo host --json) about this host's CPU, where its own CPUID "
	 "hides what it is"},
	{"mitigation-report", OPT_REPORT, "FILE",
	 "keep FILE true about which SPEC_CTRL bits are held for the guest, and why (JSON)"},
	{CONFIG_FORCE_CAP, OPT_FORCE_CAP, "N",
	 "the number of KVM_CAP_FORCE_SPEC_CTRL on a patched kernel (default: found by trying)"},
	{"quiet", 'q', NULL, "only errors on standard error"},
	{"verbose", 'v', NULL, "debug messages on standard error"},
	{"help", 'h', NULL, "this text"},
};

static const char exit_codes[] =
	"Exit codes:\n"
	"  0   the guest powered off, or was ended with the escape key\n"
	"  1   testudo or the host failed\n"
	"  2   wrong usage\n"
	"  3   bad input: kernel, initrd, disk, network interface, command line, a name in use\n"
	"  4   refused: this host cannot do what the policy demands\n"
	"  32  the guest reset, with --no-reboot\n"
	"  33  triple fault, or KVM could not go on\n"
	"  34  the guest panicked (pvpanic)\n";

void config_print_help(void)
{
	size_t i;

	printf("Usage: testudo run [OPTION]... [KERNEL]\n\n"
	       "Boot a guest and wait until it ends.\n\nOptions:\n");
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		char head[64];

		if (rows[i].value < OPT_SERIAL)
			snprintf(head, sizeof(head), "-%c, --%s", rows[i].value, rows[i].name);
		else
			snprintf(head, sizeof(head), "    --%s", rows[i].name);
		printf("  %s%s%s\n        %s\n", head, rows[i].arg ? " " : "",
		       rows[i].arg ? rows[i].arg : "", rows[i].help);
	}
	printf("\n%s", exit_codes);
}

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

int config_parse_force_cap(const char *text, uint32_t *number, struct err *e)
{
	uint64_t n;
	int ret = num_parse_u64("--" CONFIG_FORCE_CAP, text, 1, 65535, &n, e);

	if (!ret)
		*number = (uint32_t)n;
	return ret;
}

static int parse_dirty_ring(const char *text, uint32_t *entries, struct err *e)
{
	uint64_t n;
	int ret = num_parse_u64("--dirty-ring", text, 0, DIRTY_RING_MAX, &n, e);

	if (ret < 0)
		return ret;
	if (n && (n < DIRTY_RING_MIN || n & (n - 1)))
		return err_set(e, -EINVAL,
			       "--dirty-ring %llu: the size of a ring is a power of two from %d to "
			       "%d; give 4096",
			       (unsigned long long)n, DIRTY_RING_MIN, DIRTY_RING_MAX);
	*entries = (uint32_t)n;
	return 0;
}

static int parse_disk(struct run_config *c, char *arg, struct err *e)
{
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

static int parse_net(struct run_config *c, char *arg, struct err *e)
{
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
		return err_set(e, -ENOMEM, "out of memory");
	free(c->params);
	c->params = joined;
	return 0;
}

static int set_kernel(struct run_config *c, const char *path, struct err *e)
{
	if (c->kernel)
		return err_set(e, -EINVAL,
			       "two kernels, '%s' and '%s'; give one, and the command line with -p",
			       c->kernel, path);
	c->kernel = path;
	return 0;
}

static int apply(struct run_config *c, int value, char *arg, struct err *e)
{
	uint64_t n;
	int ret;

	switch (value) {
	case 'k':
		return set_kernel(c, arg, e);
	case 'i':
		c->initrd = arg;
		return 0;
	case 'p':
		c->params_given = true;
		return append_params(c, arg, e);
	case 'c':
		ret = num_parse_u64("-c", arg, 1, MACHINE_MAX_VCPUS, &n, e);
		if (!ret)
			c->machine.n_vcpus = (uint32_t)n;
		c->cpus_given = true;
		return ret;
	case 'm':
		c->memory_given = true;
		return num_parse_size("-m", arg, &c->machine.memory.size_bytes, e);
	case 'd':
		return parse_disk(c, arg, e);
	case 'n':
		return parse_net(c, arg, e);
	case OPT_SERIAL:
		c->serial = arg;
		return 0;
	case OPT_INCOMING:
		c->incoming = arg;
		return 0;
	case OPT_VERIFY:
		c->verify_snapshot = true;
		return 0;
	case OPT_CLOCK_REALTIME:
		c->clock_realtime = true;
		return 0;
	case OPT_DUMP_DTB:
		c->dump_dtb = arg;
		return 0;
	case 'S':
		c->paused = true;
		return 0;
	case OPT_NAME:
		c->name = arg;
		return rundir_check_name("--name", arg, e);
	case OPT_DAEMONIZE:
		c->daemonize = true;
		return 0;
	case OPT_READY_FD:
		ret = num_parse_u64("--ready-fd", arg, 1, INT_MAX, &n, e);
		if (!ret)
			c->ready_fd = (int)n;
		return ret;
	case OPT_NO_REBOOT:
		c->no_reboot = true;
		return 0;
	case OPT_HUGEPAGES:
		c->machine.memory.hugepages = true;
		return 0;
	case OPT_PREALLOC:
		c->machine.memory.prealloc = true;
		return 0;
	case OPT_DIRTY_RING:
		return parse_dirty_ring(arg, &c->machine.dirty_ring, e);
	case OPT_NO_RNG:
		c->machine.rng = false;
		c->rng_given = true;
		return 0;
	case OPT_NO_SANDBOX:
		c->sandbox = false;
		return 0;
	case OPT_CPU:
		c->cpu = arg;
		return 0;
	case OPT_POLICY:
		c->policy = arg;
		return 0;
	case OPT_HOST_FACTS:
		c->host_facts = arg;
		return 0;
	case OPT_REPORT:
		c->mitigation_report = arg;
		return 0;
	case OPT_FORCE_CAP:
		return config_parse_force_cap(arg, &c->force_cap, e);
	case 'v':
		c->log_level = LOG_DEBUG;
		return 0;
	case 'q':
		c->log_level = LOG_ERR;
		return 0;
	default:
		c->help = true;
		return 0;
	}
}

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

static int parse_words(struct run_config *c, int argc, char **argv, struct err *e)
{
	struct option longs[ARRAY_SIZE(rows) + 1] = {0};
	char letters[2 * ARRAY_SIZE(rows) + 2] = ":";
	size_t i, n = 1;
	int value, ret;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		longs[i].name = rows[i].name;
		longs[i].has_arg = rows[i].arg ? required_argument : no_argument;
		longs[i].val = rows[i].value;
		if (rows[i].value >= OPT_SERIAL)
			continue;
		letters[n++] = (char)rows[i].value;
		if (rows[i].arg)
			letters[n++] = ':';
	}
	optind = 0; /* glibc: start afresh */
	opterr = 0;
	while ((value = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		if (value == ':' || value == '?')
			return options_wrong("testudo run --help", longs, argv, value, e);
		ret = apply(c, value, optarg, e);
		if (ret < 0)
			return ret;
	}
	for (; optind < argc; optind++) {
		ret = set_kernel(c, argv[optind], e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static bool from_file(const struct run_config *c)
{
	return c->incoming && strncmp(c->incoming, "file:", 5) == 0;
}

/* A descriptor that two options name would be closed, or read from, behind one's back. */
static int one_use_each(const struct run_config *c, struct err *e)
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

int config_parse(struct run_config *c, int argc, char **argv, struct err *e)
{
	int ret;

	memset(c, 0, sizeof(*c));
	c->machine.n_vcpus = 1;
	c->machine.memory.size_bytes = 512 * MiB;
	c->machine.rng = true;
	c->sandbox = true;
	c->log_level = LOG_INFO;
	c->force_cap = BACKEND_FIND_CAP;
	ret = parse_words(c, argc, argv, e);
	c->cpu_help = ret == 0 && c->cpu && strcmp(c->cpu, CPU_OPTION_HELP) == 0;
	if (ret < 0 || c->help || c->cpu_help)
		return ret;
	if (c->daemonize && c->serial && strcmp(c->serial, "stdio") == 0)
		return err_set(
			e, -EINVAL,
			"--serial stdio with --daemonize: nothing is left to read and write; "
			"give file:PATH, unix:PATH, pty or none");
	if (!c->serial)
		c->serial = c->daemonize ? "none" : "stdio";
	if (!c->kernel && !c->incoming)
		return err_set(e, -EINVAL, "no kernel; give one: testudo run [OPTION]... KERNEL");
	if (c->incoming && c->cpu)
		return err_set(
			e, -EINVAL,
			"--cpu %s with --incoming: a guest brings the CPU that it was shown; "
			"leave --cpu out",
			c->cpu);
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
	if (c->incoming && !c->cpus_given)
		c->machine.n_vcpus = MACHINE_MAX_VCPUS;
	/* a guest that comes may have none */
	if (c->machine.n_disks + c->machine.n_nets + (c->machine.rng && !c->incoming) >
	    LAYOUT_VIRTIO_SLOTS)
		return err_set(e, -EINVAL,
			       "%u disks (-d), %u network devices (-n) and %d entropy source do "
			       "not fit into %d virtio slots; leave some out",
			       c->machine.n_disks, c->machine.n_nets, c->machine.rng,
			       LAYOUT_VIRTIO_SLOTS);
	ret = one_use_each(c, e);
	return ret ? ret : add_console(c, e);
}

void config_fini(struct run_config *c)
{
	free(c->params);
	c->params = NULL;
}
