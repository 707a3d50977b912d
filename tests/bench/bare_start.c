/*
 * The floor under a start: the shortest program that makes the same machine as testudo by the same
 * calls of KVM, in the order that vmm/kvm/vm.h gives, and runs it to its first byte on COM1. No
 * options, no trial of what KVM keeps, no sandbox, no control socket, no threads, one vCPU. usage:
 * bare_start first.elf MIB
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "msr/msr.h"
#include "vmm/layout.h"

#define MAX_CPUID 256

#define APIC_LVT_LINT0	 0x350
#define APIC_LVT_LINT1	 0x360
#define APIC_MODE_NMI	 0x04
#define APIC_MODE_EXTINT 0x07

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static uint8_t *make_ram(size_t size)
{
	const int fd = memfd_create("guest-ram", MFD_CLOEXEC);
	void *ram;

	check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd");
	ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	check(ram != MAP_FAILED, "mmap");
	madvise(ram, size, MADV_HUGEPAGE);
	return ram;
}

/* The ELF entry is the PVH entry in tests/guest/first.ld. */
static uint64_t load(const char *path, uint8_t *ram, size_t size)
{
	static uint8_t file[64 << 10];
	const Elf64_Ehdr *h = (const void *)file;
	const int fd = open(path, O_RDONLY);
	const ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof(file));
	int i;

	check(n > (ssize_t)sizeof(*h), path);
	close(fd);
	for (i = 0; i < h->e_phnum; i++) {
		const Elf64_Phdr *p =
			(const void *)(file + h->e_phoff + (size_t)i * h->e_phentsize);

		if (p->p_type == PT_LOAD && p->p_paddr + p->p_filesz <= size)
			memcpy(ram + p->p_paddr, file + p->p_offset, p->p_filesz);
	}
	return h->e_entry;
}

/* What testudo denies where KVM does not keep it; a KVM without the filter does without. */
static void set_filter(int vm)
{
	const struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
					   .args = {KVM_MSR_EXIT_REASON_FILTER}};
	uint8_t deny = 0;
	const struct kvm_msr_filter filter = {
		.ranges = {{KVM_MSR_FILTER_READ, 1, MSR_IA32_ARCH_CAPABILITIES, &deny}}};

	if (ioctl(vm, KVM_ENABLE_CAP, &cap) == 0)
		check(ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter) == 0, "KVM_X86_SET_MSR_FILTER");
}

static void add_devices(int vm, const uint8_t *ram, size_t size)
{
	static const uint32_t lines[] = {LAYOUT_GSI_COM1, LAYOUT_GSI_BUTTON};
	const struct kvm_userspace_memory_region slot = {.memory_size = size,
							 .userspace_addr = (uintptr_t)ram};
	const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	size_t i;

	check(ioctl(vm, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS) == 0, "KVM_SET_TSS_ADDR");
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
	check(ioctl(vm, KVM_CREATE_IRQCHIP, 0) == 0, "KVM_CREATE_IRQCHIP");
	check(ioctl(vm, KVM_CREATE_PIT2, &pit) == 0, "KVM_CREATE_PIT2");
	for (i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const struct kvm_irqfd irq = {.fd = (uint32_t)eventfd(0, EFD_CLOEXEC),
					      .gsi = lines[i]};

		check(ioctl(vm, KVM_IRQFD, &irq) == 0, "KVM_IRQFD");
	}
}

static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));

	check(c != NULL, "calloc");
	c->nent = MAX_CPUID;
	check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c) == 0, "KVM_GET_SUPPORTED_CPUID");
	check(ioctl(vcpu, KVM_SET_CPUID2, c) == 0, "KVM_SET_CPUID2");
	free(c);
}

static void set_msr_and_apic(int vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head.nmsrs = 1,
		 .entry = {.index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING}};
	struct kvm_lapic_state apic;

	check(ioctl(vcpu, KVM_SET_MSRS, &msr) == 1, "KVM_SET_MSRS");
	check(ioctl(vcpu, KVM_GET_LAPIC, &apic) == 0, "KVM_GET_LAPIC");
	apic.regs[APIC_LVT_LINT0 + 1] = APIC_MODE_EXTINT;
	apic.regs[APIC_LVT_LINT1 + 1] = APIC_MODE_NMI;
	check(ioctl(vcpu, KVM_SET_LAPIC, &apic) == 0, "KVM_SET_LAPIC");
}

/* Protected mode, flat, no paging: PVH without its start info, which first.elf does not read. */
static void set_entry(int vcpu, uint64_t entry)
{
	struct kvm_segment code = {.limit = 0xffffffff,
				   .selector = 0x10,
				   .type = 11,
				   .present = 1,
				   .db = 1,
				   .s = 1,
				   .g = 1};
	struct kvm_segment data = code;
	const struct kvm_segment tss = {.limit = 0x67, .selector = 0x20, .type = 11, .present = 1};
	const struct kvm_regs regs = {.rip = entry, .rflags = 2};
	struct kvm_sregs s;

	data.type = 3;
	data.selector = 0x18;
	check(ioctl(vcpu, KVM_GET_SREGS, &s) == 0, "KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.tr = tss;
	s.cr0 |= 1;
	check(ioctl(vcpu, KVM_SET_SREGS, &s) == 0, "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
}

/* Return: the first byte that the guest writes to COM1 */
static uint8_t run(int vcpu, struct kvm_run *r)
{
	check(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
	if (r->exit_reason != KVM_EXIT_IO || r->io.port != LAYOUT_PORT_COM1) {
		fprintf(stderr, "the guest's first exit has reason %u, not a byte on COM1\n",
			r->exit_reason);
		exit(1);
	}
	return ((const uint8_t *)r)[r->io.data_offset];
}

int main(int argc, char **argv)
{
	const size_t size = argc == 3 ? (size_t)atoi(argv[2]) << 20 : 0;
	const uint64_t identity_map = LAYOUT_KVM_IDENTITY_MAP;
	struct kvm_run *r;
	int kvm, vm, vcpu, run_size;
	uint64_t entry;
	uint8_t *ram, byte;

	if (!size) {
		fprintf(stderr, "usage: bare_start first.elf MIB\n");
		return 2;
	}
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	check(kvm >= 0, "/dev/kvm");
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	ram = make_ram(size);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	check(vm >= 0, "KVM_CREATE_VM");
	check(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) == 0,
	      "KVM_SET_IDENTITY_MAP_ADDR");
	set_filter(vm);
	add_devices(vm, ram, size);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	check(vcpu >= 0, "KVM_CREATE_VCPU");
	r = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	check(r != MAP_FAILED, "struct kvm_run");
	set_cpuid(kvm, vcpu);
	set_msr_and_apic(vcpu);
	entry = load(argv[1], ram, size);
	set_entry(vcpu, entry);
	byte = run(vcpu, r);
	check(write(STDOUT_FILENO, &byte, 1) == 1, "standard output");
	pause(); /* as a VMM whose guest goes on: its end is not measured */
	return 0;
}
