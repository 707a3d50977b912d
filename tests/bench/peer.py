"""QEMU as the peer of a benchmark: is it there, and which CPU can it give a guest on this host?"""
import functools
import os
import select
import shutil
import subprocess
import sys
import tempfile

QEMU = "qemu-system-x86_64"
MACHINE = ["-M", "microvm,accel=kvm,pic=on,pit=on,rtc=off", "-m", "128", "-nodefaults", "-no-user-config", "-display",
           "none", "-no-reboot"]
# best first. QEMU 7.2 asserts that KVM takes ARCH_CAPABILITIES once KVM lists it, which kvm-pvm on AMD does not
CPUS = ["host", "host,arch-capabilities=off"]
FIRST_BYTE_S = 30


def starts(cpu, payload):
    """'' when a guest says something with this CPU, else why not."""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen([QEMU, *MACHINE, "-cpu", cpu, "-serial", "stdio", "-kernel", payload],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as qemu:
            ready, _, _ = select.select([qemu.stdout], [], [], FIRST_BYTE_S)
            byte = os.read(qemu.stdout.fileno(), 1) if ready else b""
            qemu.kill()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    return "" if byte else lines[-1] if lines else f"no byte in {FIRST_BYTE_S} s"


@functools.lru_cache(maxsize=None)
def cpu(build):
    """The words behind -cpu, tried once; tells which."""
    if not shutil.which(QEMU):
        sys.exit(f"{QEMU} is not installed: run tools/setup, or leave the peer out")
    refused = []
    for words in CPUS:
        why = starts(words, f"{build}/tests/guest/first.elf")
        if not why:
            print(f"- peer's CPU: -cpu {words}" + "".join(f" ({other}: {text})" for other, text in refused) + "\n",
                  flush=True)
            return words
        refused.append((words, why))
    sys.exit(f"{QEMU} starts no guest here: " + "; ".join(f"-cpu {words}: {text}" for words, text in refused))
