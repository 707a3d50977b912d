"""Guests that write faster than a slow network carries: small rings, and who is slowed down."""

import os
import pathlib
import subprocess
import time

import pytest

import faulty
import harness
import moving

class SlowNetwork(faulty.Proxy):
    """@hold() is called for each chunk of memory, up to 256 KiB, before it goes on."""

    def __init__(self, work, hold):
        self.hold = hold
        super().__init__(f"unix:{work}/slow", f"unix:{work}/there", chunk=self.wait)

    def wait(self, channel, number, head, rest):
        self.hold()
        return head, rest


def full_exits(monitor):
    return [v["dirty-ring-full"] for v in monitor.ask("x-testudo-query-exits")]


def test_small_rings_get_full(launch, work):
    """Rings that fill up in the middle of a round: each vCPU makes room by itself, and no page is lost."""
    a = launch("a", "--dirty-ring", "1024", params="dirty wss=24 cpus=2 order=rand tsc_khz=2000000", cpus=2)
    a.wait_beats()
    b = launch("b", "-S", "--dirty-ring", "1024", incoming=f"unix:{work}/there")
    moving.wait_listening(b)
    monitor = moving.Qmp(a)
    assert full_exits(monitor) == [0, 0]
    with SlowNetwork(work, lambda: time.sleep(0.05)) as network:
        monitor.ask("migrate-set-parameters", **{"downtime-limit": 300})
        monitor.migrate(f"unix:{work}/slow")
        while not all(full_exits(monitor)):
            assert monitor.ask("query-migrate")["status"] in ("setup", "active"), full_exits(monitor)
            time.sleep(0.01)
        network.hold = lambda: None
        state = monitor.wait_migration()
        assert state["status"] == "completed", state
    assert moving.same_memory(a, b) is None
    monitor.ask("quit")
    assert a.end() == 0
    moving.Qmp(b).ask("cont")
    b.wait_beats()


def awake_share(guest, seconds):
    """For how much of the time each vCPU's thread runs or wants to, whoever else is on its processor."""
    def awake():
        times = {}
        for task in pathlib.Path(f"/proc/{guest.p.pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            if name.startswith("vcpu"):
                ran, waited, _ = (task / "schedstat").read_text().split()
                times[name] = int(ran) + int(waited)
        return [times[name] for name in sorted(times)], time.monotonic()

    before, start = awake()
    time.sleep(seconds)
    after, end = awake()
    return [(y - x) / (end - start) / 1e9 for x, y in zip(before, after)]


@pytest.mark.parametrize("options, slowed", [(("--dirty-ring", "4096"), [True, False]), ((), [True, True])],
                         ids=["ring", "log"])
def test_who_is_slowed_down(launch, work, options, slowed):
    """Two vCPUs, of which the first writes. With rings the other goes on at full speed."""
    a = launch("a", *options, params="dirty wss=4 cpus=2 writers=1", cpus=2)
    a.wait_beats()

    def until_written():  # so in a round, which has 16 chunks, all is written again
        end = written() + 100
        while written() < end and not network.closing.is_set():
            time.sleep(0.001)

    def written():
        return a.heartbeat()[0][0][4]

    b = launch("b", *options, incoming=f"unix:{work}/there")
    moving.wait_listening(b)
    monitor = moving.Qmp(a)
    with SlowNetwork(work, until_written) as network:
        monitor.ask("migrate-set-parameters", **{"downtime-limit": 1})
        monitor.migrate(f"unix:{work}/slow")
        percent = 0
        while percent < 70:
            state = monitor.ask("query-migrate")
            assert state["status"] in ("setup", "active"), state
            percent = state.get("cpu-throttle-percentage", 0)
            time.sleep(0.01)
        network.hold = lambda: network.closing.wait(5)  # it stays so
        share = awake_share(a, 1)
        monitor.ask("migrate_cancel")
        assert monitor.wait_migration()["status"] == "cancelled"
    for s, slow in zip(share, slowed):
        assert s < 0.77 if slow else s > 0.8, (percent, share)  # the machine may be busy
    a.wait_beats()
    harness.wait_for(lambda: all(s > 0.8 for s in awake_share(a, 0.3)))  # at full speed again


@pytest.mark.parametrize("value, words", [("1000", "power of two from 1024 to 65536"), ("512", "power of two"),
                                          ("131072", "--dirty-ring"), ("x", "--dirty-ring"), ("-1", "--dirty-ring")])
def test_usage(testudo, value, words):
    testudo("hello", "--dirty-ring", value).expect_error(harness.USAGE, "--dirty-ring", words)


@pytest.mark.parametrize("lacks, code", [("223", 0), ("223,192", harness.VMM_ERROR)])
def test_kernels_without(work, lacks, code):
    """The older name of the capability will do; without either there is one line."""
    p = subprocess.run([harness.TESTUDO, *harness.arguments("hello", "--dirty-ring", "1024")], cwd=work,
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=harness.patience(), check=False,
                       env={**os.environ, **harness.lacking(lacks)})
    result = harness.Result(p.returncode, p.stdout, p.stderr)
    if code:
        result.expect_error(code, "--dirty-ring 1024", "no dirty rings", "5.11")
    else:
        assert result.code == 0, result.err
