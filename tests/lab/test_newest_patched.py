"""Our series on the newest kernel that Debian has: the same rules, found and used as on the older ones."""
from barriers import MANY, two_vcpus
from runs import BHI, HIDDEN, IBRS, RRSBA, STIBP, SUPPORTED, expected, keeps_abi, series, watched

CAP = 0x5343


def test_abi(intel_newest_patched):
    keeps_abi(intel_newest_patched, CAP, SUPPORTED | RRSBA)


def test_probe(intel_newest_patched):
    assert int(intel_newest_patched.check("uname -r").split(".")[0]) >= 7
    here = intel_newest_patched.json("testudo host --json")
    assert here["backend"]["name"] == "force-spec-ctrl per vCPU"
    assert here["backend"]["can-hold"] == ["IBRS", "STIBP", "SSBD", "RRSBA_DIS_S", "BHI_DIS_S"]


WRITES = 0x20000	# many more than there are other exits


def test_hardware_keeps_what_is_held(intel_newest_patched):
    """Two vCPUs, the second through INIT; then one writes without an exit for each. The bit is in the register at each."""
    values = [1, 0x401, 0, 3, 0x400]
    groups = [series(values), ["1.init", *series(values, cpu=1)], ["0.w.48.1", f"0.spinw.{WRITES:x}.48.3", "0.r.48"]]
    run, looks = watched(intel_newest_patched, groups, *HIDDEN, cpus=2)
    assert run.report["backend"]["name"] == "force-spec-ctrl per vCPU"
    assert run.seen == 2 * expected(values) + [1, 3, 3]
    for look in looks:
        assert look.hardware[0]["exits"]
        assert all(vcpu["all"] & BHI for vcpu in look.hardware if vcpu["exits"]), look.hardware
    last = looks[-1].hardware[0]
    assert last["last"] == IBRS | STIBP | BHI and last["exits"] < WRITES / 4, last


def test_two_vcpus_on_a_cpu(intel_newest_patched):
    """The capability for barriers: none between the vCPUs of a guest that issued none; each once it has."""
    policy = "isolation: {vcpu-switch-barrier: used}\n"
    seen, vcpus = two_vcpus(intel_newest_patched, policy=policy)
    assert seen.switches >= MANY and seen.bare > seen.switches / 2, seen
    assert not any(vcpu["barriers"]["ibpb-vcpu-switch"] for vcpu in vcpus)
    seen, vcpus = two_vcpus(intel_newest_patched, first="0.w.49.1", policy=policy)
    assert seen.switches >= MANY and not seen.bare, seen
    assert sum(vcpu["barriers"]["ibpb-vcpu-switch"] for vcpu in vcpus) >= seen.switches
