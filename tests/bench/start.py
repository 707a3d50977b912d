"""How fast and how small: from exec to the guest's first byte on COM1, and the memory that the VMM itself takes.

    python3 tests/bench/start.py [--build DIR] [--runs N] [--no-peer]

Contestants, interleaved run by run: testudo; a bare program that makes the same calls of KVM and nothing else
(bare_start.c); and QEMU's microvm with -nodefaults. All with /dev/kvm, the full in-kernel interrupt controllers,
128 MiB and the same ELF payload. Prints minima, medians and the ratios of the medians.
"""
import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import facts  # noqa: E402  (found through the line above)
import peer  # noqa: E402

RAM = 128 << 20


GOALS = {"bare": 1.3, "qemu-microvm": 0.12}  # of testudo's median to theirs


def testudo(build, payload, params=""):
    return [f"{build}/vmm/testudo", "run", "-m", "128", "--no-rng", "-p", params, payload]


def qemu(build, payload, params=""):
    append = ["-append", params] if params else []
    return [peer.QEMU, *peer.MACHINE, "-cpu", peer.cpu(build), "-serial", "stdio", "-kernel", payload, *append]


def contestants(build, with_peer):
    first = f"{build}/tests/guest/first.elf"
    found = {"testudo": testudo(build, first), "bare": [f"{build}/tests/bench/bare_start", first, "128"]}
    return {**found, "qemu-microvm": qemu(build, first)} if with_peer else found


def spawn(command):
    """posix_spawn, which costs the same for both; returns (pid, readable end of its standard output)."""
    out, theirs = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, theirs, 1), (os.POSIX_SPAWN_DUP2, null, 2),
        (os.POSIX_SPAWN_CLOSE, out)])
    os.close(theirs)
    os.close(null)
    return pid, out


def end(pid, out):
    os.close(out)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def first_byte(command):
    """Milliseconds from just before exec to the first byte."""
    begin = time.monotonic_ns()
    pid, out = spawn(command)
    byte = os.read(out, 1)
    took = time.monotonic_ns() - begin
    end(pid, out)
    if byte != b"T":
        sys.exit(f"{command[0]}: the first byte is {byte!r}, not T")
    return took / 1e6


def private_dirty_kib(command):
    """Private dirty memory of a running VMM, the mapping of guest RAM left out; number of threads."""
    pid, out = spawn(command)
    try:
        text = b""
        while b"\n" not in text:
            chunk = os.read(out, 4096)
            if not chunk:
                sys.exit(f"{command[0]} ended before it printed a line")
            text += chunk
        time.sleep(0.2)
        total = size = 0
        for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
            word = line.split()
            if "-" in word[0] and not word[0].endswith(":"):
                low, high = (int(x, 16) for x in word[0].split("-"))
                size = high - low
            elif word[0] == "Private_Dirty:" and size != RAM:
                total += int(word[1])
        return total, len(os.listdir(f"/proc/{pid}/task"))
    finally:
        end(pid, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--no-peer", action="store_true", help="without QEMU")
    options = parser.parse_args()
    guests = f"{options.build}/tests/guest"
    facts.need(options.build, "tests/bench/bare_start", "tests/guest/first.elf", "tests/guest/guest.elf")

    facts.print_facts()
    commands = contestants(options.build, not options.no_peer)
    runs = {name: [] for name in commands}
    for number in range(options.runs + 2):
        for name, command in commands.items():
            took = first_byte(command)
            if number >= 2:  # the first two warm the caches
                runs[name].append(took)
    print("| exec to first guest byte, 128 MiB | min ms | median ms | p95 ms |\n|---|---|---|---|")
    for name, took in runs.items():
        took.sort()
        print(f"| {name} | {took[0]:.2f} | {statistics.median(took):.2f} | {took[int(len(took) * 0.95)]:.2f} |")
    print("\n| testudo's median to that of | ratio | goal |\n|---|---|---|")
    for name, goal in GOALS.items():
        if name in runs:
            ratio = statistics.median(runs["testudo"]) / statistics.median(runs[name])
            print(f"| {name} | {ratio:.3f} | {goal} |")

    print("\n| memory of the running VMM, guest RAM left out | private dirty KiB | threads |\n|---|---|---|")
    vmms = {"testudo": testudo} if options.no_peer else {"testudo": testudo, "qemu-microvm": qemu}
    for name, command in vmms.items():
        memory, threads = private_dirty_kib(command(options.build, f"{guests}/guest.elf", "hello end=loop"))
        print(f"| {name} | {memory} | {threads} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
