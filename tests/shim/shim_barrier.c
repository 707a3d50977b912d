/*
 * Branch predictor barriers per VM, KVM_CAP_X86_VCPU_IBPB of kernel/, with KVM_SHIM_IBPB: the rules
 * of the capability and of the vCPU's attribute, and the statistics. A load of a vCPU is taken to
 * be a KVM_RUN.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "shim.h"

#define MODE_ALWAYS 0
#define MODE_USED   1
#define MODE_NONE   3
#define MODE_MASK   3u
#define PCPU_MOVE   4u

#define MAX_CPUS 1024

static const char *const names[BARRIER_COUNTS] = {
	"vcpu_switches",    "pcpu_moves",     "ibpb_other_vm",
	"ibpb_vcpu_switch", "ibpb_pcpu_move", "ibpb_nested_exit",
};

enum { SWITCHES, MOVES, OTHER_VM, VCPU_SWITCH, MOVED };

/* struct kvm_stats_desc with room for a name: ISO C has no arrays of what ends in an open one. */
struct stats_desc {
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset, bucket_size;
	char name[48];
};

static_assert(offsetof(struct stats_desc, name) == offsetof(struct kvm_stats_desc, name),
	      "as the kernel lays it out");

/* What is in the file of KVM_GET_STATS_FD, without KVM's own statistics */
struct stats_file {
	struct kvm_stats_header head;
	struct stats_desc desc[BARRIER_COUNTS];
	uint64_t data[BARRIER_COUNTS];
};

/* Who ran on each CPU last; numbers, since vCPUs go. */
static struct {
	uint64_t vm, vcpu;
} last[MAX_CPUS];

int barrier_enable(struct shim_vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->flags || cap->args[1] || cap->args[2] || cap->args[3] ||
	    cap->args[0] & ~(uint64_t)(MODE_MASK | PCPU_MOVE) ||
	    (cap->args[0] & MODE_MASK) == MODE_NONE)
		return shim_fail(EINVAL);
	pthread_mutex_lock(&shim.lock);
	vm->barriers = (uint32_t)cap->args[0];
	pthread_mutex_unlock(&shim.lock);
	return 0;
}

int barrier_attr(struct shim_vcpu *v, unsigned long request, const struct kvm_device_attr *attr)
{
	uint64_t *value = (uint64_t *)(uintptr_t)attr->addr;
	int ret = 0;

	if (attr->attr != SHIM_ATTR_ISSUED)
		return shim_fail(ENXIO);
	if (request == KVM_HAS_DEVICE_ATTR)
		return 0;
	pthread_mutex_lock(&shim.lock);
	if (request == KVM_GET_DEVICE_ATTR)
		*value = v->issued;
	else if (*value > 1)
		ret = shim_fail(EINVAL);
	else
		v->issued = *value;
	if (v->issued)
		v->vm->issued = true;
	pthread_mutex_unlock(&shim.lock);
	return ret;
}

bool barrier_guest_write(struct shim_vcpu *v, uint64_t data)
{
	if (data & ~UINT64_C(0x81))
		return false;
	if (data)
		v->issued = v->vm->issued = true;
	return true;
}

static bool wants(const struct shim_vm *vm, uint32_t mode)
{
	return mode == MODE_ALWAYS || (mode == MODE_USED && vm->issued);
}

void barrier_load(struct shim_vcpu *v)
{
	const int cpu = sched_getcpu();
	const uint32_t mode = v->vm->barriers & MODE_MASK;
	bool other, moved;

	if (!shim.ibpb || cpu < 0 || cpu >= MAX_CPUS)
		return;
	pthread_mutex_lock(&shim.lock);
	other = last[cpu].vcpu && last[cpu].vcpu != v->serial;
	moved = v->ran && v->cpu != cpu;
	v->count[SWITCHES] += other;
	v->count[MOVES] += moved;
	if (other && last[cpu].vm != v->vm->serial)
		v->count[OTHER_VM]++;
	else if (other && wants(v->vm, mode))
		v->count[VCPU_SWITCH]++;
	else if (moved && v->vm->barriers & PCPU_MOVE && (mode != MODE_USED || v->vm->issued))
		v->count[MOVED]++;
	v->ran = true;
	v->cpu = cpu;
	last[cpu].vm = v->vm->serial;
	last[cpu].vcpu = v->serial;
	if (v->stats_fd && (other || moved))
		(void)!pwrite(v->stats_fd, v->count, sizeof(v->count),
			      offsetof(struct stats_file, data));
	pthread_mutex_unlock(&shim.lock);
}

/* The library keeps a descriptor of its own: the program may close its own at any time. */
int barrier_stats_fd(struct shim_vcpu *v)
{
	struct stats_file f = {
		.head =
			{
				.name_size = sizeof(f.desc[0].name),
				.num_desc = BARRIER_COUNTS,
				.desc_offset = offsetof(struct stats_file, desc),
				.data_offset = offsetof(struct stats_file, data),
			},
	};
	unsigned int i;
	int fd;

	for (i = 0; i < BARRIER_COUNTS; i++) {
		f.desc[i].size = 1;
		f.desc[i].offset = i * (uint32_t)sizeof(uint64_t);
		strcpy(f.desc[i].name, names[i]);
	}
	memcpy(f.data, v->count, sizeof(f.data));
	fd = memfd_create("kvm-vcpu-stats", MFD_CLOEXEC);
	if (fd < 0 || write(fd, &f, sizeof(f)) != sizeof(f))
		return -1;
	if (!v->stats_fd)
		v->stats_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* which the sandbox allows */
	return fd;
}
