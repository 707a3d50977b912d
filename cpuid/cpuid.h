/*
 * CPUID leaves as values: a set that can be searched and edited, and the edits that every guest
 * needs. PURE: no ioctl, no cpuid instruction, no file; the caller brings the leaves and takes them
 * away. Usable without the rest of testudo.
 */
#ifndef CPUID_CPUID_H
#define CPUID_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#define CPUID_SET_MAX 256

struct cpuid_leaf {
	uint32_t leaf;
	uint32_t subleaf;
	bool indexed; /* does the sub-leaf (ECX on input) matter for this leaf? */
	uint32_t eax, ebx, ecx, edx;
};

struct cpuid_set {
	uint32_t n_leaves;
	struct cpuid_leaf leaf[CPUID_SET_MAX];
};

/**
 * cpuid_find - look a leaf up
 * @subleaf: ignored for leaves that are not indexed
 * Return: the leaf inside @set, or NULL
 */
struct cpuid_leaf *cpuid_find(struct cpuid_set *set, uint32_t leaf, uint32_t subleaf);

/**
 * cpuid_reach - the same, of what software that goes by CPUID can reach
 * A leaf above the highest of its range gives another leaf's values (leaf 0 and 8000_0000H, EAX), and
 * a sub-leaf of 7 above the highest of it (7.0 EAX) gives zeros.
 * Return: the leaf inside @set, or NULL
 * Source: SDM vol.2, CPUID
 */
struct cpuid_leaf *cpuid_reach(struct cpuid_set *set, uint32_t leaf, uint32_t subleaf);

/**
 * cpuid_add - append a leaf, or replace the one with the same leaf and sub-leaf
 * Return: 0, or -ENOSPC when CPUID_SET_MAX leaves are there
 */
int cpuid_add(struct cpuid_set *set, const struct cpuid_leaf *leaf);

/** cpuid_remove - drop every sub-leaf of @leaf */
void cpuid_remove(struct cpuid_set *set, uint32_t leaf);

/**
 * cpuid_phys_bits - guest-physical address width, CPUID 8000_0008H EAX[7:0]
 * Return: bits; 36 when the leaf is absent (SDM vol.2 CPUID: CPUs with PAE)
 */
unsigned int cpuid_phys_bits(struct cpuid_set *set);

/**
 * cpuid_has_invariant_tsc - is the TSC said to keep its frequency? CPUID 8000_0007H EDX[8]
 * Source: SDM vol.2, CPUID; SDM vol.3, 18.17.1
 */
bool cpuid_has_invariant_tsc(const struct cpuid_set *set);

/**
 * cpuid_set_topology - describe one package of @n_vcpus cores with one thread each
 * @set: leaves as KVM_GET_SUPPORTED_CPUID gives them; edited in place
 * @apic_id: x2APIC ID of the vCPU that will use the set, 0 to @n_vcpus - 1
 * @n_vcpus: 1 to 255
 * Writes leaves 1 (APIC ID, logical count, HTT), 4 (cores of the package, sharing), 0BH and 1FH
 * (thread and core levels), and on AMD 8000_0001H CmpLegacy, 8000_0008H ECX, 8000_001DH sharing and
 * 8000_001EH. A leaf above the set's maximum is not invented, but 0BH is: x2APIC needs it.
 * Return: 0 or -ENOSPC
 * Source: SDM vol.2 CPUID; vol.3 "Detecting Hardware Multi-Threading Support and Topology";
 *         AMD APM vol.3 appendix E.
 */
int cpuid_set_topology(struct cpuid_set *set, uint32_t apic_id, uint32_t n_vcpus);

/**
 * cpuid_set_vmm_bits - the feature bits that the VMM, not the CPU, answers for
 * @tsc_deadline: KVM offers TSC-deadline mode of the in-kernel local APIC
 * Sets the hypervisor bit (1.ECX[31]), x2APIC (1.ECX[21]) and TSC-deadline (1.ECX[24]); clears
 * MONITOR (1.ECX[3]): a guest that idles in MWAIT would keep its host CPU.
 */
void cpuid_set_vmm_bits(struct cpuid_set *set, bool tsc_deadline);

#endif
