/*
 * testudo-guest-report: run in a guest whose kernel knows nothing of the virtual mitigation MSRs,
 * it tells the VMM what that kernel does against branch history injection, on every CPU. Static and
 * small, so that it runs in any initrd.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "tools/guest-report/spectre_v2.h"

#define SPECTRE_V2 "/sys/devices/system/cpu/vulnerabilities/spectre_v2"
#define ONLINE	   "/sys/devices/system/cpu/online"
#define CMDLINE	   "/proc/cmdline"
#define MAX_CPU	   65535

enum { REPORTED = 0, FAILED = 1, USAGE = 2, NOT_OFFERED = 3 };

struct args {
	const char *root; /* before every path */
	bool dry_run;
	uint64_t bits; /* to report */
};

static const char help[] =
	"Usage: testudo-guest-report [OPTION]...\n\n"
	"Tell the VMM, by the virtual mitigation MSRs, what this guest's kernel does against "
	"branch\n"
	"history injection: what " SPECTRE_V2 "\n"
	"says, written to MSR 0x50000002 of every online CPU. A kernel that is vulnerable asks "
	"for\n"
	"help, unless " CMDLINE " has mitigations=off, spectre_v2=off or spectre_bhi=off.\n"
	"Needs root and the msr module.\n\n"
	"  -n, --dry-run   print what would be reported; touch no MSR\n"
	"      --root DIR  find /sys, /proc and /dev below DIR\n"
	"  -h, --help      this text\n\n"
	"Exit codes: 0 reported; 1 failed; 2 wrong usage; 3 the VMM does not offer the MSRs\n";

static int read_text(const struct args *a, const char *path, char *text, size_t len)
{
	char full[4096];
	ssize_t n;
	int fd;

	snprintf(full, sizeof(full), "%s%s", a->root, path);
	fd = open(full, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, len - 1);
	if (n < 0) {
		fprintf(stderr, "testudo-guest-report: %s: %s\n", full, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	text[n] = '\0';
	return 0;
}

static void print_bits(uint64_t bits)
{
	printf("%s%s%s%s", bits ? "" : "nothing",
	       bits & MITIGATION_BHB_CLEAR_SEQ_S ? "BHB_CLEAR_SEQ_S_USED" : "",
	       bits == MITIGATION_ALL ? ", " : "",
	       bits & MITIGATION_RETPOLINE_S ? "RETPOLINE_S_USED" : "");
}

/* ---- one CPU ---- */

static int read_msr(int fd, uint32_t index, uint64_t *value)
{
	return pread(fd, value, sizeof(*value), index) == sizeof(*value) ? 0 : -1;
}

/* A CPU that lacks any of them answers with #GP, which the driver makes an error. */
static bool is_offered(int fd, uint64_t *offered)
{
	uint64_t value;

	return read_msr(fd, MSR_IA32_ARCH_CAPABILITIES, &value) == 0 &&
	       (value & ARCH_CAP_VIRTUAL_ENUM) &&
	       read_msr(fd, MSR_VIRTUAL_ENUMERATION, &value) == 0 &&
	       (value & VIRT_ENUM_MITIGATION) &&
	       read_msr(fd, MSR_VIRTUAL_MITIGATION_ENUM, offered) == 0;
}

static int report_on(int fd, unsigned int cpu, uint64_t bits)
{
	uint64_t offered = 0, now, seen = 0;

	if (!is_offered(fd, &offered)) {
		printf("cpu %u: the VMM does not offer the virtual mitigation MSRs\n", cpu);
		return NOT_OFFERED;
	}
	now = bits & offered;
	if (read_msr(fd, MSR_VIRTUAL_MITIGATION_CTRL, &seen) < 0 ||
	    (seen != now &&
	     pwrite(fd, &now, sizeof(now), MSR_VIRTUAL_MITIGATION_CTRL) != sizeof(now)) ||
	    read_msr(fd, MSR_VIRTUAL_MITIGATION_CTRL, &seen) < 0 || seen != now) {
		printf("cpu %u: MSR 0x50000002 = 0x%llx was not taken\n", cpu,
		       (unsigned long long)now);
		return FAILED;
	}
	printf("cpu %u: offered 0x%llx, reported 0x%llx: ", cpu, (unsigned long long)offered,
	       (unsigned long long)now);
	print_bits(now);
	if (bits & ~offered) {
		printf("; not asked for: ");
		print_bits(bits & ~offered);
	}
	printf("\n");
	return REPORTED;
}

static int report_cpu(const struct args *a, unsigned int cpu)
{
	char path[4096];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/dev/cpu/%u/msr", a->root, cpu);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "testudo-guest-report: %s: %s%s\n", path, strerror(errno),
			errno == ENOENT ? "; load the module: modprobe msr" : "");
		return FAILED;
	}
	ret = report_on(fd, cpu, a->bits);
	close(fd);
	return ret;
}

/* ---- all ---- */

/* "0-3,7\n"; the worst outcome of all */
static int report_list(const struct args *a, const char *list)
{
	int worst = REPORTED;

	while (*list && *list != '\n') {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (end != list && *end == '-') {
			list = end + 1;
			last = strtoul(list, &end, 10);
		}
		if (end == list || first > last || last > MAX_CPU) {
			fprintf(stderr, "testudo-guest-report: %s is not a list of CPUs\n", ONLINE);
			return FAILED;
		}
		for (; first <= last; first++) {
			const int ret = report_cpu(a, (unsigned int)first);

			if (worst == REPORTED || ret == FAILED)
				worst = ret;
		}
		list = *end == ',' ? end + 1 : end;
		if (end == list && *list && *list != '\n') {
			fprintf(stderr, "testudo-guest-report: %s is not a list of CPUs\n", ONLINE);
			return FAILED;
		}
	}
	return worst;
}

static int report_all(struct args *a)
{
	char text[1024], online[4096], cmdline[8192];

	if (read_text(a, SPECTRE_V2, text, sizeof(text)) < 0)
		return FAILED;
	text[strcspn(text, "\n")] = '\0';
	printf("spectre_v2: %s\n", text);
	if (read_text(a, CMDLINE, cmdline, sizeof(cmdline)) < 0)
		cmdline[0] = '\0'; /* told; nobody is taken to have turned anything off */
	if (spectre_v2_report(text, cmdline, &a->bits) < 0) {
		fprintf(stderr, "testudo-guest-report: this text is not understood; nothing is "
				"reported\n");
		return FAILED;
	}
	printf("report: ");
	print_bits(a->bits);
	printf("%s\n", a->dry_run ? " (not sent)" : "");
	if (a->dry_run)
		return REPORTED;
	if (read_text(a, ONLINE, online, sizeof(online)) < 0)
		return FAILED;
	return report_list(a, online);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"dry-run", no_argument, NULL, 'n'},
		{"root", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct args a = {.root = ""};
	int c;

	while ((c = getopt_long(argc, argv, "nh", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			a.dry_run = true;
			break;
		case 'r':
			a.root = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			fputs(help, stderr);
			return USAGE;
		}
	}
	if (optind < argc) {
		fputs(help, stderr);
		return USAGE;
	}
	c = report_all(&a);
	if (fflush(stdout) != 0)
		return FAILED;
	return c;
}
