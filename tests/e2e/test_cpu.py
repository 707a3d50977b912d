"""--cpu on this machine: what is accepted and what is refused."""

import json

import pytest

from harness import BAD_INPUT, OFF, USAGE


@pytest.mark.parametrize("cpu", ["host", "host,-fxsr", "host,-aes,-popcnt"])
def test_guest_boots(testudo, cpu):
    """What the guest then reads is tested in the emulated host: kvm-pvm lets CPUID through to the hardware."""
    testudo("hello", "--cpu", cpu).expect(OFF, "done hello")


@pytest.mark.parametrize("cpu, names", [
    ("pentium4000", "pentium4000"), ("host,-warpdrive", "warpdrive"), ("host,fxsr", "fxsr"), ("", "--cpu"),
])
def test_wrong_words(testudo, cpu, names):
    testudo("hello", "--cpu", cpu).expect_error(USAGE, names)


def test_template(testudo, work):
    path = f"{work}/template.json"
    with open(path, "w", encoding="ascii") as f:
        json.dump({"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "edx", "bitmap": "0bxxxxxxx0xxxxxxxxxxxxxxxxxxxxxxxx"}]}]}, f)
    testudo("hello", "--cpu", path).expect(OFF, "done hello")


@pytest.mark.parametrize("text, names", [
    ("{", "t.json"), ("[]", "t.json"),
    ('{"msr_modifiers": [{"addr": "0x48", "bitmap": "0b1"}]}', "0x48"),
    ('{"kvm_capabilities": ["9999"]}', "9999"),
    ('{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": ['
     '{"register": "efx", "bitmap": "0b1"}]}]}', "efx"),
])
def test_bad_template(testudo, work, text, names):
    with open(f"{work}/t.json", "w", encoding="ascii") as f:
        f.write(text)
    testudo("hello", "--cpu", "./t.json").expect_error(BAD_INPUT, names)


def test_missing_template(testudo):
    testudo("hello", "--cpu", "./none.json").expect_error(BAD_INPUT, "./none.json")
