"""
A running guest is saved and goes on in another machine, with its mitigations, and what it writes is found: the programs of
tests/kvm, which build machines on this host's /dev/kvm without testudo's command line.
"""

import os
import re
import subprocess

import pytest

import harness

FOLDER = harness.BUILD / "tests" / "kvm"


def names_in(program):
    source = harness.ROOT / "tests" / "kvm" / f"{program}.c"
    return re.findall(r"cmocka_unit_test\((\w+)\)", source.read_text())


def run(program, name, env):
    done = subprocess.run([FOLDER / program, name], env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=harness.patience(300), check=False)
    assert done.returncode == 0, done.stdout
    assert "1 test(s) run" in done.stdout, done.stdout


@pytest.mark.parametrize("name", names_in("test_machine_state"))
def test_state(name):
    run("test_machine_state", name, {})


@pytest.mark.shim
@pytest.mark.parametrize("mode", ["filter", "rfc", "rfc-virtual-msrs"])
@pytest.mark.parametrize("name", names_in("test_mitigation_state"))
def test_mitigations(name, mode):
    run("test_mitigation_state", name,
        harness.overlay(harness.OVERLAYS["intel"], mode, arch_cap=0x800eb, **{"7_2_edx": 0}))


def test_dirty_log():
    done = subprocess.run([FOLDER / "test_dirty_log"], env={**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=300, check=False)
    results = re.findall(r"^(ok|not ok) \d+(.*)", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and results, done.stdout
    # a KVM without rings has fewer to try; every KVM of today has them
    assert all(word == "ok" and "SKIP" not in rest.upper() for word, rest in results), done.stdout
