#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "cpuid/feature.h"

#define KVM_PATH "/dev/kvm"

/* What the machine is built on, with the kernel that brought it. */
static const struct {
	long cap;
	const char *name, *since;
} needed[] = {
	{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "2.6.25"},
	{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "2.6.25"},
	{KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "2.6.25"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "2.6.26"},
	{KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "2.6.28"},
	{KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "2.6.32"},
	{KVM_CAP_PIT2, "KVM_CAP_PIT2", "2.6.32"},
	{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "2.6.32"},
	{KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR", "2.6.32"},
	{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "4.11"},
};

static const struct {
	int err;
	const char *cure;
} open_cures[] = {
	{ENOENT,
	 "load the module (modprobe kvm_intel or kvm_amd), and see that virtualization is on "
	 "in the firmware, or nested virtualization if this machine is itself a guest"},
	{EACCES, "add yourself to the group that owns it (sudo usermod -aG kvm $USER, then log in "
		 "again)"},
	{EPERM, "the sandbox or container around this process must let it use " KVM_PATH},
	{ENODEV, "no KVM module drives this device node: modprobe kvm_intel or kvm_amd"},
	{ENXIO, "no KVM module drives this device node: modprobe kvm_intel or kvm_amd"},
	{EBUSY, "another hypervisor holds the CPU's virtualization; stop it"},
};

const char *kvm_cure(int error)
{
	struct rlimit as;

	if (error == EMFILE)
		return "raise the limit of open files (ulimit -n)";
	if (error == ENFILE)
		return "the host has too many open files (sysctl fs.file-max)";
	if (error != ENOMEM && error != EAGAIN)
		return "see the kernel's log";
	if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur != RLIM_INFINITY)
		return "raise the limit of address space (ulimit -v)";
	return error == ENOMEM ? "the host is short of memory: end something"
			       : "raise the limit of processes (ulimit -u, or pids of the cgroup)";
}

static int open_device(struct err *e)
{
	const char *cure = "see the kernel's log";
	int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC), err = errno;
	size_t i;

	if (fd >= 0)
		return fd;
	for (i = 0; i < ARRAY_SIZE(open_cures); i++)
		if (open_cures[i].err == err)
			cure = open_cures[i].cure;
	return err_set(e, -err, "cannot open %s: %s; %s", KVM_PATH, strerror(err), cure);
}

static int check_capabilities(struct kvm *kvm, struct err *e)
{
	int version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	int max;
	size_t i;

	if (version != KVM_API_VERSION)
		return err_set(
			e, -ENOTSUP,
			"%s: API version %d, testudo speaks %d; is it KVM? use a kernel from "
			"2.6.22 on",
			KVM_PATH, version, KVM_API_VERSION);
	for (i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return err_set(e, -ENOTSUP,
				       "%s: %s is missing; use a host kernel from %s on", KVM_PATH,
				       needed[i].name, needed[i].since);
	kvm->tsc_deadline = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	kvm->tsc_scaling = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
	max = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	kvm->max_vcpus = max > 0 ? (unsigned int)max : 4; /* api.rst 4.7: what absence means */
	return 0;
}

static int read_cpuid(struct kvm *kvm, struct err *e)
{
	AUTO_FREE struct kvm_cpuid2 *c = NULL;
	uint32_t i;

	c = calloc(1, sizeof(*c) + CPUID_SET_MAX * sizeof(c->entries[0]));
	if (!c)
		return err_no_memory(e);
	c->nent = CPUID_SET_MAX;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, c) < 0)
		return err_set(e, -errno, "%s: KVM_GET_SUPPORTED_CPUID: %s", KVM_PATH,
			       strerror(errno));
	kvm->cpuid.n_leaves = 0;
	for (i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *k = &c->entries[i];
		const struct cpuid_leaf l = {
			.leaf = k->function,
			.subleaf = k->index,
			.indexed = k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = k->eax,
			.ebx = k->ebx,
			.ecx = k->ecx,
			.edx = k->edx,
		};

		if (cpuid_add(&kvm->cpuid, &l) < 0)
			return err_set(e, -E2BIG, "%s: more than %d CPUID leaves", KVM_PATH,
				       CPUID_SET_MAX);
	}
	cpu_features_hide_amx(&kvm->cpuid);
	return 0;
}

struct kvm_cpuid2 *kvm_cpuid_from_set(const struct cpuid_set *set)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + set->n_leaves * sizeof(c->entries[0]));
	uint32_t i;

	if (!c)
		return NULL;
	c->nent = set->n_leaves;
	for (i = 0; i < set->n_leaves; i++) {
		const struct cpuid_leaf *l = &set->leaf[i];

		c->entries[i] = (struct kvm_cpuid_entry2) {
			.function = l->leaf,
			.index = l->subleaf,
			.flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = l->eax,
			.ebx = l->ebx,
			.ecx = l->ecx,
			.edx = l->edx,
		};
	}
	return c;
}

int kvm_open(struct kvm *kvm, struct err *e)
{
	int ret;

	memset(kvm, 0, sizeof(*kvm));
	kvm->fd = open_device(e);
	if (kvm->fd < 0) {
		ret = kvm->fd;
		kvm->fd = -1;
		return ret;
	}
	ret = check_capabilities(kvm, e);
	if (ret < 0)
		return ret;
	ret = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOTSUP, "%s: KVM_GET_VCPU_MMAP_SIZE gives %d", KVM_PATH, ret);
	kvm->run_size = (size_t)ret;
	return read_cpuid(kvm, e);
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = -1;
}
