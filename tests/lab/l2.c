/*
 * Runs in a nested guest that has KVM of its own: a guest of that guest, which writes SPEC_CTRL
 * with some values, each WRITES times, reads it back and says with what. Each hlt is an exit from
 * the innermost guest.
 * usage: l2 [HALTS]	with a number, it halts as often and does nothing else
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE	    4096
#define ADDRESS	    0x1000
#define MAX_ENTRIES 256
#define WRITES	    1000

/* real mode: mov ecx, 0x48; xor edx, edx; 1: wrmsr (of eax); dec bx; jnz 1b; hlt; rdmsr; hlt */
static const unsigned char code[] = {0x66, 0xb9, 0x48, 0x00, 0x00, 0x00, 0x66, 0x31, 0xd2,
				     0x0f, 0x30, 0x4b, 0x75, 0xfb, 0xf4, 0x0f, 0x32, 0xf4};
static const unsigned char halts[] = {0xf4, 0xeb, 0xfd}; /* 1: hlt; jmp 1b */
static const uint64_t values[] = {1, 0, 1, 3, 0, 1};

static void need(int ok, const char *what)
{
	if (ok)
		return;
	printf("l2 failed: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void give_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *all =
		calloc(1, sizeof(*all) + MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));

	need(all != NULL, "memory");
	all->nent = MAX_ENTRIES;
	need(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, all), "KVM_GET_SUPPORTED_CPUID");
	need(!ioctl(vcpu, KVM_SET_CPUID2, all), "KVM_SET_CPUID2");
	free(all);
}

static void run_to_hlt(int vcpu, const struct kvm_run *run)
{
	need(!ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	if (run->exit_reason == KVM_EXIT_HLT)
		return;
	printf("l2 failed: exit reason %u\n", run->exit_reason);
	exit(1);
}

int main(int argc, char **argv)
{
	struct kvm_userspace_memory_region slot = {.guest_phys_addr = ADDRESS, .memory_size = PAGE};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu;
	struct kvm_sregs sregs;
	struct kvm_run *run;
	void *page;

	need(kvm >= 0, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	need(vm >= 0, "KVM_CREATE_VM");
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(page != MAP_FAILED, "mmap");
	memcpy(page, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)page;
	need(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	need(vcpu >= 0, "KVM_CREATE_VCPU");
	give_cpuid(kvm, vcpu);
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	need(run != MAP_FAILED, "mmap of kvm_run");
	need(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	need(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");

	if (argc > 1) {
		struct kvm_regs regs = {.rip = ADDRESS, .rflags = 2};
		int n = atoi(argv[1]);

		memcpy(page, halts, sizeof(halts));
		need(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
		for (int i = 0; i < n; i++)
			run_to_hlt(vcpu, run);
		printf("l2 halted %d times\n", n);
		return 0;
	}
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct kvm_regs regs = {
			.rip = ADDRESS, .rflags = 2, .rax = values[i], .rbx = WRITES};

		need(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
		run_to_hlt(vcpu, run);
		run_to_hlt(vcpu, run);
		need(!ioctl(vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
		printf("l2 wrote=%#llx read=%#llx\n", (unsigned long long)values[i],
		       (unsigned long long)regs.rax);
	}
	return 0;
}
