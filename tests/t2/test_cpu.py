"""--cpu in the emulated host: what an unmodified Debian kernel finds in CPUID."""
import json

import pytest

SCRIPT = "sed -n 's/^flags[^:]*: //p; s/^model name[^:]*: /model /p' /proc/cpuinfo"

TEMPLATE = {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
    {"register": "ecx", "bitmap": "0bxxxxxx0xxxxxxxxxxxxxxxxxxxxxxxxx"}]}]}  # bit 25: AES


def flags(host, cpu):
    boot = host.boot(SCRIPT, append="quiet", args=["--cpu", cpu])
    assert boot.status == 0, boot
    return set(boot.output.split())


@pytest.fixture(scope="module")
def all_of_host(amd_stock):
    return flags(amd_stock, "host")


def test_edits(amd_stock, all_of_host):
    found = flags(amd_stock, "host,-aes,-popcnt")
    assert {"aes", "popcnt"} <= all_of_host
    assert all_of_host - found >= {"aes", "popcnt"}
    assert not found - all_of_host
    assert {"sse2", "hypervisor", "x2apic", "tsc_deadline_timer"} <= found


def test_level(amd_stock, all_of_host):
    """x86-64-v2 shows what its level names and nothing of the next one."""
    found = flags(amd_stock, "x86-64-v2")
    assert {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"} <= found
    assert {"bmi1", "bmi2", "movbe", "abm"} <= all_of_host
    assert not found & {"bmi1", "bmi2", "movbe", "abm", "avx", "avx2"}


def test_template(amd_stock, all_of_host):
    amd_stock.put(json.dumps(TEMPLATE).encode(), "/tmp/template.json")
    assert all_of_host - flags(amd_stock, "/tmp/template.json") == {"aes"}


def test_model_that_the_host_is_not(amd_stock):
    """One line that says why, exit code 3, no guest."""
    boot = amd_stock.boot("true", append="quiet", args=["--cpu", "icelake-server"])
    assert boot.status == 3 and not boot.scripts and not boot.console
    assert boot.messages.startswith("testudo: error: ") and "icelake-server" in boot.messages
    assert boot.messages.count("\n") == 1
