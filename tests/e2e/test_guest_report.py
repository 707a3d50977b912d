"""testudo-guest-report on a tree of files that stands for a guest's /sys and /dev: an MSR is 8 bytes at its number."""

import os
import pathlib
import struct
import subprocess

import pytest

import harness

pytestmark = pytest.mark.nokvm

TOOL = harness.BUILD / "tools" / "guest-report" / "testudo-guest-report"
ARCH_CAP, ENUMERATION, CTRL = 0x10a, 0x50000000, 0x50000002
LOOP = "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; BHI: SW loop, KVM: SW loop\n"


class Tree:
    def __init__(self, root, text=LOOP, online="0-1\n", cpus=2, offered=3, arch_cap=1 << 63,
                 cmdline="quiet\n"):
        self.root = pathlib.Path(root)
        cpu = self.root / "sys/devices/system/cpu"
        (cpu / "vulnerabilities").mkdir(parents=True)
        (cpu / "vulnerabilities/spectre_v2").write_text(text)
        (cpu / "online").write_text(online)
        (self.root / "proc").mkdir()
        (self.root / "proc/cmdline").write_text(cmdline)
        for n in range(cpus):
            (self.root / f"dev/cpu/{n}").mkdir(parents=True)
            self.msr(n).touch()
            # the virtual MSRs are 1 byte apart and read 8 at a time: low bytes are what counts
            self.put(n, ARCH_CAP, struct.pack("<Q", arch_cap))
            self.put(n, ENUMERATION, bytes([1, offered, 0]) + bytes(7))

    def msr(self, n):
        return self.root / f"dev/cpu/{n}/msr"

    def put(self, n, index, data):
        with open(self.msr(n), "r+b") as f:
            os.pwrite(f.fileno(), data, index)

    def ctrl(self, n):
        with open(self.msr(n), "rb") as f:
            return os.pread(f.fileno(), 1, CTRL)[0]

    def run(self, *args):
        return subprocess.run([TOOL, "--root", self.root, *args], capture_output=True, text=True, check=False)


def test_dry_run_touches_nothing(work):
    tree = Tree(work)
    before = tree.msr(0).stat()
    r = tree.run("--dry-run")
    assert (r.returncode, r.stderr) == (0, "")
    assert r.stdout == f"spectre_v2: {LOOP}report: BHB_CLEAR_SEQ_S_USED (not sent)\n"
    assert tree.msr(0).stat().st_atime_ns == before.st_atime_ns


def test_every_cpu_reports(work):
    tree = Tree(work, online="0-1,3\n", cpus=4)
    r = tree.run()
    assert (r.returncode, r.stderr) == (0, "")
    assert r.stdout.splitlines()[2:] == [f"cpu {n}: offered 0x3, reported 0x1: BHB_CLEAR_SEQ_S_USED"
                                         for n in (0, 1, 3)]
    assert [tree.ctrl(n) for n in range(4)] == [1, 1, 0, 1]


def test_what_is_not_enumerated_is_not_written(work):
    tree = Tree(work, offered=2, cpus=1, online="0\n")
    r = tree.run()
    assert r.returncode == 0
    assert "reported 0x0: nothing; not asked for: BHB_CLEAR_SEQ_S_USED" in r.stdout
    assert tree.ctrl(0) == 0


def test_an_old_report_is_taken_back(work):
    tree = Tree(work, text="Mitigation: Enhanced / Automatic IBRS; BHI: BHI_DIS_S\n", cpus=1, online="0\n")
    tree.put(0, CTRL, b"\1")
    assert tree.run().returncode == 0
    assert tree.ctrl(0) == 0


@pytest.mark.parametrize("cmdline,reported", [("quiet\n", 3), ("mitigations=off\n", 0), ("spectre_bhi=off\n", 2)])
def test_a_vulnerable_kernel_asks_for_help_unless_it_was_told_to_be_so(work, cmdline, reported):
    tree = Tree(work, text="Vulnerable; IBPB: disabled; BHI: Vulnerable\n", cpus=1, online="0\n", cmdline=cmdline)
    assert tree.run().returncode == 0
    assert tree.ctrl(0) == reported


def test_without_a_command_line_nobody_opted_out(work):
    tree = Tree(work, text="Vulnerable; BHI: Vulnerable\n", cpus=1, online="0\n")
    (tree.root / "proc/cmdline").unlink()
    r = tree.run()
    assert r.returncode == 0 and "proc/cmdline" in r.stderr
    assert tree.ctrl(0) == 3


def test_not_offered(work):
    r = Tree(work, arch_cap=0).run()
    assert r.returncode == 3
    assert r.stdout.count("does not offer") == 2


def test_text_that_is_not_understood(work):
    r = Tree(work, text="what?\n").run()
    assert r.returncode == 1 and "not understood" in r.stderr


@pytest.mark.parametrize("online", ["x\n", "0-\n", "3-1\n", "0;1\n", "0-99999999\n"])
def test_bad_list_of_cpus(work, online):
    assert Tree(work, online=online).run().returncode == 1


def test_missing_module(work):
    r = Tree(work, online="0-2\n").run()
    assert r.returncode == 1 and "dev/cpu/2/msr" in r.stderr and "modprobe msr" in r.stderr


@pytest.mark.parametrize("args,code", [(["--help"], 0), (["--bogus"], 2), (["word"], 2)])
def test_usage(args, code):
    r = subprocess.run([TOOL, *args], capture_output=True, text=True, check=False)
    assert r.returncode == code
    assert "--dry-run" in (r.stdout if code == 0 else r.stderr)


def test_it_is_static():
    assert b"interpreter" not in subprocess.run(["file", TOOL], capture_output=True, check=False).stdout
    headers = TOOL.read_bytes()[:4096]
    assert b"/lib64/ld-linux" not in headers


def test_unit_and_rule(work):
    """What runs it in a guest: systemd takes the unit, and the rule starts that unit."""
    unit = (TOOL.parent / "testudo-guest-report.service").read_text()
    assert "StartLimitIntervalSec=0" in unit, "many CPUs at once are no reason to leave the last one out"
    rule = (harness.ROOT / "tools/guest-report/70-testudo-guest-report.rules").read_text()
    assert 'ACTION=="online", SUBSYSTEM=="cpu"' in rule and "restart testudo-guest-report.service" in rule
    path = pathlib.Path(work) / "testudo-guest-report.service"
    start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    path.write_text(unit.replace(start, f"ExecStart={TOOL}"))
    r = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (r.returncode, r.stdout + r.stderr) == (0, "")
