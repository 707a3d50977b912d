/*
 * What kind of CPU a host is, from raw CPUID and one feature MSR, as values: the facts that decide
 * which mitigations a guest needs there. PURE: the caller reads CPUID and MSRs, or a file of facts
 * from a host that is not here.
 */
#ifndef CPUID_HOST_H
#define CPUID_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "cpuid/cpuid.h"

enum cpu_vendor {
	CPU_VENDOR_OTHER,
	CPU_VENDOR_INTEL,
	CPU_VENDOR_AMD,
	CPU_VENDOR_HYGON,
	CPU_VENDOR_ZHAOXIN
};

/** cpu_vendor_has_svm - AMD's virtualization, with KVM's other half and AMD's bits of CPUID? */
static inline bool cpu_vendor_has_svm(enum cpu_vendor vendor)
{
	return vendor == CPU_VENDOR_AMD || vendor == CPU_VENDOR_HYGON;
}

/* How far the short BHB-clearing sequence can be trusted on a part. */
enum bhb_kind {
	BHB_UNKNOWN, /* a model that is not in the table and has no BHI_CTRL */
	BHB_SHORT,   /* before Alder Lake and Sapphire Rapids: the short sequence clears it */
	BHB_LONG,    /* from them on, and everything newer than the table: it does not */
};

/* Raw facts: what a fact file stores and what the running host tells. Nothing derived. */
struct host_facts {
	char vendor_id[13];		  /* "GenuineIntel" */
	uint32_t family, model, stepping; /* display family and model, extended parts added in */
	bool hypervisor;      /* CPUID.1 ECX[31]: this host is itself a guest, its model may lie */
	uint32_t leaf7_0_ecx; /* the CPU's own; BUS_LOCK_DETECT hints at the generation */
	uint32_t leaf7_0_edx, leaf7_2_edx;	   /* the CPU's own */
	uint32_t kvm_leaf7_0_edx, kvm_leaf7_2_edx; /* what KVM offers to guests */
	uint64_t kvm_arch_cap; /* KVM's feature MSR 10AH; 0 when there is none */
};

/* One row of the table of Intel models. */
struct cpu_model {
	uint32_t family, model, stepping_min, stepping_max;
	const char *name;
	enum bhb_kind bhb;
	bool eibrs;
	bool rrsba;	/* behaves so, whatever the microcode enumerates */
	bool rsba;	/* the same, on a part without eIBRS */
	bool atom_only; /* no performance core in the package */
	const char *source;
};

/* What follows from the facts. */
struct host_traits {
	enum cpu_vendor vendor;
	const struct cpu_model *row; /* NULL: not an Intel part of the table */
	const char *name;	     /* "Sapphire Rapids", "AMD", "unknown Intel part" */
	enum bhb_kind bhb;
	bool atom_only;
	bool bhi_ctrl, rrsba_ctrl; /* the CPU's own CPUID.(7,2).EDX[4], [2] */
	bool eibrs, rrsba, rsba;   /* by MSR or by table */
	bool bhi_no;
	bool hybrid;	    /* CPUID.(7,0).EDX[15]: performance and Atom cores in one package */
	bool model_may_lie; /* the host is itself a guest: its model is what it was told */
};

/**
 * host_facts_from_cpuid - fill in what CPUID tells
 * @raw: leaves 0, 1, 7.0, 7.2 as the CPUID instruction gives them
 * @kvm: the same as KVM_GET_SUPPORTED_CPUID gives them
 * kvm_arch_cap is left alone.
 * Source: SDM vol.2 CPUID, "Display Family and Display Model"
 */
void host_facts_from_cpuid(struct host_facts *f, struct cpuid_set *raw, struct cpuid_set *kvm);

/**
 * host_facts_to_cpuid - what KVM on that host offers, as far as facts tell
 * Vendor and the EDX of leaves 7.0 and 7.2 are the facts'; of the rest, which they do not tell,
 * every feature that has a name is assumed. For asking what a guest would be shown of those two.
 */
void host_facts_to_cpuid(const struct host_facts *f, struct cpuid_set *set);

/**
 * host_traits_derive - what the facts mean
 * Long BHB: BHI_CTRL, or the model's row, or newer than every row (family 18 and above, or a model
 * that the table does not know together with features of a newer part). Unknown stays unknown only
 * for a model that is not in the table and shows nothing newer.
 */
void host_traits_derive(const struct host_facts *f, struct host_traits *t);

/** host_facts_same - do two sets of facts say the same of everything? */
bool host_facts_same(const struct host_facts *a, const struct host_facts *b);

/** cpu_model_find - the row for a part. Return: NULL when there is none. */
const struct cpu_model *cpu_model_find(uint32_t family, uint32_t model, uint32_t stepping);

/** cpu_vendor_from_id - the vendor of CPUID leaf 0's string; CPU_VENDOR_OTHER when unknown */
enum cpu_vendor cpu_vendor_from_id(const char *vendor_id);

#endif
