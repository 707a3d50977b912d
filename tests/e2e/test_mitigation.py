"""
What testudo holds in IA32_SPEC_CTRL, on other kernels' KVM: tests/shim lays their behaviour over this
machine's, and tells the guest what the hardware would have in the register (MSR 0x5f000000).
"""

import json
import os
import pathlib
import re

import pytest

import harness
from harness import BAD_INPUT, OFF

POLICY = 4
SHIM = harness.SHIM

IBRS, STIBP, SSBD, RRSBA, BHI = 1, 2, 4, 0x40, 0x400
NAMES = {"IBRS": 1, "STIBP": 2, "SSBD": 4, "IPRED_DIS_U": 8, "IPRED_DIS_S": 0x10, "RRSBA_DIS_U": 0x20, "RRSBA_DIS_S": 0x40,
         "PSFD": 0x80, "DDPD_U": 0x100, "BHI_DIS_S": 0x400}
BHI_NO, RSBA = 1 << 20, 1 << 2
EIBRS = 0x800eb  # ARCH_CAPABILITIES: IBRS_ALL and RRSBA among others, so that no retpoline is relied on
ALL = IBRS | STIBP | SSBD | RRSBA | BHI

HW, INITS, EDX_7_2 = "5f000000", "5f000001", "5f000002"

# Modes of the shim in which bits can be held, and what the report must call the back end.
HOLDING = {
    "filter": "msr-filter",
    "rfc": "force-spec-ctrl",
    "rfc-virtual-msrs": "force-spec-ctrl, virtual MSRs in KVM",
    "renumbered": "force-spec-ctrl",
    "vcpu": "force-spec-ctrl per vCPU",
}
# Bits held for a guest that has said nothing. Where they are frozen they cover what it may report.
HELD = {"filter": BHI, "rfc": BHI | RRSBA, "rfc-virtual-msrs": BHI, "renumbered": BHI | RRSBA,
        "vcpu": BHI}
RFC = [mode for mode in HOLDING if mode != "filter"]  # what holds inside KVM
FROZEN = [mode for mode in RFC if mode != "vcpu"]
AT_RUN_TIME = ["filter", "vcpu"]

SAPPHIRE_RAPIDS = {
    "vendor": "GenuineIntel", "hypervisor": False, "family": 6, "model": 0x8f, "stepping": 8,
    "cpuid-7-0-ecx": "0x1000000", "cpuid-7-0-edx": "0xbc000400", "cpuid-7-2-edx": "0x1f",
    "kvm-cpuid-7-0-edx": "0xac000400", "kvm-cpuid-7-2-edx": "0", "kvm-arch-capabilities": hex(EIBRS),
}
AMD = dict(SAPPHIRE_RAPIDS, vendor="AuthenticAMD", family=0x19, model=1, **{"cpuid-7-2-edx": "0"})
ICE_LAKE = dict(SAPPHIRE_RAPIDS, model=0x6a, stepping=6, **{"cpuid-7-0-ecx": "0", "cpuid-7-2-edx": "0"})


# CPUID.(7,2).EDX of a part that has all the controls
CONTROLS = 0x1f


def fact_file(path, host, backend, can_force):
    """A host's facts as `testudo host --json` writes them."""
    pathlib.Path(path).write_text(json.dumps({
        "testudo-host-facts": 1, "facts": host, "backend": {"name": backend, "can-hold": can_force}}))
    return str(path)


def pool_files(work):
    """Fact files of an older and a newer host, the newer one showing guests its controls."""
    folder = pathlib.Path(work)
    return (fact_file(folder / "icx.json", ICE_LAKE, "msr-filter", ["IBRS", "STIBP", "SSBD"]),
            fact_file(folder / "spr.json", dict(SAPPHIRE_RAPIDS, **{"kvm-cpuid-7-2-edx": hex(CONTROLS)}), "msr-filter",
                      ["IBRS", "STIBP", "SSBD", "RRSBA_DIS_S", "BHI_DIS_S"]))


