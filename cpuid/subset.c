#include "cpuid/subset.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "base/text.h"
#include "cpuid/feature.h"

#define MISSING_MAX 512

static const char *const reg_names[] = {"EAX", "EBX", "ECX", "EDX"};

static uint32_t word(struct cpuid_set *set, const struct cpu_feature *f)
{
	struct cpuid_leaf *l = cpuid_find(set, f->leaf, f->subleaf);

	return l ? *cpuid_reg(l, f->reg) : 0;
}

static bool same_register(const struct cpu_feature *a, const struct cpu_feature *b)
{
	return a->leaf == b->leaf && a->subleaf == b->subleaf && a->reg == b->reg;
}

/* Bits of the register of @features[first] that have no name; is it the first row of it? */
static bool unnamed(const struct cpu_feature *features, unsigned int n, unsigned int first,
		    uint32_t *mask)
{
	unsigned int i;

	*mask = ~0u;
	for (i = 0; i < n; i++) {
		if (!same_register(&features[i], &features[first]))
			continue;
		if (i < first)
			return false;
		*mask &= ~(1u << features[i].bit);
	}
	return true;
}

static void check_unnamed(const struct cpu_feature *f, uint32_t lost, char *missing)
{
	char name[64];
	unsigned int bit;

	for (bit = 0; bit < 32; bit++) {
		if (!(lost & 1u << bit))
			continue;
		snprintf(name, sizeof(name), "CPUID.(%x,%x).%s[%u]", f->leaf, f->subleaf,
			 reg_names[f->reg], bit);
		text_list_add(missing, MISSING_MAX, name);
	}
}

static void check_features(struct cpuid_set *guest, struct cpuid_set *host, char *missing)
{
	unsigned int i, n;
	const struct cpu_feature *f = cpu_features(&n);

	for (i = 0; i < n; i++) {
		const uint32_t lost = word(guest, &f[i]) & ~word(host, &f[i]);
		uint32_t mask;

		if (f[i].merge == MERGE_AND && lost & 1u << f[i].bit)
			text_list_add(missing, MISSING_MAX, f[i].name);
		if (unnamed(f, n, i, &mask))
			check_unnamed(&f[i], lost & mask, missing);
	}
}

static uint64_t xsave_states(struct cpuid_set *set, uint32_t subleaf)
{
	const struct cpuid_leaf *l = cpuid_find(set, 0xd, subleaf);

	if (!l)
		return 0;
	return subleaf ? (uint64_t)l->edx << 32 | l->ecx : (uint64_t)l->edx << 32 | l->eax;
}

/*
 * A guest asks once where a state is in its areas, and goes on with areas that it has filled: the
 * place and size of each are the processor's own, and parts differ (that of the protection keys
 * with AVX-512 and without). A host from a fact file has no sub-leaves.
 */
static void check_xsave_place(struct cpuid_set *guest, struct cpuid_set *host, unsigned int bit,
			      char *missing)
{
	const struct cpuid_leaf *g = cpuid_find(guest, 0xd, bit), *h = cpuid_find(host, 0xd, bit);
	char name[96];

	if (!g || !h || (g->eax == h->eax && g->ebx == h->ebx && g->ecx == h->ecx))
		return;
	snprintf(name, sizeof(name), "XSAVE state %u of %u bytes at %u (%u at %u here)", bit,
		 g->eax, g->ebx, h->eax, h->ebx);
	text_list_add(missing, MISSING_MAX, name);
}

static void check_xsave(struct cpuid_set *guest, struct cpuid_set *host, char *missing)
{
	const uint64_t user = xsave_states(guest, 0), system = xsave_states(guest, 1);
	const uint64_t lost = (user & ~xsave_states(host, 0)) | (system & ~xsave_states(host, 1));
	char name[64];
	unsigned int bit;

	if (lost) {
		snprintf(name, sizeof(name), "XSAVE states %#llx", (unsigned long long)lost);
		text_list_add(missing, MISSING_MAX, name);
	}
	for (bit = 2; bit < 63; bit++)
		if ((user | system) & ~lost & 1ULL << bit)
			check_xsave_place(guest, host, bit, missing);
}

bool cpuid_list_missing(struct cpuid_set *guest, struct cpuid_set *host, char *text, size_t size)
{
	const unsigned int wants = cpuid_phys_bits(guest), has = cpuid_phys_bits(host);
	char missing[MISSING_MAX] = "";
	char name[64];

	check_features(guest, host, missing);
	check_xsave(guest, host, missing);
	if (wants > has) {
		snprintf(name, sizeof(name), "%u bits of physical address (%u here)", wants, has);
		text_list_add(missing, MISSING_MAX, name);
	}
	snprintf(text, size, "%s", missing);
	return missing[0];
}

int cpuid_check_subset(struct cpuid_set *guest, struct cpuid_set *host, struct err *e)
{
	char missing[MISSING_MAX];

	if (!cpuid_list_missing(guest, host, missing, sizeof(missing)))
		return 0;
	return err_set(e, -EINVAL,
		       "the guest was shown CPU features that the host or its KVM does not have: "
		       "%s; move it to a host that has them, or boot it with --cpu and a model "
		       "that all hosts of the pool can show",
		       missing);
}
