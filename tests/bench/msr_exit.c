/*
 * The floor under the cost of a filtered MSR access: the shortest KVM_RUN loop that can serve
 * msrloop.elf. It denies 0x48 as testudo does, answers reads from a variable, and gives KVM each
 * written value with a bit forced, for that has to be done; what it reads back it does not check.
 * usage: msr_exit msrloop.elf
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "msr/msr.h"
#include "msr/spec_ctrl.h"

#define RAM (4u << 20)

#define PORT_COM1  0x3f8
#define PORT_SLEEP 0x601

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static uint64_t load(const char *path, uint8_t *ram)
{
	static uint8_t file[1 << 20];
	const Elf64_Ehdr *h = (const void *)file;
	int fd = open(path, O_RDONLY), i;
	ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof(file));

	check(n > (ssize_t)sizeof(*h), path);
	close(fd);
	for (i = 0; i < h->e_phnum; i++) {
		const Elf64_Phdr *p =
			(const void *)(file + h->e_phoff + (size_t)i * h->e_phentsize);

		if (p->p_type == PT_LOAD && p->p_paddr + p->p_filesz <= RAM)
			memcpy(ram + p->p_paddr, file + p->p_offset, p->p_filesz);
	}
	return h->e_entry;
}

static void set_filter(int vm)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args = {KVM_MSR_EXIT_REASON_FILTER}};
	uint8_t deny = 0;
	struct kvm_msr_filter filter = {.ranges = {{KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 1,
						    MSR_IA32_SPEC_CTRL, &deny},
						   {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 3,
						    MSR_VIRTUAL_ENUMERATION, &deny}}};

	check(ioctl(vm, KVM_ENABLE_CAP, &cap) == 0, "KVM_CAP_X86_USER_SPACE_MSR");
	check(ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter) == 0, "KVM_X86_SET_MSR_FILTER");
}

static void set_entry(int vcpu, uint64_t entry)
{
	const struct kvm_segment code = {.limit = 0xffffffff,
					 .selector = 8,
					 .type = 11,
					 .present = 1,
					 .db = 1,
					 .s = 1,
					 .g = 1};
	struct kvm_segment data = code;
	struct kvm_regs regs = {.rip = entry, .rflags = 2};
	struct kvm_sregs s;

	data.type = 3;
	data.selector = 16;
	check(ioctl(vcpu, KVM_GET_SREGS, &s) == 0, "KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.cr0 |= 1;
	check(ioctl(vcpu, KVM_SET_SREGS, &s) == 0, "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
}

static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	check(c != NULL, "calloc");
	c->nent = 256;
	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c) == 0, "KVM_GET_SUPPORTED_CPUID");
	check(ioctl(vcpu, KVM_SET_CPUID2, c) == 0, "KVM_SET_CPUID2");
	free(c);
}

static void serve(int vcpu, struct kvm_run *run)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head.nmsrs = 1, .entry.index = MSR_IA32_SPEC_CTRL};
	uint64_t guest = 0;

	for (;;) {
		check(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
		switch (run->exit_reason) {
		case KVM_EXIT_X86_RDMSR:
			run->msr.data = guest;
			run->msr.error = 0;
			break;
		case KVM_EXIT_X86_WRMSR:
			guest = run->msr.data;
			msr.entry.data = guest | SPEC_CTRL_BHI_DIS_S;
			check(ioctl(vcpu, KVM_SET_MSRS, &msr) == 1, "KVM_SET_MSRS");
			run->msr.error = 0;
			break;
		case KVM_EXIT_IO:
			if (run->io.port == PORT_SLEEP)
				return;
			if (run->io.port == PORT_COM1)
				putchar(((char *)run)[run->io.data_offset]);
			break;
		default:
			fprintf(stderr, "msr_exit: exit %u\n", run->exit_reason);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	struct kvm_userspace_memory_region slot = {.memory_size = RAM};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu, size;
	struct kvm_run *run;
	uint8_t *ram;

	if (argc != 2) {
		fprintf(stderr, "usage: msr_exit msrloop.elf\n");
		return 2;
	}
	check(kvm >= 0, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	check(vm >= 0, "KVM_CREATE_VM");
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(ram != MAP_FAILED, "mmap");
	slot.userspace_addr = (uintptr_t)ram;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
	set_filter(vm);
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0) == 0, "KVM_CREATE_IRQCHIP");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	check(vcpu >= 0, "KVM_CREATE_VCPU");
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(run != MAP_FAILED, "mmap of struct kvm_run");
	set_cpuid(kvm, vcpu);
	set_entry(vcpu, load(argv[1], ram));
	serve(vcpu, run);
	return 0;
}
