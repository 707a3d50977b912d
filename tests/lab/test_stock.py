"""Stock Debian kernel on a CPU that has BHI_DIS_S: bits held by the MSR filter."""

import pytest

from barriers import MANY, ROUNDS, nested, nested_steps, nested_verdict, two_vcpus
from runs import (BHI, HIDDEN, IBRS, MITIGATION_CTRL, NUMBER, SPECTRE_V2, debian, expected, expected_hidden, msrs, series,
                  watched)

VALUES = [1, 0x401, 0, 3, 0x400]


def test_host(intel_stock):
    """The kernel uses the bit itself; testudo finds the filter, and by it all that forcing needs."""
    assert "BHI: BHI_DIS_S" in intel_stock.check(f"cat {SPECTRE_V2}")
    here = intel_stock.json("testudo host --json")
    assert here["facts"]["vendor"] == "GenuineIntel"
    assert int(here["facts"]["cpuid-7-2-edx"], 16) & 0x10, "BHI_CTRL"
    assert here["backend"]["name"] == "msr-filter"
    assert set(NUMBER) <= set(here["backend"]["can-hold"])


@pytest.fixture(scope="module")
def held(intel_stock):
    """Two vCPUs, BHI_CTRL hidden; each writes its series, and the second goes through INIT once more."""
    steps = series(VALUES) + series(VALUES, cpu=1) + ["1.init"] + series(VALUES, cpu=1) + ["0.w.48.1", "1.w.48.3"]
    return msrs(intel_stock, steps, *HIDDEN, cpus=2)


def test_guest_reads_back_what_it_writes(held):
    assert held.seen == 3 * expected_hidden(VALUES) + [1, 3]


def test_bits_are_held_and_read_back(held):
    assert held.report["backend"]["name"] == "msr-filter"
    for number, own in enumerate((1, 3)):
        assert held.held(number) & BHI
        assert int(held.vcpu(number)["guest-spec-ctrl"], 16) == own
        assert held.effective(number) == (own | held.held(number), "read back")
        assert not held.vcpu(number)["failed"]


def test_bits_are_held_after_init(held):
    """The second vCPU came up twice; each time it passed its write of EFER, where the bits are put back."""
    assert held.vcpu(1)["exits"]["efer"] >= 2
    assert held.vcpu(1)["exits"]["spec-ctrl"] >= 2 * len(expected(VALUES))


def test_guest_may_write_what_is_held(intel_stock):
    """Held by the policy although the guest is shown the control: it sees its own value all the time."""
    run = msrs(intel_stock, series(VALUES), policy="bhi: on\n")
    assert run.seen == expected(VALUES)
    assert run.held() & BHI and run.effective() == (VALUES[-1] | run.held(), "read back")


def test_shown_control_is_the_guests_own(intel_stock):
    run = msrs(intel_stock, series([0x401, 1]))
    assert run.seen == expected([0x401, 1])
    assert not run.held() & BHI and not run.effective()[0] & BHI


def test_late_report(intel_stock):
    """Nothing is held until the guest says that it uses the sequence, where the policy waits for it."""
    run, (before, _) = watched(intel_stock, [["0.w.48.1"], [f"0.w.{MITIGATION_CTRL}.1", "0.r.48"]], *HIDDEN,
                               policy="hold-unaware: off\n")
    assert not before.held() & BHI and not before.effective() & BHI
    # from the last report: one that the VMM was stopped before it could write tells of the time before
    assert run.held() & BHI and run.effective() == (IBRS | run.held(), "read back")
    assert run.seen[-1] == IBRS, "the guest's own view stays"


def test_debian_guest_without_the_control(intel_stock):
    """It takes the short sequence, which is too short on this CPU; the bit is held for it."""
    said, look = debian(intel_stock, *HIDDEN)
    assert "BHI: SW loop" in said
    assert look.held() & BHI and look.effective() & BHI
    assert look.report["vcpus"][0]["effective"]["known"] == "read back"


def test_debian_guest_with_the_control(intel_stock):
    """It sets the bit itself, and none is held."""
    said, look = debian(intel_stock)
    assert "BHI: BHI_DIS_S" in said
    assert not look.held() & BHI and look.effective() & BHI


# Branch predictor barriers of a stock kernel, counted in the CPU.

def test_two_vcpus_on_a_cpu(intel_stock):
    """Each time the CPU changes from one to the other, there was a barrier."""
    seen, vcpus = two_vcpus(intel_stock)
    assert seen.switches >= MANY and not seen.bare and seen.host >= seen.switches, seen
    assert [vcpu["barriers"] for vcpu in vcpus] == [None, None], "which this KVM does not count"


def test_nested_exits(intel_stock):
    """This kernel has the fix of CVE-2022-2196: a guest with IBRS has a barrier at each exit of its guest to it."""
    seen, report = nested(intel_stock)
    assert seen.switches >= 2 * ROUNDS and seen.host >= ROUNDS, seen
    assert seen.bare <= seen.switches - ROUNDS, "only the way to the innermost guest has none"
    assert "Debian 6.1." in intel_stock.check("uname -v")
    nested_verdict(intel_stock, report, None, None)


def test_nested_exits_of_a_guest_without_ibrs(intel_stock):
    """It has no such barrier, as it does not know of IBRS, on which it could rely instead."""
    seen, report = nested(intel_stock, "--cpu", "host,-bhi_ctrl,-spec_ctrl")
    assert seen.switches >= 2 * ROUNDS and seen.bare >= seen.switches - ROUNDS / 4, seen
    assert nested_steps(report["vcpus"][0]["steps"]) == [(1, "warn")]
