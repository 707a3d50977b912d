"""What a running guest's process can still do: read from the kernel, not believed from our own log."""

import os
import pathlib

import pytest

import harness
from harness import OFF

# The kernel names its thread, which serves the VM and runs no code of ours, after itself.
KERNEL_THREADS = ("kvm-", "iou-")


def threads(pid):
    """Status fields of every thread of @pid that runs our code."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (path / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended since
            continue
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not status["Name"].startswith(KERNEL_THREADS):
            found.append(status)
    return found


def test_running_guest_is_locked_in(live):
    with live("echo", "-c", "2", "-v") as t:
        t.read_until(b"echo ready")
        if "built without the sandbox" in t.stderr():
            pytest.skip("this build has no sandbox (a sanitizer makes system calls of its own)")
        harness.wait_for(lambda: len(threads(t.p.pid)) == 3)  # event loop, two vCPUs; vm-closer goes
        found = threads(t.p.pid)
        for status in found:
            assert status["CapEff"] == status["CapPrm"] == "0" * 16, status
            assert status["NoNewPrivs"] == "1", status
            assert status["Seccomp"] == "2", status


def test_no_sandbox_leaves_the_process_as_it_was(live):
    mine = threads(os.getpid())[0]
    with live("echo", "--no-sandbox") as t:
        t.read_until(b"echo ready")
        for status in threads(t.p.pid):
            for field in ("CapEff", "NoNewPrivs", "Seccomp"):
                assert status[field] == mine[field], status


def test_descriptors_are_few_and_known(live, monkeypatch):
    """Nothing inherited by accident: every descriptor is standard I/O, KVM, memory or an event."""
    allowed = ("pipe:", "/dev/null", "/dev/kvm", "anon_inode:", "/memfd:guest-ram", "socket:",
               "/run/testudo")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with live("echo") as t:
        t.read_until(b"echo ready")
        for path in pathlib.Path(f"/proc/{t.p.pid}/fd").iterdir():
            try:
                target = os.readlink(path)
            except FileNotFoundError:  # a VM that was tried is closed beside the guest
                continue
            assert target.startswith(allowed) or target.endswith("guest.elf") or int(path.name) <= 2, target


def test_guest_restarts_inside(testudo, work):
    """A reset rebuilds the machine inside the sandbox: kernel read again, memory, KVM, disks."""
    result = testudo("reboot n=3", "-d", harness.make_disk(f"{work}/disk"))
    assert result.code == OFF, str(result)
    assert result.err == "", str(result)
