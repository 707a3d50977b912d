"""The newest kernel that Debian has, in the next one's backports: KVM has been rewritten in the parts that are used here."""
from barriers import MANY, two_vcpus
from runs import BHI, HIDDEN, NUMBER, debian, expected_hidden, msrs, series


def test_probe(intel_newest):
    """The filter is what there is, and it can hold all."""
    assert int(intel_newest.check("uname -r").split(".")[0]) >= 7
    here = intel_newest.json("testudo host --json")
    assert here["backend"]["name"] == "msr-filter"
    assert set(NUMBER) <= set(here["backend"]["can-hold"])


def test_bits_are_held_and_read_back(intel_newest):
    """Two vCPUs, the second through INIT; each reads what it wrote. 236 is not mistaken for our capability."""
    values = [1, 0x401, 0, 3, 0x400]
    run = msrs(intel_newest, [*series(values), *series(values, cpu=1), "1.init", *series(values, cpu=1)], *HIDDEN, cpus=2)
    assert run.seen == 3 * expected_hidden(values)
    why = {trial["name"]: trial["why"] for trial in run.report["backend"]["tried"]}["force-spec-ctrl"]
    assert "its query ioctl is unknown" in why, why
    for number in (0, 1):
        assert run.held(number) & BHI and run.effective(number) == (3 | run.held(number), "read back")


def test_debian_guest_without_the_control(intel_newest):
    said, look = debian(intel_newest, *HIDDEN)
    assert "BHI: SW loop" in said
    assert look.held() & BHI and look.effective() & BHI


def test_two_vcpus_on_a_cpu(intel_newest):
    """There is a barrier at each change, as on older ones."""
    seen, _ = two_vcpus(intel_newest)
    assert seen.switches >= MANY and not seen.bare, seen
