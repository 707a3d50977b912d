#include "vmm/machine/cpu_option.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/std_fds.h"
#include "base/text.h"
#include "cpuid/feature.h"
#include "cpuid/guest_cpu.h"
#include "msr/msr.h"
#include "policy/cpu_template.h"
#include "policy/text_kind.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/vcpu.h"

struct cpu_option {
	const char *text; /* the option's value, the caller's */
	bool is_template;
	struct guest_cpu cpu;
	struct cpu_template template;
};

bool cpu_option_is_path(const char *text)
{
	const size_t len = strlen(text);

	return strchr(text, '/') || (len > 5 && strcmp(text + len - 5, ".json") == 0);
}

static bool is_first_version(const struct guest_model *models, unsigned int n, unsigned int i)
{
	const size_t len = strlen(models[i].name);
	unsigned int k;

	for (k = 0; k < n; k++)
		if (!strncmp(models[k].name, models[i].name, len) &&
		    !strcmp(models[k].name + len, "-v2"))
			return true;
	return false;
}

bool cpu_option_print_names(void)
{
	unsigned int n, i, column = 0;
	const struct guest_model *models = guest_models(&n);
	const struct guest_alias *aliases;
	const struct cpu_feature *features;

	printf("CPUs:\n  %-26s all that KVM supports here (default)\n", "host");
	for (i = 0; i < n; i++)
		if (!i || strcmp(models[i].name, models[i - 1].name) != 0)
			printf(models[i].kernel ? "  %-26s wants %s\n" : "  %s\n", models[i].name,
			       models[i].kernel);
	printf("\nOther names:\n");
	for (i = 0; i < n; i++)
		if (is_first_version(models, n, i))
			printf("  %s%-*s %s\n", models[i].name, (int)(26 - strlen(models[i].name)),
			       "-v1", models[i].name);
	aliases = guest_aliases(&n);
	for (i = 0; i < n; i++)
		printf("  %-26s %s\n", aliases[i].name, aliases[i].model);
	printf("\nFeatures, to be added by ,+NAME and taken away by ,-NAME:\n");
	features = cpu_features(&n);
	for (i = 0; i < n; i++) {
		const unsigned int len = (unsigned int)strlen(features[i].name);

		if (column && column + 1 + len > 98) {
			putchar('\n');
			column = 0;
		}
		column += (unsigned int)printf(column ? " %s" : "  %s", features[i].name);
	}
	putchar('\n');
	return std_out_flush() == 0;
}

static int check_template(const struct cpu_template *t, const char *path, const struct kvm *kvm,
			  struct err *e)
{
	unsigned int i;

	/* "!N" lifts a check that the template's own VMM makes; there is none of those here */
	for (i = 0; i < t->n_caps; i++)
		if (!t->cap[i].remove &&
		    ioctl(kvm->fd, KVM_CHECK_EXTENSION, (unsigned long)t->cap[i].cap) <= 0)
			return err_set(e, -ENOTSUP,
				       "--cpu %s: kvm_capabilities: this host's KVM lacks "
				       "capability %u; use a host that has it, or another template",
				       path, t->cap[i].cap);
	return 0;
}

static int load(struct cpu_option *c, const char *text, const struct kvm *kvm, struct err *e)
{
	AUTO_FREE char *json = NULL;
	size_t len;
	int ret;

	c->text = text;
	c->is_template = cpu_option_is_path(text);
	if (!c->is_template)
		return guest_cpu_parse(text, &c->cpu, e);
	ret = file_read("CPU template", text, CPU_TEMPLATE_SIZE_MAX, &json, &len, e);
	if (!ret)
		ret = text_kind_check("CPU template", text, json, len, TEXT_TEMPLATE, e);
	if (!ret)
		ret = cpu_template_parse(text, json, len, &c->template, e);
	return ret < 0 || !kvm ? ret : check_template(&c->template, text, kvm, e);
}

