"""Branch predictor barriers when vCPUs change and from L2 to L1, as the emulated CPU counts them: with our KVM by policy,
and how often its statistics say so."""
import pytest

from background import Guest
from barriers import MANY, ROUNDS, between, counts, nested, nested_verdict, two_vcpus

ISSUES = "0.w.49.1"  # a barrier of the guest's own


def summed(vcpus, name):
    return sum(vcpu["barriers"][name] for vcpu in vcpus)


# mode, what vCPU 0 did first, is there a barrier at each switch?
@pytest.mark.parametrize("mode,first,barrier", [
    ("always", "0.r.48", True), ("used", "0.r.48", False), ("used", ISSUES, True), ("never", ISSUES, False)])
def test_two_vcpus_on_a_cpu(intel_patched, mode, first, barrier):
    """Each mode of the capability: the CPU enters the other vCPU of the guest with a barrier before, or without."""
    seen, vcpus = two_vcpus(intel_patched, first=first, policy=f"isolation: {{vcpu-switch-barrier: {mode}}}\n")
    assert seen.switches >= MANY and not seen.guest, seen
    if barrier:
        assert not seen.bare and seen.host >= seen.switches, seen
        assert summed(vcpus, "ibpb-vcpu-switch") >= seen.switches
    else:
        # Linux has some of its own, when it changes from one process to another.
        assert seen.bare > seen.switches / 2, seen
        assert not summed(vcpus, "ibpb-vcpu-switch")
    assert summed(vcpus, "vcpu-switches") >= seen.switches
    assert [vcpu["ibpb-issued"] for vcpu in vcpus] == [first == ISSUES, False]


def test_a_move_carries_that_one_was_issued(intel_patched):
    """In `used` the guest's barrier counts on at the destination, where it issues no other one."""
    host, policy = intel_patched, "/tmp/used.yaml"
    host.put(b"version: 1\nisolation: {vcpu-switch-barrier: used}\n", policy)
    there = Guest(host, "there", "--incoming", "unix:/tmp/mig", "--policy", policy)
    there.listens("/tmp/mig")
    here = Guest(host, "here", "-c", "2", "-m", "16M", "-k", "/t2/guest/guest.elf", "--policy", policy, "-p",
                 f"msrs cpus=2 do={ISSUES},0.spin.1000000.1b")
    here.console(1)
    here.tell("migrate", "unix:/tmp/mig", "--downtime-ms", "2000")
    assert here.end() == 0
    vcpus, seen = over_a_second(host, there)
    there.tell("stop", "--force")
    assert not seen.guest and seen.switches >= MANY and not seen.bare, seen
    assert summed(vcpus, "ibpb-vcpu-switch") >= seen.switches
    assert [vcpu["ibpb-issued"] for vcpu in vcpus] == [True, False]


def over_a_second(host, guest):
    """What testudo stat says of the vCPUs of a busy @guest, after a second of which these are the Counts"""
    before = counts(host)
    host.check("sleep 1")
    seen = between(before, counts(host))
    return host.json(f"testudo stat {guest.name} --json")["mitigation"]["vcpus"], seen


# From L2 to L1: whether each exit has its barrier. The way to L2 has none.

def test_nested_exits(intel_patched):
    """A guest with IBRS has one at each exit of its guest to it, and testudo has nothing to say of that."""
    seen, report = nested(intel_patched)
    assert seen.switches >= 2 * ROUNDS and seen.host >= ROUNDS, seen
    assert seen.bare <= seen.switches - ROUNDS, seen
    nested_verdict(intel_patched, report, None, None)


def test_nested_exits_with_the_barrier_taken_out(intel_patched):
    """None has one, of the same kernel and version: testudo warns, and refuses where the policy is strict."""
    switch = "/sys/module/kvm/parameters/lab_no_nested_ibpb"
    intel_patched.check(f"echo Y >{switch}")
    try:
        seen, report = nested(intel_patched)
        nested_verdict(intel_patched, report, 6, "warn")
    finally:
        intel_patched.check(f"echo N >{switch}")
    assert seen.switches >= 2 * ROUNDS and seen.bare >= seen.switches - ROUNDS / 4, seen
