"""--cpu on this machine: what is accepted and what is refused."""

import json
import re

import pytest

import harness
from harness import BAD_INPUT, OFF, USAGE


@pytest.mark.parametrize("cpu", ["host", "host,-fxsr", "host,-aes,-popcnt"])
def test_guest_boots(testudo, cpu):
    """What the guest then reads is tested in the emulated host: kvm-pvm lets CPUID through to the hardware."""
    testudo("hello", "--cpu", cpu).expect(OFF, "done hello")


@pytest.mark.parametrize("cpu, names", [
    ("pentium4000", "pentium4000"), ("host,-warpdrive", "warpdrive"), ("host,fxsr", "fxsr"), ("", "--cpu"),
    ("host,-hypervisor", "every guest has it"), ("host,-x2apic", "every guest has it"), ("host,-ht", "-c decides"),
])
def test_wrong_words(testudo, cpu, names):
    testudo("hello", "--cpu", cpu, "-c", 2).expect_error(USAGE, names)


def test_a_template_that_is_overruled_is_warned_of(testudo, work):
    """It may have been dumped from another VMM's guest: topology is this one's."""
    with open(f"{work}/t.json", "w", encoding="ascii") as f:
        json.dump({"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "ebx", "bitmap": "0bxxxxxxxx_01110111_xxxxxxxxxxxxxxxx"}]}]}, f)
    r = testudo("hello", "--cpu", "./t.json", "-c", 2)
    assert r.code == OFF and len(r.log) == 1 and "CPU template ./t.json" in r.log[0] and "0x1.0 EBX: " in r.log[0], str(r)


def test_template(testudo, work):
    path = f"{work}/template.json"
    with open(path, "w", encoding="ascii") as f:
        json.dump({"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "edx", "bitmap": "0bxxxxxxx0xxxxxxxxxxxxxxxxxxxxxxxx"}]}]}, f)
    testudo("hello", "--cpu", path).expect(OFF, "done hello")


@pytest.mark.parametrize("text, names", [
    ("{", "t.json"), ("[]", "t.json"),
    ('{"kvm_capabilities": ["9999"]}', "9999"),
    ('{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": ['
     '{"register": "efx", "bitmap": "0b1"}]}]}', "efx"),
])
def test_bad_template(testudo, work, text, names):
    with open(f"{work}/t.json", "w", encoding="ascii") as f:
        f.write(text)
    testudo("hello", "--cpu", "./t.json").expect_error(BAD_INPUT, names)


# MSRs that any KVM lists and keeps: the microcode's version, MISC_ENABLE and MISC_FEATURES_ENABLES
MSRS = [
    ("8b", "0b0001001000110100xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0x1234 << 48, 0xffff << 48),
    ("140", "0b1", 1, 1),
    ("1a0", "0b1_xxxxxxxxxxx", 1 << 11, 1 << 11),  # and what testudo itself sets there stays
]


def write_msrs(work, *msrs):
    path = f"{work}/msrs.json"
    with open(path, "w", encoding="ascii") as f:
        json.dump({"msr_modifiers": [{"addr": addr, "bitmap": bitmap} for addr, bitmap in msrs]}, f)
    return path


def read_msrs(result):
    result.expect(OFF, "done msrs")
    return [int(value, 16) for value in re.findall(r"^msrs cpu=\d+ r idx=\S+ value=(\S+)", result.out, re.MULTILINE)]


def test_template_msrs_are_in_every_vcpu(testudo, work):
    path = write_msrs(work, *((f"0x{index}", bitmap) for index, bitmap, _, _ in MSRS))
    steps = ",".join(f"{cpu}.r.{index}" for cpu in (0, 1) for index, _, _, _ in MSRS)
    values = read_msrs(testudo(f"msrs cpus=2 do={steps}", "-c", 2, "--cpu", path))
    assert [v & mask for v, (_, _, _, mask) in zip(values, MSRS * 2)] == [value for _, _, value, _ in MSRS * 2]
    assert values[2] & 1 and values[5] & 1  # fast strings


def test_of_two_edits_of_an_msr_the_later_one_wins(testudo, work):
    path = write_msrs(work, ("0x8b", "0b1"), ("0x8b", "0b0"), ("0x8b", "0b1x"))
    assert [v & 3 for v in read_msrs(testudo("msrs cpus=1 do=0.r.8b", "--cpu", path))] == [2]


@pytest.mark.host("intel")
@pytest.mark.parametrize("addr, bitmap, names", [
    ("0x48", "0b1", ["0x48 is not a template's", "spec-ctrl of a policy"]),
    ("0x49", "0b1", ["0x49 is not a template's", "a command"]),
    ("0x10", "0b1", ["0x10 is not a template's"]),
    ("0x50000000", "0b1", ["0x50000000 is not a template's", "virtual-msrs"]),
    ("0x50000002", "0b0", ["0x50000002 is not a template's", "virtual-msrs"]),
    ("0xc0000080", "0b1", ["0xc0000080 is not a template's", "boot protocol"]),
    ("0x4b564d01", "0b1", ["0x4b564d01 is not a template's"]),
    ("0x12345", "0b1", ["0x12345", "does not list"]),
    ("0xc0010114", "0b1", ["0xc0010114", "does not"]),  # VM_CR
    ("0x3a", "0b1" + 63 * "x", ["0x3a", "does not take 0x8"]),  # a reserved bit
])
def test_template_msr_that_is_refused(testudo, work, addr, bitmap, names):
    path = write_msrs(work, ("0x140", "0b0"), (addr, bitmap))
    testudo("hello", "--cpu", path).expect_error(BAD_INPUT, path, *names)


# what run refuses on every host
OWNED = {"0x48": "spec-ctrl of a policy", "0xc001011f": "spec-ctrl of a policy", "0x49": "a command", "0x10b": "a command",
         "0x10": "it counts", "0xe7": "it counts", "0xe8": "it counts", "0x3b": "clock", "0x6e0": "timer",
         "0x1b": "testudo sets it", "0xc0000080": "boot protocol", "0x50000001": "virtual-msrs", "0x40000000": "with KVM",
         "0x4b564d00": "with KVM"}


@pytest.mark.nokvm
@pytest.mark.parametrize("addr", OWNED)
def test_template_msr_that_explain_refuses(work, addr):
    """As run does, without a KVM to ask."""
    path = write_msrs(work, ("0x140", "0b0"), (addr, "0b1"))
    r = harness.run_raw(["policy", "explain", "--host", harness.HOSTS / "cascade-lake.json", "--cpu", path], work)
    r.expect_error(BAD_INPUT, path, f"{addr} is not a template's", OWNED[addr])


def test_missing_template(testudo):
    testudo("hello", "--cpu", "./none.json").expect_error(BAD_INPUT, "./none.json")
