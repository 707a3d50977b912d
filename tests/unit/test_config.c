#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/guest/config.h"

#define MAX_WORDS 64

/* Words separated by one blank; a copy, since the parser cuts -d's argument up. */
static int parse(const char *line, struct run_config *c, struct err *e)
{
	static char buf[4096];
	char *argv[MAX_WORDS + 1], *save = NULL, *word;
	int argc = 0;

	snprintf(buf, sizeof(buf), "run %s", line);
	for (word = strtok_r(buf, " ", &save); word && argc < MAX_WORDS;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	memset(e, 0, sizeof(*e));
	return config_parse(c, argc, argv, e);
}

static const struct {
	const char *line;
	const char *says; /* what the error must name */
} refused[] = {
	{"", "no kernel"},
	{"-k a b", "two kernels, 'a' and 'b'"},
	{"a b", "two kernels"},
	{"--bogus k", "'--bogus'"},
	{"-Z k", "'-Z'"},
	{"k -m", "'-m' wants a value"},
	{"k --mem", "'--mem' wants a value"},
	{"--no-reboot=1 k", "--no-reboot=1"},
	{"--no k", "'--no'"},
	{"-m 0 k", "-m: '0'"},
	{"-m 12X k", "'12X'"},
	{"-m -5 k", "'-5'"},
	{"-m 99999999999P k", "99999999999P"},
	{"-c 0 k", "-c: '0'"},
	{"-c 256 k", "1 to 255"},
	{"-c two k", "'two'"},
	{"--kvm-cap-force-spec-ctrl 0 k", "--kvm-cap-force-spec-ctrl: '0'"},
	{"--kvm-cap-force-spec-ctrl x k", "'x'"},
	{"--ready-fd 0 k", "--ready-fd: '0'"},
	{"--ready-fd x k", "'x'"},
	{"--daemonize --serial stdio k", "--serial stdio with --daemonize"},
	{"--dirty-ring 1000 k", "--dirty-ring 1000: the size"},
	{"--dirty-ring 512 k", "from 1024 to 65536"},
	{"--dirty-ring 131072 k", "--dirty-ring: '131072'"},
	{"--dirty-ring x k", "'x'"},
	{"--mitigation-report", "'--mitigation-report' wants a value"},
	{"-d disk,bogus k", "unknown word 'bogus'"},
	{"-d ,ro k", "no file name"},
	{"-d disk,serial=123456789012345678901 k", "21 bytes"},
	{"-d disk, k", "unknown word ''"},
	{"-d 1 -d 2 -d 3 -d 4 -d 5 -d 6 -d 7 -d 8 -d 9 -d a -d b -d c -d d -d e -d f -d g -d h -d "
	 "i "
	 "-d j k",
	 "more than 18 disks"},
	{"-n x k", "'x' is not tap=IF"},
	{"-n tap= k", "'tap=' is not"},
	{"-n tap=sixteen-letters- k", "1 to 15 characters"},
	{"-n mac=52:54:00:12:34:56 k", "one interface"},
	{"-n tap=a,fd=5 k", "one interface"},
	{"-n fd=2 k", "-n fd: '2'"},
	{"-n fd=x k", "'x'"},
	{"-n tap=a,mac=01:54:00:12:34:56 k", "'01:54:00:12:34:56'"},
	{"-n tap=a,bogus k", "'bogus'"},
	{"-n tap=a,vhost=yes k", "'vhost=yes': give vhost"},
	{"-n tap=a,vhostfd=x k", "-n vhostfd: 'x'"},
	{"-n tap=a,vhostfd=2 k", "-n vhostfd: '2'"},
	{"-n tap=a,vhostfd=7,vhost=off k", "-n vhostfd=7 with vhost=off"},
	{"-n fd=7,vhostfd=7 k", "-n vhostfd=7 with the same fd"},
	{"-n fd=7 -n fd=8 -n fd=7 k", "-n fd=7 and -n fd=7"},
	{"-n fd=7,vhostfd=9 -n fd=9 k", "-n vhostfd=9 and -n fd=9"},
	{"-n tap=a,vhostfd=9 --ready-fd 9 k", "--ready-fd 9 and -n vhostfd=9"},
	{"--incoming fd:5 --ready-fd 5", "--ready-fd 5 and --incoming fd:5"},
	{"--incoming fd:5 -n fd=5", "--incoming fd:5 and -n fd=5"},
	{"-n vhost k", "one interface"},
	{"-n tap=1 -n tap=2 -n tap=3 -n tap=4 -n tap=5 -n tap=6 -n tap=7 -n tap=8 -n tap=9 k",
	 "more than 8 network devices"},
	{"-d 1 -d 2 -d 3 -d 4 -d 5 -d 6 -d 7 -d 8 -d 9 -d a -d b -d c -d d -d e -d f -d g -d h "
	 "-n tap=1 -n tap=2 k",
	 "17 disks (-d), 2 network devices (-n) and 1 entropy source"},
};

static void test_refused(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		struct run_config c;
		struct err e;
		int ret = parse(refused[i].line, &c, &e);

		if (ret != -22 || !strstr(e.text, refused[i].says))
			fail_msg("'%s': ret %d, '%s'", refused[i].line, ret, e.text);
		assert_null(strchr(e.text, '\n'));
		config_fini(&c);
	}
}

