/*
 * Build-time program: compiles the list of system calls that a running guest needs into a seccomp
 * filter, printed as C initialisers. Done here and not at run time, so that starting a guest costs
 * one prctl(2) and no library.
 */
#include <asm/termbits.h>
#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/vhost.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file_write.h"
#include "vmm/guest/sandbox.h"

#define ALLOW(name, why)             \
	{                            \
		.nr = SCMP_SYS(name) \
	}
/* only if argument @number, of which @mask counts, is @value */
#define ALLOW_IF(name, number, mask, value, why)                     \
	{                                                            \
		.nr = SCMP_SYS(name), .n_cmp = 1,                    \
		.cmp = { {number, SCMP_CMP_MASKED_EQ, mask, value} } \
	}
#define ALL_BITS 0xffffffff /* of the argument's low half, the one that the kernel reads */

struct allowance {
	int nr;
	unsigned int n_cmp;
	struct scmp_arg_cmp cmp[3];
};

static const struct allowance allowed[] = {
	ALLOW(read, "event descriptors, serial input"),
	ALLOW(write, "serial output, interrupts, log"),
	ALLOW(pread64, "loading the kernel again after a guest reset, checking a saved guest"),
	ALLOW(pwrite64, "memory of a guest that arrives, saving a guest"),
	ALLOW(fallocate, "pages of a guest that arrives and became zero again"),
	ALLOW(ppoll, "a vCPU slowed down for a migration"),
	ALLOW(poll, "is the serial back end, a data channel ready?"),
	ALLOW(close, "taking a machine apart"),
	ALLOW(fstat, "size of the kernel and initrd"),
	ALLOW(newfstatat, "fstat() of newer C libraries"),
	ALLOW(lseek, "holes of guest memory, stdio of the C library at exit"),
	ALLOW(fcntl, "sealing guest memory, duplicating a client's descriptor"),
	ALLOW(ftruncate, "size of guest memory, of a saved guest's file"),
	ALLOW(memfd_create, "guest memory after a guest reset"),
	ALLOW(madvise, "advice on guest memory, thread stacks"),
	ALLOW(munmap, "taking a machine apart"),
	ALLOW(brk, "malloc"),
	ALLOW(mremap, "realloc"),
	ALLOW(eventfd2, "interrupt lines and kicks"),
	ALLOW(epoll_ctl, "event loop"),
	ALLOW(epoll_wait, "event loop"),
	ALLOW(epoll_pwait, "event loop"),
	ALLOW(accept4, "client of --serial unix, of the control socket"),
	ALLOW(recvmsg, "commands on the control socket, descriptors with them"),
	ALLOW_IF(getsockopt, 1, ALL_BITS, SOL_SOCKET,
		 "who is the client? did the connection break?"),
	ALLOW(setsockopt, "small frames without delay"),
	ALLOW(sendmsg, "migration: frames, descriptors with them"),
	ALLOW(recvfrom, "migration: frames"),
	ALLOW(sendto, "migration: frames"),
	ALLOW(readv, "migration: memory"),
	ALLOW(fdatasync, "migration: the disk is complete before another host has it"),
	ALLOW(fadvise64, "migration: what another host wrote is read afresh"),
	ALLOW(timerfd_settime,
	      "changed mitigations told not too often; announcing the guest to the network"),
	ALLOW(unlink, "the socket of --serial unix, at the end"),
	ALLOW_IF(unlinkat, 0, ALL_BITS, SANDBOX_RUNDIR_FD, "lock and control socket, at the end"),
	ALLOW_IF(unlinkat, 0, ALL_BITS, SANDBOX_RUNBASE_FD, "the run directory, at the end"),
	ALLOW(io_uring_enter, "disk requests"),
	ALLOW(getrandom, "virtio-rng"),
	ALLOW(writev, "network frames of the guest"),
	ALLOW(clone3, "vCPU threads"),
	ALLOW(clone, "vCPU threads, where clone3 is missing"),
	ALLOW(set_robust_list, "new thread"),
	ALLOW(rseq, "new thread"),
	ALLOW(rt_sigprocmask, "new thread, re-raising a signal"),
	ALLOW(rt_sigaction, "re-raising a signal"),
	ALLOW(rt_sigreturn, "kick and fatal signals"),
	ALLOW(sigaltstack, "new thread"),
	ALLOW(futex, "locks, joining threads"),
	ALLOW(sched_getaffinity, "malloc in a new thread; is a vCPU pinned?"),
	ALLOW(sched_setaffinity, "vCPU pinning"),
	ALLOW(sched_yield, "locks"),
	ALLOW(getpid, "raise"),
	ALLOW(gettid, "raise"),
	ALLOW(tgkill, "kicking a vCPU, raise"),
	ALLOW(restart_syscall, "after SIGSTOP"),
	ALLOW(clock_nanosleep, "waiting"),
	ALLOW(clock_gettime, "where the vDSO has no clock"),
	ALLOW(exit, "end of a thread"),
	ALLOW(exit_group, "end"),
	ALLOW_IF(mmap, 2, PROT_EXEC, 0, "guest memory, stacks; no code"),
	ALLOW_IF(mprotect, 2, PROT_EXEC, 0, "stacks; no code"),
	ALLOW_IF(ioctl, 1, 0xff00, KVMIO << 8, "KVM"),
	ALLOW_IF(ioctl, 1, ALL_BITS, TCGETS, "terminal"),
	ALLOW_IF(ioctl, 1, ALL_BITS, TIOCGPGRP, "is this process in its foreground?"),
	ALLOW(getpgrp, "the same"),
	/* which limit was it? Reading those of this process. */
	{SCMP_SYS(prlimit64),
	 2,
	 {{0, SCMP_CMP_MASKED_EQ, ALL_BITS, 0}, {2, SCMP_CMP_MASKED_EQ, UINT64_MAX, 0}}},
	ALLOW(getrlimit, "the same, of other C libraries"),
	ALLOW_IF(ioctl, 1, ALL_BITS, TCSETS, "restoring the terminal"),
	ALLOW_IF(ioctl, 1, ALL_BITS, TUNSETOFFLOAD, "what a network driver leaves to the host"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_MEM_TABLE, "vhost-net: guest memory, at each start"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_FEATURES,
		 "vhost-net: what its driver wants, log or not"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_LOG_BASE,
		 "vhost-net: pages written while a guest moves"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_NUM, "vhost-net: a queue's size"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_ADDR, "vhost-net: its rings"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_BASE, "vhost-net: where it goes on"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_GET_VRING_BASE, "vhost-net: where it has stopped"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_KICK, "vhost-net: its kicks"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_CALL, "vhost-net: its interrupts"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_SET_VRING_ERR, "vhost-net: a driver that breaks a rule"),
	ALLOW_IF(ioctl, 1, ALL_BITS, VHOST_NET_SET_BACKEND, "vhost-net: start and stop"),
	ALLOW_IF(prctl, 0, ALL_BITS, PR_SET_NAME, "names of threads"),
	ALLOW_IF(prctl, 0, ALL_BITS, PR_SET_PDEATHSIG, "--daemonize: it outlives its parent"),
	ALLOW(setsid, "--daemonize: and its session"),
	ALLOW(dup2, "--daemonize: and its standard streams"),
};