class Guest:
    """One run of the guest's msrs command under the shim, on @host whatever this machine is."""

    def __init__(self, work, mode, steps, *args, cpus=2, host=SAPPHIRE_RAPIDS, policy=None, cap=None,
                 bits=ALL, arch_cap=EIBRS, edx_7_2=0, params=None, ibpb=None):
        self.report_path = pathlib.Path(work) / "report.json"
        facts = pathlib.Path(work) / "host.json"
        facts.write_text(json.dumps({
            "testudo-host-facts": 1,
            "facts": dict(host, **{"kvm-arch-capabilities": hex(arch_cap), "kvm-cpuid-7-2-edx": hex(edx_7_2)}),
            "backend": {"name": "none", "can-hold": []}}))
        words = [*args, "-c", cpus, "--host-facts", facts, "--mitigation-report", self.report_path]
        if policy is not None:
            path = pathlib.Path(work) / "policy.yaml"
            path.write_text("version: 1\n" + policy)
            words += ["--policy", path]
        values = {name: value for name, value in {"bits": bits, "cap": cap, "ibpb": ibpb}.items() if value is not None}
        prefix = harness.environment(harness.overlay(facts, mode, **values))
        if params is None:
            params = f"msrs cpus={cpus} do={','.join(steps)}"
        self.result = harness.run_raw(harness.arguments(params, *words), work, prefix=prefix)
        self.report = json.loads(self.report_path.read_text()) if self.report_path.exists() else None

    def outcomes(self):
        """What each step saw: a number, or None for #GP; INIT steps are left out."""
        assert self.result.code == OFF and self.result.lines[-1] == "done msrs", str(self.result)
        found = []
        for line in self.result.lines:
            m = re.match(r"msrs cpu=\d+ \w idx=\S+ (?:value=(\S+)|gp)$", line)
            if m:
                found.append(int(m[1], 16) if m[1] else None)
        return found

    def vcpu(self, n=0):
        return self.report["vcpus"][n]


@pytest.fixture
def guest(work):
    if not SHIM.exists():
        pytest.skip(f"{SHIM} is not built")
    if "built without the sandbox" in harness.run_raw(harness.arguments("hello", "-v"), work).err:
        pytest.skip("a sanitizer's run-time wants to be loaded first")
    return lambda *args, **kwargs: Guest(work, *args, **kwargs)


# ---- which back end, and what it can hold ----

@pytest.mark.parametrize("mode", HOLDING)
def test_back_end_is_found_by_trying(guest, mode):
    g = guest(mode, [f"0.r.{HW}"])
    assert g.outcomes() == [HELD[mode]]
    assert g.report["backend"]["name"] == HOLDING[mode]
    assert sum(NAMES[name] for name in g.report["backend"]["can-hold"]) == ALL
    assert g.report["backend"]["guest-accesses-exit"] == (mode == "filter")
    assert g.report["verdict"] == "allow, with held bits"
    assert "BHI_DIS_S held: the guest " in g.vcpu()["summary"] and "Sapphire Rapids needs it" in g.vcpu()["summary"]
    assert "warning" not in g.result.full_err


@pytest.mark.parametrize("bits", [0x5ff, 0x401, IBRS])
def test_bits_are_found_all_at_once_or_one_by_one(guest, bits):
    """A part that has all of them, and two that refuse a value with any of the others in it."""
    g = guest("filter", [f"0.r.{HW}"], cpus=1, bits=bits, policy="rrsba: off")
    assert sum(NAMES[name] for name in g.report["backend"]["can-hold"]) == bits
    assert g.outcomes() == [BHI & bits]


def test_trials_leave_nothing_open(live):
    """The scratch VM is closed when the guest runs."""
    with live("echo", "-c", 2) as t:
        t.read_until(b"echo ready")

        def kvm_files():
            found = []
            for path in pathlib.Path(f"/proc/{t.p.pid}/fd").iterdir():
                try:
                    found.append(os.readlink(path))
                except FileNotFoundError:  # closed since
                    pass
            return sorted(link for link in found if "kvm-v" in link)

        harness.wait_for(lambda: len(kvm_files()) == 3)
        assert kvm_files() == ["anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1", "anon_inode:kvm-vm"]


@pytest.mark.parametrize("mode,why", [
    ("drops", "does not keep it"),
    ("mainline", "accepts no bit"),
])
def test_a_host_that_can_hold_nothing_says_so(guest, mode, why):
    """Number 236 answers 1 there, too: it is another capability."""
    g = guest(mode, [f"0.r.{HW}", "0.r.50000000", "0.w.50000002.1"])
    assert g.outcomes() == [0, None, None]
    assert g.report["backend"]["name"] == "none"
    tried = {t["name"]: t for t in g.report["backend"]["tried"]}
    assert why in tried["msr-filter"]["why"]
    assert not tried["force-spec-ctrl"]["usable"]
    assert g.report["verdict"] == "warn"
    assert g.result.full_err.count("testudo: warning: mitigation:") == 1


def test_wrong_number_of_the_capability_is_named(guest):
    g = guest("bad-cap", [f"0.r.{HW}"])
    assert "--kvm-cap-force-spec-ctrl" in g.result.full_err
    assert g.report["backend"]["name"] == "msr-filter"


def test_number_that_only_the_operator_knows(guest):
    g = guest("renumbered", [f"0.r.{HW}"], "--kvm-cap-force-spec-ctrl", "300", cap=300)
    assert g.outcomes() == [BHI | RRSBA]
    assert "capability 300" in {t["name"]: t["why"] for t in g.report["backend"]["tried"]}["force-spec-ctrl"]


def test_number_that_nobody_told(guest):
    """236 is another capability there and refuses: the query alone is not believed."""
    g = guest("renumbered", [f"0.r.{HW}"], cap=300)
    assert g.report["backend"]["name"] == "msr-filter"
    assert "--kvm-cap-force-spec-ctrl" in g.result.full_err


