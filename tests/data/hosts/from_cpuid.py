#!/usr/bin/env python3
"""Makes the fact files of real machines from machines.txt: from_cpuid.py [FOLDER]

What a CPU says is cut down to what KVM of a kernel passes on, as kvm_set_cpu_caps() of that kernel
has it, so that a fact file says what `testudo host --json` would say on that machine."""

import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DEFS = os.path.join(HERE, "..", "..", "..", "cpuid", "features.def")

# Linux 6.1.192, arch/x86/kvm/cpuid.c, by the names of cpuid/features.def
PASSED = {
    "6.1": """
    pni pclmulqdq vmx ssse3 fma cx16 pdcm pcid sse4_1 sse4_2 x2apic movbe popcnt aes xsave avx f16c rdrand
    fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss
    fsgsbase sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm zero_fcs_fds mpx avx512f avx512dq rdseed
    adx smap avx512ifma clflushopt clwb avx512pf avx512er avx512cd sha_ni avx512bw avx512vl
    avx512vbmi la57 pku rdpid avx512_vpopcntdq umip avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg
    cldemote movdiri movdir64b waitpkg sgx_lc bus_lock_detect
    avx512_4vnniw avx512_4fmaps spec_ctrl ssbd arch_capabilities stibp md_clear avx512_vp2intersect fsrm serialize
    tsxldtrk avx512_fp16 amx_tile amx_int8 amx_bf16
    avx_vnni avx512_bf16
    psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no
    xsaveopt xsavec xgetbv1 xsaves xfd
    lahf_lm cmp_legacy svm cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw xop fma4 tbm topoext
    syscall nx mmxext fxsr_opt pdpe1gb rdtscp lm 3dnowext 3dnow
    invtsc clzero xsaveerptr wbnoinvd ibpb ibrs amd_ssbd virt_ssbd amd_ssb_no amd_stibp stibp_always_on amd_psfd
    no_nested_data_bp lfence_rdtsc verw_clear null_sel_clr_base
    """.split(),
}
# what came in between, as kvm_set_cpu_caps() of 6.12 has it
PASSED["6.12"] = PASSED["6.1"] + """
    flush_l1d cmpccxadd fzrm fsrs fsrc amx_fp16 avx_ifma lam avx_vnni_int8 avx_ne_convert prefetchiti amx_complex avx10
    autoibrs sbpb ibpb_brtype srso_no
    """.split()

# hw-vuln/indirect-target-selection.rst: model and the first stepping; KVM shows ITS_NO on all other parts
ITS = {0x55: 6, 0x6a: 0, 0x6c: 0, 0x7e: 0, 0x8c: 0, 0x8d: 0, 0x8e: 0xc, 0x9e: 0xd, 0xa5: 0, 0xa6: 0, 0xa7: 0}
ARCH_CAP_PASSED = sum(1 << b for b in [*range(9), 13, 14, 15, 17, 19, 20, 24, 26, 27, 28, 62])
KERNELS = {"6.1": "6.1.0-56-amd64", "6.12": "6.12.0-1-amd64"}
NEWER_TOO = ["sapphire-rapids-3408u", "granite-rapids", "sierra-forest-6731e", "epyc-9334", "ryzen-9950x"]
FORCE = [("IBRS", "spec_ctrl"), ("STIBP", "stibp"), ("SSBD", "ssbd"), ("IPRED_DIS_U", "ipred_ctrl"),
         ("IPRED_DIS_S", "ipred_ctrl"), ("RRSBA_DIS_U", "rrsba_ctrl"), ("RRSBA_DIS_S", "rrsba_ctrl"), ("PSFD", "psfd"),
         ("DDPD_U", "ddpd_u"), ("BHI_DIS_S", "bhi_ctrl")]
AMD_FORCE = [("IBRS", "ibrs"), ("STIBP", "amd_stibp"), ("SSBD", "amd_ssbd"), ("PSFD", "amd_psfd")]


def features():
    row = re.compile(r'FEATURE\((\w+),\s*(\w+),\s*(\d+), E(.)X,\s*(\d+)')
    with open(DEFS) as f:
        return {m[1]: ((int(m[2], 16), int(m[3])), "ABCD".index(m[4]), int(m[5])) for m in map(row.match, f) if m}


FEATURE = features()


def machines():
    with open(os.path.join(HERE, "machines.txt")) as f:
        blocks = f.read().split("\nmachine ")[1:]
    for block in blocks:
        name, _, kind, *lines = block.strip().split("\n")
        leaves, arch_cap = {}, 0
        for line in lines:
            words = line.split()
            if words[0] == "msr":
                arch_cap = int(words[2], 16)
                continue
            leaf, _, sub = words[0].partition(".")
            leaves[int(leaf, 16), int(sub or 0)] = [int(w, 16) for w in words[1:]]
        leaves[6, 0] = [4, 0, 0, 0]  # ARAT, which KVM makes up on every host
        leaves[0x80000000, 0] = [max(leaf for leaf, _ in leaves), 0, 0, 0]
        leaves[0x80000007, 0] = [0, 0, 0, 0x100]
        leaves.setdefault((7, 2), [0, 0, 0, 0])
        yield name, kind.split(), dict(sorted(leaves.items())), arch_cap


