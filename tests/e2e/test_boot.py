"""Booting: command line, memory, processors, what the guest finds."""

import os

import pytest

import harness
from harness import OFF

MIB = 1 << 20
GIB = 1 << 30
LOW_END, HIGH_START, HOLE_START, HOLE_END = 0x9fc00, 0x100000, 0xc0000000, 0x100000000


def test_greeting(testudo):
    r = testudo("hello").expect(OFF, "done hello")
    assert r.lines[0] == "hello from the test guest"
    assert r.err == ""


def test_nothing_but_guest_bytes_on_stdout(testudo):
    r = testudo("", kernel=harness.FIRST)
    assert (r.code, r.raw, r.err) == (OFF, b"T", "")


def test_kernel_as_plain_argument(work):
    r = harness.run_raw(["run", harness.FIRST], work)
    assert (r.code, r.raw) == (OFF, b"T")


@pytest.mark.parametrize("params,want", [
    (["hello"], "console=ttyS0 hello"),
    (["hello a=1 b", "c=2"], "console=ttyS0 hello a=1 b c=2"),
    (["hello console=ttyS9"], "hello console=ttyS9"),
    (["hello " + "x" * 2000], "console=ttyS0 hello " + "x" * 2000),
])
def test_command_line(work, params, want):
    words = ["run", harness.GUEST]
    for p in params:
        words += ["-p", p]
    r = harness.run_raw(words, work).expect(OFF, "done hello")
    assert r.lines[1] == f"cmdline={want}"


def test_initrd(testudo, work):
    data = bytes(range(256)) * 41 + b"odd"
    path = os.path.join(work, "initrd")
    with open(path, "wb") as f:
        f.write(data)
    r = testudo("hello", "-i", path).expect(OFF, "done hello")
    facts = r.facts("initrd ")
    assert int(facts["size"]) == len(data)
    assert int(facts["fnv"], 16) == harness.fnv64(data)


def test_verbose_log_is_marked(testudo):
    r = testudo("hello", "-v").expect(OFF, "done hello")
    assert all(line.startswith("testudo: ") for line in r.log), r


def test_power_registers_are_where_acpi_says(testudo):
    r = testudo("hello").expect(OFF, "done hello")
    assert "acpi XSDT FACP DSDT APIC ok" in r.out or " ok" in r.out
    assert r.facts("power ") == {"reset_port": "0x600", "reset_value": "0x1",
                                 "sleep_port": "0x601", "slp_typ": "5"}


@pytest.mark.parametrize("option,size", [
    (["-m", "64"], 64 * MIB), (["-m", "100M"], 100 * MIB), ([], 512 * MIB), (["-m", "3G"], 3 * GIB),
    (["-m", "3073"], 3 * GIB + MIB), (["-m", "4G"], 4 * GIB), (["-m", "5G"], 5 * GIB),
    (["-m", "64G"], 64 * GIB),
], ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_memory(testudo, option, size):
    r = testudo("mem", *option, timeout=120).expect(OFF, "done mem")
    facts = r.facts("mem total_kib")
    above = max(size - HOLE_START, 0)
    assert int(facts["total_kib"]) == (size - (HIGH_START - LOW_END)) // 1024
    assert int(facts["above_4g_kib"]) == above // 1024
    assert facts["bad_words"] == "0"
    pages = {int(line.split("0x")[1], 16) for line in r.lines if line.startswith("mem page=")}
    want = {0, LOW_END // 4096 * 4096 - 4096, HIGH_START, min(size, HOLE_START) - 4096}
    if above:
        want |= {HOLE_END, HOLE_END + above - 4096}
    assert pages == want
    assert r.peak_kib < 64 * 1024, "memory that the guest never touched must not be taken"


def test_memory_prealloc(testudo):
    r = testudo("mem", "-m", "200M", "--prealloc").expect(OFF, "done mem")
    assert r.peak_kib > 200 * 1024


def test_memory_hugepages(testudo):
    with open("/proc/meminfo", encoding="ascii") as f:
        free = {k: int(v.split()[0]) for k, v in (line.split(":") for line in f)}
    r = testudo("mem", "-m", "64M", "--hugepages")
    if free["HugePages_Free"] * free["Hugepagesize"] < 64 * 1024:
        r.expect_error(harness.VMM_ERROR, "huge")
    else:
        r.expect(OFF, "done mem")


@pytest.mark.parametrize("n", [1, 2, 4, 16, 255])
def test_cpus(testudo, n):
    r = testudo("smp", "-c", n, timeout=180).expect(OFF, "done smp")
    assert r.facts("smp ") == {"madt": str(n), "online": str(n), "bad_ids": "0", "x2apic": "1"}


def test_cpus_in_xapic_mode(testudo):
    r = testudo("smp x2apic=0", "-c", 3).expect(OFF, "done smp")
    assert r.facts("smp ")["x2apic"] == "0"


def test_interrupt_sources(testudo):
    testudo("timer", timeout=120).expect(OFF, "done timer")


def test_kvmclock(testudo):
    r = testudo("kvmclock us=50000").expect(OFF, "done kvmclock")
    facts = r.facts("kvmclock ")
    by_clock, by_tsc = int(facts["passed_ns"]) / 1000, int(facts["tsc_passed_us"])
    assert abs(by_clock - by_tsc) < 0.1 * by_tsc


def test_hypervisor_is_named(testudo):
    r = testudo("cpuid leaf=0x40000000").expect(OFF, "done cpuid")
    facts = r.facts("cpuid ")
    name = b"".join(int(facts[k], 16).to_bytes(4, "little") for k in ("ebx", "ecx", "edx"))
    assert name == b"KVMKVMKVM\0\0\0"


def test_unknown_msr_faults(testudo):
    assert "fault" in testudo("rdmsr idx=0x12345").expect(OFF, "done rdmsr").out


def test_memory_keeps_what_is_written(testudo):
    r = testudo("dirty wss=24 loops=8 order=rand cpus=2", "-c", 2, "-m", "128M")
    r.expect(OFF, "done dirty")
    assert r.facts("dirty cpu=1")["errors"] == "0"
    assert r.facts("dirty cpu=1")["sweeps"] == "8"


def test_working_set_across_the_hole(testudo):
    """The last pages of a 3 GiB + 64 MiB guest are above 4 GiB, next to a hole of 1 GiB. 32 MiB are the guest's own;
    of the working set 40 MiB are below the hole and 20 above."""
    r = testudo("dirty skip=3000 wss=60 loops=2", "-m", "3136M").expect(OFF, "done dirty")
    assert r.facts("dirty cpu=0")["errors"] == "0"
    assert 32 * 1024 < r.peak_kib < 160 * 1024  # the last look at it may come before the last page


def test_ordinary_kernel_instructions(testudo):
    """A KVM without VMX or SVM lacks some of them: then testudo has to say so."""
    r = testudo("insn")
    if r.lines[-1] == "done insn":
        assert r.code == OFF
        assert all(line.endswith((" ok", " absent")) for line in r.lines[:-1])
        return
    assert r.code == harness.CRASH, r
    stopped_at = r.lines[-1].split()
    assert stopped_at[0] == "insn" and len(stopped_at) == 2
    assert len(r.log) == 1 and "rip=0x" in r.err and "bytes=" in r.err, r
    assert "cannot run this kernel" in r.err, "what it means for the user"