def test_number_that_the_operator_got_wrong(guest):
    g = guest("rfc", [f"0.r.{HW}"], "--kvm-cap-force-spec-ctrl", "300")
    assert "refuses capability 300" in g.result.full_err


def test_number_of_a_capability_that_takes_anything(guest):
    """What accepts a value outside of its mask is another capability, though it accepts the bits, too."""
    g = guest("lax-cap", [f"0.r.{HW}"])
    assert g.report["backend"]["name"] == "msr-filter"
    assert "each number that testudo knows" in g.result.full_err


@pytest.mark.parametrize("mode", ["drops", "mainline"])
@pytest.mark.parametrize("policy", ["strict: on", "bhi: on", "cannot: refuse"])
def test_policy_refuses_what_cannot_be_held(guest, mode, policy):
    g = guest(mode, [f"0.r.{HW}"], policy=policy)
    g.result.expect_error(POLICY, "refused by policy", "BHI_DIS_S")
    advice = re.findall(r"use a host [^,;.]*|set bhi: \w+|strict: off|cannot: warn", g.result.log[0])
    assert len(advice) == len(set(advice)), g.result.log[0]
    assert ("strict: off" in advice) == (policy == "strict: on") and ("cannot: warn" in advice) == (policy == "cannot: refuse")
    # and the report that was asked for is there, and says the same
    assert (g.report["state"], g.report["verdict"]) == ("refused", "refuse")
    assert g.result.log[0] == f"testudo: error: {g.report['reason']}"
    assert g.vcpu()["summary"].startswith("refused: ") and g.vcpu()["held"]["mask"] == "0x0"


REFUSALS = [
    # mode, policy, what the one line says after the back end
    ("drops", "bhi: on\nrrsba: off", "bhi row 5, BHI_DIS_S at 1: bhi is on in the policy, but this host or back end "
     "cannot hold BHI_DIS_S; set bhi: auto, or use a host on which testudo host lists the bit"),
    ("drops", "bhi: off\nrrsba: off\nspec-ctrl: {SSBD: on, STIBP: off}", "raw row 2, SSBD at 1, STIBP at 0: raw bits "
     "that this host or back end cannot hold as the policy says; take the bit out of spec-ctrl, or use a host on which "
     "testudo host lists the bit"),
    ("filter", "spec-ctrl: {PSFD: on}", "raw row 2, PSFD at 1: raw bits that this host or back end cannot hold as the "
     "policy says; take the bit out of spec-ctrl, or use a host on which testudo host lists the bit"),
    ("filter", "pool: mixed\nmixed-pool: refuse", "pool row 1: the pool mixes short and long branch history buffers; "
     "make a pool of one kind of hosts, or set mixed-pool: level"),
]


@pytest.mark.parametrize("mode,policy,says", REFUSALS, ids=lambda v: v.split(",")[0] if "row" in v else None)
def test_refusal_names_row_bit_value_and_cure(guest, mode, policy, says):
    g = guest(mode, [f"0.r.{HW}"], policy=policy)
    assert g.result.code == POLICY
    name = HOLDING.get(mode, "none")
    refusal = [line for line in g.result.full_err.splitlines() if "refused" in line]
    assert refusal == [f"testudo: error: refused by policy: back end {name}: {says}"]


def test_operators_own_bits_on_amd(guest):
    """Not affected by BHI, but what the back end can hold there is held when the policy says so."""
    g = guest("filter", [f"0.r.{HW}", "0.w.48.2", f"0.r.{HW}", "0.r.48"], host=AMD, bits=IBRS | STIBP | SSBD,
              policy="spec-ctrl: {SSBD: on, STIBP: off}")
    assert g.outcomes() == [SSBD, 2, SSBD, 2]
    assert g.report["backend"]["name"] == "msr-filter" and g.vcpu()["held"]["at-1"] == ["SSBD"]


# ---- what the guest reads, what the hardware has ----

@pytest.mark.parametrize("mode", HOLDING)
def test_guest_has_its_own_value_on_each_processor(guest, mode):
    steps, expected = [], []
    for cpu, value in [(0, 1), (1, 0), (0, 0), (1, 3), (0, 5), (1, 1), (0, 1)]:
        steps += [f"{cpu}.w.48.{value:x}", f"{cpu}.r.48", f"{cpu}.r.{HW}"]
        expected += [value, value, value | HELD[mode]]
    g = guest(mode, steps)
    assert g.outcomes() == expected
    for n, own in ((0, 1), (1, 1)):
        v = g.vcpu(n)
        assert v["guest-spec-ctrl"] == hex(own)
        assert v["effective"] == {"value": hex(own | HELD[mode]),
                                  "known": "read back" if mode == "filter" else "by construction"}
        assert (v["held"]["mask"], v["held"]["value"]) == (hex(HELD[mode]), hex(HELD[mode]))
        assert "BHI_DIS_S" in v["held"]["at-1"] and v["held"] == v["wanted"]
        assert v["exits"]["spec-ctrl"] > 0 if mode == "filter" else v["exits"]["spec-ctrl"] == 0