def has(leaves, name):
    leaf, reg, bit = FEATURE[name]
    return leaf in leaves and leaves[leaf][reg] >> bit & 1


def put(leaves, name, on=True):
    leaf, reg, bit = FEATURE[name]
    if on:
        leaves[leaf][reg] |= 1 << bit


def passed_on(raw, arch_cap, kernel, amd, family):
    kvm = {leaf: [0] * 4 for leaf in raw}
    for leaf in [(0, 0), (0x80000000, 0), (0xd, 0)]:
        kvm[leaf] = list(raw[leaf])
    kvm[0, 0][0] = min(raw[0, 0][0], 0x1f)
    kvm[1, 0][:2] = raw[1, 0][:2]
    kvm[6, 0][0] = 4
    kvm[7, 0][0] = min(raw[7, 0][0], 2)
    kvm[0x80000008, 0][0] = raw[0x80000008, 0][0]
    for name in PASSED[kernel]:
        if FEATURE[name][0] in kvm:
            put(kvm, name, has(raw, name))
    for name in ["x2apic", "tsc_adjust", "arch_capabilities"]:
        put(kvm, name)
    put(kvm, "umip", not amd or has(raw, "umip"))
    # each vendor's bits for the same controls
    pairs = [("spec_ctrl", "ibpb"), ("spec_ctrl", "ibrs"), ("stibp", "amd_stibp"), ("ssbd", "amd_ssbd")]
    for intel, theirs in pairs:
        put(kvm, theirs, has(raw, intel))
    put(kvm, "spec_ctrl", has(raw, "ibpb") and has(raw, "ibrs"))
    put(kvm, "stibp", has(raw, "amd_stibp"))
    put(kvm, "ssbd", has(raw, "amd_ssbd"))
    if family == 0x17:
        kvm[0xd, 1][0] &= ~8  # erratum 1386
    if amd:
        kvm[7, 0][2] &= ~(1 << 24)  # BUS_LOCK_DETECT, which SVM does not give
        if (0x80000021, 0) in kvm:
            kvm[0x80000021, 0][0] |= 0x244
    else:
        if not has(raw, "ospke"):
            kvm[7, 0][2] &= ~8  # PKU
        # the page-size-change fault is KVM's to prevent, and the L1D flush
        model, stepping = raw[1, 0][0] >> 12 & 0xf0 | raw[1, 0][0] >> 4 & 15, raw[1, 0][0] & 15
        its_no = 0 if stepping >= ITS.get(model, 16) else 1 << 62
        arch_cap = arch_cap & ARCH_CAP_PASSED | 0x48 | its_no
    return kvm, arch_cap


def fact_file(name, raw, kvm, arch_cap, kernel):
    signature = raw[1, 0][0]
    base = signature >> 8 & 15
    family = base + (signature >> 20 & 255 if base == 15 else 0)
    model = signature >> 4 & 15 | (signature >> 12 & 0xf0 if base in (6, 15) else 0)
    vendor = b"".join(raw[0, 0][i].to_bytes(4, "little") for i in (1, 3, 2)).decode()
    force = [bit for bit, control in (FORCE if vendor == "GenuineIntel" else AMD_FORCE) if has(kvm, control)]
    facts = {"vendor": vendor, "hypervisor": False, "family": family, "model": model, "stepping": signature & 15,
             "cpuid-7-0-ecx": hex(raw[7, 0][2]), "cpuid-7-0-edx": hex(raw[7, 0][3]), "cpuid-7-2-edx": hex(raw[7, 2][3]),
             "kvm-cpuid-7-0-edx": hex(kvm[7, 0][3]), "kvm-cpuid-7-2-edx": hex(kvm[7, 2][3]),
             "kvm-arch-capabilities": hex(arch_cap)}
    leaves = {f"{leaf:x}" + (f".{sub:x}" if leaf in (7, 0xd) else ""): " ".join(f"0x{word:08x}" for word in words)
              for (leaf, sub), words in kvm.items()}
    return {"testudo-host-facts": 1, "facts": facts,
            "backend": {"name": "msr-filter" if force else "none", "can-hold": force}, "kvm-cpuid": leaves,
            "info": {"cpu": name, "microcode": "", "kernel": kernel, "vulnerabilities": {}}}


def all_files():
    for name, kind, raw, arch_cap in machines():
        amd = raw[0, 0][1] != 0x756e6547
        if kind[0] == "kvm":
            yield name, fact_file(name, raw, raw, arch_cap, kind[1])
            continue
        family = 0x17 if raw[1, 0][0] >> 20 == 8 else 0
        for kernel in ["6.1", "6.12"] if name in NEWER_TOO else ["6.1"]:
            kvm, cap = passed_on(raw, arch_cap, kernel, amd, family)
            title = name if kernel == "6.1" else f"{name}-linux-{kernel}"
            yield title, fact_file(name, raw, kvm, cap, KERNELS[kernel])


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else HERE
    for name, facts in all_files():
        with open(os.path.join(folder, name + ".json"), "w") as f:
            f.write(json.dumps(facts, indent=8) + "\n")


if __name__ == "__main__":
    main()
