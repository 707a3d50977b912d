#include "vmm/kvm/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm/kvm/closer.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"

static int vm_ioctl(struct vm *vm, unsigned long request, const void *arg, const char *name,
		    struct err *e)
{
	if (ioctl(vm->fd, request, arg) >= 0)
		return 0;
	return err_set(e, -errno, "%s: %s; %s", name, strerror(errno), kvm_cure(errno));
}

int vm_create(struct vm *vm, const struct kvm *kvm, struct err *e)
{
	const uint64_t identity_map = LAYOUT_KVM_IDENTITY_MAP;

	do /* kernels that make a worker thread for the VM give up on a pending signal */
		vm->fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return err_set(e, -errno, "KVM_CREATE_VM: %s; %s", strerror(errno),
			       kvm_cure(errno));
	return vm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map, "KVM_SET_IDENTITY_MAP_ADDR",
			e);
}

void vm_fini(struct vm *vm, struct closer *c)
{
	if (vm->fd >= 0)
		closer_close(c, &vm->fd, 1);
	vm->fd = -1;
}

int vm_add_memory(struct vm *vm, const struct guest_mem *mem, struct err *e)
{
	/* a memory slot, too, on a VMX without unrestricted guests */
	int ret =
		vm_ioctl(vm, KVM_SET_TSS_ADDR, (const void *)LAYOUT_KVM_TSS, "KVM_SET_TSS_ADDR", e);
	uint32_t i;

	for (i = 0; !ret && i < mem->n_regions; i++) {
		const struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = mem->region[i].gpa,
			.memory_size = mem->region[i].len_bytes,
			.userspace_addr = (uintptr_t)mem->region[i].hva,
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			ret = err_set(e, -errno,
				      "-m: KVM does not take %llu MiB of guest memory at 0x%llx: "
				      "%s; %s",
				      (unsigned long long)slot.memory_size >> 20,
				      (unsigned long long)slot.guest_phys_addr, strerror(errno),
				      errno == ENOMEM ? "it has no memory for its tables: give a "
							"smaller -m"
						      : "give a smaller -m");
	}
	return ret;
}

int vm_create_irqchip(struct vm *vm, struct err *e)
{
	/* with the speaker's port 61H: kernels calibrate the TSC by its gate and channel 2 */
	const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int ret = vm_ioctl(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP", e);

	if (ret < 0)
		return ret;
	return vm_ioctl(vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2", e);
}

int vm_bind_irq(struct vm *vm, uint32_t gsi, int eventfd, struct err *e)
{
	const struct kvm_irqfd irqfd = {.fd = (uint32_t)eventfd, .gsi = gsi};

	return vm_ioctl(vm, KVM_IRQFD, &irqfd, "KVM_IRQFD", e);
}

int vm_bind_kick(struct vm *vm, gpa_t gpa, uint32_t value, int eventfd, struct err *e)
{
	const struct kvm_ioeventfd io = {
		.datamatch = value,
		.addr = gpa,
		.len = 4,
		.fd = eventfd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	return vm_ioctl(vm, KVM_IOEVENTFD, &io, "KVM_IOEVENTFD", e);
}
