"""
A guest that reports late, on a KVM that froze the held bits when the VM was made (tests/shim, mode rfc): the VM is
built anew under it.
"""

import json
import pathlib
import re
import socket
import time

import pytest

import harness
import moving
from test_migration_matrix import CTL, ENUM, HW, fact_file, open_gate, outcomes, start  # noqa: F401
from test_save import saved

LATE = "hold-unaware: off\nfrozen-mask: rebuild\n"
BHI, RRSBA = 0x400, 0x40


@pytest.fixture
def late(start, work):  # noqa: F811
    """late(steps, ...): a guest of the msrs command on that KVM, told to wait at its gate for each step's turn."""

    def begin(steps, *args, policy=LATE, mode="rfc", host="spr", cpus=1, name="a", **kwargs):
        facts, kvm = fact_file(work, name, host, mode)
        path = pathlib.Path(work, "policy.yaml")
        path.write_text("version: 1\n" + policy)
        kwargs.setdefault("params", f"msrs cpus={cpus} do={','.join(steps)}")
        return start(name, facts, kvm, path, "--mitigation-report", f"{work}/{name}.report", *args, cpus=cpus, **kwargs)

    return begin


def report(guest):
    return json.loads(pathlib.Path(guest.work, guest.name + ".report").read_text())


def rebuilds(guest):
    return [(int(us), int(value, 16)) for us, value in
            re.findall(r"built anew in (\d+) us and holds mask=\S+ value=(\S+)", guest.log())]


def wait_rebuilds(guest, n):
    harness.wait_for(lambda: len(rebuilds(guest)) >= n)
    harness.wait_for(lambda: report(guest)["backend"]["vm-rebuilds"] == n)


@pytest.mark.parametrize("cpus", [1, 3])
def test_a_late_report_is_served(late, cpus):
    """Every CPU reports: one new VM, in which each has what it had in its registers."""
    last = cpus - 1
    g = late(["0.w.48.1", f"{last}.w.48.3" if last else "0.w.48.3", f"0.r.{HW}",
              *[step for cpu in range(cpus) for step in (f"{cpu}.r.{ENUM}", f"{cpu}.w.{CTL}.1")], "0.wait.1",
              f"0.r.{HW}", f"{last}.r.{HW}", f"{last}.r.48", f"{last}.r.{CTL}"], cpus=cpus)
    monitor = moving.Qmp(g)
    g.wait_console("msrs wait 1\n")
    wait_rebuilds(g, 1)
    (took_us, value), = rebuilds(g)
    print(f"{cpus} CPUs: built anew in {took_us} us")
    assert value == BHI
    # the last CPU may report after the rebuilding began: then the file is written once more
    harness.wait_for(lambda: all(v["held"]["at-1"] == ["BHI_DIS_S"] and v["held"] == v["wanted"]
                                 for v in report(g)["vcpus"]))
    assert report(g)["verdict"] == "allow, with held bits"
    harness.wait_for(lambda: monitor.ask("query-status") and any(
        "rebuilt" in e["data"]["changes"] for e in monitor.events if e["event"] == "X_TESTUDO_MITIGATION_CHANGED"))
    open_gate(g, 1)
    assert g.end() == 0, g.log()
    seen = outcomes(g.console())
    assert seen[2] == (3 if cpus == 1 else 1), "nothing was held before"
    own = 1 if cpus > 1 else 3
    assert seen[-4:] == [own | BHI, 3 | BHI, 3, 1]


def test_held_from_the_start_by_default(late):
    g = late([f"0.r.{HW}", f"0.r.{ENUM}", f"0.w.{CTL}.1", f"0.r.{HW}"], policy="hold-unaware: off\n")
    assert g.end() == 0, g.log()
    seen = outcomes(g.console())
    assert seen[0] == seen[-1] and seen[0] & BHI
    assert not rebuilds(g) and report(g)["backend"]["vm-rebuilds"] == 0


def test_a_kvm_that_does_not_act_on_a_report(late):
    """The virtual MSRs are in KVM, but for retpolines its host is no RRSBA part: RRSBA_DIS_S is frozen there."""
    g = late([f"0.r.{ENUM}", f"0.w.{CTL}.2", "0.wait.1", f"0.r.{HW}"], policy="hold-unaware: off\n",
             mode="rfc-virtual-msrs", host="spr-hides")
    g.wait_console("msrs wait 1\n")
    wait_rebuilds(g, 1)
    open_gate(g, 1)
    assert g.end() == 0, g.log()
    assert outcomes(g.console())[-1] == RRSBA