int cpu_option_load(const char *text, const struct kvm *kvm, struct cpu_option **out, struct err *e)
{
	struct cpu_option *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_no_memory(e);
	ret = load(c, text, kvm, e);
	if (ret < 0)
		cpu_option_free(c);
	else
		*out = c;
	return ret;
}

void cpu_option_free(struct cpu_option *c)
{
	free(c);
}

int cpu_option_apply(const struct cpu_option *c, struct cpuid_set *set, struct err *e)
{
	if (c->is_template)
		return template_apply_cpuid(c->template.cpuid, c->template.n_cpuid, set, e);
	return guest_cpu_apply(&c->cpu, set, e);
}

static void warn_overruled(const struct cpu_option *c, struct cpuid_set *set)
{
	static const char *const regs[] = {"EAX", "EBX", "ECX", "EDX"};
	const struct cpu_template *t = &c->template;
	char list[400] = "", one[48];
	unsigned int i;

	for (i = template_overruled(t->cpuid, t->n_cpuid, 0, set); i < t->n_cpuid;
	     i = template_overruled(t->cpuid, t->n_cpuid, i + 1, set)) {
		snprintf(one, sizeof(one), "0x%x.%u %s", t->cpuid[i].leaf, t->cpuid[i].subleaf,
			 regs[t->cpuid[i].reg]);
		text_list_add(list, sizeof(list), one);
	}
	if (*list)
		log_warn("CPU template %s: not all bits are as it has them in CPUID %s: topology, "
			 "hypervisor, x2APIC, TSC-deadline and MONITOR are testudo's, VMX and SVM "
			 "the policy's (nested)",
			 c->text, list);
}

int cpu_option_check(const struct cpu_option *c, const struct cpuid_set *set, uint32_t n_vcpus,
		     struct err *e)
{
	struct cpuid_set shown = *set;
	int ret = n_vcpus ? cpuid_set_topology(&shown, 0, n_vcpus) : 0;

	if (ret < 0)
		return err_set(e, ret, "no room for the topology leaves of CPUID");
	if (!c->is_template)
		return guest_cpu_check_edits(&c->cpu, &shown, e);
	warn_overruled(c, &shown);
	return 0;
}

int cpu_option_msrs(const struct cpu_option *c, const struct kvm *kvm, struct cpu_msrs *msrs,
		    struct err *e)
{
	return cpu_msrs_init(msrs, c->text, c->template.msr, c->template.n_msr, kvm, e);
}

uint64_t cpu_option_arch_cap(const struct cpu_option *c, uint64_t arch_cap)
{
	return template_apply_msr(c->template.msr, c->template.n_msr, MSR_IA32_ARCH_CAPABILITIES,
				  arch_cap);
}

/* Of leaves that are only assumed there is no more than leaf 7 to edit, and the highest leaf. */
static void keep_known(struct cpu_template *t)
{
	unsigned int i, n = 0;

	for (i = 0; i < t->n_cpuid; i++)
		if (t->cpuid[i].leaf == 7 || (!t->cpuid[i].leaf && t->cpuid[i].reg == CPUID_EAX))
			t->cpuid[n++] = t->cpuid[i];
	t->n_cpuid = n;
}

int cpu_option_shown(const char *text, const struct kvm *kvm, bool nested, bool assumed,
		     struct cpuid_set *set, uint64_t *arch_cap, struct err *e)
{
	struct cpu_option *c = NULL;
	struct cpu_msrs msrs = {0};
	int ret = cpu_option_load(text, kvm, &c, e);

	if (ret < 0)
		return ret;
	if (assumed && c->is_template)
		keep_known(&c->template);
	ret = cpu_option_apply(c, set, e);
	vcpu_base_cpuid(set, &(struct kvm) {.tsc_deadline = true}, nested);
	if (!ret)
		ret = cpu_option_check(c, set, 0, e);
	if (!ret) /* looked at only */
		ret = cpu_option_msrs(c, kvm, &msrs, e);
	cpu_msrs_fini(&msrs);
	if (!ret)
		*arch_cap = cpu_option_arch_cap(c, *arch_cap);
	cpu_option_free(c);
	return ret;
}