static void test_defaults(void **state)
{
	struct run_config c;
	struct err e;

	(void)state;
	assert_int_equal(parse("vmlinuz", &c, &e), 0);
	assert_string_equal(c.kernel, "vmlinuz");
	assert_null(c.initrd);
	assert_string_equal(c.params, "console=ttyS0");
	assert_int_equal(c.machine.n_vcpus, 1);
	assert_int_equal(c.machine.memory.size_bytes, 512 * MiB);
	assert_int_equal(c.machine.n_disks, 0);
	assert_int_equal(c.machine.dirty_ring, 0);
	assert_true(c.machine.rng);
	assert_string_equal(c.serial, "stdio");
	assert_false(c.no_reboot || c.log_level != LOG_INFO || c.help ||
		     c.machine.memory.hugepages || c.machine.memory.prealloc);
	config_fini(&c);
}

static void test_everything(void **state)
{
	struct run_config c;
	struct err e;

	(void)state;
	assert_int_equal(
		parse("-k vmlinuz -i initrd -p quiet -p rw -c 4 -m 2G -d a,,b,ro,serial=X1 "
		      "--disk c,direct --serial file:log --no-reboot --hugepages --prealloc "
		      "--no-rng -v --dirty-ring 2048 -n tap=t0 --network "
		      "mac=52:54:00:aB:cd:0f,fd=7",
		      &c, &e),
		0);
	assert_string_equal(c.initrd, "initrd");
	assert_string_equal(c.params, "console=ttyS0 quiet rw");
	assert_int_equal(c.machine.n_vcpus, 4);
	assert_int_equal(c.machine.memory.size_bytes, 2 * GiB);
	assert_int_equal(c.machine.n_disks, 2);
	assert_string_equal(c.machine.disk[0].path, "a,b");
	assert_true(c.machine.disk[0].readonly);
	assert_false(c.machine.disk[0].direct);
	assert_string_equal(c.machine.disk[0].serial, "X1");
	assert_string_equal(c.machine.disk[1].path, "c");
	assert_true(c.machine.disk[1].direct);
	assert_null(c.machine.disk[1].serial);
	assert_int_equal(c.machine.dirty_ring, 2048);
	assert_int_equal(c.machine.n_nets, 2);
	assert_string_equal(c.machine.net[0].name, "t0");
	assert_false(c.machine.net[0].has_mac);
	assert_null(c.machine.net[1].name);
	assert_int_equal(c.machine.net[1].fd, 7);
	assert_true(c.machine.net[1].has_mac);
	assert_int_equal(c.machine.net[1].mac[3], 0xab);
	assert_string_equal(c.serial, "file:log");
	assert_true(c.no_reboot && c.log_level == LOG_DEBUG && c.machine.memory.hugepages &&
		    c.machine.memory.prealloc);
	assert_false(c.machine.rng);
	config_fini(&c);

	assert_int_equal(parse("--daemonize --ready-fd 5 k", &c, &e), 0);
	assert_true(c.daemonize);
	assert_int_equal(c.ready_fd, 5);
	assert_string_equal(c.serial, "none");
	config_fini(&c);
	assert_int_equal(parse("--daemonize --serial pty k", &c, &e), 0);
	assert_string_equal(c.serial, "pty");
	config_fini(&c);
}

static const struct {
	const char *line;
	bool vhost;
	int fd;
} vhosts[] = {
	{"-n tap=a k", false, 0},
	{"-n tap=a,vhost k", true, 0},
	{"-n vhost=on,tap=a k", true, 0},
	{"-n tap=a,vhost=off k", false, 0},
	{"-n tap=a,vhost,vhost=off k", false, 0},
	{"-n tap=a,vhostfd=9 k", true, 9},
	{"-n fd=8,vhost,mac=52:54:00:12:34:56,vhostfd=9 k", true, 9},
};

static void test_vhost(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(vhosts); i++) {
		struct run_config c;
		struct err e;

		assert_int_equal(parse(vhosts[i].line, &c, &e), 0);
		assert_int_equal(c.machine.n_nets, 1);
		assert_int_equal(c.machine.net[0].vhost, vhosts[i].vhost);
		assert_int_equal(c.machine.net[0].vhost_fd, vhosts[i].fd);
		config_fini(&c);
	}
}

static const struct {
	const char *line, *params;
} consoles[] = {
	{"-p console=hvc0 k", "console=hvc0"},
	{"-p quiet -p console=hvc0 k", "quiet console=hvc0"},
	{"-p netconsole=x k", "console=ttyS0 netconsole=x"},
	{"-p a -p -- -p b k", "console=ttyS0 a -- b"},
};

static void test_console(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(consoles); i++) {
		struct run_config c;
		struct err e;

		assert_int_equal(parse(consoles[i].line, &c, &e), 0);
		assert_string_equal(c.params, consoles[i].params);
		config_fini(&c);
	}
}

static void test_help_needs_no_kernel(void **state)
{
	struct run_config c;
	struct err e;

	(void)state;
	assert_int_equal(parse("--help", &c, &e), 0);
	assert_true(c.help);
	config_fini(&c);
	assert_int_equal(parse("-h", &c, &e), 0);
	assert_true(c.help);
	config_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),	   cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything), cmocka_unit_test(test_vhost),
		cmocka_unit_test(test_console),	   cmocka_unit_test(test_help_needs_no_kernel),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
