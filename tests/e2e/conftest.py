"""
Tests of testudo on this machine's /dev/kvm with the guest of tests/guest.

  TESTUDO_BUILD=builddir python3 -m pytest tests/e2e      TESTUDO=/path/to/testudo for another one
  TESTUDO_OVERLAY=intel|amd   on that host, whatever this machine is: tests/shim lays its fact file over /dev/kvm, for
                              every testudo that the tests start (none, or not set: this machine's own KVM)
  TESTUDO_SLICE=N             of each test with several cases the first and every Nth after it; for a slow machine
  TESTUDO_SHARE=K/N           of the tests, each with its cases, the Kth of every N
"""

import collections
import os
import pathlib
import shutil
import tempfile

import pytest

import harness
import moving


# fixtures that start testudo with a library of tests/shim under it
SHIMMED = {"test_mitigation.guest", "test_migration_matrix.start"}

# the first round of guests, by `tools/test quick`
QUICK = {"test_boot", "test_cpu", "test_end"}


def pytest_collection_modifyitems(config, items):
    keep(config, items, share(items, *map(int, os.environ.get("TESTUDO_SHARE", "1/1").split("/"))))
    keep(config, items, every(items, int(os.environ.get("TESTUDO_SLICE", "1"))))
    why = harness.why_no_kvm()
    for item in items:
        if item.module.__name__ in QUICK:
            item.add_marker("quick")
        host = item.get_closest_marker("host")
        if host and host.args[0] != "none":
            item.add_marker("shim")
        if SHIMMED & {f.func.__module__ + "." + name for name in item.fixturenames
                      for f in item._fixtureinfo.name2fixturedefs.get(name, ())}:
            item.add_marker("shim")
        if why and not item.get_closest_marker("nokvm"):
            item.add_marker(pytest.mark.skip(reason=why))


def share(items, k, n):
    """The @k-th of every @n test functions, with all their cases."""
    functions = list(dict.fromkeys(item.function for item in items))
    chosen = set(functions[k - 1::n])
    return [item for item in items if item.function in chosen]


def every(items, step):
    """Of each test function the first case and every @step-th after it."""
    seen = collections.Counter()
    kept = []
    for item in items:
        if seen[item.function] % step == 0:
            kept.append(item)
        seen[item.function] += 1
    return kept


def keep(config, items, kept):
    """The others count as deselected."""
    left = list(set(items) - set(kept))
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_configure(config):
    config.addinivalue_line("markers", "nokvm: needs no /dev/kvm")
    config.addinivalue_line("markers", "quick: of the first round of guests")
    config.addinivalue_line("markers", "shim: preloads a library, which a sanitizer does not allow")
    config.addinivalue_line("markers", "host(name): on this overlay (none: on the KVM as it is), whatever the others run on")
    if harness.OVERLAY not in ("none", *harness.OVERLAYS):
        pytest.exit(f"TESTUDO_OVERLAY={harness.OVERLAY}: give none, intel or amd", 2)
    if harness.OVERLAY != "none":
        os.environ.update(harness.overlay(harness.OVERLAYS[harness.OVERLAY]))
    needed = [harness.TESTUDO, harness.GUEST, harness.FIRST]
    for path in needed if harness.OVERLAY == "none" else [*needed, harness.SHIM]:
        if not path.exists():
            pytest.exit(f"{path} is missing: set TESTUDO_BUILD to a build directory", 2)


@pytest.fixture(autouse=True)
def overlay(request, monkeypatch):
    """The overlay of a test that chose one."""
    marker = request.node.get_closest_marker("host")
    if marker and marker.args[0] == "none":
        for name in [name for name in os.environ if name.startswith("KVM_SHIM")] + ["LD_PRELOAD"]:
            monkeypatch.delenv(name, raising=False)
    elif marker:
        for name, value in harness.overlay(harness.OVERLAYS[marker.args[0]]).items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def work():
    """A directory of one's own to run in, short enough for a socket's path. Nothing but what the
    test itself made may be in it at the end: see @leftovers."""
    path = tempfile.mkdtemp(prefix="testudo-e2e-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def testudo(work):
    """run(params, *args): boot the guest with this command line, wait for the end."""

    def run(params, *args, kernel=harness.GUEST, **kwargs):
        return harness.run_raw(harness.arguments(params, *args, kernel=kernel), work, **kwargs)

    return run


@pytest.fixture
def live(work):
    """live(params, *args): the same, but it runs on; use it in a with statement."""

    def start(params, *args, kernel=harness.GUEST, **kwargs):
        return harness.Live(harness.arguments(params, *args, kernel=kernel), work, **kwargs)

    return start


@pytest.fixture
def policy(work):
    """A policy file by which guests may come although nothing can be held for them here."""
    path = pathlib.Path(work, "policy.yaml")
    path.write_text(moving.POLICY)
    return str(path)


@pytest.fixture
def launch(work, policy):
    """launch(name, *args, incoming=..): a guest that may move, with that policy, ended with the test."""
    guests = []

    def start(name, *args, **kwargs):
        g = moving.Guest(work, name, "--policy", policy, *args, **kwargs)
        guests.append(g)
        return g

    yield start
    for g in guests:
        g.__exit__()
