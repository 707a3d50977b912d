/*
 * Runs in the lab's patched host: does KVM_CAP_FORCE_SPEC_CTRL what its description says (RFC v3,
 * 20240410143446.797262-2-chao.gao@intel.com)? Prints "ok CASE" or "FAIL CASE: ..." for each case.
 * usage: abi SUPPORTED CAP      (the bits that this host must support, hexadecimal; the number)
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
#include <unistd.h>

#define QUERY  _IOR(KVMIO, 0xe4, uint64_t)
#define SCOPES 3 /* what KVM_CHECK_EXTENSION says: for VMs, and for vCPUs */

#define SPEC_CTRL 0x48
#define IBRS	  0x1ULL
#define STIBP	  0x2ULL
#define RRSBA_S	  0x40ULL
#define BHI_S	  0x400ULL
#define IPRED_S	  0x10ULL
#define RESERVED  0x200ULL

#define PAGE	      4096
#define CODE_ADDRESS  0x1000
#define MAX_CALLS     2
#define HW_PATH	      "/sys/kernel/debug/kvm/%d-%d/vcpu0/lab_spec_ctrl"
#define NOT_LOOKED_AT UINT64_MAX

struct vm {
	int fd, vcpu;
	void *page;
	struct kvm_run *run;
	size_t run_size;
};

struct call {
	uint64_t mask, value;
	uint32_t flags;
	int error; /* expected */
};

/* Calls made on one VM before its vCPU, and what the hardware's register holds in the end. */
struct enable_case {
	const char *name;
	int n_calls;
	struct call calls[MAX_CALLS];
	uint64_t own; /* what is restored for the guest, and is to be read back */
	uint64_t hw;  /* in the register while the guest runs, or NOT_LOOKED_AT */
};

#define TAKEN(m, v)                       \
	{                                 \
		.mask = (m), .value = (v) \
	}
#define REFUSED(m, v)                                      \
	{                                                  \
		.mask = (m), .value = (v), .error = EINVAL \
	}

static const struct enable_case enable_cases[] = {
	{"nothing forced", 0, {{0}}, IBRS, IBRS},
	{"one bit on", 1, {TAKEN(BHI_S, BHI_S)}, 0, BHI_S},
	{"one bit on, the guest's beside it", 1, {TAKEN(BHI_S, BHI_S)}, IBRS, IBRS | BHI_S},
	{"one bit on, set by the guest too", 1, {TAKEN(BHI_S, BHI_S)}, BHI_S, BHI_S},
	{"two bits on", 1, {TAKEN(BHI_S | STIBP, BHI_S | STIBP)}, 0, BHI_S | STIBP},
	{"a mask without a value", 1, {TAKEN(BHI_S, 0)}, 0, 0},
	{"the last call wins", 2, {TAKEN(BHI_S, BHI_S), TAKEN(IBRS | BHI_S, IBRS)}, 0, IBRS},
	{"zeros undo", 2, {TAKEN(BHI_S, BHI_S), TAKEN(0, 0)}, 0, 0},
	{"a refused call does nothing", 2, {TAKEN(BHI_S, BHI_S), REFUSED(IBRS, STIBP)}, 0, BHI_S},
	{"a mask with bits not supported", 1, {TAKEN(RESERVED | IPRED_S, 0)}, 0, 0},
	{"a value outside the mask", 1, {REFUSED(IBRS, BHI_S)}, 0, NOT_LOOKED_AT},
	{"a value with no mask", 1, {REFUSED(0, BHI_S)}, 0, NOT_LOOKED_AT},
	{"a value that no CPU has", 1, {REFUSED(RESERVED, RESERVED)}, 0, NOT_LOOKED_AT},
	{"a value never supported", 1, {REFUSED(IPRED_S, IPRED_S)}, 0, NOT_LOOKED_AT},
	{"a good bit and a bad one", 1, {REFUSED(~0ULL, BHI_S | RESERVED)}, 0, NOT_LOOKED_AT},
	{"flags", 1, {{BHI_S, BHI_S, 1, EINVAL}}, 0, NOT_LOOKED_AT},
};

static const struct enable_case without_rrsba = {
	"a value that this CPU lacks", 1, {REFUSED(RRSBA_S, RRSBA_S)}, 0, NOT_LOOKED_AT};
static const struct enable_case with_rrsba = {"both bits of branch prediction",
					      1,
					      {TAKEN(RRSBA_S | BHI_S, RRSBA_S | BHI_S)},
					      IBRS,
					      IBRS | RRSBA_S | BHI_S};

/* 1 when the case failed */
static int say(const char *name, int ok, const char *what, uint64_t got, uint64_t want)
{
	if (ok) {
		printf("ok %s\n", name);
		return 0;
	}
	printf("FAIL %s: %s is %#llx, not %#llx\n", name, what, (unsigned long long)got,
	       (unsigned long long)want);
	return 1;
}

static void need(int ok, const char *what)
{
	if (ok)
		return;
	printf("FAIL %s: %s\n", what, strerror(errno));
	exit(2);
}

/* 0 or the error that it ends with */
static int error_of(int ret)
{
	return ret < 0 ? errno : 0;
}

static int enable(int fd, uint32_t cap, const struct call *c)
{
	struct kvm_enable_cap args = {.cap = cap, .flags = c->flags, .args = {c->mask, c->value}};

	return error_of(ioctl(fd, KVM_ENABLE_CAP, &args));
}

