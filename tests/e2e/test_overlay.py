"""The host that tests/shim lays over this machine is what its fact file says, whatever the machine is."""

import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import pytest

import harness
from harness import OFF

pytestmark = pytest.mark.shim

HOSTS = sorted(path.stem for path in harness.HOSTS.glob("*.json"))
INTEL = "0x3a"
AMX = 1 << 22 | 1 << 24 | 1 << 25  # in CPUID.(7,0).EDX
AMD = "0xc0010015"

# What a program hears from /dev/kvm: Python's ioctl() goes through the preloaded library, as testudo's does.
PROBE = """
import fcntl, json, os, struct
kvm = os.open("/dev/kvm", os.O_RDWR)
def msr_list(request):
    buffer = bytearray(4 + 4 * 1024)
    struct.pack_into("I", buffer, 0, 1024)
    fcntl.ioctl(kvm, request, buffer)
    n, = struct.unpack_from("I", buffer)
    return [hex(index) for index in struct.unpack_from(f"{n}I", buffer, 4)]
leaves = bytearray(8 + 40 * 256)
struct.pack_into("I", leaves, 0, 256)
fcntl.ioctl(kvm, 0xc008ae05, leaves)
n, = struct.unpack_from("I", leaves)
cpuid = {}
for at in range(8, 8 + 40 * n, 40):
    leaf, subleaf, _, *registers = struct.unpack_from("7I", leaves, at)
    cpuid[f"{leaf:x}.{subleaf:x}"] = registers
print(json.dumps({"cpuid": cpuid, "msrs": msr_list(0xc004ae02), "features": msr_list(0xc004ae0a)}))
"""


def facts(name):
    return json.loads((harness.HOSTS / f"{name}.json").read_text())


def but_amx(file):
    """The facts of @file less AMX, which no KVM shows where this machine's XSAVE has no tiles."""
    edx = int(file["facts"]["kvm-cpuid-7-0-edx"], 16) & ~AMX
    return {**file["facts"], "kvm-cpuid-7-0-edx": hex(edx)}


def under(name, *words, mode=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("KVM_SHIM")}
    done = subprocess.run([*map(str, words)], env={**env, **harness.overlay(harness.HOSTS / f"{name}.json", mode)},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=harness.TIMEOUT, check=False)
    assert done.returncode == OFF, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", HOSTS)
def test_testudo_finds_that_host(name):
    """CPUID by instruction, CPUID and feature MSR by KVM, and the back end, which is found by trying."""
    found, file = json.loads(under(name, harness.TESTUDO, "host", "--json")), facts(name)
    assert but_amx(found) == but_amx(file)
    assert found["backend"] == file["backend"]


@pytest.mark.parametrize("mode,backend", [("drops", "none"), ("filter", "msr-filter"), ("rfc", "force-spec-ctrl")])
def test_the_kernel_is_chosen_apart_from_the_host(mode, backend):
    found = json.loads(under("sapphire-rapids", harness.TESTUDO, "host", "--json", mode=mode))
    assert but_amx(found) == but_amx(facts("sapphire-rapids"))
    assert found["backend"]["name"] == backend


@pytest.mark.parametrize("name", HOSTS)
def test_kvm_is_that_hosts(name):
    kvm, host = json.loads(under(name, sys.executable, "-c", PROBE)), facts(name)["facts"]
    intel = host["vendor"] == "GenuineIntel"
    _, ebx, ecx, edx = kvm["cpuid"]["0.0"]
    assert struct.pack("<3I", ebx, edx, ecx).decode() == host["vendor"]
    family, model, stepping = host["family"], host["model"], host["stepping"]
    assert kvm["cpuid"]["1.0"][0] == (max(family - 15, 0) << 20 | model >> 4 << 16 | min(family, 15) << 8
                                      | (model & 15) << 4 | stepping)
    assert kvm["cpuid"]["7.0"][3] == int(host["kvm-cpuid-7-0-edx"], 16)
    assert kvm["cpuid"].get("7.2", [0] * 4)[3] == int(host["kvm-cpuid-7-2-edx"], 16)
    assert ("4.0" in kvm["cpuid"], "8000001d.0" in kvm["cpuid"]) == (intel, not intel)
    # in AMD's words, what leaf 7 says in Intel's: IBPB and IBRS, as far as that host has them
    assert bool(kvm["cpuid"]["80000008.0"][1] & 0x5000) == (not intel and bool(
        int(host["kvm-cpuid-7-0-edx"], 16) & 1 << 26))
    assert (INTEL in kvm["msrs"], AMD in kvm["msrs"]) == (intel, not intel)
    assert "0x10a" in kvm["msrs"] and "0x10a" in kvm["features"]
    assert len(set(kvm["msrs"])) == len(kvm["msrs"]), "each once"
    assert any(index.startswith("0xc001") for index in kvm["msrs"]) == (not intel)


MSRS = [
    # host, step, outcome: None is #GP
    ("sapphire-rapids", "r.3a", 0), ("sapphire-rapids", "w.3a.5", 5), ("sapphire-rapids", "w.3a.8", None),
    ("sapphire-rapids", "r.c0010015", None), ("sapphire-rapids", "w.49.1", 1), ("sapphire-rapids", "w.49.80", None),
    ("sapphire-rapids", "r.49", None), ("sapphire-rapids", "w.10a.0", None),
    ("epyc-rome", "r.3a", None), ("epyc-rome", "r.122", None), ("epyc-rome", "r.c0010015", 0),
    ("epyc-rome", "r.c0011029", 2), ("epyc-rome", "w.49.1", 1), ("epyc-rome", "w.49.80", None),
    ("epyc-rome", "w.10b.1", None), ("epyc-rome", "w.10a.0", None),
]


@pytest.mark.parametrize("name", ["sapphire-rapids", "epyc-rome"])
def test_the_guest_meets_that_hosts_msrs(name, tmp_path):
    rows = [(step, outcome) for host, step, outcome in MSRS if host == name]
    steps = ",".join(f"0.{step}" for step, _ in rows) + ",0.r.10a"
    policy = pathlib.Path(tmp_path, "policy.yaml")
    policy.write_text("version: 1\nvirtual-msrs: off\n")
    out = under(name, harness.TESTUDO, *harness.arguments(f"msrs cpus=1 do={steps}", "--policy", policy))
    seen = [int(value, 16) if value else None
            for value in re.findall(r"^msrs cpu=\d+ \w idx=\S+ (?:value=(\S+)|gp)$", out, re.MULTILINE)]
    assert seen[:-1] == [outcome for _, outcome in rows]
    assert seen[-1] == int(facts(name)["facts"]["kvm-arch-capabilities"], 16)


@pytest.mark.parametrize("text,says", [("{", "line 1"), (None, "No such file")])
def test_a_file_that_is_none_is_named(tmp_path, text, says):
    path = pathlib.Path(tmp_path, "h.json")
    if text:
        path.write_text(text)
    done = subprocess.run([harness.TESTUDO, "host"], env={**os.environ, **harness.overlay(path)}, capture_output=True,
                          text=True, check=False)
    assert done.returncode < 0 and "h.json" in done.stderr and says in done.stderr
