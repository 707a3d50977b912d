#include "vmm/hold/barrier.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/err.h"

/* More than any kernel has: what a header says is not believed. */
#define STATS_MAX     512
#define STAT_NAME_MAX 256

/* Descriptors for all else that a guest may want yet: its numbers are the first to do without. */
#define STATS_SPARE_FDS 64

int barrier_enable(int vm_fd, uint32_t args)
{
	const struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_VCPU_IBPB, .args = {args}};

	return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0 ? -errno : 0;
}

int barrier_drive(int vm_fd, uint32_t args, struct err *e)
{
	const int ret = barrier_enable(vm_fd, args);

	return ret < 0 ? err_set(e, ret,
				 "KVM does not take the barriers between vCPUs that the policy "
				 "asks for (%#x): %s; see the kernel's log",
				 args, strerror(-ret))
		       : 0;
}

/* ---- has the guest issued one? ---- */

static struct kvm_device_attr issued_attr(uint64_t *value)
{
	return (struct kvm_device_attr) {
		.group = KVM_VCPU_SPECULATION,
		.attr = KVM_VCPU_IBPB_ISSUED,
		.addr = (uintptr_t)value,
	};
}

bool barrier_has_issued(int vcpu_fd)
{
	const struct kvm_device_attr attr = issued_attr(NULL);

	return ioctl(vcpu_fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
}

int barrier_get_issued(int vcpu_fd, bool *issued)
{
	uint64_t value = 0;
	const struct kvm_device_attr attr = issued_attr(&value);

	if (ioctl(vcpu_fd, KVM_GET_DEVICE_ATTR, &attr) < 0)
		return -errno;
	*issued = value;
	return 0;
}

int barrier_set_issued(int vcpu_fd)
{
	uint64_t value = 1;
	const struct kvm_device_attr attr = issued_attr(&value);

	return ioctl(vcpu_fd, KVM_SET_DEVICE_ATTR, &attr) < 0 ? -errno : 0;
}

/* ---- statistics: Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD ---- */

static const struct {
	const char *kvm, *ours;
} stats[BARRIER_STATS] = {
	[STAT_VCPU_SWITCHES] = {"vcpu_switches", "vcpu-switches"},
	[STAT_PCPU_MOVES] = {"pcpu_moves", "pcpu-moves"},
	[STAT_IBPB_OTHER_VM] = {"ibpb_other_vm", "ibpb-other-vm"},
	[STAT_IBPB_VCPU_SWITCH] = {"ibpb_vcpu_switch", "ibpb-vcpu-switch"},
	[STAT_IBPB_PCPU_MOVE] = {"ibpb_pcpu_move", "ibpb-pcpu-move"},
	[STAT_IBPB_NESTED_EXIT] = {"ibpb_nested_exit", "ibpb-nested-exit"},
};

const char *barrier_stat_name(enum barrier_stat which)
{
	return stats[which].ours;
}

static bool read_at(int fd, void *to, size_t len, uint64_t at)
{
	return pread(fd, to, len, (off_t)at) == (ssize_t)len;
}

static void find_stats(struct barrier_stats *s)
{
	struct {
		struct kvm_stats_desc desc;
		char name[STAT_NAME_MAX];
	} d;
	struct kvm_stats_header head;
	uint32_t i, n;

	if (!read_at(s->fd, &head, sizeof(head), 0) || !head.name_size ||
	    head.name_size > sizeof(d.name))
		return;
	for (i = 0; i < head.num_desc && i < STATS_MAX; i++) {
		const size_t size = sizeof(d.desc) + head.name_size;

		if (!read_at(s->fd, &d, size, head.desc_offset + (uint64_t)i * size))
			return;
		for (n = 0; n < BARRIER_STATS; n++)
			if (d.desc.size == 1 && strncmp(d.name, stats[n].kvm, head.name_size) == 0)
				s->at[n] = head.data_offset + d.desc.offset;
	}
}

void barrier_stats_close(struct barrier_stats *s)
{
	if (s->open)
		close(s->fd);
	memset(s, 0, sizeof(*s));
}

/* Descriptors are given out from below: that of the vCPU, which is new, tells how many there are. */
static bool few_left(int vcpu_fd, unsigned int vcpus_left)
{
	struct rlimit files;

	return getrlimit(RLIMIT_NOFILE, &files) == 0 &&
	       (rlim_t)vcpu_fd + STATS_SPARE_FDS + vcpus_left > files.rlim_cur;
}

void barrier_stats_open(struct barrier_stats *s, int vcpu_fd, unsigned int vcpus_left)
{
	barrier_stats_close(s);
	if (few_left(vcpu_fd, vcpus_left))
		return;
	s->fd = ioctl(vcpu_fd, KVM_GET_STATS_FD, NULL);
	s->open = s->fd >= 0;
	if (s->open)
		find_stats(s);
}

bool barrier_stats_read(const struct barrier_stats *s, enum barrier_stat which, uint64_t *value)
{
	return s->open && s->at[which] && read_at(s->fd, value, sizeof(*value), s->at[which]);
}
