#include "vmm/kvm/dirty_log_kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"

int vm_watch_slot(int vm_fd, uint32_t slot, const struct guest_mem_region *r, bool on)
{
	const struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = r->gpa,
		.memory_size = r->len_bytes,
		.userspace_addr = (uintptr_t)r->hva,
	};

	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static int kvm_watch(void *ctx, uint32_t slot, const struct guest_mem_region *r, bool on)
{
	return vm_watch_slot(*(int *)ctx, slot, r, on);
}

static int kvm_get(void *ctx, uint32_t slot, uint64_t *bits)
{
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bits};

	return ioctl(*(int *)ctx, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

static int kvm_clear(void *ctx, uint32_t slot, uint64_t first, uint32_t n, const uint64_t *bits)
{
	struct kvm_clear_dirty_log log = {.slot = slot, .num_pages = n, .first_page = first};

	log.dirty_bitmap = (void *)(uintptr_t)bits;
	return ioctl(*(int *)ctx, KVM_CLEAR_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

/*
 * From here on KVM_GET_DIRTY_LOG leaves the bits alone and KVM_CLEAR_DIRTY_LOG takes them away, a
 * part at a time. Initially set: watching begins without write-protecting all memory at once.
 */
static int kvm_begin(void *ctx, struct err *e)
{
	const int vm_fd = *(int *)ctx;
	const int has = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};

	if (has <= 0)
		return err_set(e, -ENOTSUP,
			       "this host's KVM lacks KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2; migrate "
			       "with a kernel from 5.2 on");
	cap.args[0] =
		(uint64_t)has & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set(e, -errno,
			       "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: %s; see the kernel's "
			       "log",
			       strerror(errno));
	return 0;
}

const struct dirty_log_ops kvm_dirty_log_ops = {
	.begin = kvm_begin,
	.watch = kvm_watch,
	.get = kvm_get,
	.clear = kvm_clear,
};
