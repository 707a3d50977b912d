/* The KVM of state_rig.h, and the two functions of vmm/hold/backend.c that the readers of state call. */
#include "tests/fuzz/state_rig.h"

struct rig_kvm *rig_kvm(void)
{
	static struct rig_kvm kvm;

	return &kvm;
}

static uint64_t *find_msr(int fd, uint32_t index)
{
	struct rig_kvm *k = rig_kvm();
	unsigned int i, at;

	for (i = 0; i < k->n_msrs; i++) {
		at = (k->next_msr + i) % k->n_msrs;
		if (k->msr[at].fd == fd && k->msr[at].index == index) {
			k->next_msr = at + 1;
			return &k->msr[at].value;
		}
	}
	if (k->n_msrs == RIG_MSRS)
		return NULL;
	k->msr[k->n_msrs].fd = fd;
	k->msr[k->n_msrs].index = index;
	k->msr[k->n_msrs].value = 0;
	return &k->msr[k->n_msrs++].value;
}

static bool refuses(void)
{
	struct rig_kvm *k = rig_kvm();

	return k->refuses && ++k->calls % k->refuses == 0;
}

int backend_get_msr(int vcpu_fd, uint32_t index, uint64_t *value)
{
	const uint64_t *kept = find_msr(vcpu_fd, index);

	if (!kept || refuses())
		return -EINVAL;
	*value = *kept;
	return 0;
}

int backend_set_msr(int vcpu_fd, uint32_t index, uint64_t value)
{
	uint64_t *kept = find_msr(vcpu_fd, index);

	if (!kept || refuses())
		return -EINVAL;
	*kept = value;
	return 0;
}

static int get_msrs(int fd, struct kvm_msrs *m)
{
	uint32_t i;

	for (i = 0; i < m->nmsrs; i++) {
		uint64_t value;

		if (backend_get_msr(fd, m->entries[i].index, &value) < 0)
			break;
		m->entries[i].data = value;
	}
	return (int)i;
}

static int set_msrs(int fd, const struct kvm_msrs *m)
{
	uint32_t i;

	for (i = 0; i < m->nmsrs; i++)
		if (backend_set_msr(fd, m->entries[i].index, m->entries[i].data) < 0)
			break;
	return (int)i;
}

static int list_msrs(struct kvm_msr_list *l)
{
	for (l->nmsrs = 0; l->nmsrs < RIG_LISTED; l->nmsrs++)
		l->indices[l->nmsrs] = rig_listed(l->nmsrs);
	return 0;
}

static struct rig_kept *find_kept(int fd, unsigned long request, uint32_t id)
{
	struct rig_kvm *k = rig_kvm();
	struct rig_kept *kept;
	unsigned int i;

	for (i = 0; i < k->n_kept; i++)
		if (k->kept[i].fd == fd && k->kept[i].request == request && k->kept[i].id == id)
			return &k->kept[i];
	if (k->n_kept == RIG_CALLS)
		abort();
	kept = &k->kept[k->n_kept++];
	memset(kept, 0, sizeof(*kept));
	kept->fd = fd;
	kept->request = request;
	kept->id = id;
	return kept;
}

static int keep(int fd, unsigned long request, void *arg)
{
	unsigned long both = 0;
	const size_t size = rig_size(request, &both);
	const bool chip = both == KVM_SET_IRQCHIP;
	struct rig_kept *kept;
	uint32_t id = 0;

	if (chip)
		memcpy(&id, arg, sizeof(id));
	kept = find_kept(fd, both, id);
	if (request == both) { /* a SET: reads all of it, as the kernel would */
		memcpy(kept->data, arg, size);
	} else {
		memcpy(arg, kept->data, size);
		if (chip)
			memcpy(arg, &id, sizeof(id));
	}
	return 0;
}

int rig_ioctl(int fd, unsigned long request, ...)
{
	unsigned long both;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (refuses()) {
		errno = EINVAL;
		return -1;
	}
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return (unsigned long)arg == KVM_CAP_XSAVE2 ? (int)sizeof(struct kvm_xsave) : 1;
	case KVM_GET_TSC_KHZ:
		return RIG_TSC_KHZ;
	case KVM_SET_TSC_KHZ:
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		return 0;
	case KVM_GET_MSRS:
		return get_msrs(fd, arg);
	case KVM_SET_MSRS:
		return set_msrs(fd, arg);
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(arg);
	default:
		break;
	}
	if (rig_size(request, &both))
		return keep(fd, request, arg);
	errno = EINVAL;
	return -1;
}