/* New files in one folder, and renames there. */
#define REPLACE_IN(fd)                                                                            \
	{SCMP_SYS(openat),                                                                        \
	 2,                                                                                       \
	 {{0, SCMP_CMP_MASKED_EQ, ALL_BITS, fd},                                                  \
	  {2, SCMP_CMP_MASKED_EQ, ALL_BITS, FILE_REPLACE_FLAGS}}},                                \
		{SCMP_SYS(renameat),                                                              \
		 2,                                                                               \
		 {{0, SCMP_CMP_MASKED_EQ, ALL_BITS, fd}, {2, SCMP_CMP_MASKED_EQ, ALL_BITS, fd}}}, \
	{                                                                                         \
		SCMP_SYS(unlinkat), 1,                                                            \
		{                                                                                 \
			{                                                                         \
				0, SCMP_CMP_MASKED_EQ, ALL_BITS, fd                               \
			}                                                                         \
		}                                                                                 \
	}

/*
 * With a mitigation report or --dump-dtb only. Landlock keeps this to their folders; without
 * Landlock no existing file can be opened by this either.
 */
static const struct allowance report[] = {
	REPLACE_IN(SANDBOX_REPORT_FD),
	REPLACE_IN(SANDBOX_DTB_FD),
};

/* With --incoming and without --name only: the guest that comes brings its name. */
static const struct allowance renaming[] = {
	{SCMP_SYS(renameat2),
	 3,
	 {{0, SCMP_CMP_MASKED_EQ, ALL_BITS, SANDBOX_RUNBASE_FD},
	  {2, SCMP_CMP_MASKED_EQ, ALL_BITS, SANDBOX_RUNBASE_FD},
	  {4, SCMP_CMP_MASKED_EQ, ALL_BITS, RENAME_NOREPLACE}}},
};

