/*
 * What /dev/kvm says of the system: CPUID, MSR lists and feature MSRs, by the mode and by the host.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "msr/msr.h"
#include "msr/spec_ctrl.h"
#include "shim.h"

/* A mode without a host: what the mode needs is offered on any machine that has leaf 7. */
static void lay_mode(struct kvm_cpuid2 *c)
{
	uint32_t i;

	for (i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 7 && e->index == 0)
			e->edx |= CPUID_BIT(7_0_EDX, spec_ctrl) | CPUID_BIT(7_0_EDX, stibp) |
				  CPUID_BIT(7_0_EDX, arch_capabilities) | CPUID_BIT(7_0_EDX, ssbd);
		if (e->function == 7 && e->index == 2)
			e->edx = shim.leaf7_2_edx;
	}
}

static int lay_host(struct kvm_cpuid2 *c, uint32_t room)
{
	struct cpuid_set set = {0};
	uint32_t i;

	for (i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];
		const struct cpuid_leaf l = {
			.leaf = e->function,
			.subleaf = e->index,
			.indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = e->eax,
			.ebx = e->ebx,
			.ecx = e->ecx,
			.edx = e->edx,
		};

		cpuid_add(&set, &l);
	}
	host_lay_cpuid(&set);
	if (set.n_leaves > room)
		return shim_fail(E2BIG);
	c->nent = set.n_leaves;
	for (i = 0; i < set.n_leaves; i++) {
		const struct cpuid_leaf *l = &set.leaf[i];

		c->entries[i] = (struct kvm_cpuid_entry2) {
			.function = l->leaf,
			.index = l->subleaf,
			.flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = l->eax,
			.ebx = l->ebx,
			.ecx = l->ecx,
			.edx = l->edx,
		};
	}
	return 0;
}

int system_cpuid(int fd, struct kvm_cpuid2 *c)
{
	const uint32_t room = c->nent;
	const int ret = shim.real(fd, KVM_GET_SUPPORTED_CPUID, c);

	if (ret < 0)
		return ret;
	if (shim.has_host)
		return lay_host(c, room);
	lay_mode(c);
	return ret;
}

/* Some KVMs let CPUID through to the hardware: what the program set is asked for by
 * MSR_SHIM_7_2_EDX. */
int vcpu_set_cpuid(int fd, struct shim_vcpu *v, const struct kvm_cpuid2 *c)
{
	uint32_t i;

	v->leaf7_0_edx = v->leaf7_2_edx = v->leaf80000008_ebx = v->leaf80000021_eax = 0;
	for (i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 7 && e->index == 0)
			v->leaf7_0_edx = e->edx;
		else if (e->function == 7 && e->index == 2)
			v->leaf7_2_edx = e->edx;
		else if (e->function == 0x80000008)
			v->leaf80000008_ebx = e->ebx;
		else if (e->function == 0x80000021)
			v->leaf80000021_eax = e->eax;
	}
	return shim.real(fd, KVM_SET_CPUID2, c);
}

/* KVM answers as many as it knows, and stops at the first that it does not. */
int system_msrs(int fd, struct kvm_msrs *m)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head.nmsrs = 1};
	uint32_t i;

	for (i = 0; i < m->nmsrs; i++) {
		struct kvm_msr_entry *e = &m->entries[i];
		uint64_t data = shim.arch_cap;

		if (e->index == MSR_IA32_ARCH_CAPABILITIES || host_feature_msr(e->index, &data)) {
			e->data = data;
			continue;
		}
		one.entry = *e;
		if (host_owns(e->index) || shim.real(fd, KVM_GET_MSRS, &one) != 1)
			return (int)i;
		*e = one.entry;
	}
	return (int)m->nmsrs;
}

/* The list as the real KVM has it, with room for more. Return: heap, or NULL */
static struct kvm_msr_list *real_list(int fd, unsigned long request)
{
	struct kvm_msr_list probe = {0}, *list;

	shim.real(fd, request, &probe);
	list = calloc(1,
		      sizeof(*list) + (probe.nmsrs + SHIM_HOST_MAX + 3) * sizeof(list->indices[0]));
	if (!list)
		return NULL;
	list->nmsrs = probe.nmsrs;
	if (shim.real(fd, request, list) == 0)
		return list;
	free(list);
	return NULL;
}

int system_msr_list(int fd, unsigned long request, struct kvm_msr_list *out)
{
	const bool features = request == KVM_GET_MSR_FEATURE_INDEX_LIST;
	AUTO_FREE struct kvm_msr_list *list = real_list(fd, request);
	const uint32_t room = out->nmsrs;
	uint32_t i;

	if (!list)
		return shim_fail(ENOMEM);
	if (shim.has_host)
		list->nmsrs = host_lay_msrs(list->indices, list->nmsrs, features);
	for (i = 0; i < 3 && shim.mode == RFC_VIRTUAL && !features; i++)
		list->indices[list->nmsrs++] = MSR_VIRTUAL_ENUMERATION + i;
	out->nmsrs = list->nmsrs;
	if (list->nmsrs > room)
		return shim_fail(E2BIG);
	memcpy(out->indices, list->indices, list->nmsrs * sizeof(list->indices[0]));
	return 0;
}