@pytest.mark.parametrize("value", [0x400, 0x401, 8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x800, 1 << 63])
def test_filter_faults_bits_that_the_guest_was_not_shown(guest, value):
    g = guest("filter", ["0.w.48.1", f"0.w.48.{value:x}", "0.r.48", f"0.r.{HW}"], cpus=1)
    assert g.outcomes() == [1, None, 1, 1 | BHI]


@pytest.mark.parametrize("mode", HOLDING)
def test_guest_that_is_shown_bhi_ctrl_owns_the_bit(guest, mode):
    g = guest(mode, [f"0.r.{HW}", "0.w.48.401", "0.r.48", f"0.r.{HW}", "0.w.48.1", f"0.r.{HW}"], cpus=1,
              edx_7_2=0x10, policy="rrsba: off")
    assert g.outcomes() == [0, 0x401, 0x401, 0x401, 1, 1]
    assert g.vcpu()["held"]["mask"] == "0x0"
    assert [s["row"] for s in g.vcpu()["steps"] if s["table"] == "bhi"] == [6]


@pytest.mark.parametrize("mode", HOLDING)
@pytest.mark.parametrize("pool,shown", [("this-host", CONTROLS), ("long-bhb", CONTROLS), ("mixed", 0), ("any", 0),
                                        ("[icx.json, spr.json]", 0), ("[icx.json]", 0), ("[spr.json]", CONTROLS)])
def test_guest_is_shown_what_the_pool_can_keep(guest, work, mode, pool, shown):
    """Booted on the newer part: where it could move to an older one it is not shown BHI_CTRL, and the bit is held."""
    pool_files(work)
    g = guest(mode, [f"0.r.{EDX_7_2}", f"0.r.{HW}", "0.r.10a"], cpus=1, edx_7_2=CONTROLS, arch_cap=EIBRS | BHI_NO,
              policy=f"rrsba: off\nbhi-no-is-enough: off\npool: {pool}")
    immune = BHI_NO if pool == "this-host" else RSBA if pool in ("mixed", "any") else 0
    edx, hw, arch_cap = g.outcomes()
    assert (edx, hw) == (shown, 0 if shown else BHI)
    assert arch_cap & ~(1 << 63) == EIBRS | immune
    assert g.report["guest"]["cpuid-7-2-edx"] == hex(shown)
    assert [s["row"] for s in g.vcpu()["steps"] if s["table"] == "bhi"] == [6 if shown else 9]
    levelled = [line for line in g.result.full_err.splitlines() if "levelled for the pool" in line]
    assert len(levelled) == (pool != "this-host")
    assert not levelled or "BHI_NO" in levelled[0] and ("BHI_CTRL" in levelled[0]) == (not shown)


@pytest.mark.parametrize("mode", HOLDING)
def test_older_host_of_a_pool_warns_of_the_newer_ones(guest, work, mode):
    """RRSBA is shown where one host of the pool has it, whatever this one's microcode says."""
    pool_files(work)
    g = guest(mode, [f"0.r.{EDX_7_2}", "0.r.10a"], cpus=1, host=dict(ICE_LAKE, model=0x4f), arch_cap=0xe9,
              bits=IBRS | STIBP | SSBD, policy="pool: [spr.json]")
    edx, arch_cap = g.outcomes()
    assert edx == 0 and arch_cap & ~(1 << 63) == 0x800e9
    assert "shown for another host's sake: RRSBA" in g.result.full_err


@pytest.mark.parametrize("mode", HOLDING)
def test_older_host_holds_nothing(guest, mode):
    g = guest(mode, [f"0.r.{HW}", "0.r.48"], cpus=1, host=ICE_LAKE, bits=IBRS | STIBP | SSBD)
    assert g.outcomes() == [0, 0]
    assert g.report["verdict"] == "allow"


@pytest.mark.parametrize("mode", HOLDING)
@pytest.mark.parametrize("bits,mask,value", [
    ("{SSBD: on}", SSBD | BHI, SSBD | BHI),
    ("{STIBP: on, BHI_DIS_S: off}", STIBP | BHI, STIBP),
    ("{SSBD: off}", SSBD | BHI, BHI),
])
def test_operators_own_bits(guest, mode, bits, mask, value):
    g = guest(mode, [f"0.r.{HW}", "0.w.48.5", "0.r.48", f"0.r.{HW}", "1.w.48.2", f"1.r.{HW}"],
              policy=f"rrsba: off\nspec-ctrl: {bits}")
    held = [own & ~mask | value for own in (0, 5, 2)]
    assert g.outcomes() == [held[0], 5, 5, held[1], 2, held[2]]
    assert g.vcpu()["held"]["mask"] == hex(mask) and g.vcpu()["held"]["value"] == hex(value)