def test_a_guest_that_changes_its_mind_for_ever(late):
    """Once for each bit, at most one a second, however often it writes."""
    toggle = [f"0.w.{CTL}.{n % 4:x}" for n in range(1, 9)] * 40
    g = late([f"0.r.{ENUM}", f"0.w.{CTL}.1", "0.wait.1", f"0.w.{CTL}.2", "0.wait.2", f"0.r.{HW}", "0.wait.3"],
             policy=LATE)
    g.wait_console("msrs wait 1\n")
    wait_rebuilds(g, 1)
    open_gate(g, 1)
    g.wait_console("msrs wait 2\n")
    wait_rebuilds(g, 2)
    assert [value for _, value in rebuilds(g)] == [BHI, BHI | RRSBA]
    open_gate(g, 2)
    g.wait_console("msrs wait 3\n")
    assert outcomes(g.console())[-1] == BHI | RRSBA
    open_gate(g, 3)
    assert g.end() == 0

    # It ends with a report of 1: one that takes all back may have done so before the first look at it.
    g = late([f"0.r.{ENUM}", *toggle[:61], "0.wait.1"], policy=LATE, name="b")
    g.wait_console("msrs wait 1\n")
    harness.wait_for(lambda: len(rebuilds(g)) >= 1 and "BHI_DIS_S" in report(g)["vcpus"][0]["held"]["at-1"])
    assert len(rebuilds(g)) <= 2 and g.log().count("\n") < 120
    open_gate(g, 1)
    assert g.end() == 0


def test_memory_and_clock_go_on(late):
    """A working set whose every page is checked all the time, and the longest time without a heartbeat."""
    g = late([], params="dirty wss=8 reports=1", mem=64)
    wait_rebuilds(g, 1)
    g.wait_beats(2000)
    (_, _, gap_tsc, _, _, _, errors), = g.heartbeat()[0]
    gap_ms = gap_tsc / g.heartbeat()[1]
    print(f"longest time without a heartbeat: {gap_ms:.1f} ms, built anew in {rebuilds(g)[0][0] / 1000:.1f} ms")
    assert errors == 0 and gap_ms < 1000 * harness.slowness()
    assert report(g)["vcpus"][0]["held"]["at-1"] == ["BHI_DIS_S"]


def test_not_while_it_moves(late, work):
    """The other side does not answer: the migration goes on, and the VM stays until it is given up."""
    g = late([f"0.r.{ENUM}", "0.wait.1", f"0.w.{CTL}.1", "0.wait.2", f"0.r.{HW}"])
    g.wait_console("msrs wait 1\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{work}/m")
        listener.listen(8)
        monitor = moving.Qmp(g)
        monitor.migrate(f"unix:{work}/m")
        open_gate(g, 1)
        g.wait_console("msrs wait 2\n")
        time.sleep(0.5)
        harness.wait_for(lambda: report(g)["vcpus"][0]["wanted"]["at-1"] == ["BHI_DIS_S"])
        assert not rebuilds(g) and report(g)["vcpus"][0]["held"]["at-1"] == []
        monitor.ask("migrate_cancel")
        assert monitor.wait_migration()["status"] == "cancelled"
    wait_rebuilds(g, 1)
    open_gate(g, 2)
    assert g.end() == 0
    assert outcomes(g.console())[-1] == BHI


@pytest.mark.parametrize("options", [(), ("--dirty-ring", "1024")], ids=["log", "ring"])
def test_it_moves_afterwards(late, work, options):
    """To a host of the same kind: there the report is known from the start."""
    steps = [f"0.r.{ENUM}", f"0.w.{CTL}.1", "0.wait.1", f"0.r.{HW}"]
    a = late(steps, *options)
    a.wait_console("msrs wait 1\n")
    wait_rebuilds(a, 1)
    b = late([], *options, name="b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    last = moving.moved(a, b, f"unix:{work}/m")
    assert "x-testudo-mitigation" not in last
    open_gate(b, 1)
    assert b.end() == 0
    assert outcomes(b.console()) == [BHI] and not rebuilds(b)


def test_a_restored_guest(late, work):
    """Its memory is a map of the file that it was saved to, and has no descriptor."""
    a = late([f"0.r.{ENUM}", "0.wait.1", f"0.w.{CTL}.1", "0.wait.2", f"0.r.{HW}"])
    a.wait_console("msrs wait 1\n")
    saved(a, f"{work}/snap")
    assert a.end() == 0
    b = late([], name="b", incoming=f"file:{work}/snap")
    monitor = moving.Qmp(b)
    harness.wait_for(lambda: monitor.ask("query-status")["status"] == "running")
    open_gate(b, 1)
    b.wait_console("msrs wait 2\n")
    wait_rebuilds(b, 1)
    open_gate(b, 2)
    assert b.end() == 0, b.log()
    assert outcomes(b.console())[-1] == BHI


def test_a_paused_guest_stays_paused(late):
    g = late([f"0.r.{ENUM}", "0.wait.1", f"0.w.{CTL}.1", "0.wait.2", f"0.r.{HW}"])
    monitor = moving.Qmp(g)
    g.wait_console("msrs wait 1\n")
    open_gate(g, 1)
    g.wait_console("msrs wait 2\n")
    monitor.ask("stop")
    wait_rebuilds(g, 1)
    assert monitor.ask("query-status")["status"] == "paused"
    open_gate(g, 2)
    time.sleep(0.2)
    assert g.p.poll() is None and outcomes(g.console())[-1] == 1
    monitor.ask("cont")
    assert g.end() == 0
    assert outcomes(g.console())[-1] == BHI
