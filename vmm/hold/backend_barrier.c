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
#define MODE_NONE	 3 /* the two bits' fourth value, which is no mode */

static bool keeps_rules(const struct backend_scratch *s)
{
	return barrier_has_issued(s->vcpu_fd) && barrier_enable(s->vm_fd, MODE_NONE) == -EINVAL &&
	       barrier_enable(s->vm_fd, 0) == 0;
}

static int try_capability(struct barrier_facts *f, struct backend *b, const struct kvm *kvm)
{
	struct backend_scratch s = {-1, -1};
	int ret;

	if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_VCPU_IBPB) != BARRIER_CAP_ALL)
		return 0;
	ret = scratch_open_vm(&s, kvm);
	if (!ret)
		ret = scratch_open_vcpu(&s);
	if (!ret)
		f->driven = keeps_rules(&s);
	scratch_retire(b, &s);
	return ret;
}

int backend_try_barriers(struct backend *b, const struct kvm *kvm)
{
	struct barrier_facts *f = &b->barrier;
	struct utsname u;
	char line[256];

	memset(f, 0, sizeof(*f));
	if (file_read_line(SYSFS_SPECTRE_V2, line, sizeof(line)) == 0)
		f->ibpb = host_ibpb_from_sysfs(line);
	if (uname(&u) < 0 || sscanf(u.release, "%5u.%5u", &f->major, &f->minor) != 2)
		f->major = f->minor = 0;
	return try_capability(f, b, kvm);
}
