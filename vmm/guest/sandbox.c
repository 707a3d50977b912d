#include "vmm/guest/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"

/* The programs that sandbox_gen.c made at build time, as struct sock_filter rows. */
static struct sock_filter filter[] = {
#include "vmm/guest/sandbox_filter.inc"
};
/* the same with what files need that are replaced, with a new name of the run directory, both */
static struct sock_filter filter_report[] = {
#include "vmm/guest/sandbox_filter_report.inc"
};
static struct sock_filter filter_rename[] = {
#include "vmm/guest/sandbox_filter_rename.inc"
};
static struct sock_filter filter_report_rename[] = {
#include "vmm/guest/sandbox_filter_report_rename.inc"
};

/* Everything that Landlock's first version knows: none of it is needed any more. */
#define FS_ALL ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static int drop_capabilities(struct err *e)
{
	/* without CAP_SETPCAP the bounding set stays; no_new_privs makes it worthless */
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	if (syscall(SYS_capset, &head, none) < 0)
		return err_set(e, -errno,
			       "sandbox: cannot drop capabilities: %s; use --no-sandbox if this "
			       "environment forbids it",
			       strerror(errno));
	return 0;
}

static int allow_beneath(int ruleset, int dir_fd, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = dir_fd};

	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
		       ? -errno
		       : 0;
}

static int allow_unlink(int ruleset, const char *socket_path)
{
	AUTO_FREE char *copy = strdup(socket_path);
	AUTO_CLOSE int dir = copy ? open(dirname(copy), O_PATH | O_CLOEXEC) : -1;

	return dir < 0 ? -errno : allow_beneath(ruleset, dir, LANDLOCK_ACCESS_FS_REMOVE_FILE);
}

static int allow_needs(int ruleset, const struct sandbox_needs *needs)
{
	/* a new file for each state of the report, renamed over the old one */
	const uint64_t replace = LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE |
				 LANDLOCK_ACCESS_FS_REMOVE_FILE;
	const struct {
		int dir_fd;
		uint64_t access;
	} rows[] = {
		{needs->report_fd, replace},
		{needs->dtb_fd, replace},
		{needs->rundir_fd, LANDLOCK_ACCESS_FS_REMOVE_FILE},
		/* other guests' directories hold a lock file: they are not empty and stay */
		{needs->runbase_fd,
		 LANDLOCK_ACCESS_FS_REMOVE_DIR | (needs->rename ? LANDLOCK_ACCESS_FS_MAKE_DIR : 0)},
	};
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(needs->socket_path); i++)
		if (needs->socket_path[i])
			ret = allow_unlink(ruleset, needs->socket_path[i]);

	for (i = 0; !ret && i < ARRAY_SIZE(rows); i++)
		if (rows[i].dir_fd >= 0)
			ret = allow_beneath(ruleset, rows[i].dir_fd, rows[i].access);
	return ret;
}

static int close_file_system(const struct sandbox_needs *needs, struct err *e)
{
	const struct landlock_ruleset_attr attr = {.handled_access_fs = FS_ALL};
	AUTO_CLOSE int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	int ret = 0;

	if (ruleset < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) {
		log_debug("sandbox: this host's kernel has no Landlock; going on without");
		return 0;
	}
	if (ruleset < 0)
		ret = -errno;
	if (!ret)
		ret = allow_needs(ruleset, needs);
	if (!ret && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		ret = -errno;
	return ret ? err_set(e, ret, "sandbox: Landlock: %s; see --no-sandbox", strerror(-ret)) : 0;
}

static int limit_system_calls(bool replace, bool rename, struct err *e)
{
	const struct sock_fprog progs[2][2] = {
		{{ARRAY_SIZE(filter), filter}, {ARRAY_SIZE(filter_rename), filter_rename}},
		{{ARRAY_SIZE(filter_report), filter_report},
		 {ARRAY_SIZE(filter_report_rename), filter_report_rename}},
	};

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &progs[replace][rename], 0, 0) < 0)
		return err_set(e, -errno, "sandbox: seccomp: %s; see --no-sandbox",
			       strerror(errno));
	return 0;
}

int sandbox_enter(const struct sandbox_needs *needs, struct err *e)
{
	int ret;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(e, -errno, "sandbox: no_new_privs: %s; see --no-sandbox",
			       strerror(errno));
	ret = drop_capabilities(e);
	if (!ret)
		ret = close_file_system(needs, e);
	if (!ret)
		ret = limit_system_calls(needs->report_fd >= 0 || needs->dtb_fd >= 0, needs->rename,
					 e);
	return ret;
}
