/* What this host says of its branch predictor barriers, and whether KVM can be told of them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include <linux/kvm.h>

#include "base/file.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/barrier.h"
#include "vmm/kvm/kvm.h"

#define SYSFS_SPECTRE_V2 "/sys/devices/system/cpu/vulnerabilities/spectre_v2"
#define UBUNTU_KERNEL	 "/proc/version_signature"
#define MODE_NONE	 3 /* the two bits' fourth value, which is no mode */

static bool keeps_rules(const struct backend_scratch *s)
{
	return barrier_has_issued(s->vcpu_fd) && barrier_enable(s->vm_fd, MODE_NONE) == -EINVAL &&
	       barrier_enable(s->vm_fd, 0) == 0;
}

static int try_capability(struct barrier_facts *f, struct backend *b, const struct kvm *kvm)
{
	struct backend_scratch s = {-1, -1};
	const int caps = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_VCPU_IBPB);
	int ret;

	if (caps != BARRIER_CAP_ALL && caps != (BARRIER_CAP_ALL | BARRIER_CAP_NESTED_EXIT))
		return 0;
	ret = scratch_open_vm(&s, kvm);
	if (!ret)
		ret = scratch_open_vcpu(&s);
	if (!ret)
		f->driven = keeps_rules(&s);
	if (f->driven)
		f->nested_exit =
			caps & BARRIER_CAP_NESTED_EXIT ? NESTED_EXIT_BARRIER : NESTED_EXIT_BARE;
	scratch_retire(b, &s);
	return ret;
}

int backend_try_barriers(struct backend *b, const struct kvm *kvm)
{
	struct barrier_facts *f = &b->barrier;
	struct utsname u;
	char line[256], told[256];

	memset(f, 0, sizeof(*f));
	if (file_read_line(SYSFS_SPECTRE_V2, line, sizeof(line)) == 0)
		f->ibpb = host_ibpb_from_sysfs(line);
	if (uname(&u) == 0) {
		if (file_read_line(UBUNTU_KERNEL, told, sizeof(told)) != 0)
			snprintf(told, sizeof(told), "%s", u.version);
		barrier_kernel(f, u.release, told);
	}
	return try_capability(f, b, kvm);
}
