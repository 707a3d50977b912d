"""Hosts whose KVM is too old: one line that names what is missing."""

import os
import re
import subprocess

import pytest

import harness
from harness import VMM_ERROR

SOURCE = harness.ROOT / "vmm" / "kvm" / "kvm.c"

# KVM's own numbers (linux/kvm.h), so that the table in the source is held against another one
NUMBERS = {
    "KVM_CAP_IRQCHIP": 0, "KVM_CAP_USER_MEMORY": 3, "KVM_CAP_SET_TSS_ADDR": 4, "KVM_CAP_EXT_CPUID": 7,
    "KVM_CAP_MP_STATE": 14, "KVM_CAP_IRQFD": 32, "KVM_CAP_PIT2": 33, "KVM_CAP_IOEVENTFD": 36,
    "KVM_CAP_SET_IDENTITY_MAP_ADDR": 37, "KVM_CAP_IMMEDIATE_EXIT": 136,
}


def run_lacking(work, what):
    done = subprocess.run([harness.TESTUDO, *harness.arguments("hello")], cwd=work, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=harness.patience(), check=False,
                          env={**os.environ, **harness.lacking(what)})
    return harness.Result(done.returncode, done.stdout, done.stderr)


def test_table_is_complete():
    assert set(re.findall(r'\{KVM_CAP_\w+, "(\w+)"', SOURCE.read_text())) == set(NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_missing_capability(work, name):
    run_lacking(work, str(NUMBERS[name])).expect_error(VMM_ERROR, "/dev/kvm", name, "is missing; use a host kernel from")


def test_other_api_version(work):
    run_lacking(work, "version").expect_error(VMM_ERROR, "/dev/kvm", "API version 11")


def test_nothing_missing(work):
    assert run_lacking(work, "9999").code == 0
