#include "vmm/guest/guest.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "policy/policy_file.h"
#include "vmm/machine/cpu_option.h"

int guest_open_input(struct guest *g, struct err *e)
{
	const struct run_config *c = &g->config;
	unsigned int i;
	int ret;

	g->kernel.kernel_path = c->kernel;
	g->kernel.initrd_path = c->initrd;
	g->kernel.cmdline = c->params;
	ret = c->kernel ? kernel_open(&g->kernel, e) : 0;
	for (i = 0; !ret && i < c->machine.n_disks; i++) {
		/* the guest's present owner holds the locks until it hands over */
		g->config.machine.disk[i].unlocked = c->incoming;
		ret = blk_file_open(&g->disk[i], &c->machine.disk[i], e);
		g->n_disks = i + 1;
	}
	for (i = 0; !ret && i < c->machine.n_nets; i++) {
		ret = tap_open(&g->tap[i], &c->machine.net[i], e);
		g->n_taps = i + 1;
	}
	return err_is(e, ERR_INPUT, ret);
}

void guest_close_input(struct guest *g)
{
	unsigned int i;

	for (i = 0; i < g->n_disks; i++)
		blk_file_close(&g->disk[i]);
	for (i = 0; i < g->n_taps; i++)
		tap_close(&g->tap[i]);
	kernel_close(&g->kernel);
	file_replace_close(&g->dtb);
}

int guest_open_policy(struct guest *g, struct err *e)
{
	int ret = policy_load(g->config.policy, &g->policy, e);

	if (!ret && g->config.host_facts)
		ret = host_facts_load(g->config.host_facts, &g->facts, e);
	return err_is(e, ERR_INPUT, ret);
}

int guest_open_kvm(struct guest *g, struct err *e)
{
	const struct run_config *c = &g->config;
	int ret = kvm_open(&g->kvm, e);

	if (!ret && c->machine.dirty_ring) {
		const int capability = dirty_ring_check(g->kvm.fd, c->machine.dirty_ring, e);

		ret = capability < 0 ? capability : 0;
	}
	if (!ret && !c->incoming) {
		ret = memory_check(&c->machine.memory, cpuid_phys_bits(&g->kvm.cpuid), e);
		err_is(e, ret == -EINVAL ? ERR_USAGE : ERR_HOST, ret);
	}
	if (!ret && c->machine.n_vcpus > g->kvm.max_vcpus && (!c->incoming || c->cpus_given))
		ret = err_is(e, ERR_USAGE,
			     err_set(e, -EINVAL,
				     "-c: %u vCPUs, this host's KVM has room for %u; give fewer",
				     c->machine.n_vcpus, g->kvm.max_vcpus));
	return ret;
}

static void isolation_from_policy(const struct policy *p, struct isolation_options *o)
{
	const struct isolation_policy *i = &p->isolation;

	*o = (struct isolation_options) {
		.indirect_branch = i->isolate_indirect_branch,
		.core_scheduling = i->core_scheduling,
		.observe_ibpb = i->observe_ibpb,
		.n_pins = i->n_pins,
		.nested = p->nested_shown,
		.cannot = p->mitigation.cannot,
	};
	memcpy(o->pin, i->pin, sizeof(o->pin));
}

/* What KVM supports, made into the CPU that the user chose. */
static int choose_cpu(struct guest *g, bool nested, struct mitigation_options *options,
		      struct err *e)
{
	struct cpu_option *cpu = NULL;
	int ret = 0;

	g->cpuid = g->kvm.cpuid;
	if (g->config.cpu) {
		ret = cpu_option_load(g->config.cpu, &g->kvm, &cpu, e);
		if (!ret)
			ret = cpu_option_apply(cpu, &g->cpuid, e);
		if (!ret)
			ret = cpu_option_msrs(cpu, &g->kvm, &g->cpu_msrs, e);
	}
	if (!ret && cpu) {
		options->arch_cap_set = cpu_option_arch_cap(cpu, 0);
		options->arch_cap_clear = ~cpu_option_arch_cap(cpu, ~UINT64_C(0));
	}
	if (!ret)
		vcpu_base_cpuid(&g->cpuid, &g->kvm, nested);
	if (!ret && cpu) /* of a guest that arrives the CPU comes with it */
		ret = cpu_option_check(cpu, &g->cpuid,
				       g->config.incoming ? 0 : g->config.machine.n_vcpus, e);
	cpu_option_free(cpu);
	return ret;
}

int guest_open_cpu(struct guest *g, struct err *e)
{
	const struct run_config *c = &g->config;
	struct isolation_options isolation;
	struct mitigation_options options = {
		.policy = g->policy.mitigation,
		.facts = c->host_facts ? &g->facts.facts : NULL,
		.force_cap = c->force_cap,
		.observe_ibpb = g->policy.isolation.observe_ibpb,
	};
	uint32_t n_vcpus = c->machine.n_vcpus;
	int ret, isolated;

	isolation_from_policy(&g->policy, &isolation);
	ret = choose_cpu(g, isolation.nested, &options, e);
	if (ret < 0)
		return err_is(e,
			      ret == -EINVAL && !cpu_option_is_path(c->cpu) ? ERR_USAGE : ERR_INPUT,
			      ret);
	if (c->incoming && !c->cpus_given && isolation.n_pins)
		n_vcpus = isolation.n_pins;
	/* before any thread; a refusal is in the report, too, which wants the mitigation */
	isolated = err_is(e, ERR_POLICY, isolation_enter(&g->isolation, &isolation, n_vcpus, e));
	ret = mitigation_init(&g->mitigation, &options, &g->kvm, c->machine.n_vcpus, e);
	return isolated < 0 ? isolated : ret;
}

int guest_open_contract(struct guest *g, struct err *e)
{
	struct mitigation *m = &g->mitigation;
	const struct pool_host self = {m->host, mitigation_backend_facts(m)};
	int ret = policy_load_pool(&g->policy, g->config.policy, &self, &m->options.pool, e);

	if (ret < 0)
		return err_is(e, ERR_INPUT, ret);
	if (g->config.incoming) /* it brings its own */
		return 0;
	return err_is(e, ERR_POLICY, mitigation_make_contract(m, &g->cpuid, e));
}