# ---- the virtual MSRs: the #GP matrix of the RFC's selftest ----

@pytest.mark.parametrize("mode", HOLDING)
def test_virtual_msrs_that_are_not_offered_fault(guest, mode):
    steps = [f"{cpu}.{access}" for cpu in (0, 1) for access in
             ("r.50000000", "r.50000001", "r.50000002", "w.50000000.0", "w.50000000.1", "w.50000001.0",
              "w.50000001.1", "w.50000002.0", "w.50000002.1", "r.50000003", "w.50000003.0")]
    g = guest(mode, steps + ["0.r.10a"], policy="virtual-msrs: off")
    assert g.outcomes() == [None] * len(steps) + [EIBRS]
    assert g.report["guest"]["virtual-enumeration"] == "0x0"


@pytest.mark.parametrize("mode", HOLDING)
def test_virtual_msrs_that_are_offered(guest, mode):
    matrix = [
        ("r.10a", EIBRS | 1 << 63), ("r.50000000", 1), ("r.50000001", 3), ("r.50000002", 0),
        ("w.50000000.0", None), ("w.50000000.1", None), ("w.50000001.0", None), ("w.50000001.3", None),
        ("w.50000002.1", 1), ("r.50000002", 1), ("w.50000002.3", 3), ("r.50000002", 3),
        ("w.50000002.4", None), ("w.50000002.7", None), (f"w.50000002.{1 << 63:x}", None), ("r.50000002", 3),
        ("w.50000002.0", 0), ("r.50000002", 0), ("r.50000000", 1), ("r.50000001", 3),
    ]
    steps = [(f"{cpu}.{access}", value) for cpu in (0, 1) for access, value in matrix]
    g = guest(mode, [s for s, _ in steps])
    assert g.outcomes() == [value for _, value in steps]


@pytest.mark.parametrize("mode", HOLDING)
def test_a_report_that_is_not_enumerated_faults(guest, mode):
    g = guest(mode, ["0.r.50000001", "0.w.50000002.2", "0.w.50000002.3", "0.w.50000002.1", "0.r.50000002"], cpus=1,
              policy="rrsba: off")
    assert g.outcomes() == [1, None, None, 1, 1]


# ---- reports ----

@pytest.mark.parametrize("mode", AT_RUN_TIME)
def test_report_changes_what_is_held_on_its_own_processor(guest, mode):
    """At run time, on one vCPU and not the other."""
    g = guest(mode, [f"0.r.{HW}", "0.r.50000001", f"0.r.{HW}", f"1.r.{HW}",
                         "0.w.50000002.1", f"0.r.{HW}", "1.r.50000001", f"1.r.{HW}", "0.r.48"])
    assert g.outcomes() == [BHI, 3, 0, BHI, 1, BHI, 3, 0, 0]
    zero, one = g.vcpu(0), g.vcpu(1)
    assert zero["report"] == {"aware": True, "enum-read": True, "written": True, "ctrl": "0x1"}
    assert one["report"] == {"aware": True, "enum-read": True, "written": False, "ctrl": "0x0"}
    assert (zero["held"]["value"], one["held"]["value"]) == (hex(BHI), "0x0")
    assert [s["row"] for s in zero["steps"] if s["table"] == "bhi"] == [10]
    assert [s["row"] for s in one["steps"] if s["table"] == "bhi"] == [11]
    changes = [line for line in g.result.full_err.splitlines() if "held bits changed" in line]
    assert len(changes) == 3, g.result.full_err
    assert all(line.count("vCPU") == 1 and "value=" in line for line in changes)


@pytest.mark.parametrize("mode", HOLDING)
def test_report_leaves_the_guests_own_value(guest, mode):
    g = guest(mode, ["0.w.48.3", "0.r.50000001", "0.w.50000002.1", "0.r.48", "0.w.50000002.2", "0.r.48",
                     "0.w.50000002.0", "0.r.48", f"0.r.{HW}"], policy="spec-ctrl: {STIBP: off}")
    assert [g.outcomes()[n] for n in (3, 5, 7)] == [3, 3, 3]
    assert g.outcomes()[8] & ~(BHI | RRSBA) == IBRS
    assert g.vcpu()["guest-spec-ctrl"] == "0x3"


@pytest.mark.parametrize("mode", FROZEN)
def test_late_report_does_not_weaken_what_is_frozen(guest, mode):
    g = guest(mode, ["0.r.50000001", "0.w.50000002.1", f"0.r.{HW}", "0.w.50000002.0", f"0.r.{HW}"])
    assert g.outcomes() == [3, 1, HELD[mode], 0, HELD[mode]]
    assert g.vcpu()["report"]["written"]


