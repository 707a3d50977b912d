"""
All that XSAVE has of a processor, held by the guest in patterns (its command xstate), when it is saved, restored,
moved, and built anew: AVX, AVX-512, protection keys, whatever this machine's KVM lists.
"""

import re
import subprocess

import pytest

import harness
import moving
from saving import saved
from test_migration_matrix import start  # noqa: F401
from test_rebuild import LATE, late, wait_rebuilds  # noqa: F401

CPUS = 2
CANNOT_RUN = 33  # exit code of a guest that executes what this KVM does not know
PARAMS = f"xstate cpus={CPUS}"
LOOKS = 200	 # after each event


@pytest.fixture(scope="module")
def components():
    """XCR0 as a guest on this machine sets it."""
    words = [str(harness.TESTUDO), "run", "-k", str(harness.GUEST), "-p", "xstate looks=64"]
    run = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if run.returncode == CANNOT_RUN or "has no XSAVE" in run.stdout:
        pytest.skip(f"guests cannot use XSAVE on this machine's KVM: {run.stdout} {run.stderr}")
    assert run.returncode == 0 and "done xstate" in run.stdout, run.stdout + run.stderr
    found = int(re.search(r"components=(0x[0-9a-f]+)", run.stdout)[1], 16)
    print(f"components {found:#x}")
    return found


def test_components_are_the_hosts(components):
    """x87 and SSE always; AVX, AVX-512 and keys if the kernel of this machine uses them and its KVM shows them."""
    words = set(re.search(r"^flags\s*: (.*)$", open("/proc/cpuinfo").read(), re.MULTILINE)[1].split())
    assert components & 3 == 3
    for flag, bits in (("avx", 1 << 2), ("avx512f", 7 << 5)):
        assert bool(components & bits) == (flag in words), flag
    assert not components & 3 << 17, "AMX needs a permission that testudo does not ask for"


def test_saved_and_restored(launch, work, components):
    a = launch("a", params=PARAMS, cpus=CPUS)
    a.wait_beats(LOOKS)
    saved(a, f"{work}/snap")
    assert a.end() == 0
    b = launch("b", incoming=f"file:{work}/snap")
    b.wait_beats(LOOKS)
    saved(b, f"{work}/again")
    launch("c", incoming=f"file:{work}/again").wait_beats(LOOKS)


@pytest.mark.parametrize("options", [(), ("--local",)], ids=["copied", "handed-over"])
def test_moved(launch, work, components, options):
    a = launch("a", params=PARAMS, cpus=CPUS)
    a.wait_beats(LOOKS)
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    moving.moved(a, b, f"unix:{work}/m", *options)
    b.wait_beats(LOOKS)


def test_paused(launch, components):
    a = launch("a", params=PARAMS, cpus=CPUS)
    monitor = moving.Qmp(a)
    for _ in range(5):
        a.wait_beats(LOOKS)
        monitor.ask("stop")
        monitor.ask("cont")
    a.wait_beats(LOOKS)


def test_built_anew(late, components):  # noqa: F811
    g = late([], params=f"{PARAMS} reports=1", cpus=CPUS, policy=LATE)
    wait_rebuilds(g, 1)
    g.wait_beats(LOOKS)


@pytest.mark.parametrize("without", ["avx", "pku", "xsave"])
def test_what_is_hidden_is_not_there(testudo, components, without):
    bits = {"avx": 0xe4, "pku": 1 << 9, "xsave": ~0}[without]
    if not components & bits:
        pytest.skip(f"this machine's KVM has no {without}")
    r = testudo("xstate looks=64", "--cpu", f"host,-{without}")
    if without == "xsave":
        assert r.lines[-1] == "fail xstate the processor has no XSAVE"
    else:
        assert f"components={components & ~bits:#x}" in r.out and r.lines[-1] == "done xstate"