/* The C library tries these and copes with a no; a migration by URI says what to do instead. */
static const struct allowance refused[] = {
	{SCMP_SYS(openat), 1, {{0, SCMP_CMP_MASKED_EQ, ALL_BITS, (uint32_t)AT_FDCWD}}},
	{.nr = SCMP_SYS(open)},
	{.nr = SCMP_SYS(readlink)},
	{.nr = SCMP_SYS(access)},
	{.nr = SCMP_SYS(socket)},
	{.nr = SCMP_SYS(connect)},
};

static int print_filter(scmp_filter_ctx ctx)
{
	int fd = memfd_create("filter", 0), ret;
	struct sock_filter f;

	if (fd < 0)
		return -errno;
	ret = seccomp_export_bpf(ctx, fd);
	if (ret < 0)
		return ret;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	while (read(fd, &f, sizeof(f)) == sizeof(f))
		printf("{%#x, %u, %u, %#x},\n", f.code, f.jt, f.jf, f.k);
	close(fd);
	return 0;
}

static int add_rules(scmp_filter_ctx ctx, uint32_t action, const struct allowance *rows, size_t n)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < n; i++)
		ret = seccomp_rule_add_array(ctx, action, rows[i].nr, rows[i].n_cmp, rows[i].cmp);
	return ret;
}

static int is_wanted(const char *word, int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], word) == 0)
			return 1;
	return 0;
}

/* usage: sandbox_gen [report] [rename] */
int main(int argc, char **argv)
{
	/* a trap and not a kill: a handler may still restore the terminal; the call is not made */
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int ret = ctx ? 0 : -ENOMEM;

	if (!ret)
		ret = add_rules(ctx, SCMP_ACT_ALLOW, allowed, sizeof(allowed) / sizeof(allowed[0]));
	if (!ret && is_wanted("report", argc, argv))
		ret = add_rules(ctx, SCMP_ACT_ALLOW, report, sizeof(report) / sizeof(report[0]));
	if (!ret && is_wanted("rename", argc, argv))
		ret = add_rules(ctx, SCMP_ACT_ALLOW, renaming,
				sizeof(renaming) / sizeof(renaming[0]));
	if (!ret)
		ret = add_rules(ctx, SCMP_ACT_ERRNO(EACCES), refused,
				sizeof(refused) / sizeof(refused[0]));
	if (!ret)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE,
				       2); /* binary tree: fewer steps */
	if (!ret)
		ret = print_filter(ctx);
	if (ret < 0)
		fprintf(stderr, "sandbox_gen: %s\n", strerror(-ret));
	seccomp_release(ctx);
	return ret ? 1 : 0;
}