@pytest.mark.parametrize("mode", ["rfc-virtual-msrs", "vcpu"])
def test_late_report_adds_a_bit(guest, mode):
    """RRSBA_DIS_S is not held for a guest that is shown RRSBA, until it reports retpolines."""
    g = guest(mode, ["0.r.48", f"0.r.{HW}", "0.r.50000001", "0.w.50000002.2", f"0.r.{HW}", f"1.r.{HW}"])
    bhi = BHI if mode in FROZEN else 0  # the guest's word, that it does not need it, counts
    assert g.outcomes() == [0, BHI, 3, 2, bhi | RRSBA, BHI]
    assert g.vcpu()["held"]["value"] == hex(bhi | RRSBA)


@pytest.mark.parametrize("mode", HOLDING)
def test_reports_that_the_policy_ignores(guest, mode):
    g = guest(mode, ["0.r.50000000", "0.r.50000001", f"0.r.{HW}"], cpus=1, policy="honour-report: ignore")
    assert g.outcomes()[-1] == BHI


def test_a_guest_that_changes_its_mind_for_ever_does_not_fill_the_log(guest):
    g = guest("filter", ["0.r.50000001"] + ["0.w.50000002.1", "0.w.50000002.0"] * 60, cpus=1)
    assert g.outcomes()[-1] == 0
    assert len(g.result.full_err.splitlines()) < 25
    assert "again and again" in g.result.full_err


# ---- INIT and reset ----

def test_init_clears_the_bits_and_they_come_back_before_user_code(guest):
    """Stock KVM forgets 0x48 at INIT. Both starts of processor 1 pass its write of EFER."""
    g = guest("filter", [f"1.r.{INITS}", f"1.r.{HW}", "1.w.48.1", f"1.r.{HW}", "1.init", f"1.r.{INITS}", f"1.r.{HW}",
                         "1.r.48"])
    assert g.outcomes() == [1, BHI, 1, 1 | BHI, 2, BHI, 0]
    assert g.vcpu(1)["held-bits-lost"] == 2
    assert g.vcpu(0)["held-bits-lost"] == 0


@pytest.mark.parametrize("mode", RFC)
def test_init_keeps_the_bits_of_the_capability(guest, mode):
    g = guest(mode, ["1.w.48.1", "1.init", f"1.r.{HW}", "1.r.48"])
    assert g.outcomes() == [1, HELD[mode], 0]
    assert g.vcpu(1)["held-bits-lost"] == 0


@pytest.mark.parametrize("mode", HOLDING)
def test_init_keeps_the_report(guest, mode):
    g = guest(mode, ["1.r.50000001", "1.w.50000002.1", "1.init", "1.r.50000002"])
    assert g.outcomes() == [3, 1, 1]


@pytest.mark.parametrize("mode", AT_RUN_TIME)
def test_init_ends_a_decline(guest, mode):
    """What starts anew may be a kernel with the short sequence: its 0 is an answer when it has read the enumeration."""
    g = guest(mode, ["1.w.48.1", f"1.r.{HW}", "1.r.50000001", f"1.r.{HW}", "0.r.50000001", "1.init", f"1.r.{HW}",
                     "1.w.48.1", f"1.r.{HW}", f"0.r.{HW}", "1.r.50000001", f"1.r.{HW}"])
    assert g.outcomes() == [1, BHI | 1, 3, 1, 3, BHI, 1, BHI | 1, 0, 3, 1]


def test_init_clears_the_guests_own_value_where_nothing_is_held(guest):
    g = guest("filter", ["1.r.50000001", "1.w.48.1", f"1.r.{HW}", "1.init", "1.r.48"])
    assert g.outcomes() == [3, 1, 1, 0]


def test_bits_that_got_lost_unseen_are_found_by_the_tick(guest):
    """Writes of EFER that are no way up from INIT end its denial; then the look once a second is left."""
    g = guest("filter", ["1.spinw.500.c0000080.d01", "1.init", f"1.r.{HW}", f"0.spin.10000.{HW}", f"1.r.{HW}"])
    assert g.outcomes() == [0xd01, 0, BHI, BHI]
    assert g.vcpu(1)["held-bits-lost"] == 2


@pytest.mark.parametrize("mode", AT_RUN_TIME)
@pytest.mark.parametrize("first", ["answer", "writes"])
def test_init_ends_a_decline_after_many_writes_of_efer(guest, mode, first):
    """Nobody else would see it: with force-spec-ctrl per vCPU there is no tick, and of a vCPU that has no bit none is lost."""
    steps = ["1.r.50000001", "0.spinw.500.c0000080.d01"]
    g = guest(mode, [*(steps if first == "answer" else reversed(steps)), f"1.r.{HW}", "1.init", f"1.r.{HW}", "1.r.50000001",
                     f"1.r.{HW}"])
    assert g.outcomes() == [*([3, 0xd01] if first == "answer" else [0xd01, 3]), 0, BHI, 3, 0]


