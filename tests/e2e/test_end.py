"""All the ways in which a guest, or its user, can end a run; and what may be left: nothing."""

import os
import signal
import time

import pytest

import harness
from harness import CRASH, OFF, PANIC, RESET


def test_power_off(testudo):
    testudo("hello").expect(OFF, "done hello")


@pytest.mark.parametrize("way", ["reset", "kbd"])
def test_reset_ends_with_no_reboot(testudo, way):
    r = testudo(f"hello end={way}", "--no-reboot").expect(RESET, "done hello")
    assert r.err == ""


@pytest.mark.parametrize("way", ["reset", "kbd"])
def test_reset_starts_again(testudo, work, way):
    """The disk counts; the third start powers off."""
    disk = harness.make_disk(os.path.join(work, "disk"))
    r = testudo(f"reboot n=3 by={way}", "-d", disk).expect(OFF, "done reboot")
    assert r.lines[:-1] == ["reboot count=1", "reboot count=2", "reboot count=3"]
    assert r.err == ""


def test_many_resets(testudo, work):
    """Each reset makes a new machine; nothing may run out."""
    disk = harness.make_disk(os.path.join(work, "disk"))
    n = harness.often(200, 20)
    r = testudo(f"reboot n={n}", "-c", 2, "-d", disk, timeout=180).expect(OFF, "done reboot")
    assert len(r.lines) == n + 1


def test_reset_with_many_cpus(testudo, work):
    disk = harness.make_disk(os.path.join(work, "disk"))
    r = testudo("reboot n=3", "-c", 16, "-d", disk, timeout=120).expect(OFF, "done reboot")
    assert len(r.lines) == 4


def test_reset_gives_fresh_memory_and_devices(testudo, work):
    """The serial back end stays open over a reset: a file holds the output of all three starts."""
    disk, log = harness.make_disk(os.path.join(work, "disk")), os.path.join(work, "log")
    r = testudo("reboot n=3", "-d", disk, "--serial", f"file:{log}")
    assert (r.code, r.out, r.err) == (OFF, "", "")
    with open(log, encoding="ascii") as f:
        assert f.read().count("reboot count=") == 3


@pytest.mark.parametrize("args", [[], ["--no-reboot"]])
def test_triple_fault(testudo, args):
    r = testudo("hello end=triple", *args).expect(CRASH, "done hello")
    assert len(r.log) == 1 and "triple fault" in r.err and "rip=0x" in r.err, r


@pytest.mark.parametrize("args", [[], ["--no-reboot"]])
def test_panic(testudo, args):
    r = testudo("hello end=panic", *args).expect(PANIC, "done hello")
    assert len(r.log) == 1 and "panic" in r.err, r


@pytest.mark.parametrize("way", ["hlt", "loop"])
@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_guest_that_does_not_answer(live, work, way, cpus, sig):
    before = os.listdir(work)
    with live(f"smp end={way}", "-c", cpus) as t:
        t.read_until(b"done smp\n")
        assert t.end(sig) == -sig, "dies of the signal, as its parent expects"
        assert t.stderr() == ""
    assert os.listdir(work) == before


def test_signal_during_a_storm_of_resets(live):
    with live("hello acpi=0 end=reset") as t:
        t.read_until(b"hello from the test guest\n")
        for _ in range(3):
            t.seen = b""
            t.read_until(b"done hello\n")
        assert t.end() == -signal.SIGTERM


def test_signal_ends_a_guest_whose_output_nobody_reads(live):
    """The pipe is full: the guest waits for its serial port, testudo must not."""
    with live("hello " + "x" * 1900 + " end=reset") as t:
        harness.wait_for(lambda: harness.unread(t.p.stdout) > 60000)
        time.sleep(0.5)
        assert t.end() == -signal.SIGTERM


def test_nothing_is_left(live, work):
    """Sockets, lock files, children: all gone after a signal, too."""
    disk = harness.make_disk(os.path.join(work, "disk"))
    before = sorted(os.listdir(work))
    with live("hello end=hlt", "-d", disk, "--serial", f"unix:{work}/con") as t:
        harness.wait_for(lambda: os.path.exists(f"{work}/con"))
        pid = t.p.pid
        assert t.end() == -signal.SIGTERM
        assert not os.path.exists(f"/proc/{pid}")
    assert sorted(os.listdir(work)) == before


def test_threads_and_descriptors_do_not_grow_over_resets(live, work):
    with live("hello acpi=0 end=reset", "-c", 2) as t:

        def count():
            return (len(os.listdir(f"/proc/{t.p.pid}/fd")), len(os.listdir(f"/proc/{t.p.pid}/task")))

        def lives(n):
            for _ in range(n):
                t.seen = b""
                t.read_until(b"done hello\n")

        lives(3)
        first = count()
        lives(harness.often(50, 10))

        # more for a moment: a life that has just begun beside one whose VM is still being closed
        def same():
            files, tasks = count()
            return files <= first[0] + 8 and tasks <= first[1] + 3

        harness.wait_for(same)
        assert t.end() == -signal.SIGTERM