/* Guest code of one byte: hlt, at the start of real mode's segment 0. */
static void vm_add_vcpu(struct vm *vm, int kvm)
{
	struct kvm_userspace_memory_region slot = {.guest_phys_addr = CODE_ADDRESS,
						   .memory_size = PAGE};
	struct kvm_regs regs = {.rip = CODE_ADDRESS, .rflags = 2};
	struct kvm_sregs sregs;

	vm->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(vm->page != MAP_FAILED, "mmap");
	*(unsigned char *)vm->page = 0xf4;
	slot.userspace_addr = (uintptr_t)vm->page;
	need(!ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	need(vm->vcpu >= 0, "KVM_CREATE_VCPU");
	vm->run_size = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	need(vm->run != MAP_FAILED, "mmap of kvm_run");
	need(!ioctl(vm->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	need(!ioctl(vm->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	need(!ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static struct vm vm_new(int kvm)
{
	struct vm vm = {.vcpu = -1};

	vm.fd = ioctl(kvm, KVM_CREATE_VM, 0);
	need(vm.fd >= 0, "KVM_CREATE_VM");
	return vm;
}

static void vm_free(struct vm *vm)
{
	if (vm->vcpu >= 0) {
		munmap(vm->run, vm->run_size);
		munmap(vm->page, PAGE);
		close(vm->vcpu);
	}
	close(vm->fd);
}

static uint64_t msr(const struct vm *vm, unsigned long op, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {.head = {.nmsrs = 1}, .entry = {.index = SPEC_CTRL, .data = value}};

	need(ioctl(vm->vcpu, op, &msrs) == 1, "an access to SPEC_CTRL");
	return msrs.entry.data;
}

/* Runs the vCPU to its hlt; what the hardware's register held at the last exit. */
static uint64_t vm_run(const struct vm *vm)
{
	struct kvm_regs regs = {.rip = CODE_ADDRESS, .rflags = 2};
	unsigned long long last = 0;
	char path[96];
	FILE *f;

	need(!ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	need(!ioctl(vm->vcpu, KVM_RUN, 0), "KVM_RUN");
	need(vm->run->exit_reason == KVM_EXIT_HLT, "a guest that halts");
	snprintf(path, sizeof(path), HW_PATH, getpid(), vm->fd);
	f = fopen(path, "re");
	need(f && fscanf(f, "l1 last=%llx", &last) == 1, path);
	fclose(f);
	return last;
}

static int test_enable(int kvm, uint32_t cap, const struct enable_case *c)
{
	struct vm vm = vm_new(kvm);
	int failed = 0;

	for (int i = 0; i < c->n_calls && !failed; i++) {
		int got = enable(vm.fd, cap, &c->calls[i]), want = c->calls[i].error;

		if (got != want)
			failed = say(c->name, 0, "the error", (uint64_t)got, (uint64_t)want);
	}
	if (!failed && c->hw != NOT_LOOKED_AT) {
		uint64_t hw, own;

		vm_add_vcpu(&vm, kvm);
		msr(&vm, KVM_SET_MSRS, c->own);
		hw = vm_run(&vm);
		own = msr(&vm, KVM_GET_MSRS, 0);
		if (hw != c->hw)
			failed = say(c->name, 0, "the hardware's register", hw, c->hw);
		else if (own != c->own)
			failed = say(c->name, 0, "what is read back", own, c->own);
	}
	if (!failed)
		say(c->name, 1, "", 0, 0);
	vm_free(&vm);
	return failed;
}

static int test_order(int kvm, uint32_t cap)
{
	static const struct call on = TAKEN(BHI_S, BHI_S), undo = TAKEN(0, 0);
	struct vm vm = vm_new(kvm);
	uint64_t hw;
	int error, failed;

	vm_add_vcpu(&vm, kvm);
	error = enable(vm.fd, cap, &on);
	failed = say("after the first vCPU", error == EINVAL, "the error", (uint64_t)error, EINVAL);
	error = enable(vm.fd, cap, &undo);
	failed += say("undone after the first vCPU", error == EINVAL, "the error", (uint64_t)error,
		      EINVAL);
	msr(&vm, KVM_SET_MSRS, IBRS);
	hw = vm_run(&vm);
	failed += say("a late call forces nothing", hw == IBRS, "the register", hw, IBRS);
	vm_free(&vm);
	return failed;
}

static int test_query(int kvm, uint32_t cap, uint64_t supported)
{
	struct vm vm = vm_new(kvm);
	uint64_t bits = 0;
	int failed, ret;

	ret = ioctl(kvm, QUERY, &bits);
	failed = say("query", !ret && bits == supported, "the answer", bits, supported);
	ret = error_of(ioctl(kvm, QUERY, NULL));
	failed += say("query to nowhere", ret == EFAULT, "the error", (uint64_t)ret, EFAULT);
	ret = ioctl(kvm, KVM_CHECK_EXTENSION, cap);
	failed +=
		say("capability of the system", ret == SCOPES, "the answer", (uint64_t)ret, SCOPES);
	ret = ioctl(vm.fd, KVM_CHECK_EXTENSION, cap);
	failed += say("capability of a VM", ret == SCOPES, "the answer", (uint64_t)ret, SCOPES);
	vm_free(&vm);
	return failed;
}

int main(int argc, char **argv)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	uint64_t supported;
	int failed;
	uint32_t cap;

	if (argc != 3) {
		fprintf(stderr, "usage: abi SUPPORTED CAP\n");
		return 2;
	}
	need(kvm >= 0, "/dev/kvm");
	cap = (uint32_t)strtoul(argv[2], NULL, 10);
	supported = strtoull(argv[1], NULL, 16);
	failed = test_query(kvm, cap, supported);
	for (size_t i = 0; i < sizeof(enable_cases) / sizeof(enable_cases[0]); i++)
		failed += test_enable(kvm, cap, &enable_cases[i]);
	failed += test_enable(kvm, cap, supported & RRSBA_S ? &with_rrsba : &without_rrsba);
	failed += test_order(kvm, cap);
	return failed != 0;
}
