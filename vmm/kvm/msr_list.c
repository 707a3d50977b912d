#include "vmm/kvm/msr_list.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "vmm/kvm/kvm.h"

static bool is_listed(const struct kvm *kvm, unsigned long request, uint32_t index)
{
	struct kvm_msr_list probe = {0};
	AUTO_FREE struct kvm_msr_list *list = NULL;
	uint32_t i;

	if (ioctl(kvm->fd, request, &probe) == 0 || errno != E2BIG)
		return false;
	list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
	if (!list)
		return false;
	list->nmsrs = probe.nmsrs;
	if (ioctl(kvm->fd, request, list) < 0)
		return false;
	for (i = 0; i < list->nmsrs; i++)
		if (list->indices[i] == index)
			return true;
	return false;
}

bool msr_list_has(const struct kvm *kvm, uint32_t index)
{
	return is_listed(kvm, KVM_GET_MSR_INDEX_LIST, index);
}

bool msr_list_has_feature(const struct kvm *kvm, uint32_t index)
{
	return is_listed(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, index);
}
