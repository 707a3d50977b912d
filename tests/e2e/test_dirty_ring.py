"""Rings that are too small for what a guest writes, and those that cannot be had."""

import os
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


@pytest.mark.parametrize("value, words", [("1000", "power of two from 1024 to 65536"), ("512", "power of two"),
                                          ("131072", "--dirty-ring"), ("x", "--dirty-ring"), ("-1", "--dirty-ring")])
def test_usage(testudo, value, words):
    testudo("hello", "--dirty-ring", value).expect_error(harness.USAGE, "--dirty-ring", words)


@pytest.mark.parametrize("lacks, code", [("223", 0), ("223,192", harness.VMM_ERROR)])
def test_kernels_without(work, lacks, code):
    """The older name of the capability will do; without either there is one line."""
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    shim = harness.BUILD / "tests" / "e2e" / "kvm_lacks.so"
    p = subprocess.run([harness.TESTUDO, *harness.arguments("hello", "--dirty-ring", "1024")], cwd=work,
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
                       env={**os.environ, "LD_PRELOAD": str(shim), "KVM_LACKS": lacks, "ASAN_OPTIONS": asan})
    result = harness.Result(p.returncode, p.stdout, p.stderr)
    if code:
        result.expect_error(code, "--dirty-ring 1024", "no dirty rings", "5.11")
    else:
        assert result.code == 0, result.err
