"""Our patched kernel: KVM_CAP_FORCE_SPEC_CTRL by its rules, and what the hardware's register really held at VM exits, which
a patch for the lab shows."""
import re

import pytest

from background import Guest
from runs import (BHI, HIDDEN, IBRS, MITIGATION_CTRL, RRSBA, SPECTRE_V2, STIBP, SUPPORTED, debian, expected,
                  expected_hidden, keeps_abi, msrs, series, watched)

VALUES = [1, 0x401, 0, 3, 0x400]


def test_abi(intel_patched):
    """All refusals, order, last call wins; see abi.c."""
    keeps_abi(intel_patched, 0x5343, SUPPORTED | RRSBA)


def test_probe(intel_patched):
    here = intel_patched.json("testudo host --json")
    assert here["backend"]["name"] == "force-spec-ctrl per vCPU"
    assert here["backend"]["can-hold"] == ["IBRS", "STIBP", "SSBD", "RRSBA_DIS_S", "BHI_DIS_S"]
    assert "BHI: BHI_DIS_S" in intel_patched.check(f"cat {SPECTRE_V2}")


def test_probe_under_another_number(intel_patched):
    """A kernel whose number is not the one that testudo was given: it says so, and does not take the back end."""
    run = msrs(intel_patched, series([1]), *HIDDEN, "--kvm-cap-force-spec-ctrl", "300")
    assert not run.report["backend"]["name"].startswith("force-spec-ctrl")
    why = {trial["name"]: trial["why"] for trial in run.report["backend"]["tried"]}["force-spec-ctrl"]
    assert "300" in why and "refuses" in why, why


@pytest.fixture
def backend(request, intel_patched):
    """Which back end to use, for testudo takes the best; (its name, options for testudo)."""
    switch = "/sys/module/kvm/parameters/lab_no_vcpu_force"
    if request.param == "force-spec-ctrl":
        if intel_patched.run(f"test -w {switch}")[0] != 0:
            pytest.skip(f"{switch} is not there: a kernel from before it")
        intel_patched.check(f"echo Y >{switch}")
    yield request.param, ["--kvm-cap-force-spec-ctrl", "300"] if request.param == "msr-filter" else []
    if request.param == "force-spec-ctrl":
        intel_patched.check(f"echo N >{switch}")


BACKENDS = ["force-spec-ctrl per vCPU", "force-spec-ctrl", "msr-filter"]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_hardware_keeps_what_is_held(intel_patched, backend):
    """Two vCPUs write their series; the second comes from INIT twice. By each back end the bit is in the register at
    each exit; by the filter it is put back after INIT."""
    name, args = backend
    groups = [series(VALUES), series(VALUES, cpu=1), ["1.init", *series(VALUES, cpu=1)], ["0.w.48.1", "1.w.48.3"]]
    run, looks = watched(intel_patched, groups, *HIDDEN, *args, cpus=2)
    assert run.report["backend"]["name"] == name
    # KVM alone lets a guest set what it is not shown.
    seen = expected_hidden(VALUES) if name == "msr-filter" else expected(VALUES)
    assert run.seen == 3 * seen + [1, 3]
    for look in looks:
        assert look.hardware[0]["exits"] and look.hardware[0]["all"] & BHI, look.hardware
    for number, own in enumerate((1, 3)):
        last = looks[-1].hardware[number]
        assert last["all"] & BHI and last["last"] == own | looks[-1].held(number), last
    if name != "msr-filter":
        assert all(vcpu["all"] & BHI for look in looks for vcpu in look.hardware if vcpu["exits"]), "INIT keeps it too"


WRITES = 0x20000	# many more than there are other exits


@pytest.mark.parametrize("backend", BACKENDS[:2], indirect=True)
def test_guest_writes_without_an_exit(intel_patched, backend):
    """By the CPU's control: the guest writes the register itself and reads its own value; the forced bit stays."""
    name, args = backend
    run, (look,) = watched(intel_patched, [["0.w.48.1", f"0.spinw.{WRITES:x}.48.3", "0.r.48"]], *HIDDEN, *args)
    assert run.report["backend"]["name"] == name and run.seen == [1, 3, 3]
    seen = look.hardware[0]
    assert seen["all"] & BHI and seen["last"] == IBRS | STIBP | BHI, seen
    assert 0 < seen["exits"] < WRITES / 4, seen


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_both_bits_are_held(intel_patched, backend):
    """RRSBA_DIS_S, where the CPU has RRSBA, beside BHI_DIS_S, in the register at each exit."""
    name, args = backend
    run, (look,) = watched(intel_patched, [[*series([1, 0, 1])]], "--cpu", "host,-bhi_ctrl,-rrsba_ctrl", *args,
                           policy="spec-ctrl: {BHI_DIS_S: on, RRSBA_DIS_S: on}\n")
    assert run.report["backend"]["name"] == name and run.seen == expected([1, 0, 1])
    assert run.held() == RRSBA | BHI
    assert look.hardware[0]["all"] & (RRSBA | BHI) == RRSBA | BHI, look
    assert look.hardware[0]["last"] == IBRS | RRSBA | BHI, look