@pytest.mark.parametrize("mode", AT_RUN_TIME)
def test_efer_is_let_go_where_nobody_answered(guest, mode):
    g = guest(mode, ["0.spinw.800.c0000080.d01"])
    assert g.outcomes() == [0xd01]
    assert 0x400 < g.vcpu(0)["exits"]["efer"] < 0x420


@pytest.mark.parametrize("mode", HOLDING)
def test_reset_keeps_the_contract_and_forgets_the_report(guest, work, mode):
    disk = harness.make_disk(os.path.join(work, "disk"))
    g = guest(mode, [], "-d", disk, params="reboot n=3")
    assert g.result.code == OFF, str(g.result)
    assert g.report["guest"]["virtual-enumeration"] == "0x1"
    assert g.vcpu()["held"]["value"] == hex(HELD[mode])
    assert not g.vcpu()["report"]["aware"]
    assert g.result.full_err.count("holding SPEC_CTRL bits") == 1


# ---- a verdict that turns while the guest runs ----

@pytest.mark.parametrize("policy,code", [("", OFF), ("on-refuse: warn", OFF), ("on-refuse: stop", POLICY)])
def test_bits_that_can_be_held_no_more(guest, monkeypatch, policy, code):
    """KVM refuses the guest's SSBD together with the held bit: the operator says what follows."""
    monkeypatch.setenv("KVM_SHIM_REFUSES", str(SSBD | BHI))
    g = guest("filter", ["0.w.48.1", "0.w.48.4", "0.spin.8000.48", f"0.r.{HW}"], cpus=1, policy=policy)
    assert g.result.code == code, str(g.result)
    assert g.report["verdict"] == "refuse" and g.report["state"] == ("refused" if code else "ended")
    assert [s["row"] for s in g.vcpu()["steps"] if s["verdict"] == "refuse"] == [10]
    stopped = [line for line in g.result.full_err.splitlines() if "on-refuse: stop" in line]
    assert len(stopped) == (code == POLICY) == ("reason" in g.report)
    assert not stopped or "vCPU 0: migration row 10, SSBD, BHI_DIS_S at 1: KVM does not take" in stopped[0]


# ---- cost ----

def test_a_guest_that_pays_too_much_is_told_once(guest):
    g = guest("filter", ["0.spin.18000.48", "0.r.48"], cpus=1)
    assert g.outcomes()[-1] == 0
    warnings = [line for line in g.result.full_err.splitlines() if "times a second" in line]
    assert len(warnings) == 1 and "eIBRS" in warnings[0], g.result.full_err
    assert g.vcpu()["exits"]["spec-ctrl"] == 0x18000 + 1
    assert g.vcpu()["exits"]["spec-ctrl-per-second"] > 1000


@pytest.mark.parametrize("nested", ["shown", "hidden"])
def test_nested_guests_on_amd_are_warned_of_before_linux_6_16(guest, work, nested):
    """KVM for AMD had no barrier between a guest and its own guests; the kernel's number tells: NESTED row 2."""
    template = pathlib.Path(work, "svm.json")
    svm = {"register": "ecx", "bitmap": f"0b{'x' * 29}{int(nested == 'shown')}xx"}
    template.write_text(json.dumps({"cpuid_modifiers": [
        {"leaf": "0x80000001", "subleaf": "0x0", "flags": 0, "modifiers": [svm]}]}))
    g = guest("filter", [], "--cpu", template, cpus=1, host=AMD, bits=IBRS | STIBP | SSBD, policy=f"nested: {nested}")
    kernel = tuple(int(n) for n in os.uname().release.split(".")[:2])
    assert g.result.code == OFF, str(g.result)
    assert ("before Linux 6.16" in g.result.full_err) == (nested == "shown" and kernel < (6, 16))


# ---- PRED_CMD ----

VENDORS = pytest.mark.parametrize("host", [SAPPHIRE_RAPIDS, AMD], ids=["intel", "amd"])


@VENDORS
@pytest.mark.parametrize("steps,seen", [(["0.r.48"], False), (["1.w.49.1", "0.w.49.1", "1.w.49.1"], True)])
def test_first_ibpb_is_observed(guest, steps, seen, host):
    g = guest("filter", steps, host=host, policy="isolation: {observe-ibpb: on}")
    assert None not in g.outcomes()
    assert g.report["isolation"]["guest-ibpb"] == ("used" if seen else "not seen")
    assert g.result.full_err.count("uses IBPB") == seen
    assert sum(v["exits"]["pred-cmd"] for v in g.report["vcpus"]) == seen


def test_ibpb_that_is_not_observed(guest):
    g = guest("filter", ["0.w.49.1"], cpus=1)
    assert g.report["isolation"]["guest-ibpb"] == "not observed"
    assert g.vcpu()["exits"]["pred-cmd"] == 0