def test_guest_may_write_what_is_held(intel_patched):
    run, (look,) = watched(intel_patched, [series(VALUES)], policy="bhi: on\n")
    assert run.seen == expected(VALUES)
    assert look.hardware[0]["all"] & BHI


def test_shown_control_is_the_guests_own(intel_patched):
    run, looks = watched(intel_patched, [series([0x401]), series([0x401, 1])])
    assert not run.held() & BHI
    assert looks[0].hardware[0]["last"] == 0x401
    assert looks[1].hardware[0]["last"] == IBRS and not looks[1].hardware[0]["all"] & BHI


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_late_report(intel_patched, backend):
    """The form for the whole VM cannot wait for a report; the others do."""
    name, args = backend
    run, (before, after) = watched(intel_patched, [["0.w.48.1"], [f"0.w.{MITIGATION_CTRL}.1", "0.r.48"]], *HIDDEN,
                                   *args, policy="hold-unaware: off\n")
    assert run.report["backend"]["name"] == name
    assert run.seen == [1, 1, IBRS], "the guest's own view stays"
    assert before.hardware[0]["last"] == (IBRS | BHI if name == "force-spec-ctrl" else IBRS), before
    assert after.hardware[0]["last"] == IBRS | BHI, after


def test_debian_guest_without_the_control(intel_patched):
    said, look = debian(intel_patched, *HIDDEN)
    assert "BHI: SW loop" in said
    assert look.held() & BHI
    assert look.hardware[0]["last"] & BHI and look.hardware[0]["all"] & BHI, look.hardware


def test_debian_guest_with_the_control(intel_patched):
    said, look = debian(intel_patched)
    assert "BHI: BHI_DIS_S" in said
    assert not look.held() & BHI
    assert look.hardware[0]["last"] & BHI and not look.hardware[0]["all"] & BHI, look.hardware


L2_WRITES = 6 * 1000  # of l2.c


def test_guest_of_a_guest(intel_patched):
    """The guest has KVM of its own; what its guest writes changes nothing about what is held."""
    intel_patched.check("""mkdir -p /tmp/more/opt && cd /tmp/more && cp /t2/guest/l2 opt
find opt | cpio -o -H newc >/tmp/more.cpio
cat /t2/guest/initrd-kvm /tmp/more.cpio >/tmp/initrd-kvm""")
    intel_patched.put(b"version: 1\nnested: shown\n", "/tmp/policy.yaml")
    said, look = debian(intel_patched, *HIDDEN, "--policy", "/tmp/policy.yaml", script="/opt/l2",
                        initrd="/tmp/initrd-kvm")
    assert said.splitlines() == [f"l2 wrote={value} read={value}" for value in ("0x1", "0", "0x1", "0x3", "0", "0x1")]
    assert look.inner[0]["exits"] and look.inner[0]["all"] & BHI, look.inner
    assert look.inner[0]["exits"] < L2_WRITES / 4, "it writes without exits"
    assert look.hardware[0]["all"] & BHI, look.hardware


def test_live_move(intel_patched):
    """Between two processes of the host: the guest's value and what is held arrive, and stay."""
    there = Guest(intel_patched, "there", "--incoming", "unix:/tmp/mig")
    there.listens("/tmp/mig")
    here = Guest(intel_patched, "here", *HIDDEN, "-m", "16M", "-k", "/t2/guest/guest.elf", "-p",
                 "msrs cpus=1 do=0.w.48.1,0.spin.60000.1b,0.r.48,0.w.48.3,0.spin.1000000.1b")
    here.console(1)
    left = here.hardware()
    # An emulated host needs its time.
    here.tell("migrate", "unix:/tmp/mig", "--downtime-ms", "2000")
    assert here.end() == 0
    said = there.console(3)
    came = there.hardware()
    there.tell("stop", "--force")
    assert [int(value, 16) for value in re.findall(r" idx=0x48 value=(\S+)", said)] == [1, 3], said
    for seen, own in ((left, IBRS), (came, IBRS | STIBP)):
        assert seen["exits"] and seen["all"] & BHI and seen["last"] == own | BHI, (left, came)


def test_live_move_of_a_guest_that_does_not_exit(intel_patched):
    """It computes and writes memory, each page of which it checks. Pausing it, and slowing it down, is up to signals that
    have to get through to it; what it writes, VMX tells by the page-modification log."""
    there = Guest(intel_patched, "there", "--incoming", "unix:/tmp/mig")
    there.listens("/tmp/mig")
    here = Guest(intel_patched, "here", "-m", "40M", "-k", "/t2/guest/guest.elf", "-p", "dirty wss=4 report=1")
    sweeps = last_sweeps(here.console(3))
    here.tell("migrate", "unix:/tmp/mig", "--downtime-ms", "2000")
    assert here.end() == 0
    assert last_sweeps(there.console(3)) > sweeps
    there.tell("stop", "--force")


def last_sweeps(console):
    """How often the guest has written its memory, and never lost any."""
    lines = re.findall(r"^load cpu=0 .* sweeps=(\d+) errors=(\d+) ", console, re.MULTILINE)
    assert lines and all(errors == "0" for _, errors in lines), console
    return int(lines[-1][0])