@VENDORS
def test_observed_pred_cmd_faults_reserved_bits(guest, host):
    """Bit 7, SBPB, is AMD's, for guests that are shown it: none here is."""
    g = guest("filter", ["0.w.49.2", "0.w.49.80", "0.w.49.0", "0.w.49.1"], cpus=1, host=host,
              policy="isolation: {observe-ibpb: on}")
    assert g.outcomes() == [None, None, 0, 1]


# ---- the report's file ----

def test_report_is_replaced_and_never_torn(live, work):
    path = pathlib.Path(work) / "report.json"
    with live("echo", "-c", 2, "--mitigation-report", path) as t:
        t.read_until(b"echo ready")
        harness.wait_for(path.exists)
        first = json.loads(path.read_text())
        assert first["state"] == "running" and len(first["vcpus"]) == 2
        inode = path.stat().st_ino
        old = open(path, encoding="utf-8")
        assert t.end() == -15
        assert json.loads(old.read()) == first
        old.close()
    assert path.stat().st_ino != inode
    assert json.loads(path.read_text())["state"] == "ended"
    assert os.listdir(work) == ["report.json"]


@pytest.mark.parametrize("path", ["no/such/dir/report.json", "/proc/self/", ""])
def test_report_that_cannot_be_written(testudo, path):
    r = testudo("hello", "--mitigation-report", path)
    assert r.code == BAD_INPUT and "--mitigation-report" in r.log[-1], str(r)


def test_report_in_a_directory_that_went_away(live, work):
    """The guest goes on; one warning."""
    folder = pathlib.Path(work) / "d"
    folder.mkdir()
    with live("echo", "--mitigation-report", folder / "report.json") as t:
        t.read_until(b"echo ready")
        harness.wait_for((folder / "report.json").exists)
        (folder / "report.json").unlink()
        folder.rmdir()
        assert t.end() == -15
        assert t.full_stderr().count("the file is not true any more") == 1


# ---- isolation ----

def status_of_threads(pid):
    found = {}
    for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (path / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended since
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        found[fields["Name"].strip()] = {k: v.strip() for k, v in fields.items()}
    return found


def write_policy(work, text):
    path = pathlib.Path(work) / "policy.yaml"
    path.write_text("version: 1\n" + text)
    return path


def test_vcpus_are_pinned(live, work):
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("one CPU")
    policy = write_policy(work, f"isolation: {{vcpu-pinning: [{cpus[1]}, {cpus[0]}]}}")
    with live("smp end=hlt", "-c", 2, "--policy", policy) as t:
        t.read_until(b"done smp\n")
        threads = status_of_threads(t.p.pid)
        assert threads["vcpu0"]["Cpus_allowed_list"] == str(cpus[1])
        assert threads["vcpu1"]["Cpus_allowed_list"] == str(cpus[0])
        assert threads["testudo"]["Cpus_allowed_list"] != str(cpus[0])


@pytest.mark.parametrize("cannot,code", [("warn", OFF), ("refuse", POLICY)])
def test_pins_that_cannot_be_had(testudo, work, cannot, code):
    """Fewer pins than vCPUs; then a CPU that is not there."""
    for pins, cpus in (("[0]", 2), ("[8000]", 1)):
        policy = write_policy(work, f"cannot: {cannot}\nbhi: off\nrrsba: off\nisolation: {{vcpu-pinning: {pins}}}")
        report = pathlib.Path(work) / "report.json"
        r = testudo("hello", "-c", cpus, "--policy", policy, "--mitigation-report", report)
        assert r.code == code and "vCPU pinning" in r.full_err, str(r)
        said = json.loads(report.read_text())
        assert said["state"] == ("refused" if code else "ended")
        assert "vCPU pinning" in said.get("reason", "vCPU pinning") and ("reason" in said) == bool(code)


@pytest.mark.parametrize("key,item", [("indirect-branch: isolate", "indirect-branch"),
                                      ("core-scheduling: on", "core-scheduling")])
def test_isolation_is_what_the_kernel_says(live, testudo, work, key, item):
    """Whatever this host can: the report, the log and /proc agree, and refuse refuses."""
    policy = write_policy(work, f"isolation: {{{key}}}")
    path = pathlib.Path(work) / "report.json"
    with live("echo", "--policy", policy, "--mitigation-report", path) as t:
        t.read_until(b"echo ready")
        harness.wait_for(path.exists)
        got = json.loads(path.read_text())["isolation"][item]
        assert got["wanted"] and got["how"]
        if item == "indirect-branch":
            for status in status_of_threads(t.p.pid).values():
                said = status.get("Speculation_Indirect_Branch", "")
                assert ("disabled" in said or said == "not affected") == got["held"], said
        assert ("testudo: warning: isolation:" in t.full_stderr()) == (not got["held"])
    policy = write_policy(work, f"cannot: refuse\nbhi: off\nrrsba: off\nisolation: {{{key}}}")
    r = testudo("hello", "--policy", policy)
    assert r.code == (OFF if got["held"] else POLICY), str(r)
